//! Reads a document that is in canonical form already, in one pass over its bytes and without decoding it.
//!
//! Canonical is what [`encode_untyped`](crate::encode_untyped) writes: compact, keys in the order of their bytes and none
//! twice, strings and numbers as Go writes them. That is the rule for what this process or another one like it stored.
//! For anything else, and for what is no JSON at all, the answer is `None`: the other way of reading, through a decoded
//! value, finds out which it is.
//!
//! Every value of every list comes through here, so what it costs is what a list costs. Strings are stepped over in
//! blocks, which finds out at once whether Go would have escaped something in them; whether the text is UTF-8 is a
//! question only where a byte is not ASCII.

use std::ops::Range;
use std::sync::Arc;

use crate::attributes::{Attributes, Fields, Labels, Text};
use crate::codec::json;
use crate::plain::{Specials, canonical_escape};
use crate::resource::SelectableField;
use crate::shape::{Learned, Shape, ShapeEdit, Slot, TextKind};

/// Documents that are deeper are left to the decoder, which has the say in how deep is too deep.
const DEPTH: usize = 100;
/// Digits of an integer that surely fits.
const INTEGER_DIGITS: usize = 18;
/// Selectable fields of a kind: a bit for each. No kind of Kubernetes has as many.
const FIELDS: usize = 32;
/// Labels that are noted without an allocation. Most objects have fewer.
const LABELS: usize = 12;

/// The begin of the member that holds the revision.
const REVISION: &[u8] = b"\"resourceVersion\":\"";

/// What a document in canonical form says, and where.
#[derive(Debug)]
pub(crate) struct Scanned<'a> {
    /// Where the object ends; behind it is at most a newline.
    end: usize,
    newline: bool,
    pub(crate) api_version: &'a [u8],
    pub(crate) kind: &'a [u8],
    /// Metadata, labels and selectable fields.
    pub(crate) attributes: Attributes,
    revision: Place,
}

/// The resourceVersion in the metadata of a document.
#[derive(Debug)]
enum Place {
    /// It is there: its digits, and all of the member with the one comma that goes when it goes.
    Found { member: Range<usize>, value: Range<usize> },
    /// It goes in here, before or behind a comma, if there are other members.
    Missing {
        at: usize,
        comma_before: bool,
        comma_behind: bool,
    },
}

impl Scanned<'_> {
    /// The document with another resourceVersion, and where that stands.
    pub(crate) fn with_revision(&self, document: &[u8], digits: &[u8]) -> Option<(Vec<u8>, Range<usize>)> {
        let (before, lead, tail, behind): (usize, &[u8], &[u8], usize) = match &self.revision {
            Place::Found { value, .. } => (value.start, b"", b"", value.end),
            Place::Missing {
                at,
                comma_before,
                comma_behind,
            } => (
                *at,
                if *comma_before { b"," } else { b"" },
                if *comma_behind { b"\"," } else { b"\"" },
                *at,
            ),
        };
        let is_missing = matches!(self.revision, Place::Missing { .. });
        let name = if is_missing { REVISION } else { b"" };
        let length = self.end - (behind - before) + lead.len() + name.len() + digits.len() + tail.len();
        let mut json = Vec::with_capacity(length);
        json.extend_from_slice(document.get(..before)?);
        json.extend_from_slice(lead);
        json.extend_from_slice(name);
        let at = json.len()..json.len() + digits.len();
        json.extend_from_slice(digits);
        json.extend_from_slice(tail);
        json.extend_from_slice(document.get(behind..self.end)?);
        Some((json, at))
    }

    /// The document without a resourceVersion, with a newline at its end; `None` when it is that already.
    pub(crate) fn without_revision(&self, document: &[u8]) -> Option<Vec<u8>> {
        let cut = match &self.revision {
            Place::Found { member, .. } => member.clone(),
            Place::Missing { .. } if self.newline => return None,
            Place::Missing { .. } => self.end..self.end,
        };
        let mut stored = Vec::with_capacity(self.end - cut.len() + 1);
        stored.extend_from_slice(document.get(..cut.start)?);
        stored.extend_from_slice(document.get(cut.end..self.end)?);
        stored.push(b'\n');
        Some(stored)
    }
}

/// Tells a scan of a document in canonical form which parts of it a normalizer with a schema would leave as they are.
///
/// A guide stands for one part of the document, and gives those of the parts within. What it does not accept is left to the
/// normalizer, which has to decode the document then; so a guide may refuse what it does not know.
pub trait Guide: Copy {
    /// Whether anything in canonical form may stand here.
    fn is_anything(self) -> bool;
    /// The guide of a member, if an object may stand here that has one of this name.
    fn member(self, name: &[u8]) -> Option<Self>;
    /// The guide of an item, if a list may stand here.
    fn item(self) -> Option<Self>;
    /// Whether this text, quotes and all, may stand here: a string, a number, `true`, `false` or `null`.
    fn scalar(self, text: &[u8]) -> bool;
    /// How many members an object must have that [are required](Self::is_required).
    fn required(self) -> usize;
    /// Whether the object must have this member.
    fn is_required(self) -> bool;
}

/// The guide where there is no schema.
#[derive(Clone, Copy)]
pub(crate) struct Anything;

impl Guide for Anything {
    fn is_anything(self) -> bool {
        true
    }

    fn member(self, _: &[u8]) -> Option<Self> {
        Some(self)
    }

    fn item(self) -> Option<Self> {
        Some(self)
    }

    fn scalar(self, _: &[u8]) -> bool {
        true
    }

    fn required(self) -> usize {
        0
    }

    fn is_required(self) -> bool {
        false
    }
}

/// Reads a document; `None` when it is not in canonical form, or has something that wants a closer look.
pub(crate) fn scan<'a>(document: &'a [u8], fields: &[SelectableField], guide: impl Guide) -> Option<Scanned<'a>> {
    let (mut scanner, newline) = Scanner::new(document, fields)?;
    let body = scanner.bytes;
    let head = scanner.document(guide)?;
    if scanner.at != body.len() || !scanner.is_ascii && !is_unescaped_text(body) {
        return None;
    }
    let metadata = head.metadata?;
    let attributes = scanner.attributes(&metadata)?;
    Some(Scanned {
        end: body.len(),
        newline,
        api_version: head.api_version,
        kind: head.kind,
        attributes,
        revision: metadata.revision?,
    })
}

/// The shape of a document that was scanned as stored, for any other with the same keys and numbers.
#[cold]
pub(crate) fn learn(document: &[u8], fields: &[SelectableField]) -> Option<Shape<AnyText>> {
    let (mut scanner, _) = Scanner::new(document, fields)?;
    let head = scanner.document(Anything)?;
    let metadata = head.metadata?;
    let mut edit = ShapeEdit::default();
    match &metadata.revision {
        Some(Place::Missing {
            at,
            comma_before,
            comma_behind,
        }) => {
            edit.gone = *at..*at;
            edit.text = if *comma_before { b",".to_vec() } else { Vec::new() };
            edit.text.extend_from_slice(REVISION);
            edit.behind_revision = Some(if *comma_behind { b"\",".to_vec() } else { b"\"".to_vec() });
        }
        _ => return None,
    }
    let mut extracted = vec![
        (Slot::Name, metadata.name),
        (Slot::Namespace, metadata.namespace),
        (Slot::Uid, metadata.uid),
    ];
    let labels = metadata.labels.iter().enumerate();
    extracted.extend(labels.map(|(at, (_, value))| (Slot::Label(at), value)));
    let found = scanner.found.iter().take(fields.len()).enumerate();
    extracted.extend(found.map(|(at, found)| (Slot::Field(at), *found)));
    Shape::learn(Learned {
        document,
        end: scanner.bytes.len(),
        free: texts(document, &[head.api_version, head.kind])?,
        attributes: scanner.attributes(&metadata)?,
        extracted: extracted.into_iter().map(|(slot, at)| (slot, at.range())).collect(),
        edits: vec![edit],
    })
}

/// Any text is as good as another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnyText;

impl TextKind for AnyText {
    fn accepts(self, _: &[u8]) -> bool {
        true
    }
}

/// The strings of a canonical document that are values, but for those with these texts.
fn texts(document: &[u8], but: &[&[u8]]) -> Option<Vec<(Range<usize>, AnyText)>> {
    let (mut texts, mut at) = (Vec::new(), 0);
    while let Some(next) = document.get(at..)?.iter().position(|byte| *byte == b'"') {
        let start = at + next + 1;
        let mut end = start;
        loop {
            match *document.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let is_key = document.get(end + 1) == Some(&b':');
        if !is_key && !but.contains(&document.get(start..end)?) {
            texts.push((start..end, AnyText));
        }
        at = end + 1;
    }
    Some(texts)
}

/// Whether bytes are UTF-8 without the two characters above ASCII that Go escapes.
#[cold]
fn is_unescaped_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(['\u{2028}', '\u{2029}']))
}

/// A part of the document, without its length in bytes being known to matter: empty where there is nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Documents are shorter than this can say.
    fn of(range: &Range<usize>) -> Self {
        let place = |at: usize| u32::try_from(at).unwrap_or_default();
        Self {
            start: place(range.start),
            end: place(range.end),
        }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Default)]
struct Head<'a> {
    api_version: &'a [u8],
    kind: &'a [u8],
    metadata: Option<Metadata>,
}

#[derive(Default)]
struct Metadata {
    /// All of it.
    at: Range<usize>,
    name: Span,
    namespace: Span,
    uid: Span,
    labels: Noted,
    deleting: bool,
    revision: Option<Place>,
}

/// Where keys and values of labels stand.
#[derive(Default)]
struct Noted {
    count: usize,
    first: [(Span, Span); LABELS],
    more: Vec<(Span, Span)>,
}

impl Noted {
    fn push(&mut self, label: (Span, Span)) {
        match self.first.get_mut(self.count) {
            Some(place) => *place = label,
            None => self.more.push(label),
        }
        self.count += 1;
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = (Span, Span)> {
        let at = |index: usize| self.first.get(index).or_else(|| self.more.get(index - LABELS));
        (0..self.count).map(move |index| at(index).copied().unwrap_or_default())
    }
}

/// Where a walk over the members of an object is.
#[derive(Default)]
struct Members {
    /// Behind the opening brace; zero before it was seen.
    start: usize,
    before: Key,
}

/// A key of an object.
#[derive(Clone, Copy, Default)]
struct Key {
    start: usize,
    end: usize,
    /// Its first bytes as a number that sorts as they do, with zeroes behind a short one.
    lead: u64,
}

struct Scanner<'a, 'f> {
    bytes: &'a [u8],
    at: usize,
    specials: Specials,
    /// No other byte was seen so far.
    is_ascii: bool,
    /// Some key has an escape. Keys are in the order of what they stand for, not of how it is written.
    has_escaped_keys: bool,
    fields: &'f [SelectableField],
    /// Where the value of each field stands; empty where there is none, or where it is null. An empty text stands
    /// behind its quote, never at the begin.
    found: [Span; FIELDS],
}

impl<'a, 'f> Scanner<'a, 'f> {
    /// At the begin of a document, and whether a newline is behind that.
    fn new(document: &'a [u8], fields: &'f [SelectableField]) -> Option<(Self, bool)> {
        // What is looked for below metadata is found by others.
        let odd = |field: &SelectableField| field.path.first().is_none_or(|name| name == "metadata");
        if fields.len() > FIELDS || fields.iter().any(odd) {
            return None;
        }
        let newline = document.last() == Some(&b'\n');
        let body = document.get(..document.len() - usize::from(newline))?;
        // Places are noted in half the bytes.
        u32::try_from(body.len()).ok()?;
        let scanner = Self {
            bytes: body,
            at: 0,
            specials: Specials::default(),
            is_ascii: true,
            has_escaped_keys: false,
            fields,
            found: [Span::default(); FIELDS],
        };
        Some((scanner, newline))
    }

    fn document<G: Guide>(&mut self, guide: G) -> Option<Head<'a>> {
        let (mut head, mut members) = (Head::default(), Members::default());
        let all = (0..self.fields.len()).fold(0, |all, field| all | 1 << field);
        let mut required = guide.required();
        while let Some(key) = self.member(&mut members)? {
            let name = self.name(key);
            let wanted = self.fields_through(all, 0, key);
            match name {
                b"apiVersion" | b"kind" | b"metadata" if wanted != 0 => return None,
                b"apiVersion" => head.api_version = self.plain_string()?,
                b"kind" => head.kind = self.plain_string()?,
                b"metadata" => head.metadata = Some(self.metadata(guide.member(name)?)?),
                _ => {
                    let member = self.guide_of(guide, key)?;
                    required = required.checked_sub(usize::from(member.is_required()))?;
                    self.guided(member, wanted, 1)?;
                }
            }
        }
        (required == 0).then_some(head)
    }

    fn metadata<G: Guide>(&mut self, guide: G) -> Option<Metadata> {
        let (mut metadata, mut members) = (Metadata::default(), Members::default());
        let mut required = guide.required();
        metadata.at.start = self.at;
        loop {
            let separator = self.at;
            let key = self.member(&mut members)?;
            // The comma before a member, the begin of the first one, or the end.
            let separator = separator.max(members.start);
            let is_first = separator == members.start;
            let Some(key) = key else {
                metadata.revision.get_or_insert(Place::Missing {
                    at: separator,
                    comma_before: !is_first,
                    comma_behind: false,
                });
                metadata.at.end = self.at;
                return (required == 0).then_some(metadata);
            };
            let name = self.name(key);
            if metadata.revision.is_none() && self.sorts_behind(key, b"resourceVersion") {
                metadata.revision = Some(Place::Missing {
                    at: key.start - 1,
                    comma_before: false,
                    comma_behind: true,
                });
            }
            let member = self.guide_of(guide, key)?;
            required = required.checked_sub(usize::from(member.is_required()))?;
            // Texts and labels are looked at here.
            let may_be_null = member.is_anything();
            if !may_be_null && self.peek()? == b'n' {
                return None;
            }
            match name {
                b"name" => metadata.name = self.string_or_null()?,
                b"namespace" => metadata.namespace = self.string_or_null()?,
                b"uid" => metadata.uid = self.string_or_null()?,
                b"labels" if self.peek()? == b'n' => self.expect(b"null")?,
                b"labels" => self.labels(&mut metadata.labels, may_be_null)?,
                b"selfLink" => return None,
                b"deletionTimestamp" => {
                    metadata.deleting = self.peek()? != b'n';
                    self.guided(member, 0, 1)?;
                }
                b"resourceVersion" => {
                    let value = self.plain_span()?.range();
                    // It goes with the comma before it; the first one with that behind it.
                    let end = self.at + usize::from(is_first && self.peek()? == b',');
                    let member = separator..end;
                    metadata.revision = Some(Place::Found { member, value });
                }
                _ => self.guided(member, 0, 1)?,
            }
        }
    }

    fn labels(&mut self, labels: &mut Noted, may_be_null: bool) -> Option<()> {
        let mut members = Members::default();
        while let Some(key) = self.member(&mut members)? {
            if self.is_escaped(key) || !may_be_null && self.peek()? == b'n' {
                return None;
            }
            labels.push((Span::of(&(key.start..key.end)), self.string_or_null()?));
        }
        Some(())
    }

    /// Those of some fields whose path goes on with this name.
    #[inline]
    fn fields_through(&self, among: u64, depth: usize, key: Key) -> u64 {
        if among == 0 {
            return 0;
        }
        if self.is_escaped(key) {
            return self.fields_through_escaped(among, depth, key);
        }
        let name = self.name(key);
        self.fields_where(among, |field| {
            field.path.get(depth).is_some_and(|part| part.as_bytes() == name)
        })
    }

    #[cold]
    fn fields_through_escaped(&self, among: u64, depth: usize, key: Key) -> u64 {
        self.fields_where(among, |field| {
            let part = field.path.get(depth);
            part.is_some_and(|part| unescaped(self.name(key)).eq(part.bytes()))
        })
    }

    #[inline]
    fn fields_where(&self, among: u64, is_wanted: impl Fn(&SelectableField) -> bool) -> u64 {
        let (mut wanted, mut left) = (0, among);
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let field = self.fields.get(bit.trailing_zeros() as usize);
            if field.is_some_and(&is_wanted) {
                wanted |= bit;
            }
        }
        wanted
    }

    /// A value that a guide is asked about, or that is a field, or on the way to one.
    fn guided<G: Guide>(&mut self, guide: G, wanted: u64, depth: usize) -> Option<()> {
        let left = DEPTH.checked_sub(depth)?;
        if wanted == 0 && guide.is_anything() {
            return self.inner(left);
        }
        let start = self.at;
        let ends = match wanted {
            0 => 0,
            _ => self.fields_where(wanted, |field| field.path.len() == depth),
        };
        if ends != 0 {
            let value = self.scalar()?;
            for (bit, found) in self.found.iter_mut().enumerate().take(self.fields.len()) {
                if ends & (1 << bit) != 0 {
                    *found = value;
                }
            }
            return guide.scalar(self.slice(start..self.at)).then_some(());
        }
        match self.peek()? {
            b'{' => self.guided_object(guide, wanted, depth),
            // Nothing within is a field.
            b'[' if guide.is_anything() => self.value(left),
            b'[' => self.guided_items(guide.item()?, depth),
            _ => {
                self.value(0)?;
                guide.scalar(self.slice(start..self.at)).then_some(())
            }
        }
    }

    fn guided_object<G: Guide>(&mut self, guide: G, wanted: u64, depth: usize) -> Option<()> {
        let (mut members, mut required) = (Members::default(), guide.required());
        while let Some(key) = self.member(&mut members)? {
            let wanted = self.fields_through(wanted, depth, key);
            let member = self.guide_of(guide, key)?;
            required = required.checked_sub(usize::from(member.is_required()))?;
            self.guided(member, wanted, depth + 1)?;
        }
        (required == 0).then_some(())
    }

    fn guided_items<G: Guide>(&mut self, guide: G, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.guided(guide, 0, depth + 1)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// The guide of a member.
    #[inline]
    fn guide_of<G: Guide>(&self, guide: G, key: Key) -> Option<G> {
        if guide.is_anything() {
            return Some(guide);
        }
        match self.is_escaped(key) {
            true => guide.member(&unescaped(self.name(key)).collect::<Vec<_>>()),
            false => guide.member(self.name(key)),
        }
    }

    /// The value of a field: where its text stands, or nothing for null. Others are errors, which are not told here.
    fn scalar(&mut self) -> Option<Span> {
        let start = self.at;
        match self.peek()? {
            b'"' => self.plain_span(),
            b'n' => self.expect(b"null").map(|()| Span::default()),
            b'{' | b'[' => None,
            _ => {
                self.value(0)?;
                let at = start..self.at;
                // The text of a fraction is its decoder's, and so is that of a whole number that may be one to it.
                let is_part = |byte: &u8| matches!(byte, b'.' | b'+');
                let is_whole = at.len() <= INTEGER_DIGITS && !self.slice(at.clone()).iter().any(is_part);
                is_whole.then(|| Span::of(&at))
            }
        }
    }

    /// What selectors and indexes use.
    fn attributes(&self, metadata: &Metadata) -> Option<Attributes> {
        let text = std::str::from_utf8(self.slice(metadata.at.clone())).ok()?;
        let begin = metadata.at.start;
        // Nothing stands at the begin of a document, but what is not there.
        let text = |span: Span| match span.end {
            0 => Some(""),
            _ => text.get((span.start as usize).checked_sub(begin)?..(span.end as usize).checked_sub(begin)?),
        };
        let mut labels = Vec::with_capacity(metadata.labels.count);
        for (key, value) in metadata.labels.iter() {
            labels.push((text(key)?.into(), text(value)?.into()));
        }
        let fields = self.fields.iter().zip(&self.found).map(|(field, found)| {
            let value = match found.end {
                0 => Text::from(&*field.default),
                _ => Text::from(std::str::from_utf8(self.slice(found.range())).ok()?),
            };
            Some((Arc::clone(&field.label), value))
        });
        Some(Attributes {
            name: text(metadata.name)?.into(),
            namespace: text(metadata.namespace)?.into(),
            uid: text(metadata.uid)?.into(),
            // They were seen to ascend.
            labels: Labels::from_ascending(labels),
            fields: fields.collect::<Option<Fields>>()?,
            deleting: metadata.deleting,
        })
    }

    fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    fn name(&self, key: Key) -> &'a [u8] {
        self.slice(key.start..key.end)
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn expect(&mut self, wanted: &[u8]) -> Option<()> {
        let is_here = self.bytes.get(self.at..)?.starts_with(wanted);
        is_here.then(|| self.at += wanted.len())
    }

    /// Steps over the key of the next member of an object, its colon included, or over the end of the object. The first
    /// call steps over its begin.
    fn member(&mut self, members: &mut Members) -> Option<Option<Key>> {
        let is_first = members.start == 0;
        match self.peek()? {
            b'{' if is_first => {
                self.at += 1;
                members.start = self.at;
                if self.peek()? == b'}' {
                    self.at += 1;
                    return Some(None);
                }
            }
            b',' if !is_first => self.at += 1,
            b'}' if !is_first => {
                self.at += 1;
                return Some(None);
            }
            _ => return None,
        }
        let key = self.key()?;
        if !is_first && !self.ascends(members.before, key) {
            return None;
        }
        members.before = key;
        Some(Some(key))
    }

    /// Steps over a key and its colon.
    #[inline(always)]
    fn key(&mut self) -> Option<Key> {
        let start = self.at + 1;
        if self.peek()? != b'"' {
            return None;
        }
        let end = self.specials.next(self.bytes, start);
        if self.bytes.get(end..).and_then(<[u8]>::first_chunk) != Some(b"\":") {
            return self.special_key(start, end);
        }
        self.at = end + 2;
        let lead = self.lead(start, end);
        Some(Key { start, end, lead })
    }

    /// A key with more than plain characters, or none at all.
    #[cold]
    fn special_key(&mut self, start: usize, at: usize) -> Option<Key> {
        let (text, escaped) = self.special_string(start, at)?;
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        let (start, end) = (text.start, text.end);
        self.has_escaped_keys |= escaped;
        let lead = match escaped {
            true => lead_of(unescaped(self.slice(text))),
            false => self.lead(start, end),
        };
        Some(Key { start, end, lead })
    }

    #[inline]
    fn is_escaped(&self, key: Key) -> bool {
        self.has_escaped_keys && self.name(key).contains(&b'\\')
    }

    /// Whether a key sorts behind the one before it.
    #[inline(always)]
    fn ascends(&self, before: Key, key: Key) -> bool {
        before.lead < key.lead || before.lead == key.lead && self.ascends_later(before, key)
    }

    /// As [`ascends`](Self::ascends), where the first bytes say nothing.
    fn ascends_later(&self, before: Key, key: Key) -> bool {
        let (first, second) = (self.name(before), self.name(key));
        match self.has_escaped_keys {
            true => unescaped(first).lt(unescaped(second)),
            false => first < second,
        }
    }

    /// Whether a key sorts behind a name.
    fn sorts_behind(&self, key: Key, name: &[u8]) -> bool {
        match self.is_escaped(key) {
            true => unescaped(self.name(key)).gt(name.iter().copied()),
            false => self.name(key) > name,
        }
    }

    /// The first bytes of a key.
    #[inline(always)]
    fn lead(&self, start: usize, end: usize) -> u64 {
        let length = end - start;
        match self.bytes.get(start..).and_then(<[u8]>::first_chunk) {
            Some(word) if length >= 8 => u64::from_be_bytes(*word),
            Some(word) => u64::from_be_bytes(*word) & !(u64::MAX >> (8 * length)),
            None => lead_of(self.slice(start..end).iter().copied()),
        }
    }

    /// Steps over any value.
    #[inline(never)]
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.object(depth.checked_sub(1)?),
            b'[' => self.items(depth.checked_sub(1)?),
            b't' => self.expect(b"true"),
            b'f' => self.expect(b"false"),
            b'n' => self.expect(b"null"),
            _ => self.number(),
        }
    }

    /// As [`value`](Self::value), without a call for a string, which most values are.
    #[inline(always)]
    fn inner(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            _ => self.value(depth),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        let mut before = self.key()?;
        loop {
            self.inner(depth)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
            let key = self.key()?;
            if !self.ascends(before, key) {
                return None;
            }
            before = key;
        }
    }

    fn items(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.inner(depth)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// The text of a string without escapes.
    fn plain_string(&mut self) -> Option<&'a [u8]> {
        let (text, escaped) = self.string()?;
        (!escaped).then(|| self.slice(text))
    }

    /// Where the text of a string without escapes stands.
    fn plain_span(&mut self) -> Option<Span> {
        let (text, escaped) = self.string()?;
        (!escaped).then(|| Span::of(&text))
    }

    /// Where the text of a string without escapes stands, if it is not null.
    fn string_or_null(&mut self) -> Option<Span> {
        match self.peek()? {
            b'n' => self.expect(b"null").map(|()| Span::default()),
            _ => self.plain_span(),
        }
    }

    /// Steps over a string; where its text stands, and whether something in it is escaped.
    #[inline(always)]
    fn string(&mut self) -> Option<(Range<usize>, bool)> {
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let at = self.specials.next(self.bytes, start);
        if self.bytes.get(at) == Some(&b'"') {
            self.at = at + 1;
            return Some((start..at, false));
        }
        self.special_string(start, at)
    }

    /// The rest of a string that has more than plain characters.
    #[cold]
    fn special_string(&mut self, start: usize, mut at: usize) -> Option<(Range<usize>, bool)> {
        let mut escaped = false;
        loop {
            match *self.bytes.get(at)? {
                b'"' => {
                    self.at = at + 1;
                    return Some((start..at, escaped));
                }
                b'\\' => {
                    escaped = true;
                    at += canonical_escape(self.bytes.get(at..)?)?;
                }
                0x80.. => {
                    self.is_ascii = false;
                    let rest = self.bytes.get(at..)?;
                    at += rest.iter().take_while(|byte| !byte.is_ascii()).count();
                }
                // Go would have escaped it.
                _ => return None,
            }
            at = self.specials.next(self.bytes, at);
        }
    }

    /// Steps over a number in the form in which it is written.
    fn number(&mut self) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        let negative = usize::from(rest.first() == Some(&b'-'));
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let digits = rest.get(negative..)?.iter().take_while(is_digit).count();
        let starts_with_zero = rest.get(negative) == Some(&b'0');
        let is_integer = !matches!(rest.get(negative + digits), Some(b'.' | b'e' | b'E'));
        if is_integer && digits <= INTEGER_DIGITS {
            // No leading zeroes, and no negative zero.
            let is_canonical = digits > 0 && (!starts_with_zero || negative + digits == 1);
            return is_canonical.then(|| self.at += negative + digits);
        }
        let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(is_part).count();
        let number = rest.get(..length)?;
        let mut written = Vec::with_capacity(length);
        json::write_number(&serde_json::from_slice(number).ok()?, &mut written);
        (written == number).then(|| self.at += length)
    }
}

/// The first bytes of a text as a number that sorts as they do.
fn lead_of(bytes: impl Iterator<Item = u8>) -> u64 {
    let bytes = bytes.chain(std::iter::repeat(0));
    bytes.take(8).fold(0, |lead, byte| lead << 8 | u64::from(byte))
}

/// What a text with canonical escapes stands for.
fn unescaped(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = text;
    // Behind an escape of more than one byte.
    let mut more: &'static [u8] = &[];
    std::iter::from_fn(move || {
        if let Some((byte, left)) = more.split_first() {
            more = left;
            return Some(*byte);
        }
        let (byte, left) = rest.split_first()?;
        let Some(length) = (*byte == b'\\').then(|| canonical_escape(rest)).flatten() else {
            rest = left;
            return Some(*byte);
        };
        let byte = match rest {
            [_, b'n', ..] => b'\n',
            [_, b'r', ..] => b'\r',
            [_, b't', ..] => b'\t',
            [_, b'b', ..] => 0x08,
            [_, b'f', ..] => 0x0c,
            // U+2028 or U+2029.
            [_, b'u', b'2', ..] => 0xe2,
            [_, b'u', _, _, high, low, ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default();
                u8::try_from(digit(*high) << 4 | digit(*low)).unwrap_or_default()
            }
            [_, byte, ..] => *byte,
            _ => return None,
        };
        if byte == 0xe2 {
            more = if rest.get(5) == Some(&b'8') {
                &[0x80, 0xa8]
            } else {
                &[0x80, 0xa9]
            };
        }
        rest = rest.get(length..).unwrap_or_default();
        Some(byte)
    })
}

#[cfg(test)]
mod tests;
