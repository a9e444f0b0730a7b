//! Documents that are alike: what was found out about one need not be found out again about the next.
//!
//! Objects of a kind differ in names, addresses and times, and have the rest in common: keys, numbers, braces. A [`Shape`]
//! is what one document, which was read the long way, has in common with those like it. Another document is of the same
//! shape if it has the very same bytes between its texts, and a canonical text in each place. Then it is as canonical
//! and as complete as the first one, lacks the same defaults, and has its labels and fields in the same places. Every byte is
//! looked at: either it is compared, or it belongs to a text that is checked as ever.
//!
//! A text that something was decided by (an image's tag, say) must not be free; who learns a shape has to know those. Free
//! texts themselves are not kept.
//!
//! [`Shapes`] keeps the last shape of some kinds. One lives in each thread, so nobody waits for anybody. Where documents
//! turn out to differ, they are compared ever more rarely.

use std::fmt;
use std::ops::Range;

use crate::codec::MediaType;
use crate::entry::{Attributes, Text};
use crate::normalizer::Normalized;
use crate::plain::{Specials, canonical_escape};
use crate::resource::SelectableField;
use crate::revision::Revision;

/// Kinds whose shapes are kept.
const KINDS: usize = 8;
/// Longer documents are not learned.
const LONGEST: usize = 64 << 10;
/// After so many documents of another shape, comparing rests for as many documents as this says as a power of two.
const PATIENCE: u32 = 6;

/// What may stand in the place of a text.
pub trait TextKind: Copy {
    /// Whether this may, which is canonical and without quotes.
    fn accepts(self, text: &[u8]) -> bool;
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
                *attributes.slot(slot)? = Text::default();
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

    /// The served form of a stored document of this shape; `None` for any other. `found` is room for the places of texts.
    pub fn serve(&self, document: &[u8], revision: Revision, found: &mut Vec<Range<usize>>) -> Option<Normalized> {
        self.fit(document, found)?;
        let mut attributes = self.attributes.clone();
        for (slot, text) in &self.slots {
            let text = document.get(found.get(*text)?.clone())?;
            // Who extracts escaped texts has to decode them.
            if text.contains(&b'\\') {
                return None;
            }
            *attributes.slot(*slot)? = Text::from(std::str::from_utf8(text).ok()?);
        }
        let (json, at) = self.edited(document, revision, found)?;
        Some(Normalized::new(json.into(), at, attributes, MediaType::Json))
    }

    /// Compares what is between the texts, and looks at each of the texts.
    fn fit(&self, document: &[u8], found: &mut Vec<Range<usize>>) -> Option<()> {
        found.clear();
        let (mut specials, mut at, mut compared) = (Specials::default(), 0, 0);
        for &(before, kind) in &self.texts {
            let piece = self.skeleton.get(compared..before)?;
            let start = at + piece.len();
            if document.get(at..start)? != piece {
                return None;
            }
            compared = before;
            at = specials.next(document, start);
            if document.get(at) != Some(&b'"') {
                at = end_of_text(document, &mut specials, start, at)?;
            }
            if !kind.accepts(document.get(start..at)?) {
                return None;
            }
            found.push(start..at);
        }
        (document.get(at..)? == self.skeleton.get(compared..)?).then_some(())
    }

    /// The document with the changes in it, and where the digits of the revision stand.
    fn edited(&self, document: &[u8], revision: Revision, found: &[Range<usize>]) -> Option<(Vec<u8>, Range<usize>)> {
        let mut buffer = [0; 20];
        let digits = revision.digits(&mut buffer);
        let place = |anchor: Anchor| match anchor.texts.checked_sub(1) {
            Some(last) => found.get(last).map(|text| text.end + anchor.offset),
            None => Some(anchor.offset),
        };
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
        let (mut json, mut copied, mut at) = (Vec::with_capacity(length), 0, 0..0);
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
        Some((json, at))
    }
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

/// What is known of one kind.
struct Held<I, K> {
    id: I,
    /// Shared with the kind, so that the same places in memory are the same fields.
    fields: Vec<SelectableField>,
    shape: Option<Shape<K>>,
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
    /// Its served form.
    Served(Normalized),
    /// It has to be read, and its shape learned then.
    Strange,
    /// It has to be read.
    Ignored,
}

impl<I: Copy + PartialEq, K: TextKind> Shapes<I, K> {
    /// The served form of a stored document like the last one of its kind.
    pub fn serve(&mut self, id: I, document: &[u8], revision: Revision, fields: &[SelectableField]) -> Seen {
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
        let shape = held.shape.as_ref();
        if let Some(served) = shape.and_then(|shape| shape.serve(document, revision, &mut held.found)) {
            held.misses = 0;
            return Seen::Served(served);
        }
        held.rest = (1 << held.misses) - 1;
        held.misses = (held.misses + 1).min(PATIENCE);
        Seen::Strange
    }

    /// Keeps the shape of a kind in place of the last one; without one, nothing is compared.
    pub fn keep(&mut self, id: I, fields: &[SelectableField], shape: Option<Shape<K>>) {
        let held = self.0.iter_mut();
        if let Some(held) = held
            .into_iter()
            .find(|held| held.id == id && is_same(&held.fields, fields))
        {
            held.shape = shape;
            return;
        }
        self.0.truncate(KINDS - 1);
        self.0.push(Held {
            id,
            fields: fields.to_vec(),
            shape,
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
