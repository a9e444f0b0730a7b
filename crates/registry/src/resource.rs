//! A resource as an HTTP front mounts it: the verbs on untyped objects, object-safe.

use apiserver_storage_api::{
    Collected, Entry, List, ListOptions, NotReady, Preconditions, ReadAt, ResourceInfo, Watch, WatchOptions,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::status::{Status, StatusDetails};

/// The verbs of one resource or subresource. [`Store`](crate::Store) implements all of them; a front of another shape
/// (scale, binding) implements those it has and says so in [`verbs`](Self::verbs).
///
/// All errors are what the client is to see. Dropping a future leaves nothing behind; a write may then have happened
/// or not.
#[async_trait]
pub trait Resource: Send + Sync + 'static {
    /// The kind that is stored.
    fn info(&self) -> &ResourceInfo;

    /// Which verbs there are.
    fn verbs(&self) -> Verbs;

    /// Whether it can serve, with the cause if not.
    ///
    /// # Errors
    ///
    /// [`NotReady`].
    fn ready(&self) -> Result<(), NotReady> {
        Ok(())
    }

    /// Whether a completed delete answers the object and not a Success status.
    fn returns_deleted_object(&self) -> bool {
        false
    }

    /// Paths of fields that writes through this front always reset.
    fn reset_fields(&self) -> &[String] {
        &[]
    }

    /// Stores a new object.
    ///
    /// # Errors
    ///
    /// 409 for a name that is taken, 422 for a faulty object, 400, 403 and what admission says.
    async fn create(&self, _ctx: &RequestContext, _object: Value, _options: CreateOptions) -> Result<Written> {
        Err(unsupported(self.info(), "create"))
    }

    /// Reads one object.
    ///
    /// # Errors
    ///
    /// 404; 400 for a name that can be none; 504 for a version of the future.
    async fn get(&self, _ctx: &RequestContext, _name: &str, _at: ReadAt) -> Result<Entry> {
        Err(unsupported(self.info(), "get"))
    }

    /// Reads a collection: that of the namespace of the request, or all.
    ///
    /// # Errors
    ///
    /// 410 for a version or token that is too old; errors of single objects come in the stream of pages (see
    /// [`from_list_error`](crate::from_list_error)).
    async fn list(&self, _ctx: &RequestContext, _options: ListOptions) -> Result<List> {
        Err(unsupported(self.info(), "list"))
    }

    /// Watches a collection. Returns once the start is decided.
    ///
    /// # Errors
    ///
    /// 410 for a version that is too old, 429; later errors end the stream.
    async fn watch(&self, _ctx: &RequestContext, _options: WatchOptions) -> Result<Watch> {
        Err(unsupported(self.info(), "watch"))
    }

    /// Replaces an object by what `update` makes of it.
    ///
    /// # Errors
    ///
    /// 404, 409, 422; the error of `update` unchanged.
    async fn update(
        &self,
        _ctx: &RequestContext,
        _name: &str,
        _update: &mut dyn ObjectUpdate,
        _options: UpdateOptions,
    ) -> Result<Written> {
        Err(unsupported(self.info(), "update"))
    }

    /// Asks for an object to go.
    ///
    /// # Errors
    ///
    /// 404; 409 for a precondition; 422 for options that contradict each other.
    async fn delete(&self, _ctx: &RequestContext, _name: &str, _options: DeleteOptions) -> Result<Deleted> {
        Err(unsupported(self.info(), "delete"))
    }

    /// Asks for all objects of a collection to go. Not atomic. Answers the objects as they were listed.
    ///
    /// # Errors
    ///
    /// The first error of any object; others may be gone already.
    async fn delete_collection(
        &self,
        _ctx: &RequestContext,
        _options: DeleteOptions,
        _selection: ListOptions,
    ) -> Result<Collected> {
        Err(unsupported(self.info(), "deletecollection"))
    }
}

const _: fn(&dyn Resource) = |_| (); // object-safe, or the build stops here

pub(crate) fn unsupported(info: &ResourceInfo, verb: &str) -> ApiError {
    ApiError::method_not_supported(info.group(), info.resource(), verb)
}

/// What becomes of an object in an update: the body of a PUT, a patch, an apply. Run once per attempt, each time on
/// fresh state; must not remember what an earlier attempt saw.
#[async_trait]
pub trait ObjectUpdate: Send {
    /// What must hold of the stored object, checked on every attempt before the recipe runs. A PUT names the uid of its
    /// body here (409 when it differs); a uid that first shows up in the new object is an immutable field (422).
    fn preconditions(&self) -> Preconditions {
        Preconditions::default()
    }

    /// The new object, from the stored one; `None` where nothing is stored and the object is to be created.
    ///
    /// # Errors
    ///
    /// Handed to the client unchanged.
    async fn update(&mut self, current: Option<&Entry>) -> Result<Value>;
}

/// The recipe of a PUT: this object, whatever is stored.
#[derive(Debug, Clone)]
pub struct Replace(pub Value);

#[async_trait]
impl ObjectUpdate for Replace {
    fn preconditions(&self) -> Preconditions {
        let uid = self
            .0
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .filter(|uid| !uid.is_empty());
        Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: None,
        }
    }

    async fn update(&mut self, _: Option<&Entry>) -> Result<Value> {
        Ok(self.0.clone())
    }
}

/// Options of [`Resource::create`].
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Check everything, write nothing.
    pub dry_run: bool,
    /// The name in the URL, for subresources that are created below an object (`pods/a/binding`).
    pub name: Option<String>,
}

/// Options of [`Resource::update`].
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// Check everything, write nothing.
    pub dry_run: bool,
    /// Create the object when it is missing, whatever the kind says (server-side apply). Ignored by subresources.
    pub force_create: bool,
}

/// Options of [`Resource::delete`]. Reads and writes the wire form of `DeleteOptions`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// How long the object may take to stop; the kind decides when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What must hold of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// The old form of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_dependents: Option<bool>,
    /// What becomes of dependents: `Orphan`, `Background`, `Foreground`; checked by the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<String>,
    /// `["All"]`: check everything, write nothing.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
    /// Delete an object that nobody can read, without looking at finalizers or preconditions.
    #[serde(
        rename = "ignoreStoreReadErrorWithClusterBreakingPotential",
        skip_serializing_if = "Option::is_none"
    )]
    pub ignore_store_read_error: Option<bool>,
    /// The request had no options at all (not even empty ones): the object goes at once, without a grace period
    /// (`registry/R-DEL-02`).
    #[serde(skip)]
    pub absent: bool,
}

impl DeleteOptions {
    /// Nothing is written.
    pub fn is_dry_run(&self) -> bool {
        !self.dry_run.is_empty()
    }

    /// Deletes at once, whatever the kind's grace period is.
    pub fn immediate() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }
}

/// Go reads `null` as "nothing there"; serde would refuse it.
fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What a write answers.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object.
    pub object: Answer,
    /// Whether it is new.
    pub created: bool,
}

/// An object in an answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Answer {
    /// As stored.
    Stored(Entry),
    /// As it would be stored: served JSON, with the resourceVersion of the stored object, for a create with none.
    DryRun(Bytes),
    /// Not stored in this form: a Scale, a Status, a token.
    Computed(Bytes),
}

impl Answer {
    /// The served JSON, shared.
    ///
    /// # Errors
    ///
    /// 500 for a stored object that nobody can read.
    pub fn json(&self) -> Result<&Bytes> {
        match self {
            Self::Stored(entry) => entry.json().map_err(ApiError::internal),
            Self::DryRun(json) | Self::Computed(json) => Ok(json),
        }
    }

    /// The stored record, if the answer is one.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Stored(entry) => Some(entry),
            Self::DryRun(_) | Self::Computed(_) => None,
        }
    }
}

/// What became of a delete.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Deleted {
    /// The object is gone, or would be in a dry run: its last state, at the revision of the deletion.
    Gone(Answer),
    /// An object that nobody could read is gone, or would be.
    GoneUnreadable,
    /// The object stays until somebody acts: the marked object.
    Marked(Answer),
    /// The object was marked before and this request changed nothing.
    AlreadyPending(Answer),
}

impl Deleted {
    /// Whether the object is gone (or would be).
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::GoneUnreadable)
    }

    /// The object, unless nobody could read it.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Gone(answer) | Self::Marked(answer) | Self::AlreadyPending(answer) => Some(answer),
            Self::GoneUnreadable => None,
        }
    }

    /// The body: the object, or a Success status that names it (`registry/R-DEL-19`, `R-DEL-20`).
    ///
    /// # Errors
    ///
    /// 500 for a stored object that nobody can read.
    pub fn body(&self, resource: &dyn Resource, name: &str) -> Result<DeleteBody> {
        let info = resource.info();
        let answer = match self {
            // The kind, not the resource, and no uid: as upstream answers an unsafe deletion.
            Self::GoneUnreadable => {
                let details = StatusDetails::of(info.group(), info.gvk().kind.as_str(), name);
                return Ok(DeleteBody::Status(Status::success(Some(details))));
            }
            Self::Marked(answer) => return Ok(DeleteBody::Object(answer.clone())),
            Self::Gone(answer) | Self::AlreadyPending(answer) if resource.returns_deleted_object() => {
                return Ok(DeleteBody::Object(answer.clone()));
            }
            Self::Gone(answer) | Self::AlreadyPending(answer) => answer,
        };
        let mut details = StatusDetails::of(info.group(), info.resource(), name);
        details.uid = uid(answer)?;
        Ok(DeleteBody::Status(Status::success(Some(details))))
    }
}

/// The body of the answer to a delete.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "made once per request and taken apart at once")]
pub enum DeleteBody {
    /// The object.
    Object(Answer),
    /// That it is done.
    Status(Status),
}

fn uid(answer: &Answer) -> Result<String> {
    if let Some(attributes) = answer.entry().and_then(Entry::attributes) {
        return Ok(attributes.uid.to_string());
    }
    let value: Value = serde_json::from_slice(answer.json()?).map_err(ApiError::internal)?;
    Ok(value
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned())
}

/// Which verbs a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are a set")]
pub struct Verbs {
    /// POST.
    pub create: bool,
    /// GET of one object.
    pub get: bool,
    /// GET of the collection.
    pub list: bool,
    /// GET of the collection with `watch`.
    pub watch: bool,
    /// PUT.
    pub update: bool,
    /// DELETE of one object.
    pub delete: bool,
    /// DELETE of the collection.
    pub delete_collection: bool,
}

impl Verbs {
    /// All of them.
    pub const ALL: Self = Self {
        create: true,
        get: true,
        list: true,
        watch: true,
        update: true,
        delete: true,
        delete_collection: true,
    };
    /// Those of a status front: get, update and with them patch.
    pub const SUBRESOURCE: Self = Self {
        get: true,
        update: true,
        ..Self::NONE
    };
    /// None.
    pub const NONE: Self = Self {
        create: false,
        get: false,
        list: false,
        watch: false,
        update: false,
        delete: false,
        delete_collection: false,
    };

    /// Whether PATCH works: it needs get and update (`registry/R-MAP-03`, `R-MAP-09`).
    pub fn patch(self) -> bool {
        self.get && self.update
    }

    /// The names in discovery, sorted.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            ("create", self.create),
            ("delete", self.delete),
            ("deletecollection", self.delete_collection),
            ("get", self.get),
            ("list", self.list),
            ("patch", self.patch()),
            ("update", self.update),
            ("watch", self.watch),
        ];
        all.into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name)
            .collect()
    }
}
