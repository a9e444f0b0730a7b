//! Label selectors: `app=web,tier in (front,back),!legacy`.

use std::fmt;

use crate::attributes::Labels;
use crate::selector::SelectorError;

/// Selects by labels; all requirements must hold. The default selects everything.
///
/// Upstream: k8s.io/apimachinery pkg/labels (selector.go).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Operator {
    Exists,
    DoesNotExist,
    Equals(String),
    NotEquals(String),
    /// Sorted.
    In(Vec<String>),
    /// Sorted.
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Reads the form that clients send.
    ///
    /// # Errors
    ///
    /// [`SelectorError`] with upstream's text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser {
            tokens: tokens(text),
            at: 0,
        }
        .requirements()
        .map(Self)
    }

    /// Requires that a label has a value.
    #[must_use]
    pub fn with_equal(mut self, key: &str, value: &str) -> Self {
        self.0.push(Requirement {
            key: key.to_owned(),
            operator: Operator::Equals(value.to_owned()),
        });
        self
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels that are asked about.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|requirement| requirement.key.as_str())
    }

    /// Whether an object with these labels is selected (`storage-api/SEL-12`).
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = labels.get(key);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match operator {
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::Equals(want) => value == Some(want),
                Operator::NotEquals(want) => value != Some(want),
                Operator::In(want) => value.is_some_and(|value| contains(want, value)),
                Operator::NotIn(want) => !value.is_some_and(|value| contains(want, value)),
                Operator::GreaterThan(want) => number().is_some_and(|number| number > *want),
                Operator::LessThan(want) => number().is_some_and(|number| number < *want),
            }
        })
    }

    /// The one value that a label must have: of the first requirement on it, if that is exact.
    pub fn requires_exact(&self, key: &str) -> Option<&str> {
        let first = self.0.iter().find(|requirement| {
            requirement.key == key && matches!(requirement.operator, Operator::Equals(_) | Operator::In(_))
        })?;
        match &first.operator {
            Operator::Equals(value) => Some(value),
            Operator::In(values) => match values.as_slice() {
                [value] => Some(value),
                _ => None,
            },
            _ => None,
        }
    }
}

impl LabelSelector {
    /// Values of which a label must have one: those of the first requirement on it that says so.
    pub fn requires_one_of(&self, key: &str) -> Option<&[String]> {
        let own = self.0.iter().filter(|requirement| requirement.key == key);
        own.filter_map(|requirement| match &requirement.operator {
            Operator::Equals(value) => Some(std::slice::from_ref(value)),
            Operator::In(values) => Some(values.as_slice()),
            _ => None,
        })
        .next()
    }

    /// Whether only objects that have a label can be selected.
    pub fn requires_some(&self, key: &str) -> bool {
        let own = self.0.iter().filter(|requirement| requirement.key == key);
        own.into_iter().any(|requirement| match requirement.operator {
            Operator::Exists
            | Operator::Equals(_)
            | Operator::In(_)
            | Operator::GreaterThan(_)
            | Operator::LessThan(_) => true,
            Operator::DoesNotExist | Operator::NotEquals(_) | Operator::NotIn(_) => false,
        })
    }
}

fn contains(values: &[String], value: &str) -> bool {
    values.binary_search_by(|own| own.as_str().cmp(value)).is_ok()
}

/// Symbols are tokens of their own; everything between them and white space is a word.
fn tokens(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return out;
        }
        let length = match rest.as_bytes() {
            [b'=', b'=', ..] | [b'!', b'=', ..] => 2,
            [b'=' | b'!' | b'(' | b')' | b',' | b'<' | b'>', ..] => 1,
            _ => rest
                .find(['=', '!', '(', ')', ',', '<', '>', ' ', '\t', '\r', '\n'])
                .unwrap_or(rest.len()),
        };
        let (token, tail) = rest.split_at(length);
        out.push(token);
        rest = tail;
    }
}

fn is_symbol(token: &str) -> bool {
    matches!(token, "=" | "==" | "!=" | "!" | "(" | ")" | "," | "<" | ">")
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut out = Vec::new();
        if self.peek().is_empty() {
            return Ok(out);
        }
        loop {
            out.push(self.requirement()?);
            match self.next() {
                "" => break,
                "," => match self.peek() {
                    token if token == "!" || (!token.is_empty() && !is_symbol(token)) => {}
                    token => return Err(fail(format!("found '{token}', expected: identifier after ','"))),
                },
                token => return Err(fail(format!("found '{token}', expected: ',' or 'end of string'"))),
            }
        }
        // Upstream sorts requirements by key, which fixes the text form.
        out.sort_by(|a: &Requirement, b: &Requirement| a.key.cmp(&b.key));
        Ok(out)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == "!";
        if negated {
            self.next();
        }
        let key = self.next();
        if key.is_empty() || is_symbol(key) {
            return Err(fail(format!("found '{key}', expected: identifier")));
        }
        check_key(key)?;
        let key = key.to_owned();
        if negated {
            return Ok(Requirement {
                key,
                operator: Operator::DoesNotExist,
            });
        }
        let operator = match self.peek() {
            "" | "," => {
                return Ok(Requirement {
                    key,
                    operator: Operator::Exists,
                });
            }
            operator => operator,
        };
        self.next();
        let operator = match operator {
            "=" | "==" => Operator::Equals(self.value(&key)?),
            "!=" => Operator::NotEquals(self.value(&key)?),
            ">" => Operator::GreaterThan(self.number(&key)?),
            "<" => Operator::LessThan(self.number(&key)?),
            "in" => Operator::In(self.values(&key)?),
            "notin" => Operator::NotIn(self.values(&key)?),
            other => {
                return Err(fail(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")));
            }
        };
        Ok(Requirement { key, operator })
    }

    /// A missing value is the empty value.
    fn value(&mut self, key: &str) -> Result<String, SelectorError> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if is_symbol(token) => Err(fail(format!("found '{token}', expected: identifier"))),
            token => {
                self.next();
                check_value(key, token)?;
                Ok(token.to_owned())
            }
        }
    }

    fn number(&mut self, key: &str) -> Result<i64, SelectorError> {
        let value = self.value(key)?;
        value.parse().map_err(|_| {
            SelectorError(format!(
                "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ))
        })
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            "(" => {}
            token => return Err(fail(format!("found '{token}' expected: '('"))),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                ")" => {
                    // `()` is one empty value, and so is a comma with nothing behind it.
                    values.push(String::new());
                    break;
                }
                "," => values.push(String::new()),
                token if token.is_empty() || is_symbol(token) => {
                    return Err(fail(format!("found '{token}', expected: ',', ')' or identifier")));
                }
                token => {
                    check_value(key, token)?;
                    values.push(token.to_owned());
                    match self.next() {
                        ")" => break,
                        "," => {}
                        token => return Err(fail(format!("found '{token}', expected: ',' or ')'"))),
                    }
                }
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn fail(detail: String) -> SelectorError {
    SelectorError(format!("unable to parse requirement: {detail}"))
}

const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                         with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                          '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
                          'my_value',  or '12345', regex used for validation is \
                          '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const PREFIX_RULE: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                           characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                           'example.com', regex used for validation is \
                           '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_name(text: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    let fault = |rule: &str| {
        SelectorError(format!(
            "unable to parse requirement: <nil>: Invalid value: {key:?}: {rule}"
        ))
    };
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        let label = |label: &str| {
            let end = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let bytes = label.as_bytes();
            let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
            end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
        };
        if prefix.is_empty() || prefix.len() > 253 || !prefix.split('.').all(label) {
            return Err(fault(PREFIX_RULE));
        }
    }
    if name.is_empty() {
        return Err(fault("name part must be non-empty"));
    }
    if name.len() > 63 {
        return Err(fault("name part must be no more than 63 bytes"));
    }
    if is_name(name) { Ok(()) } else { Err(fault(NAME_RULE)) }
}

fn check_value(key: &str, value: &str) -> Result<(), SelectorError> {
    let fault = |rule: &str| {
        SelectorError(format!(
            "unable to parse requirement: values[0][{key}]: Invalid value: {value:?}: {rule}"
        ))
    };
    if value.len() > 63 {
        return Err(fault("must be no more than 63 bytes"));
    }
    if is_name(value) { Ok(()) } else { Err(fault(VALUE_RULE)) }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Requirement { key, operator }) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            f.write_str(comma)?;
            match operator {
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::Equals(value) => write!(f, "{key}={value}")?,
                Operator::NotEquals(value) => write!(f, "{key}!={value}")?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::GreaterThan(value) => write!(f, "{key}>{value}")?,
                Operator::LessThan(value) => write!(f, "{key}<{value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/SEL-12
    #[test]
    fn selects_by_labels() {
        let labels: Labels = [("app", "web"), ("n", "7"), ("empty", "")].into_iter().collect();
        for (text, want) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("none", false),
            ("!none", true),
            ("app=web", true),
            ("app == web , n", true),
            ("app!=web", false),
            ("none!=web", true),
            ("none=", false),
            ("empty=", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("none notin (db)", true),
            ("none in (db)", false),
            ("n>6,n<8", true),
            ("n>7", false),
            ("app>1", false),
            ("empty in (,1)", true),
            ("example.com/x notin ()", true),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(&labels), want, "{text}");
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector), "{text}");
        }
        for text in [
            ",", "a,", "a b", "a in b", "a in (", "=x", "!", "a=b=c", "-a", "a=b/c", "a>x", "/a", "A.b/c",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
        assert_eq!(LabelSelector::parse("a in (x)").unwrap().requires_exact("a"), Some("x"));
        assert_eq!(LabelSelector::parse("a in (x,y)").unwrap().requires_exact("a"), None);
        for (text, one_of, some) in [
            ("a=x", Some(&["x"][..]), true),
            ("a in (y,x)", Some(&["x", "y"]), true),
            ("a!=z,a in (x)", Some(&["x"]), true),
            ("a", None, true),
            ("a>1", None, true),
            ("a<1", None, true),
            ("!a", None, false),
            ("a!=x", None, false),
            ("a notin (x)", None, false),
            ("b=x", None, false),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            let values = selector.requires_one_of("a");
            let values = values.map(|values| values.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(values.as_deref(), one_of, "{text}");
            assert_eq!(selector.requires_some("a"), some, "{text}");
        }
    }
}
