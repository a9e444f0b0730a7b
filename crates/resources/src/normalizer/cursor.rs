//! Walks the bytes of canonical JSON. Every method answers `None` for what Go would have written differently, or for
//! what is no JSON; nobody has to know which, because the other way of reading finds out.

use std::borrow::Cow;
use std::ops::Range;

use apiserver_storage_api::json::{Specials, canonical_escape};

/// A string in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Without the quotes.
    pub(super) at: Range<usize>,
    /// Whether something in it is escaped.
    pub(super) escaped: bool,
}

/// A place in a document that is UTF-8.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    specials: Specials,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            specials: Specials::default(),
        }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    /// Whether what was stepped over from there on is a value that `omitempty` may leave out.
    #[inline]
    pub(super) fn is_empty_value(&self, from: usize) -> bool {
        let bytes = self.text.as_bytes();
        match (self.at - from, bytes.get(from)) {
            (1, first) => first == Some(&b'0'),
            (2, Some(b'"' | b'[' | b'{')) => true,
            (4, first) => first == Some(&b'n'),
            (5, first) => first == Some(&b'f'),
            _ => false,
        }
    }

    /// Steps over these bytes.
    #[inline]
    pub(super) fn expect(&mut self, wanted: &[u8]) -> Option<()> {
        self.rest().starts_with(wanted).then(|| self.at += wanted.len())
    }

    /// Steps over these bytes if they are here.
    pub(super) fn accept(&mut self, wanted: &[u8]) -> bool {
        self.expect(wanted).is_some()
    }

    /// Whether a key of this name stands here; steps over it, its quotes and the colon.
    pub(super) fn accept_key(&mut self, name: &str) -> bool {
        let rest = self.rest();
        let length = name.len();
        let found = rest.first() == Some(&b'"')
            && rest.get(1..=length) == Some(name.as_bytes())
            && rest.get(length + 1..length + 3) == Some(b"\":");
        if found {
            self.at += length + 3;
        }
        found
    }

    /// As [`accept_key`](Self::accept_key), where the first seven bytes of the name are known to stand here.
    #[inline]
    pub(super) fn accept_begun(&mut self, name: &str) -> bool {
        const KNOWN: usize = 7;
        let bytes = self.text.as_bytes();
        let (start, end) = (self.at + 1, self.at + 1 + name.len());
        let rest = name.as_bytes().get(KNOWN..).unwrap_or_default();
        let found = bytes.get(end) == Some(&b'"')
            && bytes.get(end + 1) == Some(&b':')
            && (rest.is_empty() || bytes.get(start + KNOWN..end) == Some(rest));
        if found {
            self.at = end + 2;
        }
        found
    }

    /// The first bytes behind the quote that stands here, zeroes behind the end.
    #[inline]
    pub(super) fn key_word(&self) -> Option<u64> {
        let (b'"', key) = self.rest().split_first()? else {
            return None;
        };
        Some(match key.first_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => key.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        })
    }

    /// Steps over a string in Go's canonical form.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Option<Text> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let start = self.at + 1;
        let end = self.specials.next(bytes, start);
        if bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            let at = start..end;
            return Some(Text { at, escaped: false });
        }
        let escaped = self.special(end, canonical_escape)?;
        let at = start..self.at;
        self.at += 1;
        Some(Text { at, escaped })
    }

    /// Goes on in a string to its closing quote, from a character on that is more than plain. Whether there are escapes.
    fn special(&mut self, from: usize, escape: fn(&[u8]) -> Option<usize>) -> Option<bool> {
        let bytes = self.text.as_bytes();
        let (mut at, mut escaped) = (from, false);
        loop {
            match *bytes.get(at)? {
                b'"' => {
                    self.at = at;
                    return Some(escaped);
                }
                b'\\' => {
                    escaped = true;
                    at += escape(bytes.get(at..)?)?;
                }
                0xe2 if !matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => at += 3,
                0x80..0xe2 | 0xe3.. => at += 1,
                _ => return None,
            }
            at = self.specials.next(bytes, at);
        }
    }

    /// The text of a string.
    pub(super) fn decoded(&self, text: &Text) -> Option<Cow<'a, str>> {
        if text.escaped {
            let quoted = self.slice(text.at.start - 1..text.at.end + 1);
            return serde_json::from_str::<String>(quoted).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(self.slice(text.at.clone())))
    }

    /// Steps over an integer in canonical form.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let digits = self
            .rest()
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || **byte == b'-')
            .count();
        let text = self.slice(self.at..self.at + digits);
        let number: i64 = text.parse().ok()?;
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        if text == "-0" || unsigned.starts_with('0') && unsigned.len() > 1 {
            return None;
        }
        self.at += digits;
        Some(number)
    }

    pub(super) fn boolean(&mut self) -> Option<bool> {
        if self.accept(b"true") {
            return Some(true);
        }
        self.expect(b"false").map(|()| false)
    }

    /// Steps over any compact document: what Go keeps as it came, but for white space and HTML characters.
    pub(super) fn any(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.kept_string(),
            b'{' => self.members(depth.checked_sub(1)?),
            b'[' => self.items(depth.checked_sub(1)?),
            b't' | b'f' => self.boolean().map(|_| ()),
            b'n' => self.expect(b"null"),
            _ => self.number(),
        }
    }

    fn members(&mut self, depth: usize) -> Option<()> {
        self.expect(b"{")?;
        if self.accept(b"}") {
            return Some(());
        }
        loop {
            self.kept_string()?;
            self.expect(b":")?;
            self.any(depth)?;
            if !self.accept(b",") {
                return self.expect(b"}");
            }
        }
    }

    fn items(&mut self, depth: usize) -> Option<()> {
        self.expect(b"[")?;
        if self.accept(b"]") {
            return Some(());
        }
        loop {
            self.any(depth)?;
            if !self.accept(b",") {
                return self.expect(b"]");
            }
        }
    }

    /// Steps over a string with any escapes but those of surrogates, which are not always characters.
    fn kept_string(&mut self) -> Option<()> {
        self.expect(b"\"")?;
        let from = self.specials.next(self.text.as_bytes(), self.at);
        self.special(from, any_escape)?;
        self.at += 1;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        self.accept(b"-");
        let whole = self.digits();
        let leading_zero = self.text.as_bytes().get(self.at - whole) == Some(&b'0');
        if whole == 0 || leading_zero && whole > 1 {
            return None;
        }
        if self.accept(b".") && self.digits() == 0 {
            return None;
        }
        if self.accept(b"e") || self.accept(b"E") {
            let _ = self.accept(b"+") || self.accept(b"-");
            // Larger exponents may be no number to others.
            if !(1..=2).contains(&self.digits()) {
                return None;
            }
        }
        Some(())
    }

    fn digits(&mut self) -> usize {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }
}

/// The length of any escape of one character.
fn any_escape(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'n' | b'r' | b't' | b'b' | b'f' => Some(2),
        b'u' => {
            let digits = bytes.get(2..6)?;
            let is_surrogate = matches!(digits, [b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..]);
            (digits.iter().all(u8::is_ascii_hexdigit) && !is_surrogate).then_some(6)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_taken_only_as_go_writes_them() {
        for (text, want) in [
            (r#""""#, true),
            (
                r#""plain é 日本 \u003c\u003e\u0026 \" \\ \n\r\t\b\f \u0001\u001f \u2028""#,
                true,
            ),
            ("\"\u{2027}\u{20ac}\u{7f}\"", true),
            ("\"\u{2028}\"", false),
            (r#""<""#, false),
            (r#""\/""#, false),
            (r#""\u000a""#, false),
            (r#""\u003C""#, false),
            (r#""\u0041""#, false),
            ("\"a\nb\"", false),
            (r#""open"#, false),
        ] {
            let mut cursor = Cursor::new(text);
            assert_eq!(cursor.string().is_some() && cursor.peek().is_none(), want, "{text}");
        }
    }

    #[test]
    fn kept_documents_are_compact_json() {
        for (text, want) in [
            (r#"{"b":[1,-0.5e+10,true,null,{}],"a":"\u0041\/"}"#, true),
            (r#"{"a": 1}"#, false),
            (r#"[1,]"#, false),
            (r#"{"a"}"#, false),
            ("01", false),
            ("1.", false),
            ("1e999", false),
            ("-", false),
            (r#""\ud800""#, false),
            (r#""&""#, false),
            ("[[[[]]]]", false),
        ] {
            let mut cursor = Cursor::new(text);
            assert_eq!(cursor.any(3).is_some() && cursor.peek().is_none(), want, "{text}");
        }
    }

    #[test]
    fn integers_are_canonical() {
        for (text, want) in [
            ("0", Some(0)),
            ("-7", Some(-7)),
            ("-0", None),
            ("007", None),
            ("9223372036854775808", None),
            ("--1", None),
        ] {
            assert_eq!(Cursor::new(text).integer(), want, "{text}");
        }
    }
}
