//! What the tests share: a kind with configurable rules, a store that can be made to misbehave, and short verbs.

mod rules;
mod wrapped;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_registry::{
    Answer, ApiError, CreateOptions, DeleteOptions, Deleted, ObjectUpdate, Replace, RequestContext, Resource, Store,
    Strategy, UpdateOptions, Written,
};
use apiserver_storage_api::time::{ManualClock, SeededRng};
use apiserver_storage_api::{Entry, ReadAt, ResourceInfo, ResourceScope, Storage};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use async_trait::async_trait;
use serde_json::{Value, json};

pub(crate) use self::rules::{Rules, Widget};
pub(crate) use self::wrapped::Wrapped;

/// One backend in memory, and a clock that the test moves.
pub(crate) struct Fixture {
    pub(crate) clock: ManualClock,
    pub(crate) kv: Arc<EmbeddedKv>,
    pub(crate) storage: Arc<Wrapped>,
}

/// 2026-11-21T00:00:00Z.
const START: u64 = 1_795_219_200;

fn manual() -> ManualClock {
    ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(START))
}

pub(crate) fn widgets() -> ResourceInfo {
    ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced)
        .with_selectable_field("spec.color")
}

pub(crate) fn machines() -> ResourceInfo {
    ResourceInfo::new("", "v1", "machines", "Machine", ResourceScope::Cluster)
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::of(widgets()).await
    }

    pub(crate) async fn of(info: ResourceInfo) -> Self {
        let clock = manual();
        Self::open(
            info,
            clock.clone(),
            EmbeddedConfig::memory().with_clock(Arc::new(clock)),
        )
        .await
    }

    /// The backend waits in real time, as it does between attempts of writers that disturb each other.
    pub(crate) async fn in_real_time() -> Self {
        Self::open(widgets(), manual(), EmbeddedConfig::memory()).await
    }

    async fn open(info: ResourceInfo, clock: ManualClock, config: EmbeddedConfig) -> Self {
        let kv = EmbeddedKv::open(config).await;
        let kv = Arc::new(kv.expect("a store in memory opens"));
        let storage = Arc::new(Wrapped::new(Arc::new(kv.store(info))));
        Self { clock, kv, storage }
    }

    pub(crate) fn store<S: Strategy<Widget>>(&self, strategy: S) -> Store<Widget> {
        let storage: Arc<dyn Storage> = Arc::clone(&self.storage) as _;
        Store::builder(storage, strategy)
            .rng(Arc::new(SeededRng::new(7)))
            .build()
    }

    pub(crate) fn ctx(&self) -> RequestContext {
        RequestContext::new(Arc::new(self.clock.clone())).with_namespace("ns")
    }

    pub(crate) fn ctx_in(&self, namespace: Option<&str>) -> RequestContext {
        let ctx = RequestContext::new(Arc::new(self.clock.clone()));
        match namespace {
            Some(namespace) => ctx.with_namespace(namespace),
            None => ctx,
        }
    }
}

pub(crate) fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"color": "red"}})
}

/// A recipe made of a function on the served object.
pub(crate) struct Edit<F>(pub(crate) F);

#[async_trait]
impl<F: FnMut(&mut Value) + Send> ObjectUpdate for Edit<F> {
    async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
        let mut value = match current {
            Some(entry) => entry.decode().map_err(ApiError::internal)?,
            None => json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {}, "spec": {}}),
        };
        (self.0)(&mut value);
        Ok(value)
    }
}

/// The verbs with what tests usually want.
pub(crate) trait Short {
    async fn make(&self, ctx: &RequestContext, object: Value) -> Result<Value, ApiError>;
    async fn see(&self, ctx: &RequestContext, name: &str) -> Result<Value, ApiError>;
    async fn put(&self, ctx: &RequestContext, name: &str, object: Value) -> Result<Written, ApiError>;
    async fn edit<F>(&self, ctx: &RequestContext, name: &str, edit: F) -> Result<Value, ApiError>
    where
        F: FnMut(&mut Value) + Send;
    async fn remove(&self, ctx: &RequestContext, name: &str) -> Result<Deleted, ApiError>;
}

impl<R: Resource> Short for R {
    async fn make(&self, ctx: &RequestContext, object: Value) -> Result<Value, ApiError> {
        let written = self.create(ctx, object, CreateOptions::default()).await?;
        assert!(written.created);
        Ok(value(&written.object))
    }

    async fn see(&self, ctx: &RequestContext, name: &str) -> Result<Value, ApiError> {
        Ok(value(&Answer::Stored(self.get(ctx, name, ReadAt::MostRecent).await?)))
    }

    async fn put(&self, ctx: &RequestContext, name: &str, object: Value) -> Result<Written, ApiError> {
        self.update(ctx, name, &mut Replace(object), UpdateOptions::default())
            .await
    }

    async fn edit<F>(&self, ctx: &RequestContext, name: &str, edit: F) -> Result<Value, ApiError>
    where
        F: FnMut(&mut Value) + Send,
    {
        Ok(value(
            &self
                .update(ctx, name, &mut Edit(edit), UpdateOptions::default())
                .await?
                .object,
        ))
    }

    async fn remove(&self, ctx: &RequestContext, name: &str) -> Result<Deleted, ApiError> {
        self.delete(ctx, name, DeleteOptions::default()).await
    }
}

pub(crate) fn value(answer: &Answer) -> Value {
    serde_json::from_slice(answer.json().expect("the answer can be read")).expect("the answer is JSON")
}

/// The object of a delete's outcome.
pub(crate) fn last(deleted: &Deleted) -> Value {
    value(deleted.answer().expect("the outcome has an object"))
}

/// Asserts reason and text of a failure.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>, code: u16, reason: &str, text: &str) {
    let error = result.expect_err("the request is refused");
    let got = (error.code(), error.reason(), error.message());
    assert_eq!(got, (code, reason, text));
}

/// Asserts that two resourceVersions are in order.
#[track_caller]
pub(crate) fn newer(new: &Value, old: &Value) {
    let revision = |value: &Value| -> u64 {
        value["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a resourceVersion")
    };
    assert!(revision(new) > revision(old), "{new} is not newer than {old}");
}
