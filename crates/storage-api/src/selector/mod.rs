//! Label and field selectors, and the predicate made of both.

mod field;
mod label;
mod predicate;

pub use self::field::FieldSelector;
pub use self::label::LabelSelector;
pub use self::predicate::SelectionPredicate;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
