//! Custom kinds: CustomResourceDefinitions and their structural schemas.
//!
//! [`CustomKind::parse`] reads a definition (`apiextensions.k8s.io/v1`) into what serving the kind needs: names, versions, one
//! [`Schema`] per version, subresources, printer columns, selectable fields. The schema prunes unknown fields, fills in defaults
//! and validates, each with the results and texts of upstream. Rules in CEL (`x-kubernetes-validations`) are not evaluated:
//! [`CustomVersion::unenforced`] names the places that have some, so that a server can say so.

mod definition;
mod formats;
mod guide;
mod normalizer;
mod prune;
mod schema;
mod validate;

pub use definition::{CustomKind, CustomNames, CustomVersion, PrinterColumn, ScalePaths};
pub use normalizer::{CustomNormalizer, resource_info};
pub use schema::{JsonType, Schema};
pub use validate::{validate_custom, validate_custom_update};
