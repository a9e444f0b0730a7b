//! Documents that are alike: what was found out about one need not be found out again about the next.
//!
//! Objects of a kind differ in names, addresses and times, and have the rest in common: keys, numbers, braces. A [`Shape`]
//! is what one document, which was read the long way, has in common with those like it. Another document is of the same
//! shape if it has the very same bytes between its texts, and a canonical text in each place. Then it is as canonical
//! and as complete as the first one, lacks the same defaults, and has its labels and fields in the same places. Every byte is
//! looked at: either it is compared, or it belongs to a text that is checked as ever.
//!
//! A text that something was decided by (an image's tag, say) must not be free; who learns a shape has to know those. A
//! shape does not hold free texts.
//!
//! [`Shapes`] keeps the last shape of some kinds. One lives in each thread, so nobody waits for anybody. Where documents
//! turn out to differ, they are compared ever more rarely. Where they turn out to be alike, a narrower shape is made, in which
//! only those texts are free that were seen to differ; long parts are compared at once then.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::attributes::Attributes;
use crate::codec::MediaType;
use crate::normalizer::Normalized;
use crate::plain::{Specials, canonical_escape};
use crate::resource::SelectableField;
use crate::revision::Revision;
use crate::room::Room;

/// Kinds whose shapes are kept.
const KINDS: usize = 8;
/// Longer documents are not learned.
const LONGEST: usize = 64 << 10;
/// After so many documents of another shape, comparing rests for as many documents as this says as a power of two.
const PATIENCE: u32 = 6;

/// How often a narrower shape is made of one.
const NARROWED: u32 = 12;
/// How much more often a narrower shape may fail than fit.
const FAILURES: u32 = 24;

/// What may stand in the place of a text.
pub trait TextKind: Copy {
    /// Whether this may, which is canonical and without quotes.
    fn accepts(self, text: &[u8]) -> bool;

    /// Whether a text may be kept beyond the document that it is of.
    fn is_kept(self) -> bool {
        true
    }
}

/// A text that is extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`.
    Uid,
    /// The value of a label, by its place among them.
    Label(usize),
    /// A selectable field, by its place among them.
    Field(usize),
}

/// A change on the way from the stored to the served form.
#[derive(Debug, Default)]
pub struct ShapeEdit {
    /// What goes.
    pub gone: Range<usize>,
    /// What comes in its place.
    pub text: Vec<u8>,
    /// What follows the digits of the resourceVersion, if they come behind the text.
    pub behind_revision: Option<Vec<u8>>,
}

/// What a document says of those like it.
#[derive(Debug)]
pub struct Learned<'a, K> {
    /// All of it, as stored.
    pub document: &'a [u8],
    /// Where the object ends.
    pub end: usize,
    /// The texts that may be others, without their quotes, in their order.
    pub free: Vec<(Range<usize>, K)>,
    /// What was extracted.
    pub attributes: Attributes,
    /// Where that stood, without quotes. What is not among the free texts is the same for all.
    pub extracted: Vec<(Slot, Range<usize>)>,
    /// The changes in their order. One of them puts the resourceVersion in.
    pub edits: Vec<ShapeEdit>,
}

/// A place between the free texts.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    /// How many of them come before it.
    texts: usize,
    /// How far it is behind the last one of those, or from the begin.
    offset: usize,
}

#[derive(Debug)]
struct Edit {
    gone: (Anchor, Anchor),
    text: Box<[u8]>,
    behind_revision: Option<Box<[u8]>>,
}

/// What documents have in common.
pub struct Shape<K> {
    /// What stands between the texts.
    skeleton: Box<[u8]>,
    /// Where in it each of the free texts goes.
    texts: Box<[(usize, K)]>,
    end: Anchor,
    edits: Box<[Edit]>,
    /// Without what is extracted from free texts.
    attributes: Attributes,
    slots: Box<[(Slot, usize)]>,
}

impl<K> fmt::Debug for Shape<K> {
    /// Content stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shape")
            .field("texts", &self.texts.len())
            .finish_non_exhaustive()
    }
}

impl<K: TextKind> Shape<K> {
    /// The shape of a document; `None` if it is too long, or something has to be changed within a free text.
    pub fn learn(learned: Learned<'_, K>) -> Option<Self> {
        let Learned {
            document,
            end,
            free,
            mut attributes,
            extracted,
            edits,
        } = learned;
        if document.len() > LONGEST {
            return None;
        }
        let anchor = |place: usize| {
            let texts = free.partition_point(|(text, _)| text.end <= place);
            let from = texts.checked_sub(1).and_then(|last| free.get(last));
            let is_between = free.get(texts).is_none_or(|(text, _)| place < text.start);
            let offset = place - from.map_or(0, |(text, _)| text.end);
            is_between.then_some(Anchor { texts, offset })
        };
        let (mut skeleton, mut texts, mut at) = (Vec::with_capacity(document.len()), Vec::new(), 0);
        for (text, kind) in &free {
            skeleton.extend_from_slice(document.get(at..text.start)?);
            texts.push((skeleton.len(), *kind));
            at = text.end;
        }
        skeleton.extend_from_slice(document.get(at..)?);
        let mut slots = Vec::new();
        for (slot, place) in extracted {
            if let Ok(text) = free.binary_search_by_key(&place.start, |(text, _)| text.start) {
                attributes.put(slot, "")?;
                slots.push((slot, text));
            }
        }
        let edits = edits.into_iter().map(|edit| {
            Some(Edit {
                gone: (anchor(edit.gone.start)?, anchor(edit.gone.end)?),
                text: edit.text.into(),
                behind_revision: edit.behind_revision.map(Into::into),
            })
        });
        Some(Self {
            end: anchor(end)?,
            edits: edits.collect::<Option<_>>()?,
            skeleton: skeleton.into(),
            texts: texts.into(),
            attributes,
            slots: slots.into(),
        })
    }

    /// Makes the served form of a stored document of this shape, in `room`, and puts it into `served`; `None` for any
    /// other, and then nothing is said of what is there. `found` is for the places of texts.
    pub fn serve(
        &self,
        document: &[u8],
        revision: Revision,
        found: &mut Vec<Range<usize>>,
        room: &mut Room,
        served: &mut Option<Normalized>,
    ) -> Option<()> {
        let is_plain = self.fit(document, found)?;
        // Who extracts escaped texts has to decode them.
        let is_escaped = |text: &Range<usize>| document.get(text.clone()).is_none_or(|text| text.contains(&b'\\'));
        if !is_plain
            && self
                .slots
                .iter()
                .filter_map(|(_, text)| found.get(*text))
                .any(is_escaped)
        {
            return None;
        }
        // Made in its place: it is large, and would be moved from hand to hand. The copy comes last: what is shared is counted
        // in memory that all threads see, which would wait until all of the copy is written.
        let served = served.insert(Normalized {
            json: Bytes::new(),
            resource_version: 0..0,
            attributes: self.attributes.clone(),
            media_type: MediaType::Json,
        });
        self.extract(document, found, &mut served.attributes)?;
        (served.json, served.resource_version) = self.edited(document, revision, found, room)?;
        Some(())
    }

    /// Takes out of a document what is extracted from it.
    fn extract(&self, document: &[u8], found: &[Range<usize>], attributes: &mut Attributes) -> Option<()> {
        // Those of metadata stand near each other, so that they are looked at together.
        let (mut from, mut to) = (usize::MAX, 0);
        for (slot, text) in &self.slots {
            let text = found.get(*text)?;
            if !matches!(slot, Slot::Field(_)) {
                (from, to) = (from.min(text.start), to.max(text.end));
            }
        }
        let together = match to {
            0 => "",
            _ => std::str::from_utf8(document.get(from..to)?).ok()?,
        };
        for (slot, text) in &self.slots {
            let text = found.get(*text)?;
            let text = match slot {
                Slot::Field(_) => std::str::from_utf8(document.get(text.clone())?).ok()?,
                _ => together.get(text.start - from..text.end - from)?,
            };
            attributes.put(*slot, text)?;
        }
        Some(())
    }

    /// Compares what is between the texts, and looks at each of the texts. Whether all of them are plain.
    fn fit(&self, document: &[u8], found: &mut Vec<Range<usize>>) -> Option<bool> {
        found.clear();
        found.reserve(self.texts.len());
        let (mut specials, mut at, mut compared) = (Specials::default(), 0, 0);
        let mut is_plain = true;
        for &(before, kind) in &self.texts {
            let piece = self.skeleton.get(compared..before)?;
            let start = at + piece.len();
            if !is_equal(document.get(at..start)?, piece) {
                return None;
            }
            compared = before;
            at = specials.next(document, start);
            if document.get(at) != Some(&b'"') {
                at = end_of_text(document, &mut specials, start, at)?;
                is_plain = false;
            }
            if !kind.accepts(document.get(start..at)?) {
                return None;
            }
            found.push(start..at);
        }
        (document.get(at..)? == self.skeleton.get(compared..)?).then_some(is_plain)
    }

    /// The shape of a document of this shape in which only some of the texts are free.
    fn narrow(
        &self,
        document: &[u8],
        found: &[Range<usize>],
        attributes: &Attributes,
        is_free: impl Fn(usize) -> bool,
    ) -> Option<Self> {
        let place = |anchor| place_of(anchor, found);
        let edits = self.edits.iter().map(|edit| {
            Some(ShapeEdit {
                gone: place(edit.gone.0)?..place(edit.gone.1)?,
                text: edit.text.to_vec(),
                behind_revision: edit.behind_revision.as_deref().map(<[u8]>::to_vec),
            })
        });
        let texts = found.iter().zip(&self.texts).enumerate();
        let free = texts.filter(|(at, _)| is_free(*at));
        let slots = self.slots.iter();
        Self::learn(Learned {
            document,
            end: place(self.end)?,
            free: free.map(|(_, (text, (_, kind)))| (text.clone(), *kind)).collect(),
            attributes: attributes.clone(),
            extracted: slots
                .map(|(slot, text)| Some((*slot, found.get(*text)?.clone())))
                .collect::<Option<_>>()?,
            edits: edits.collect::<Option<_>>()?,
        })
    }

    /// The document with the changes in it, and where the digits of the revision stand.
    fn edited(
        &self,
        document: &[u8],
        revision: Revision,
        found: &[Range<usize>],
        room: &mut Room,
    ) -> Option<(Bytes, Range<usize>)> {
        let mut buffer = [0; 20];
        let digits = revision.digits(&mut buffer);
        let place = |anchor| place_of(anchor, found);
        let end = place(self.end)?;
        let mut length = end;
        for edit in &self.edits {
            let tail = edit
                .behind_revision
                .as_ref()
                .map_or(0, |tail| digits.len() + tail.len());
            length =
                (length + edit.text.len() + tail).checked_sub(place(edit.gone.1)?.checked_sub(place(edit.gone.0)?)?)?;
        }
        let (mut json, mut copied, mut at) = (room.buffer(length), 0, 0..0);
        for edit in &self.edits {
            json.extend_from_slice(document.get(copied..place(edit.gone.0)?)?);
            copied = place(edit.gone.1)?;
            json.extend_from_slice(&edit.text);
            if let Some(tail) = &edit.behind_revision {
                at = json.len()..json.len() + digits.len();
                json.extend_from_slice(digits);
                json.extend_from_slice(tail);
            }
        }
        json.extend_from_slice(document.get(copied..end)?);
        Some((json.freeze(), at))
    }
}

/// Where a place is, in a document whose texts were found there.
#[inline]
fn place_of(anchor: Anchor, found: &[Range<usize>]) -> Option<usize> {
    match anchor.texts.checked_sub(1) {
        Some(last) => found.get(last).map(|text| text.end + anchor.offset),
        None => Some(anchor.offset),
    }
}

/// Whether bytes of the same length are the same: most are few, and not worth a call.
#[inline]
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    const WORD: usize = 8;
    if !(WORD..=8 * WORD).contains(&one.len()) || one.len() != other.len() {
        return one == other;
    }
    let ((words, _), (others, _)) = (one.as_chunks::<WORD>(), other.as_chunks::<WORD>());
    let is_same = |(one, other): (&[u8; WORD], &[u8; WORD])| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other);
    words.iter().zip(others).all(is_same) && one.last_chunk::<WORD>() == other.last_chunk::<WORD>()
}

/// Where a text ends that has more than plain characters: escapes as Go writes them, and what is not ASCII.
#[cold]
fn end_of_text(document: &[u8], specials: &mut Specials, start: usize, mut at: usize) -> Option<usize> {
    let mut is_ascii = true;
    loop {
        match *document.get(at)? {
            b'"' => break,
            b'\\' => at += canonical_escape(document.get(at..)?)?,
            0x80.. => {
                is_ascii = false;
                at += 1;
            }
            // Go would have escaped it.
            _ => return None,
        }
        at = specials.next(document, at);
    }
    let is_text = |text: &[u8]| {
        let text = std::str::from_utf8(text);
        text.is_ok_and(|text| !text.contains(['\u{2028}', '\u{2029}']))
    };
    (is_ascii || is_text(document.get(start..at)?)).then_some(at)
}

/// A narrower shape beside one, and what it is made from.
struct Narrow<K> {
    shape: Option<Shape<K>>,
    /// The last document of the wider shape, and its texts there.
    sample: Vec<u8>,
    texts: Vec<Range<usize>>,
    /// Which of those were seen to differ.
    differ: Vec<bool>,
    /// How often it was made.
    made: u32,
    failures: u32,
}

impl<K> Default for Narrow<K> {
    fn default() -> Self {
        Self {
            shape: None,
            sample: Vec::new(),
            texts: Vec::new(),
            differ: Vec::new(),
            made: 0,
            failures: 0,
        }
    }
}

impl<K: TextKind> Narrow<K> {
    #[inline]
    fn serve(
        &mut self,
        document: &[u8],
        revision: Revision,
        found: &mut Vec<Range<usize>>,
        room: &mut Room,
        served: &mut Option<Normalized>,
    ) -> Option<()> {
        let fits = self.shape.as_ref()?.serve(document, revision, found, room, served);
        if fits.is_some() {
            self.failures = self.failures.saturating_sub(1);
        } else {
            self.failures += 1;
            if self.failures > FAILURES {
                self.shape = None;
            }
        }
        fits
    }

    /// Takes note of a document of the wider shape, which the narrower one did not fit.
    #[cold]
    fn note(&mut self, wider: &Shape<K>, document: &[u8], found: &[Range<usize>], attributes: &Attributes) {
        if self.made >= NARROWED {
            // It is what it will be.
            (self.sample, self.texts, self.differ) = (Vec::new(), Vec::new(), Vec::new());
            return;
        }
        let is_first = self.texts.is_empty();
        let kept = wider.texts.iter().map(|(_, kind)| kind.is_kept());
        self.differ.resize(found.len(), false);
        for ((differs, is_kept), (at, before)) in self.differ.iter_mut().zip(kept).zip(found.iter().zip(&self.texts)) {
            *differs |= !is_kept || document.get(at.clone()) != self.sample.get(before.clone());
        }
        if !is_first {
            self.made += 1;
            self.shape = wider.narrow(document, found, attributes, |text| {
                self.differ.get(text) != Some(&false)
            });
        }
        self.sample.clear();
        self.sample.extend_from_slice(document);
        for (text, (_, kind)) in found.iter().zip(&wider.texts) {
            if !kind.is_kept()
                && let Some(text) = self.sample.get_mut(text.clone())
            {
                text.fill(0);
            }
        }
        self.texts.clear();
        self.texts.extend_from_slice(found);
    }
}

/// What is known of one kind.
struct Held<I, K> {
    id: I,
    /// Shared with the kind, so that the same places in memory are the same fields.
    fields: Vec<SelectableField>,
    shape: Option<Shape<K>>,
    narrow: Narrow<K>,
    /// Documents of another shape, one after the other.
    misses: u32,
    /// Documents that are not compared.
    rest: u32,
    found: Vec<Range<usize>>,
}

/// The last shapes of some kinds, the one used last in front.
pub struct Shapes<I, K>(Vec<Held<I, K>>);

impl<I, K> Default for Shapes<I, K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<I, K> fmt::Debug for Shapes<I, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shapes").field(&self.0.len()).finish()
    }
}

/// What shapes say of a document.
#[derive(Debug)]
pub enum Seen {
    /// Its served form is made.
    Served,
    /// It has to be read, and its shape learned then.
    Strange,
    /// It has to be read.
    Ignored,
}

impl<I: Copy + PartialEq, K: TextKind> Shapes<I, K> {
    /// Makes the served form of a stored document like the last one of its kind, in `room`, and puts it into `served`.
    #[inline]
    pub fn serve(
        &mut self,
        id: I,
        document: &[u8],
        revision: Revision,
        fields: &[SelectableField],
        room: &mut Room,
        served: &mut Option<Normalized>,
    ) -> Seen {
        let Some(at) = self
            .0
            .iter()
            .position(|held| held.id == id && is_same(&held.fields, fields))
        else {
            return Seen::Strange;
        };
        if at > 0 {
            self.0.swap(0, at);
        }
        let Some(held) = self.0.first_mut() else {
            return Seen::Ignored;
        };
        if held.rest > 0 {
            held.rest -= 1;
            return Seen::Ignored;
        }
        let found = &mut held.found;
        if held.narrow.serve(document, revision, found, room, served).is_some() {
            held.misses = 0;
            return Seen::Served;
        }
        if let Some(shape) = &held.shape
            && shape.serve(document, revision, found, room, served).is_some()
            && let Some(served) = served
        {
            held.misses = 0;
            held.narrow.note(shape, document, found, &served.attributes);
            return Seen::Served;
        }
        held.rest = (1 << held.misses) - 1;
        held.misses = (held.misses + 1).min(PATIENCE);
        Seen::Strange
    }

    #[cfg(test)]
    pub(crate) fn forgive(&mut self) {
        for held in &mut self.0 {
            (held.misses, held.rest) = (0, 0);
        }
    }

    /// Keeps the shape of a kind in place of the last one; without one, nothing is compared.
    pub fn keep(&mut self, id: I, fields: &[SelectableField], shape: Option<Shape<K>>) {
        let held = self.0.iter_mut();
        if let Some(held) = held
            .into_iter()
            .find(|held| held.id == id && is_same(&held.fields, fields))
        {
            (held.shape, held.narrow) = (shape, Narrow::default());
            return;
        }
        self.0.truncate(KINDS - 1);
        self.0.push(Held {
            id,
            fields: fields.to_vec(),
            shape,
            narrow: Narrow::default(),
            misses: 0,
            rest: 0,
            found: Vec::new(),
        });
    }
}

/// Whether these are the very same fields. Those of a kind are shared by all who read it.
fn is_same(one: &[SelectableField], other: &[SelectableField]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            std::sync::Arc::ptr_eq(&one.label, &other.label)
                && std::sync::Arc::ptr_eq(&one.path, &other.path)
                && std::sync::Arc::ptr_eq(&one.default, &other.default)
        })
}
