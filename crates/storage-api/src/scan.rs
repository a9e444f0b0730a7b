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

use crate::codec::json;
use crate::entry::{Attributes, Fields, Labels, Text};
use crate::plain::{Specials, canonical_escape};
use crate::resource::SelectableField;

/// Documents that are deeper are left to the decoder, which has the say in how deep is too deep.
const DEPTH: usize = 100;
/// Digits of an integer that surely fits.
const INTEGER_DIGITS: usize = 18;
/// Selectable fields of a kind: a bit for each.
const FIELDS: usize = 64;

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
        const NAME: &[u8] = b"\"resourceVersion\":\"";
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
        let name = if is_missing { NAME } else { b"" };
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

/// Reads a document; `None` when it is not in canonical form, or has something that wants a closer look.
pub(crate) fn scan<'a>(document: &'a [u8], fields: &[SelectableField]) -> Option<Scanned<'a>> {
    // What is looked for below metadata is found by others.
    let odd = |field: &SelectableField| field.path.first().is_none_or(|name| name == "metadata");
    if fields.len() > FIELDS || fields.iter().any(odd) {
        return None;
    }
    let newline = document.last() == Some(&b'\n');
    let body = document.get(..document.len() - usize::from(newline))?;
    let mut scanner = Scanner {
        bytes: body,
        at: 0,
        specials: Specials::default(),
        is_ascii: true,
        fields,
        found: vec![None; fields.len()],
    };
    let head = scanner.document()?;
    if scanner.at != body.len() || !scanner.is_ascii && !is_unescaped_text(body) {
        return None;
    }
    let metadata = head.metadata?;
    Some(Scanned {
        end: body.len(),
        newline,
        api_version: head.api_version,
        kind: head.kind,
        attributes: Attributes {
            name: text(metadata.name)?,
            namespace: text(metadata.namespace)?,
            uid: text(metadata.uid)?,
            labels: labels(&metadata.labels)?,
            fields: scanner.values()?,
            deleting: metadata.deleting,
        },
        revision: metadata.revision?,
    })
}

/// Whether bytes are UTF-8 without the two characters above ASCII that Go escapes.
#[cold]
fn is_unescaped_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(['\u{2028}', '\u{2029}']))
}

fn text(bytes: &[u8]) -> Option<Text> {
    std::str::from_utf8(bytes).ok().map(Text::from)
}

fn labels(found: &[(&[u8], &[u8])]) -> Option<Labels> {
    let mut labels = Vec::with_capacity(found.len());
    for (key, value) in found {
        labels.push((text(key)?, text(value)?));
    }
    // They were seen to ascend.
    Some(Labels::from_ascending(labels))
}

#[derive(Default)]
struct Head<'a> {
    api_version: &'a [u8],
    kind: &'a [u8],
    metadata: Option<Metadata<'a>>,
}

#[derive(Default)]
struct Metadata<'a> {
    name: &'a [u8],
    namespace: &'a [u8],
    uid: &'a [u8],
    labels: Vec<(&'a [u8], &'a [u8])>,
    deleting: bool,
    revision: Option<Place>,
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
    /// Its first bytes as a number that sorts as they do, with zeroes behind a short one: no key has any.
    lead: u64,
}

struct Scanner<'a, 'f> {
    bytes: &'a [u8],
    at: usize,
    specials: Specials,
    /// No other byte was seen so far.
    is_ascii: bool,
    fields: &'f [SelectableField],
    /// Where the value of each field stands.
    found: Vec<Option<Range<usize>>>,
}

impl<'a> Scanner<'a, '_> {
    fn document(&mut self) -> Option<Head<'a>> {
        let (mut head, mut members) = (Head::default(), Members::default());
        let all = (0..self.fields.len()).fold(0, |all, field| all | 1 << field);
        while let Some(key) = self.member(&mut members)? {
            let name = self.name(key);
            let wanted = self.fields_through(all, 0, name);
            match name {
                b"apiVersion" | b"kind" | b"metadata" if wanted != 0 => return None,
                b"apiVersion" => head.api_version = self.plain_string()?,
                b"kind" => head.kind = self.plain_string()?,
                b"metadata" => head.metadata = Some(self.metadata()?),
                _ if wanted != 0 => self.field_value(wanted, 1)?,
                _ => self.value(DEPTH)?,
            }
        }
        Some(head)
    }

    fn metadata(&mut self) -> Option<Metadata<'a>> {
        let (mut metadata, mut members) = (Metadata::default(), Members::default());
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
                return Some(metadata);
            };
            let name = self.name(key);
            if metadata.revision.is_none() && name > b"resourceVersion".as_slice() {
                metadata.revision = Some(Place::Missing {
                    at: key.start - 1,
                    comma_before: false,
                    comma_behind: true,
                });
            }
            match name {
                b"name" => metadata.name = self.string_or_null()?,
                b"namespace" => metadata.namespace = self.string_or_null()?,
                b"uid" => metadata.uid = self.string_or_null()?,
                b"labels" if self.peek()? == b'n' => self.expect(b"null")?,
                b"labels" => metadata.labels = self.labels()?,
                b"selfLink" => return None,
                b"deletionTimestamp" => {
                    metadata.deleting = self.peek()? != b'n';
                    self.value(DEPTH)?;
                }
                b"resourceVersion" => {
                    let start = self.at + 1;
                    let value = start..start + self.plain_string()?.len();
                    // It goes with the comma before it; the first one with that behind it.
                    let end = self.at + usize::from(is_first && self.peek()? == b',');
                    let member = separator..end;
                    metadata.revision = Some(Place::Found { member, value });
                }
                _ => self.value(DEPTH)?,
            }
        }
    }

    fn labels(&mut self) -> Option<Vec<(&'a [u8], &'a [u8])>> {
        let (mut labels, mut members) = (Vec::new(), Members::default());
        while let Some(key) = self.member(&mut members)? {
            labels.push((self.name(key), self.string_or_null()?));
        }
        Some(labels)
    }

    /// Those of some fields whose path goes on with this name.
    #[inline]
    fn fields_through(&self, among: u64, depth: usize, name: &[u8]) -> u64 {
        self.fields_where(among, |field| {
            field.path.get(depth).is_some_and(|part| part.as_bytes() == name)
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

    /// A value that is a field, or on the way to one.
    fn field_value(&mut self, wanted: u64, depth: usize) -> Option<()> {
        let ends = self.fields_where(wanted, |field| field.path.len() == depth);
        if ends != 0 {
            let value = self.scalar()?;
            for (bit, found) in self.found.iter_mut().enumerate() {
                if ends & (1 << bit) != 0 {
                    found.clone_from(&value);
                }
            }
            return Some(());
        }
        let left = DEPTH.checked_sub(depth)?;
        if self.peek()? != b'{' {
            return self.value(left);
        }
        let mut members = Members::default();
        while let Some(key) = self.member(&mut members)? {
            match self.fields_through(wanted, depth, self.name(key)) {
                0 => self.value(left)?,
                wanted => self.field_value(wanted, depth + 1)?,
            }
        }
        Some(())
    }

    /// The value of a field: where its text stands, or nothing for null. Others are errors, which are not told here.
    fn scalar(&mut self) -> Option<Option<Range<usize>>> {
        let start = self.at;
        match self.peek()? {
            b'"' => {
                let text = self.plain_string()?;
                Some(Some(start + 1..start + 1 + text.len()))
            }
            b'n' => self.expect(b"null").map(|()| None),
            b'{' | b'[' => None,
            _ => {
                self.value(0)?;
                // The text of a fraction is its decoder's.
                let is_whole = !self
                    .bytes
                    .get(start..self.at)?
                    .iter()
                    .any(|byte| matches!(byte, b'.' | b'+'));
                is_whole.then_some(Some(start..self.at))
            }
        }
    }

    /// The values of the fields.
    fn values(&self) -> Option<Fields> {
        let mut values = Vec::with_capacity(self.fields.len());
        for (field, found) in self.fields.iter().zip(&self.found) {
            let value = match found {
                Some(at) => text(self.slice(at.clone()))?,
                None => Text::from(&*field.default),
            };
            values.push((Arc::clone(&field.label), value));
        }
        Some(values.into_iter().collect())
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
        if (self.bytes.get(end), self.bytes.get(end + 1)) != (Some(&b'"'), Some(&b':')) {
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
        if escaped || self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        let (start, end) = (text.start, text.end);
        let lead = self.lead(start, end);
        Some(Key { start, end, lead })
    }

    /// Whether a key sorts behind the one before it.
    #[inline(always)]
    fn ascends(&self, before: Key, key: Key) -> bool {
        before.lead < key.lead || before.lead == key.lead && self.slice(before.start..before.end) < self.name(key)
    }

    /// The first bytes of a key.
    #[inline(always)]
    fn lead(&self, start: usize, end: usize) -> u64 {
        let length = end - start;
        match self.bytes.get(start..).and_then(<[u8]>::first_chunk) {
            Some(word) if length >= 8 => u64::from_be_bytes(*word),
            Some(word) => u64::from_be_bytes(*word) & !(u64::MAX >> (8 * length)),
            None => {
                let bytes = self.slice(start..end).iter().chain(std::iter::repeat(&0));
                bytes.take(8).fold(0, |lead, byte| lead << 8 | u64::from(*byte))
            }
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

    /// The text of a string without escapes; that of null is empty.
    fn string_or_null(&mut self) -> Option<&'a [u8]> {
        match self.peek()? {
            b'n' => self.expect(b"null").map(|()| b"".as_slice()),
            _ => self.plain_string(),
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

#[cfg(test)]
mod tests {
    use crate::codec::MediaType;
    use crate::normalizer::{JsonNormalizer, Normalizer};
    use crate::object::Encoded;
    use crate::resource::{GroupVersionKind, SelectableField};
    use crate::revision::Revision;

    use super::scan;

    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"\u003cb\u003e \"q\" \\ \n\u0001é","b":""},"deletionTimestamp":null,"finalizers":[],"generation":7,"labels":{"app":"x","tier":"y"},"name":"p","namespace":"ns","uid":"u-1"},"spec":{"containers":[{"args":["-v",[],{}],"cpu":0.5,"image":"i"},{"n":-1.25}],"deep":{"er":{"field":true}},"nodeName":"n1","priority":1000},"status":{"phase":null}}"#;

    fn fields() -> Vec<SelectableField> {
        [
            "spec.nodeName",
            "spec.priority",
            "spec.deep.er.field",
            "status.phase",
            "type",
            "status.podIP",
        ]
        .map(SelectableField::new)
        .into()
    }

    /// Both ways of reading and of writing come to the same; `true` if the short one was taken.
    #[track_caller]
    fn same(document: &[u8], fields: &[SelectableField]) -> bool {
        let revision = Revision::new(12_345).unwrap();
        let normalizer = JsonNormalizer::new(GroupVersionKind::new("", "v1", "Pod"));
        let shown = String::from_utf8_lossy(document);
        let Some(short) = normalizer.verify(document, revision, fields) else {
            return false;
        };
        let long = normalizer.rewrite(document, revision, fields);
        let long = long.unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert_eq!(short.json, long.json, "{shown}");
        assert_eq!(short.resource_version, long.resource_version, "{shown}");
        assert_eq!(short.attributes, long.attributes, "{shown}");
        assert_eq!(short.media_type, long.media_type);
        let object = Encoded::from_json(document.to_vec());
        let stored = normalizer.encode_value(&object, MediaType::Json).unwrap();
        assert_eq!(normalizer.keep(&object), Some(stored.clone()), "{shown}");
        let (both, read) = normalizer
            .encode_and_normalize(&object, MediaType::Json, revision, fields)
            .unwrap();
        assert_eq!((both, read.json), (stored, short.json), "{shown}");
        true
    }

    // covers: storage-api/VER-12, storage-api/VER-13
    #[test]
    fn canonical_documents_are_read_without_decoding_and_come_to_the_same() {
        let mut documents = vec![POD.to_owned(), format!("{POD}\n")];
        for metadata in [
            "{}",
            r#"{"name":"p"}"#,
            r#"{"uid":"u"}"#,
            r#"{"zone":1}"#,
            r#"{"resourceVersion":"1"}"#,
            r#"{"name":"p","resourceVersion":"1"}"#,
            r#"{"resourceVersion":"1","uid":"u"}"#,
            r#"{"name":"p","resourceVersion":"abc","uid":"u"}"#,
            r#"{"labels":{}}"#,
            r#"{"deletionTimestamp":"t","name":"p"}"#,
            r#"{"labels":null,"name":null,"uid":null}"#,
        ] {
            documents.push(format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata}}}"#));
        }
        for document in documents {
            assert!(same(document.as_bytes(), &fields()), "{document}");
            assert!(same(document.as_bytes(), &[]), "{document}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_decoder() {
        let deep = format!(r#""spec":{}{}"#, "[".repeat(101), "]".repeat(101));
        let mut documents: Vec<String> = [
            r#""spec":{"b":1,"a":2}"#,
            r#""spec":{"a":1,"a":2}"#,
            r#""spec":{"":1," ":2,"":3}"#,
            r#""spec":{"!":1,"":2}"#,
            r#""spec":{ "a":1}"#,
            r#""spec":"<""#,
            r#""spec":"\u003C""#,
            r#""spec":"\/""#,
            r#""spec":"\u000a""#,
            r#""spec":"\u0041""#,
            r#""spec":{"\u003c":1}"#,
            "\"spec\":\"\u{2028}\"",
            r#""spec":-0"#,
            r#""spec":01"#,
            r#""spec":1.0"#,
            r#""spec":1e3"#,
            r#""spec":1.5e3"#,
            r#""spec":0.0000001"#,
            r#""spec":12345678901234567890"#,
            r#""spec":0.12345678901234567"#,
            r#""spec":1."#,
            r#""spec":[1,]"#,
            r#""spec":{"a":1,}"#,
            r#""spec":tru"#,
            r#""spec":{"nodeName":{}}"#,
            r#""spec":{"nodeName":"\"n"}"#,
            r#""spec":{"nodeName":0.5}"#,
            r#""spec":{"nodeName":1e+21}"#,
            &deep,
        ]
        .map(|member| format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{}},{member}}}"#))
        .into();
        for metadata in [r#"{"selfLink":"/x"}"#, r#"{"labels":{"a":1}}"#, "null", r#"{"name":1}"#] {
            documents.push(format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata}}}"#));
        }
        documents.push(r#"{"apiVersion":"v1","kind":"Pod"}"#.to_owned());
        documents.extend(["\n", " ", "x"].map(|end| format!("{POD}\n{end}")));
        for document in documents {
            assert!(scan(document.as_bytes(), &fields()).is_none(), "{document}");
        }
        assert!(scan(b"{\"apiVersion\":\"v1\",\"kind\":\"Pod\xff\",\"metadata\":{}}", &[]).is_none());
    }

    #[test]
    fn no_change_of_a_byte_makes_the_two_ways_differ() {
        let mut taken = 0;
        for at in 0..POD.len() {
            for byte in *b"\"\\{}[]:,.0-aZz<\n\xe2\x00" {
                let mut document = POD.as_bytes().to_vec();
                document[at] = byte;
                taken += usize::from(same(&document, &fields()));
            }
            let cut = [&POD.as_bytes()[..at], &POD.as_bytes()[at + 1..]].concat();
            taken += usize::from(same(&cut, &fields()));
        }
        assert!(taken > 500, "only {taken} were read the short way");
    }
}
