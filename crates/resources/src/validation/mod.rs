//! Validation: metadata of every object, and the rules of the built-in kinds that have some.
//!
//! All functions take whole objects as values and give field errors in upstream's order, with upstream's fields and texts. An empty
//! list is a valid object. What a kind's rules are is looked up by group and kind in [`rules_of`].

pub mod metadata;
pub mod names;

pub use apiserver_registry::{FieldError, FieldErrorKind, FieldPath, aggregate};
pub use metadata::NameRule;
