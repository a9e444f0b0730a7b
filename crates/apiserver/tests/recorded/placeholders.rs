//! What the placeholders of a scenario stand for on this server: `<uid 1>`, `<rv 2>`, `<time>` and their like.

use std::collections::BTreeMap;

/// A placeholder in an expected text.
#[derive(Debug, Clone, PartialEq)]
struct Placeholder<'a> {
    kind: &'a str,
    /// `<rv from 2>`: not below.
    lower_bound: bool,
    label: Option<u64>,
}

const KINDS: [&str; 11] = [
    "uid",
    "rv",
    "time",
    "microtime",
    "continue",
    "generated",
    "etag",
    "hash",
    "age",
    "ip",
    "n",
];

/// The bindings of one scenario.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    texts: BTreeMap<(String, u64), String>,
    versions: BTreeMap<u64, u64>,
}

impl Book {
    /// Compares a text with an expected one; an error says what does not fit.
    pub(crate) fn check(&mut self, expected: &str, got: &str) -> Result<(), String> {
        let parts = parts(expected);
        let mut found = Vec::new();
        if !fits(&parts, got, &mut found) {
            return Err(String::new());
        }
        for (placeholder, value) in found {
            if let Some(label) = placeholder.label {
                self.bind(&placeholder, label, value)?;
            }
        }
        Ok(())
    }

    fn bind(&mut self, placeholder: &Placeholder<'_>, label: u64, value: &str) -> Result<(), String> {
        if placeholder.kind == "rv" {
            let number = value.parse().map_err(|_| "(is no version)".to_owned())?;
            return self.bind_version(placeholder.lower_bound, label, number);
        }
        let key = (placeholder.kind.to_owned(), label);
        match self.texts.get(&key) {
            Some(known) if known == value => return Ok(()),
            Some(known) => return Err(format!("(must be {known} again)")),
            None => {}
        }
        let same = self
            .texts
            .iter()
            .find(|((kind, _), known)| kind == placeholder.kind && *known == value);
        if let Some(((kind, other), _)) = same {
            return Err(format!("(must differ from <{kind} {other}>)"));
        }
        self.texts.insert(key, value.to_owned());
        Ok(())
    }

    fn bind_version(&mut self, lower_bound: bool, label: u64, value: u64) -> Result<(), String> {
        let known = self.versions.get(&label).copied();
        if lower_bound {
            let low = known.unwrap_or_default();
            return if value >= low {
                Ok(())
            } else {
                Err(format!("(must be at least {low})"))
            };
        }
        match known {
            Some(known) if known == value => return Ok(()),
            Some(known) => return Err(format!("(must be {known} again)")),
            None => {}
        }
        for (other, bound) in &self.versions {
            if *bound == value {
                return Err(format!("(must differ from <rv {other}>)"));
            }
            if (*other < label) != (*bound < value) {
                let side = if *other < label { "above" } else { "below" };
                return Err(format!("(must be {side} <rv {other}> = {bound})"));
            }
        }
        self.versions.insert(label, value);
        Ok(())
    }
}

/// Literal texts and placeholders, in turn.
#[derive(Debug)]
enum Part<'a> {
    Literal(&'a str),
    Open(Placeholder<'a>),
}

fn parts(expected: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut rest, mut from) = (expected, 0);
    while let Some(at) = rest[from..].find('<').map(|at| at + from) {
        let Some(end) = rest[at..].find('>').map(|end| end + at) else {
            break;
        };
        match placeholder(&rest[at + 1..end]) {
            Some(placeholder) => {
                parts.push(Part::Literal(&rest[..at]));
                parts.push(Part::Open(placeholder));
                (rest, from) = (&rest[end + 1..], 0);
            }
            None => from = at + 1,
        }
    }
    parts.push(Part::Literal(rest));
    parts
}

fn placeholder(inside: &str) -> Option<Placeholder<'_>> {
    let (kind, rest) = inside.split_once(' ').unwrap_or((inside, ""));
    let (lower_bound, label) = match rest.strip_prefix("from ") {
        Some(label) => (true, label),
        None => (false, rest),
    };
    let label = if label.is_empty() {
        None
    } else {
        Some(label.parse().ok()?)
    };
    KINDS.contains(&kind).then_some(Placeholder {
        kind,
        lower_bound,
        label,
    })
}

/// Whether the text is made of these parts; what stands for the placeholders goes to `found`.
fn fits<'e, 'g>(parts: &[Part<'e>], got: &'g str, found: &mut Vec<(Placeholder<'e>, &'g str)>) -> bool {
    match parts {
        [] => got.is_empty(),
        [Part::Literal(literal), rest @ ..] => got.strip_prefix(literal).is_some_and(|got| fits(rest, got, found)),
        [Part::Open(placeholder), rest @ ..] => {
            // As much as possible first, then less.
            let ends = (1..=got.len()).rev().filter(|end| got.is_char_boundary(*end));
            for end in ends {
                let (value, tail) = got.split_at(end);
                if !has_shape(placeholder.kind, value) {
                    continue;
                }
                found.push((placeholder.clone(), value));
                if fits(rest, tail, found) {
                    return true;
                }
                found.pop();
            }
            false
        }
    }
}

/// Whether a text can stand for a placeholder.
fn has_shape(kind: &str, value: &str) -> bool {
    let all = |good: fn(char) -> bool| value.chars().all(good);
    match kind {
        "uid" => is_like("hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", value),
        "rv" => !value.starts_with('0') && all(|c| c.is_ascii_digit()),
        "time" => is_like("dddd-dd-ddTdd:dd:ddZ", value),
        "microtime" => match value.split_once('.') {
            Some((seconds, fraction)) => {
                let fraction = fraction.strip_suffix('Z').unwrap_or("x");
                is_like("dddd-dd-ddTdd:dd:dd", seconds) && fraction.bytes().all(|byte| byte.is_ascii_digit())
            }
            None => is_like("dddd-dd-ddTdd:dd:ddZ", value),
        },
        "continue" => all(|c| !c.is_whitespace()),
        "generated" => all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
        "etag" => value.len() > 2 && value.starts_with('"') && value.ends_with('"') && value.matches('"').count() == 2,
        "hash" => all(|c| c.is_ascii_alphanumeric()),
        "age" => all(|c| c.is_ascii_digit() || c.is_ascii_lowercase() || "<>".contains(c)),
        "ip" => all(|c| matches!(c, '0'..='9' | 'a'..='f' | '.' | ':')),
        _ => all(|c| c.is_ascii_digit()),
    }
}

/// Compares with a pattern of `d` for a digit and `h` for a hexadecimal one.
fn is_like(pattern: &str, value: &str) -> bool {
    pattern.len() == value.len()
        && pattern.bytes().zip(value.bytes()).all(|(pattern, byte)| match pattern {
            b'd' => byte.is_ascii_digit(),
            b'h' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            literal => literal == byte,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_bound_and_stay() {
        let mut book = Book::default();
        let uid = "5e9daee0-a43c-47e5-8de2-27091f5d31cd";
        for (expected, got, good) in [
            ("<uid 1>", uid, true),
            ("<uid 1>", "6e9daee0-a43c-47e5-8de2-27091f5d31cd", false),
            ("<uid 2>", uid, false),
            ("<rv 2>", "20", true),
            ("<rv 1>", "21", false),
            ("<rv 1>", "19", true),
            ("<rv 3>", "20", false),
            ("<rv from 2>", "20", true),
            ("<rv from 2>", "19", false),
            ("at <time>, <n> of <n>", "at 2026-01-01T00:00:00Z, 12 of 3", true),
            ("<time>", "2026-01-01T00:00:00.5Z", false),
            ("<microtime>", "2026-01-01T00:00:00.5Z", true),
            ("a <b> c", "a <b> c", true),
            ("<generated 1>-x", "a-b-x", true),
            ("x", "y", false),
        ] {
            assert_eq!(book.check(expected, got).is_ok(), good, "{expected} {got}");
        }
    }
}
