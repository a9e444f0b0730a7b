//! What differs between kinds: one trait with a default for everything.

use apiserver_storage_api::{Encoded, Entry, Meta, Object, ResourceInfo, Ttl};
use async_trait::async_trait;
use serde_json::Value;

use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::field_error::FieldError;

/// An object on its way to the store: its metadata beside its content.
///
/// `meta` is the truth: when the draft is encoded it replaces whatever `object` has as metadata. Strategies of all
/// kinds thus reach names, labels and finalizers without knowing the type's own metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft<T> {
    /// The metadata.
    pub meta: Meta,
    /// The content; its own metadata is ignored.
    pub object: T,
}

impl<T: Object> Draft<T> {
    /// Reads a decoded object.
    ///
    /// # Errors
    ///
    /// 400 when it is no `T` or its metadata is not of the shape.
    pub fn from_value(value: Value) -> Result<Self> {
        let meta = Meta::of(&value).map_err(|error| ApiError::bad_request(format!("metadata: {error}")))?;
        let object = serde_json::from_value(value).map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok(Self { meta, object })
    }

    /// Reads a stored object.
    ///
    /// # Errors
    ///
    /// 500 when it cannot be read or is no `T`.
    pub fn from_entry(entry: &Entry) -> Result<Self> {
        let value: Value = entry.decode().map_err(ApiError::internal)?;
        Self::from_value(value)
            .map_err(|error| ApiError::internal(format!("stored object is not of the kind: {}", error.message())))
    }

    /// The object with its metadata, `apiVersion` and `kind`.
    ///
    /// # Errors
    ///
    /// 500 when the object does not serialize.
    pub fn to_value(&self, info: &ResourceInfo) -> Result<Value> {
        let mut value = serde_json::to_value(&self.object).map_err(ApiError::internal)?;
        self.meta.put_into(&mut value);
        if let Value::Object(fields) = &mut value {
            for (name, text) in [
                ("apiVersion", info.gvk().api_version()),
                ("kind", info.gvk().kind.clone()),
            ] {
                let field = fields.entry(name).or_insert(Value::Null);
                if field.as_str().is_none_or(str::is_empty) {
                    *field = Value::String(text);
                }
            }
        }
        Ok(value)
    }

    /// The object as the store takes it.
    ///
    /// # Errors
    ///
    /// As [`to_value`](Self::to_value).
    pub fn encode(&self, info: &ResourceInfo) -> Result<Encoded> {
        Encoded::of(&self.to_value(info)?).map_err(ApiError::internal)
    }
}

/// The rules of one kind (or of one subresource of it). Every method has a default; the default of all is a plain
/// object that anybody may replace and that is deleted at once.
///
/// Order on create: [`begin`](Self::begin), `prepare_for_create`, `validate_create`, `warnings_on_create`,
/// `canonicalize`, admission, write. On update: `begin`, `prepare_for_update`, `validate_update`,
/// `warnings_on_update`, `canonicalize`, admission, `may_complete_deletion`, write; all of it again on fresh state when
/// another writer got in between. Methods must not keep anything from one call for the next.
///
/// Upstream: pkg/registry/rest (create.go, update.go, delete.go).
#[async_trait]
pub trait Strategy<T: Object>: Send + Sync + 'static {
    /// Sets what the server owns on a new object: status, generation.
    fn prepare_for_create(&self, _ctx: &RequestContext, _new: &mut Draft<T>) {}

    /// The faults of a new object. Metadata is checked by the store, afterwards, when there are none.
    fn validate_create(&self, _ctx: &RequestContext, _new: &Draft<T>) -> Vec<FieldError> {
        Vec::new()
    }

    /// What its creator should know.
    fn warnings_on_create(&self, _ctx: &RequestContext, _new: &Draft<T>) -> Vec<String> {
        Vec::new()
    }

    /// Brings a valid object into its normal form.
    fn canonicalize(&self, _new: &mut Draft<T>) {}

    /// Puts back what an update may not change, and counts `generation` when the desired state changed.
    fn prepare_for_update(&self, _ctx: &RequestContext, _new: &mut Draft<T>, _old: &Draft<T>) {}

    /// The faults of a changed object, beside those of its metadata.
    fn validate_update(&self, _ctx: &RequestContext, _new: &Draft<T>, _old: &Draft<T>) -> Vec<FieldError> {
        Vec::new()
    }

    /// What its changer should know.
    fn warnings_on_update(&self, _ctx: &RequestContext, _new: &Draft<T>, _old: &Draft<T>) -> Vec<String> {
        Vec::new()
    }

    /// Faults of a name, or of the start of one that the server completes; in words that follow the quoted name.
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        apiserver_storage_api::path_segment_faults(name)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// Whether an update of a missing object creates it.
    fn allow_create_on_update(&self, _ctx: &RequestContext) -> bool {
        false
    }

    /// Whether an update may do without a resourceVersion.
    fn allow_unconditional_update(&self, _ctx: &RequestContext) -> bool {
        true
    }

    /// How many seconds a deletion waits for somebody to stop the thing, given what was requested. `None`: such
    /// objects are not deleted gracefully.
    fn grace_period(&self, _ctx: &RequestContext, _object: &Draft<T>, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What becomes of dependents when a delete says nothing about them.
    fn garbage_collection(&self, _ctx: &RequestContext) -> GarbageCollection {
        GarbageCollection::DeleteDependents
    }

    /// How long the object lives. `Keep` on a create means for ever.
    ///
    /// # Errors
    ///
    /// Ends the write.
    fn ttl(&self, _ctx: &RequestContext, _new: &Draft<T>, _old: Option<&Draft<T>>) -> Result<Ttl> {
        Ok(Ttl::Keep)
    }

    /// Whether a completed delete answers the object and not a Success status.
    fn returns_deleted_object(&self) -> bool {
        false
    }

    /// Whether an update that removed the last finalizer of a waiting object may remove it; namespaces say no while
    /// `spec.finalizers` has entries.
    fn may_complete_deletion(&self, _new: &Draft<T>, _old: &Draft<T>) -> bool {
        true
    }

    /// What a delete means to the kind itself, beside grace and `metadata.finalizers`. Called on the stored object on
    /// every delete; whether deletion was asked for before stands in `meta`. Namespaces set their phase and answer
    /// [`Hold::Kept`] while `spec.finalizers` has entries.
    fn mark_for_deletion(&self, _ctx: &RequestContext, _object: &mut Draft<T>) -> Hold {
        Hold::Free
    }

    /// Begins a write, before anything is prepared: may look things up, allocate, change the new object, refuse. The
    /// guard is told to [`commit`](WriteGuard::commit) once, after the write is durable; otherwise it is dropped, and
    /// must then give back what was taken.
    ///
    /// # Errors
    ///
    /// Ends the attempt.
    async fn begin(&self, _ctx: &RequestContext, _write: Write<'_, T>) -> Result<Option<Box<dyn WriteGuard>>> {
        Ok(None)
    }

    /// After an object is gone for good; not in a dry run. Cannot fail any more.
    async fn after_delete(&self, _ctx: &RequestContext, _object: &Draft<T>) {}

    /// Whether [`decorate`](Self::decorate) does anything. Costs a decode and an encode of every object that is read.
    fn decorates(&self) -> bool {
        false
    }

    /// Changes what clients see, not what is stored.
    fn decorate(&self, _object: &mut Draft<T>) {}

    /// Paths of fields that writes through this front always reset (`status`, `spec`): apply does not own them.
    fn reset_fields(&self) -> &[String] {
        &[]
    }
}

/// A write that begins.
#[derive(Debug)]
#[non_exhaustive]
pub struct Write<'a, T> {
    /// The new object, which may be changed.
    pub new: &'a mut Draft<T>,
    /// The stored one; none when the object is created.
    pub old: Option<&'a Draft<T>>,
    /// Nothing will be written: take nothing that has to be given back.
    pub dry_run: bool,
}

// deviates: registry/R-UPD-33: upstream says "success" before the write.
/// What a write took and may have to give back. Dropped without a commit, it gives back; so it does when the outcome of
/// the write is unknown, which the error of the request then says.
#[async_trait]
pub trait WriteGuard: Send {
    /// The write is durable.
    async fn commit(self: Box<Self>);
}

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GarbageCollection {
    /// They are deleted too, by whoever collects garbage.
    #[default]
    DeleteDependents,
    /// They stay, without an owner.
    OrphanDependents,
    /// Such objects have no dependents; the two finalizers are never set.
    Unsupported,
}

/// What the kind itself says about a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Hold {
    /// Nothing: grace and finalizers decide.
    #[default]
    Free,
    /// The object stays, with a deletionTimestamp and as the strategy left it; grace seconds and generation are not
    /// touched. Somebody will complete the deletion with an update or another delete.
    Kept,
}

/// The strategy of a kind without rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plain;

impl<T: Object> Strategy<T> for Plain {}
