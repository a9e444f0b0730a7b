//! What a list or watch selects: labels and fields together.

use std::sync::Arc;

use crate::entry::Attributes;
use crate::selector::{FieldSelector, LabelSelector};

/// Selects entries by labels and fields. Cheap to clone. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectionPredicate {
    parts: Option<Arc<Parts>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
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
}
