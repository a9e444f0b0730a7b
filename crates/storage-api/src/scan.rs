//! Finds out in one pass that a stored value is already what would be written, and what selectors need of it.
//!
//! A kind without a schema stores objects in one form: compact JSON, names in order, Go's escapes, a newline at the end.
//! Whoever wrote a value in that form, it can be served as it stands, with its revision put in. This scan accepts exactly
//! what writing the decoded value again would reproduce byte for byte; anything else it gives up on without saying why,
//! and the caller decodes.

use std::sync::Arc;

use crate::codec::json;
use crate::entry::{Attributes, Fields, Labels};
use crate::resource::{GroupVersionKind, SelectableField};

/// Deeper values are left to the decoder, which has a limit of its own.
const MAX_DEPTH: usize = 64;

/// What a scan has learned.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// Where `"resourceVersion":"..."` belongs.
    pub(crate) insert_at: usize,
    /// On which side of it a comma has to stand.
    pub(crate) comma: Comma,
    /// Where the value ends: the newline stands there.
    pub(crate) end: usize,
    pub(crate) attributes: Attributes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comma {
    None,
    Before,
    After,
}

/// Scans a stored value of a kind.
pub(crate) fn scan(gvk: &GroupVersionKind, stored: &[u8], fields: &[SelectableField]) -> Option<Scanned> {
    let text = std::str::from_utf8(stored).ok()?;
    // Each field is a bit of a word.
    let all = u64::MAX
        .checked_shr(64_u32.checked_sub(u32::try_from(fields.len()).ok()?)?)
        .unwrap_or(0);
    let mut scan = Scan {
        text,
        bytes: stored,
        at: 0,
        fields,
        found: vec![None; fields.len()],
    };
    let root = scan.root(gvk, all)?;
    let end = scan.at;
    if stored.get(end..) != Some(b"\n") {
        return None;
    }
    let fields = fields.iter().zip(scan.found).map(|(field, found)| {
        let value = found.map_or_else(|| field.default.to_string(), str::to_owned);
        (Arc::clone(&field.label), value)
    });
    let Metadata {
        insert_at,
        comma,
        mut attributes,
    } = root;
    attributes.fields = fields.collect::<Fields>();
    Some(Scanned {
        insert_at,
        comma,
        end,
        attributes,
    })
}

struct Metadata {
    insert_at: usize,
    comma: Comma,
    attributes: Attributes,
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    fields: &'a [SelectableField],
    found: Vec<Option<&'a str>>,
}

/// A value, as far as anybody asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    /// A text that stands as it is.
    Plain(&'a str),
    Null,
    /// A number or a truth value, as it stands.
    Word(&'a str),
    /// A text with escapes, a fraction, an array, an object.
    Other,
}

impl<'a> Scan<'a> {
    fn root(&mut self, gvk: &GroupVersionKind, all: u64) -> Option<Metadata> {
        let (mut metadata, mut has_version, mut has_kind) = (None, false, false);
        let mut members = Members::open(self)?;
        while let Some(name) = members.next(self)? {
            let active = self.active(all, 0, name);
            match name {
                "metadata" => metadata = Some(self.metadata(active)?),
                "apiVersion" => {
                    let api_version = self.member(active, 0, 1)?;
                    let version = match (api_version, gvk.group.as_str()) {
                        (Kind::Plain(text), "") => text,
                        (Kind::Plain(text), group) => text.strip_prefix(group)?.strip_prefix('/')?,
                        _ => return None,
                    };
                    has_version = version == gvk.version;
                }
                "kind" => has_kind = self.member(active, 0, 1)? == Kind::Plain(&gvk.kind),
                _ => {
                    self.member(active, 0, 1)?;
                }
            }
        }
        metadata.filter(|_| has_version && has_kind)
    }

    fn metadata(&mut self, all: u64) -> Option<Metadata> {
        let mut attributes = Attributes::default();
        let text = |value: Kind<'_>| match value {
            Kind::Plain(text) => Some(Box::<str>::from(text)),
            Kind::Null => Some(Box::default()),
            Kind::Word(_) | Kind::Other => None,
        };
        let (mut insert_at, mut empty) = (None, true);
        let mut members = Members::open(self)?;
        let open = self.at;
        while let Some(name) = members.next(self)? {
            empty = false;
            // Both are taken out of what is stored, so somebody else wrote this.
            if matches!(name, "resourceVersion" | "selfLink") {
                return None;
            }
            if insert_at.is_none() && name > "resourceVersion" {
                insert_at = Some(members.name_at);
            }
            let active = self.active(all, 1, name);
            match name {
                "labels" if active == 0 => attributes.labels = self.labels()?,
                "name" => attributes.name = text(self.member(active, 1, 2)?)?,
                "namespace" => attributes.namespace = text(self.member(active, 1, 2)?)?,
                "uid" => attributes.uid = text(self.member(active, 1, 2)?)?,
                "deletionTimestamp" => attributes.deleting = self.member(active, 1, 2)? != Kind::Null,
                // A field below the labels: rare enough for the decoder.
                "labels" => return None,
                _ => {
                    self.member(active, 1, 2)?;
                }
            }
        }
        let (insert_at, comma) = match insert_at {
            Some(before) => (before, Comma::After),
            None if empty => (open, Comma::None),
            None => (self.at - 1, Comma::Before),
        };
        Some(Metadata {
            insert_at,
            comma,
            attributes,
        })
    }

    fn labels(&mut self) -> Option<Labels> {
        if self.peek()? == b'n' {
            return (self.value(0, 2, 2)? == Kind::Null).then(Labels::default);
        }
        let mut labels = Vec::new();
        let mut members = Members::open(self)?;
        while let Some(name) = members.next(self)? {
            match self.value(0, 3, 3)? {
                Kind::Plain(value) => labels.push((name, value)),
                Kind::Null => labels.push((name, "")),
                Kind::Word(_) | Kind::Other => return None,
            }
        }
        Some(labels.into_iter().collect())
    }

    /// Of some fields, those whose path goes on with a name.
    fn active(&self, fields: u64, level: usize, name: &str) -> u64 {
        let (mut left, mut active) = (fields, 0);
        while left != 0 {
            let field = left.trailing_zeros();
            left &= left - 1;
            let path = self.fields.get(field as usize).map(|field| &*field.path);
            if path.and_then(|path| path.get(level)).is_some_and(|own| own == name) {
                active |= 1 << field;
            }
        }
        active
    }

    /// A value whose name is at `level` in the paths of some fields.
    fn member(&mut self, active: u64, level: usize, depth: usize) -> Option<Kind<'a>> {
        let value = self.value(active, level + 1, depth)?;
        let mut left = active;
        while left != 0 {
            let field = left.trailing_zeros() as usize;
            left &= left - 1;
            if self.fields.get(field).is_none_or(|field| field.path.len() != level + 1) {
                continue;
            }
            let found = self.found.get_mut(field)?;
            *found = match value {
                Kind::Plain(text) | Kind::Word(text) => Some(text),
                Kind::Null => None,
                Kind::Other => return None,
            };
        }
        Some(value)
    }

    fn value(&mut self, active: u64, level: usize, depth: usize) -> Option<Kind<'a>> {
        match self.peek()? {
            b'"' => self.string().map(|plain| plain.map_or(Kind::Other, Kind::Plain)),
            b'{' if depth < MAX_DEPTH => {
                let mut members = Members::open(self)?;
                while let Some(name) = members.next(self)? {
                    if active == 0 {
                        self.value(0, level, depth + 1)?;
                    } else {
                        let active = self.active(active, level, name);
                        self.member(active, level, depth + 1)?;
                    }
                }
                Some(Kind::Other)
            }
            b'[' if depth < MAX_DEPTH => {
                self.at += 1;
                if self.eat(b']') {
                    return Some(Kind::Other);
                }
                loop {
                    self.value(0, level, depth + 1)?;
                    if !self.eat(b',') {
                        return self.eat(b']').then_some(Kind::Other);
                    }
                }
            }
            b'n' => self.word("null").map(|_| Kind::Null),
            b't' => self.word("true").map(Kind::Word),
            b'f' => self.word("false").map(Kind::Word),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn word(&mut self, word: &'static str) -> Option<&'a str> {
        let range = self.at..self.at + word.len();
        let own = self.text.get(range.clone()).filter(|own| *own == word)?;
        self.at = range.end;
        Some(own)
    }

    /// A number in the form in which it is written.
    fn number(&mut self) -> Option<Kind<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let number = self.text.get(self.at..self.at + length)?;
        self.at += length;
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_integer = !digits.is_empty() && digits.len() < 19 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_integer {
            // No leading zeroes, and no negative zero.
            let canonical = digits == number && digits == "0" || !digits.starts_with('0');
            return canonical.then_some(Kind::Word(number));
        }
        let mut written = Vec::with_capacity(length);
        json::write_number(&serde_json::from_str(number).ok()?, &mut written);
        (written == number.as_bytes()).then_some(Kind::Other)
    }

    /// A string in the form in which it is written; its content, where that stands as it is.
    fn string(&mut self) -> Option<Option<&'a str>> {
        self.at += 1;
        let start = self.at;
        let mut plain = true;
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += rest.iter().position(|byte| SPECIAL[usize::from(*byte)])?;
            match self.peek()? {
                b'"' => {
                    let content = self.text.get(start..self.at)?;
                    self.at += 1;
                    return Some(plain.then_some(content));
                }
                b'\\' => {
                    plain = false;
                    self.escape()?;
                }
                // Begins the two separators that are written as escapes, and much else.
                0xe2 => {
                    let separator = matches!(self.bytes.get(self.at + 1..self.at + 3), Some([0x80, 0xa8 | 0xa9]));
                    if separator {
                        return None;
                    }
                    self.at += 1;
                }
                // Would be written as an escape.
                _ => return None,
            }
        }
    }

    /// An escape in the only form in which it is written.
    fn escape(&mut self) -> Option<()> {
        let rest = self.bytes.get(self.at + 1..)?;
        let length = match rest {
            [b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f', ..] => 2,
            [b'u', b'0', b'0', b'3', b'c' | b'e', ..]
            | [b'u', b'0', b'0', b'2', b'6', ..]
            | [b'u', b'2', b'0', b'2', b'8' | b'9', ..]
            // Of the control characters, those without a letter of their own.
            | [b'u', b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f', ..]
            | [b'u', b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f', ..] => 6,
            _ => return None,
        };
        self.at += length;
        Some(())
    }
}

/// Bytes within a string that need a look.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    let others = b"\"\\<>&\xe2";
    let mut at = 0;
    while at < others.len() {
        special[others[at] as usize] = true;
        at += 1;
    }
    special
};

/// The members of an object, whose names must rise.
struct Members<'a> {
    last: Option<&'a str>,
    /// Where the latest name stands, with its quote.
    name_at: usize,
}

impl<'a> Members<'a> {
    fn open(scan: &mut Scan<'a>) -> Option<Self> {
        scan.eat(b'{').then_some(Self { last: None, name_at: 0 })
    }

    /// The next name, its value being next; the inner none at the end. Names with escapes are left to the decoder.
    #[expect(
        clippy::option_option,
        reason = "giving up is another thing than the end of the object"
    )]
    fn next(&mut self, scan: &mut Scan<'a>) -> Option<Option<&'a str>> {
        if scan.eat(b'}') {
            return Some(None);
        }
        if self.last.is_some() && !scan.eat(b',') {
            return None;
        }
        self.name_at = scan.at;
        if scan.peek()? != b'"' {
            return None;
        }
        let name = scan.string()??;
        if !scan.eat(b':') || self.last.is_some_and(|last| last >= name) {
            return None;
        }
        self.last = Some(name);
        Some(Some(name))
    }
}
