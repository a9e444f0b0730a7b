//! Field selectors: `spec.nodeName=a,status.phase!=Running`.

use std::fmt;

use crate::attributes::Attributes;
use crate::selector::SelectorError;

/// Selects by fields; all requirements must hold. The default selects everything.
///
/// Upstream: k8s.io/apimachinery pkg/fields (selector.go).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Requirement {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Reads the form that clients send: terms joined by commas; `=`, `==` or `!=`; `\` escapes `,`, `=` and itself.
    ///
    /// # Errors
    ///
    /// [`SelectorError`] with upstream's text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, equal, value) = split_operator(term)
                .ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            requirements.push(Requirement {
                field: field.to_owned(),
                equal,
                value: unescape(value)?,
            });
        }
        Ok(Self(requirements))
    }

    /// Requires that a field has a value.
    #[must_use]
    pub fn with_equal(mut self, field: &str, value: &str) -> Self {
        self.0.push(Requirement {
            field: field.to_owned(),
            equal: true,
            value: value.to_owned(),
        });
        self
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object is selected. A field that the object does not have reads as empty (`storage-api/SEL-13`).
    pub fn matches(&self, attributes: &Attributes) -> bool {
        self.0.iter().all(|requirement| {
            let value = attributes.field(&requirement.field).unwrap_or_default();
            (value == requirement.value) == requirement.equal
        })
    }

    /// The one value that a field must have.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|own| own.equal && own.field == field)
            .map(|own| own.value.as_str())
    }

    /// The fields that are asked about, for checking them against what a kind supports.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|requirement| requirement.field.as_str())
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.extend(text.get(start..));
    terms
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let (field, rest) = term.split_at(at);
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((field, equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: \\{other}"
                    )));
                }
                None => {
                    return Err(SelectorError(
                        "invalid field selector: invalid escape sequence: \\".into(),
                    ));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {char}"
                )));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Requirement { field, equal, value }) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let operator = if *equal { "=" } else { "!=" };
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{field}{operator}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/SEL-04, storage-api/SEL-06, storage-api/SEL-07, storage-api/SEL-13
    #[test]
    fn selects_by_the_value_of_fields() {
        let object = Attributes {
            name: "a".into(),
            namespace: "ns".into(),
            ..Attributes::default()
        };
        for (text, want) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=ns", true),
            ("metadata.name!=a", false),
            ("spec.none=", true),
            ("spec.none!=x", true),
            ("spec.none=x", false),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(&object), want, "{text}");
        }
        let selector = FieldSelector::parse(r"metadata.name=a\,b\=c\\,x!=y").unwrap();
        assert_eq!(selector.requires_exact("metadata.name"), Some(r"a,b=c\"));
        assert_eq!(selector.requires_exact("x"), None);
        assert_eq!(selector.to_string(), r"metadata.name=a\,b\=c\\,x!=y");
        for text in ["x", "a=b=c", r"a=\x", r"a=\"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }
}
