//! Kubernetes' built-in kinds as data: canonical JSON, protobuf, defaults, strategic merge, tables, OpenAPI.
//!
//! Nothing here is generated code. What Kubernetes knows of its own types (the order in which Go writes the fields,
//! protobuf tags, list keys, merge keys, defaults) is data that is read once, and a handful of engines walk a document
//! along it. So a kind costs a few kilobytes of tables, not a module, and no engine knows the name of a kind unless the
//! kind has a rule of its own.
//!
//! ```
//! use apiserver_resources::types::TypeRegistry;
//!
//! let registry = TypeRegistry::builtin();
//! let pod = registry.by_kind("", "v1", "Pod").expect("Pod is built in");
//! let spec = pod.field("spec").and_then(|field| field.shape.type_id()).expect("a pod has a spec");
//! let containers = registry[spec].field("containers").expect("a pod spec has containers");
//! assert_eq!(containers.merge_key, Some("name"));
//! ```

pub mod convert;
pub mod crd;
pub mod data;
pub mod defaults;
pub mod discovery;
pub mod document;
pub mod fieldvalidation;
pub mod gofmt;
pub mod merge;
pub mod normalizer;
pub mod openapi;
pub mod selectable;
pub mod table;
pub mod types;
pub mod validation;
pub mod wire;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
