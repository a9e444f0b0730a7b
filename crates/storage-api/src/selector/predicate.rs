//! What a list or watch selects: labels and fields together.

use std::sync::Arc;

use crate::attributes::Attributes;
use crate::resource::Index;
use crate::selector::{FieldSelector, LabelSelector};

/// Selects entries by labels and fields. Cheap to clone. The default selects everything.
///
/// Limit, token and bookmarks are options of the verbs; which indexes there are is said by the kind; what is looked at
/// was extracted once, when the entry was made. So matching cannot fail: an object whose attributes cannot be extracted
/// is an unreadable entry, with the field's name, and no list or watch takes it for one that does not match.
// deviates: storage-api/SEL-03: there is no extractor to fail while matching (also SEL-16).
// deviates: storage-api/SEL-14: lists and watches by hash range are not offered, as they are off by default upstream
// (also SEL-15, SEL-16, GATE-06).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SelectionPredicate {
    parts: Option<Arc<Parts>>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct Parts {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl SelectionPredicate {
    /// Selects what both selectors select.
    pub fn new(labels: LabelSelector, fields: FieldSelector) -> Self {
        let empty = labels.is_empty() && fields.is_empty();
        Self {
            parts: (!empty).then(|| Arc::new(Parts { labels, fields })),
        }
    }

    /// Whether everything is selected. Cheap: asked for every event.
    pub fn is_empty(&self) -> bool {
        self.parts.is_none()
    }

    /// Whether an object with these attributes is selected.
    pub fn matches(&self, attributes: &Attributes) -> bool {
        match &self.parts {
            None => true,
            Some(parts) => parts.labels.matches(&attributes.labels) && parts.fields.matches(attributes),
        }
    }

    /// The selector on labels.
    pub fn labels(&self) -> Option<&LabelSelector> {
        self.parts.as_ref().map(|parts| &parts.labels)
    }

    /// The selector on fields.
    pub fn fields(&self) -> Option<&FieldSelector> {
        self.parts.as_ref().map(|parts| &parts.fields)
    }

    /// The one value that a field must have (`storage-api/SEL-06`, `SEL-07`).
    pub fn exact_field(&self, label: &str) -> Option<&str> {
        self.fields()?.requires_exact(label)
    }

    /// The one value that a label must have.
    pub fn exact_label(&self, key: &str) -> Option<&str> {
        self.labels()?.requires_exact(key)
    }

    /// The indexes that find what is selected, each with the value to look up, in the order in which the kind names them,
    /// fields first (`storage-api/SEL-09`). `namespace` is that of the request, if it is about one; a requirement on the
    /// field wins over it.
    pub fn index_values<'a>(&'a self, indexes: &'a [Index], namespace: Option<&'a str>) -> Vec<(&'a Index, &'a str)> {
        let fields = indexes.iter().filter_map(|index| match index {
            Index::Field(label) => {
                let implied = namespace.filter(|_| **label == *"metadata.namespace");
                Some((index, self.exact_field(label).or(implied)?))
            }
            Index::Label(_) => None,
        });
        let labels = indexes.iter().filter_map(|index| match index {
            Index::Label(key) => Some((index, self.exact_label(key)?)),
            Index::Field(_) => None,
        });
        fields.chain(labels).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Labels;

    fn predicate(labels: &str, fields: &str) -> SelectionPredicate {
        SelectionPredicate::new(
            LabelSelector::parse(labels).unwrap(),
            FieldSelector::parse(fields).unwrap(),
        )
    }

    // covers: storage-api/SEL-01, storage-api/SEL-08, storage-api/SEL-18
    #[test]
    fn a_predicate_without_requirements_is_everything() {
        let nothing = Attributes::default();
        for empty in [SelectionPredicate::default(), predicate("", "")] {
            assert!(empty.is_empty() && empty.matches(&nothing));
            assert_eq!(empty, SelectionPredicate::default());
        }
        for (labels, fields, want) in [
            ("a=1", "", false),
            ("", "metadata.name=a", false),
            ("!a", "", true),
            ("", "metadata.name!=a", true),
        ] {
            let predicate = predicate(labels, fields);
            assert!(!predicate.is_empty(), "{predicate:?}");
            assert_eq!(predicate.matches(&nothing), want, "{predicate:?}");
        }
        // Whether there is anything to match is asked for every event: it is a look at one pointer.
        assert_eq!(size_of::<SelectionPredicate>(), size_of::<usize>());
    }

    // covers: storage-api/SEL-04, storage-api/SEL-05
    #[test]
    fn labels_and_fields_must_both_match() {
        let predicate = predicate("name=foo", "metadata.name=a");
        for (label, name, want) in [("foo", "a", true), ("foo", "b", false), ("bar", "a", false)] {
            let attributes = Attributes {
                name: name.into(),
                labels: Labels::from_iter([("name", label)]),
                ..Attributes::default()
            };
            assert_eq!(predicate.matches(&attributes), want, "{label} {name}");
        }
    }

    // covers: storage-api/SEL-09, storage-api/SEL-10
    #[test]
    fn exact_requirements_name_indexes() {
        let field = |label: &str| Index::Field(label.into());
        let label = |key: &str| Index::Label(key.into());
        let indexes = [
            label("app"),
            field("spec.nodeName"),
            field("metadata.namespace"),
            label("tier"),
        ];
        for (labels, fields, namespace, want) in [
            ("", "", None, vec![]),
            ("", "", Some("ns"), vec![(field("metadata.namespace"), "ns")]),
            (
                "",
                "metadata.namespace=a",
                Some("ns"),
                vec![(field("metadata.namespace"), "a")],
            ),
            ("", "metadata.namespace!=a", None, vec![]),
            ("", "spec.nodeName!=n1", None, vec![]),
            ("app in (a,b),tier=x", "", None, vec![(label("tier"), "x")]),
            (
                "tier=x,app=web",
                "spec.nodeName=n1",
                Some("ns"),
                vec![
                    (field("spec.nodeName"), "n1"),
                    (field("metadata.namespace"), "ns"),
                    (label("app"), "web"),
                    (label("tier"), "x"),
                ],
            ),
        ] {
            let predicate = predicate(labels, fields);
            let got = predicate.index_values(&indexes, namespace);
            let got: Vec<_> = got.into_iter().map(|(index, value)| (index.clone(), value)).collect();
            assert_eq!(got, want, "{labels} {fields} {namespace:?}");
        }
    }
}
