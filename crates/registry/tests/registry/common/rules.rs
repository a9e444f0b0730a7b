//! A kind whose rules a test can set one by one, and which writes down what was asked of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver_registry::{
    ApiError, Draft, FieldError, FieldPath, GarbageCollection, Hold, RequestContext, Strategy, Write, WriteGuard,
};
use apiserver_storage_api::Ttl;
use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Widget {
    pub(crate) spec: Spec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) color: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) finalizers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) phase: String,
}

/// What was asked, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

type Interference = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct Rules {
    pub(crate) create_on_update: bool,
    pub(crate) version_required: bool,
    pub(crate) default_grace: Option<i64>,
    pub(crate) garbage_collection: GarbageCollection,
    pub(crate) returns_deleted: bool,
    pub(crate) ttl: Option<Duration>,
    pub(crate) ttl_fails: bool,
    pub(crate) begin_fails: bool,
    pub(crate) held_by_spec: bool,
    pub(crate) decorates: bool,
    pub(crate) color_from_begin: Option<&'static str>,
    /// Runs once, in the first `begin`.
    pub(crate) interference: Arc<Mutex<Option<Interference>>>,
    pub(crate) log: Log,
}

impl Rules {
    /// Lets somebody else act while the first attempt of the next write runs.
    pub(crate) fn interfere<F, Fut>(&self, act: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        *self.interference.lock().unwrap() = Some(Arc::new(move || Box::pin(act())));
    }
}

struct Guard {
    log: Log,
    what: &'static str,
    committed: bool,
}

#[async_trait]
impl WriteGuard for Guard {
    async fn commit(mut self: Box<Self>) {
        self.committed = true;
        self.log.add(&format!("commit {}", self.what));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.committed {
            self.log.add(&format!("rollback {}", self.what));
        }
    }
}

#[async_trait]
impl Strategy<Widget> for Rules {
    fn prepare_for_create(&self, _: &RequestContext, new: &mut Draft<Widget>) {
        new.meta.generation = Some(1);
        new.object.status = Some(Status { phase: "New".into() });
    }

    fn validate_create(&self, _: &RequestContext, new: &Draft<Widget>) -> Vec<FieldError> {
        let field = FieldPath::new("spec").child("color");
        let bad = (new.object.spec.color == "bad").then(|| FieldError::invalid(&field, "bad", "is no color"));
        bad.into_iter().collect()
    }

    fn warnings_on_create(&self, _: &RequestContext, new: &Draft<Widget>) -> Vec<String> {
        let old = (new.object.spec.color == "old").then(|| "spec.color: old is deprecated".to_owned());
        old.into_iter().collect()
    }

    fn canonicalize(&self, new: &mut Draft<Widget>) {
        new.object.spec.color = new.object.spec.color.to_lowercase();
    }

    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Widget>, old: &Draft<Widget>) {
        new.object.status.clone_from(&old.object.status);
        if new.object.spec != old.object.spec {
            new.meta.generation = old.meta.generation.map(|generation| generation + 1);
        }
    }

    fn validate_update(&self, ctx: &RequestContext, new: &Draft<Widget>, _: &Draft<Widget>) -> Vec<FieldError> {
        self.validate_create(ctx, new)
    }

    fn warnings_on_update(&self, ctx: &RequestContext, new: &Draft<Widget>, _: &Draft<Widget>) -> Vec<String> {
        self.warnings_on_create(ctx, new)
    }

    fn allow_create_on_update(&self, _: &RequestContext) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self, _: &RequestContext) -> bool {
        !self.version_required
    }

    fn grace_period(&self, _: &RequestContext, _: &Draft<Widget>, requested: Option<i64>) -> Option<i64> {
        self.default_grace.map(|default| requested.unwrap_or(default))
    }

    fn garbage_collection(&self, _: &RequestContext) -> GarbageCollection {
        self.garbage_collection
    }

    fn ttl(&self, _: &RequestContext, _: &Draft<Widget>, _: Option<&Draft<Widget>>) -> Result<Ttl, ApiError> {
        if self.ttl_fails {
            return Err(ApiError::internal("no ttl"));
        }
        Ok(self.ttl.map_or(Ttl::Keep, Ttl::After))
    }

    fn returns_deleted_object(&self) -> bool {
        self.returns_deleted
    }

    fn may_complete_deletion(&self, new: &Draft<Widget>, _: &Draft<Widget>) -> bool {
        !self.held_by_spec || new.object.spec.finalizers.is_empty()
    }

    fn mark_for_deletion(&self, _: &RequestContext, object: &mut Draft<Widget>) -> Hold {
        if !self.held_by_spec || object.object.spec.finalizers.is_empty() {
            return Hold::Free;
        }
        object.object.status = Some(Status {
            phase: "Terminating".into(),
        });
        Hold::Kept
    }

    async fn begin(
        &self,
        _: &RequestContext,
        write: Write<'_, Widget>,
    ) -> Result<Option<Box<dyn WriteGuard>>, ApiError> {
        let what = if write.old.is_some() { "update" } else { "create" };
        self.log
            .add(&format!("begin {what}{}", if write.dry_run { " dry" } else { "" }));
        if self.begin_fails {
            return Err(ApiError::forbidden("", "", "", "begin says no"));
        }
        if let Some(color) = self.color_from_begin {
            write.new.object.spec.color = color.to_owned();
        }
        let interference = self.interference.lock().unwrap().take();
        if let Some(act) = interference {
            act().await;
        }
        Ok(Some(Box::new(Guard {
            log: self.log.clone(),
            what,
            committed: false,
        })))
    }

    async fn after_delete(&self, _: &RequestContext, _: &Draft<Widget>) {
        self.log.add("after delete");
    }

    fn decorates(&self) -> bool {
        self.decorates
    }

    fn decorate(&self, object: &mut Draft<Widget>) {
        object.meta.annotations.insert("decorated".into(), "yes".into());
    }
}
