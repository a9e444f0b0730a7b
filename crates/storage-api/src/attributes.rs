//! What selectors and indexes see of an object, taken out once when its value is read.
//!
//! Most objects of a kind have labels and fields in common with others of it. Those are shared, so that what an object
//! costs here is what is its own.

use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;

use crate::shape::Slot;

/// A text that is mostly short: up to 24 bytes lie in place.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(CompactString);

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Box<str>> for Text {
    fn from(text: Box<str>) -> Self {
        Self(text.into())
    }
}

impl From<std::borrow::Cow<'_, str>> for Text {
    fn from(text: std::borrow::Cow<'_, str>) -> Self {
        Self((*text).into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Characters of a UUID.
const UUID: usize = 36;

/// A uid. Those that servers give are UUIDs, which lie in place.
#[derive(Clone, PartialEq, Eq)]
pub struct Uid(Stored);

#[derive(Clone, PartialEq, Eq)]
enum Stored {
    /// Of exactly this length, and UTF-8.
    InPlace([u8; UUID]),
    /// Of any other.
    Apart(Box<str>),
}

impl std::ops::Deref for Uid {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Stored::InPlace(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Stored::Apart(text) => text,
        }
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        Self(match text.as_bytes().try_into() {
            Ok(bytes) => Stored::InPlace(bytes),
            Err(_) => Stored::Apart(text.into()),
        })
    }
}

impl Default for Uid {
    fn default() -> Self {
        Self::from("")
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// What selectors and indexes use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `metadata.name`.
    pub name: Text,
    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub namespace: Text,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The kind's selectable fields, beside name and namespace.
    pub fields: Fields,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

impl Attributes {
    /// The value of a field as selectors see it; `None` when the kind has no such field.
    pub fn field(&self, label: &str) -> Option<&str> {
        match label {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.get(label),
        }
    }

    /// Puts a text into its place. What was shared with other objects there is no more.
    pub(crate) fn put(&mut self, slot: Slot, text: &str) -> Option<()> {
        match slot {
            Slot::Name => self.name = text.into(),
            Slot::Namespace => self.namespace = text.into(),
            Slot::Uid => self.uid = text.into(),
            Slot::Label(at) => Arc::make_mut(&mut self.labels.0).get_mut(at)?.1 = text.into(),
            Slot::Field(at) => *Arc::make_mut(&mut self.fields.values).get_mut(at)? = text.into(),
        }
        Some(())
    }
}

/// Labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Arc<[(Text, Text)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Labels whose keys ascend.
    pub(crate) fn from_ascending(labels: Vec<(Text, Text)>) -> Self {
        debug_assert!(labels.is_sorted_by(|a, b| a.0 < b.0));
        Self(labels.into())
    }

    /// All labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(labels: I) -> Self {
        let mut labels: Vec<(Text, Text)> = labels
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        if !labels.is_sorted_by(|a, b| a.0 < b.0) {
            labels.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Self(labels.into())
    }
}

/// Room is made for so many fields at most before they are there.
const EXPECTED: usize = 32;

/// Selectable fields with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    names: Arc<[Arc<str>]>,
    /// In the order of the names.
    values: Arc<[Text]>,
}

impl Fields {
    /// The value of a field; `None` when the kind has no such field.
    pub fn get(&self, label: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == label).map(|(_, value)| value)
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.names.iter().map(|name| &**name);
        names.zip(self.values.iter().map(|value| &**value))
    }
}

impl<T: Into<Text>> FromIterator<(Arc<str>, T)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, T)>>(fields: I) -> Self {
        let fields = fields.into_iter();
        // Also where some of them may turn out to be none, and nothing is known of the least number.
        let expected = fields.size_hint().1.unwrap_or_default().min(EXPECTED);
        let (mut names, mut values) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        for (name, value) in fields {
            names.push(name);
            values.push(value.into());
        }
        Self {
            names: names.into(),
            values: values.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, Labels, Slot, Uid};
    use crate::Attributes;

    #[test]
    fn a_uid_is_the_text_that_it_was_made_of() {
        for text in [
            "",
            "u",
            "0f4c2b6e-5d0a-4a53-9d0c-6f3b1c2a7e11",
            "\u{e9}".repeat(18).as_str(),
            &"u".repeat(37),
        ] {
            let uid = Uid::from(text);
            assert_eq!((&*uid, uid.to_string()), (text, text.to_owned()));
            assert_eq!(uid, Uid::from(text));
            assert_ne!(uid, Uid::from("another"));
        }
    }

    #[test]
    fn what_is_put_in_is_nobody_elses() {
        let first = Attributes {
            labels: Labels::from_iter([("a", "1"), ("b", "2")]),
            fields: Fields::from_iter([("spec.nodeName".into(), "n1"), ("status.phase".into(), "Running")]),
            ..Attributes::default()
        };
        let mut second = first.clone();
        for (slot, text) in [
            (Slot::Label(1), "3"),
            (Slot::Field(0), "n2"),
            (Slot::Name, "x"),
            (Slot::Uid, "u"),
        ] {
            assert_eq!(second.put(slot, text), Some(()));
        }
        assert_eq!(second.put(Slot::Label(2), ""), None);
        assert_eq!(second.put(Slot::Field(2), ""), None);
        let seen = |attributes: &Attributes| {
            let fields = ["spec.nodeName", "status.phase", "metadata.name", "other"];
            let fields = fields.map(|field| attributes.field(field).map(str::to_owned));
            (attributes.labels.get("b").map(str::to_owned), fields)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(seen(&first), (text("2"), [text("n1"), text("Running"), text(""), None]));
        assert_eq!(
            seen(&second),
            (text("3"), [text("n2"), text("Running"), text("x"), None])
        );
    }
}
