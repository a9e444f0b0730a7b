//! The validating admission: who is asked, last of all, before something is written.

use apiserver_storage_api::Entry;
use async_trait::async_trait;
use serde_json::Value;

use crate::context::RequestContext;
use crate::error::Result;

/// Decides whether a write may happen. Asked after validation, once per attempt, on the very objects; its error goes
/// to the client unchanged and nothing is written. Mutating admission belongs before the registry: into the object of
/// a create, into the recipe of an update.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Decides.
    ///
    /// # Errors
    ///
    /// The refusal, as the client is to see it.
    async fn validate(&self, ctx: &RequestContext, review: Review<'_>) -> Result<()>;
}

/// What admission is asked about.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Review<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// The new object; none for a delete.
    pub object: Option<&'a Value>,
    /// The stored object; none for a create.
    pub old: Option<&'a Entry>,
    /// Nothing will be written.
    pub dry_run: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// Another state of an object.
    Update,
    /// No object any more.
    Delete,
}
