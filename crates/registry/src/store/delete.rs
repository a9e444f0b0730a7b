//! Delete: a small state machine. A grace period, finalizers and the kind itself can hold an object back; the decision
//! is made inside one transaction, on the very state that it is about.
// deviates: registry/R-DEL-23: admission is asked once for each state that is looked at, not once for each step.
// deviates: registry/R-DEL-14: nothing runs after a delete that found somebody else's deletion pending.
// deviates: registry/R-DEL-16: taking the last finalizer away with a policy keeps the client's preconditions.

use apiserver_storage_api::{
    Change, Entry, GetOptions, Key, Object, Preconditions, SelectionPredicate, StorageError, Ttl, Update,
};
use async_trait::async_trait;

use super::Store;
use super::graceful::{self, Grace};
use crate::admission::{Operation, Review};
use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::field_error::{FieldError, FieldPath};
use crate::resource::{Answer, DeleteOptions, Deleted};
use crate::storage_error::StorageVerb;
use crate::strategy::{Draft, Hold};

/// What a delete does to one state of an object.
enum Decision<T> {
    /// The object stays as it is: somebody was told to stop it, and has more time than this request gives.
    Pending,
    /// The object stays as it is: the kind itself holds it.
    Held,
    /// The object stays, marked.
    Mark(Draft<T>),
    /// The object is marked, for watchers to see, and then goes.
    MarkAndRemove(Draft<T>),
    /// The object goes; this was its last state.
    Remove(Draft<T>),
}

/// What an object of a collection must still be to be deleted with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a> {
    /// The uid that was listed; empty for objects without one.
    pub(super) uid: &'a str,
    /// What the client selected.
    pub(super) predicate: &'a SelectionPredicate,
}

/// One delete: what the transaction function needs, and what its last run came to.
struct Run<'a, T> {
    store: &'a Store<T>,
    ctx: &'a RequestContext,
    name: &'a str,
    options: &'a DeleteOptions,
    /// Set for an object of a collection.
    listed: Option<Listed<'a>>,
    last: Option<Decision<T>>,
}

impl<T: Object> Store<T> {
    pub(super) async fn delete_object(
        &self,
        ctx: &RequestContext,
        name: &str,
        options: DeleteOptions,
    ) -> Result<Deleted> {
        validate(&options)?;
        let key = self.key(ctx, name)?;
        if options.ignore_store_read_error == Some(true) {
            return self.delete_unreadable(ctx, &key, name, options.is_dry_run()).await;
        }
        self.delete_checked(ctx, &key, name, &options, None).await
    }

    /// A delete whose options were checked; of a collection, only if the object is still the one that was listed (404
    /// otherwise).
    pub(super) async fn delete_checked(
        &self,
        ctx: &RequestContext,
        key: &Key,
        name: &str,
        options: &DeleteOptions,
        listed: Option<Listed<'_>>,
    ) -> Result<Deleted> {
        let mut run = Run {
            store: self,
            ctx,
            name,
            options,
            listed,
            last: None,
        };
        if options.is_dry_run() {
            return self.delete_dry(key, &mut run).await;
        }
        let storage_options = apiserver_storage_api::UpdateOptions {
            deadline: self.inner.options.deadline,
            ..Default::default()
        };
        let result = self
            .inner
            .storage
            .guaranteed_update(key, storage_options, &mut run)
            .await;
        let entry = result.map_err(|error| self.translate(ctx, error, StorageVerb::Delete, name))?;
        let Some(decision) = run.last else {
            return Err(ApiError::internal("delete finished without a decision"));
        };
        match decision {
            Decision::Pending => Ok(Deleted::AlreadyPending(Answer::Stored(self.decorated(entry)?))),
            Decision::Held | Decision::Mark(_) => Ok(Deleted::Marked(Answer::Stored(entry))),
            Decision::Remove(last) => {
                self.inner.main.after_delete(ctx, &last).await;
                Ok(Deleted::Gone(Answer::Stored(self.decorated(entry)?)))
            }
            Decision::MarkAndRemove(marked) => self.remove_marked(ctx, key, name, entry, &marked).await,
        }
    }

    /// The second step of a graceful deletion without time left: watchers have seen the mark, now the object goes.
    async fn remove_marked(
        &self,
        ctx: &RequestContext,
        key: &Key,
        name: &str,
        marked: Entry,
        draft: &Draft<T>,
    ) -> Result<Deleted> {
        let uid = draft.meta.uid.clone().filter(|uid| !uid.is_empty());
        let options = apiserver_storage_api::DeleteOptions {
            preconditions: Preconditions {
                uid,
                resource_version: None,
            },
            suggestion: Some(marked.clone()),
            unreadable: false,
            deadline: self.inner.options.deadline,
        };
        // No new finalizer can come to an object that is being deleted, so that nothing is left to be checked.
        let removed = self
            .inner
            .storage
            .delete(key, options, &mut apiserver_storage_api::NoCheck)
            .await;
        let last = match removed {
            Ok(entry) => entry,
            // Somebody else did the last step; another uid means that even its name is in use again.
            Err(StorageError::KeyNotFound { .. } | StorageError::InvalidObject { .. }) => marked,
            Err(error) => return Err(self.translate(ctx, error, StorageVerb::Delete, name)),
        };
        self.inner.main.after_delete(ctx, draft).await;
        Ok(Deleted::Gone(Answer::Stored(self.decorated(last)?)))
    }

    /// The same on live data, once, without any write (`registry/R-DRY-06`, `R-DRY-07`).
    async fn delete_dry(&self, key: &Key, run: &mut Run<'_, T>) -> Result<Deleted> {
        let current = self.inner.storage.get(key, GetOptions::default()).await;
        let translate = |error| self.translate(run.ctx, error, StorageVerb::Delete, run.name);
        let current = current.map_err(translate)?;
        let decision = run.attempt(&current).await?;
        let shown = |draft: &Draft<T>| -> Result<Answer> {
            Ok(Answer::DryRun(
                self.as_served(&draft.encode(self.info())?, Some(current.revision()))?,
            ))
        };
        Ok(match decision {
            Decision::Pending => Deleted::AlreadyPending(Answer::Stored(self.decorated(current)?)),
            Decision::Held => Deleted::Marked(Answer::Stored(current)),
            Decision::Mark(marked) => Deleted::Marked(shown(&marked)?),
            Decision::MarkAndRemove(marked) => Deleted::Gone(shown(&marked)?),
            Decision::Remove(_) => Deleted::Gone(Answer::Stored(self.decorated(current)?)),
        })
    }

    /// Removes an object that nobody can read, without asking anything (`registry/R-UNS-01` to `R-UNS-06`).
    async fn delete_unreadable(&self, ctx: &RequestContext, key: &Key, name: &str, dry_run: bool) -> Result<Deleted> {
        let info = self.info();
        let readable = || {
            let field = FieldPath::new("ignoreStoreReadErrorWithClusterBreakingPotential");
            let text = "is exclusively used to delete corrupt object(s), try again by removing this option";
            ApiError::invalid(
                info.group(),
                &info.gvk().kind,
                name,
                vec![FieldError::invalid(&field, true, text)],
            )
        };
        let result = if dry_run {
            match self.inner.storage.get(key, GetOptions::default()).await {
                Ok(entry) if entry.unreadable_reason().is_none() => return Err(readable()),
                Ok(_) | Err(StorageError::Unreadable { .. }) => return Ok(Deleted::GoneUnreadable),
                Err(error) => Err(error),
            }
        } else {
            let deadline = self.inner.options.deadline;
            let options = apiserver_storage_api::DeleteOptions {
                unreadable: true,
                deadline,
                ..Default::default()
            };
            self.inner
                .storage
                .delete(key, options, &mut apiserver_storage_api::NoCheck)
                .await
        };
        match result {
            Ok(_) => Ok(Deleted::GoneUnreadable),
            Err(StorageError::InvalidObject { .. }) => Err(readable()),
            Err(error) => Err(self.translate(ctx, error, StorageVerb::Delete, name)),
        }
    }
}

#[async_trait]
impl<T: Object> Update for Run<'_, T> {
    async fn update(&mut self, current: Option<&Entry>) -> Result<Change, StorageError> {
        let info = self.store.info();
        let (group, resource) = self.store.asked(self.ctx);
        let missing = || ApiError::not_found(group, resource, self.name);
        let current = current.ok_or_else(|| StorageError::callback(missing()))?;
        let decision = self.attempt(current).await.map_err(StorageError::callback)?;
        let change = match &decision {
            Decision::Pending | Decision::Held => Change::NoChange,
            Decision::Remove(_) => Change::Delete,
            Decision::Mark(marked) | Decision::MarkAndRemove(marked) => {
                let value = marked.encode(info).map_err(StorageError::callback)?;
                Change::Put { value, ttl: Ttl::Keep }
            }
        };
        self.last = Some(decision);
        Ok(change)
    }
}

impl<T: Object> Run<'_, T> {
    async fn attempt(&mut self, current: &Entry) -> Result<Decision<T>> {
        self.last = None;
        let ctx = self.ctx;
        if let (Some(listed), Some(attributes)) = (self.listed, current.attributes()) {
            let same = listed.uid.is_empty() || *attributes.uid == *listed.uid;
            if !same || !listed.predicate.matches(attributes) {
                let (group, resource) = self.store.asked(ctx);
                return Err(ApiError::not_found(group, resource, self.name));
            }
        }
        self.check_preconditions(current)?;
        let decision = self.decide(current)?;
        // A deletion that is under way was admitted when it began.
        if let (Some(admission), false) = (ctx.admission(), matches!(decision, Decision::Pending | Decision::Held)) {
            let (operation, dry_run) = (Operation::Delete, self.options.is_dry_run());
            admission
                .validate(
                    ctx,
                    Review {
                        operation,
                        object: None,
                        old: Some(current),
                        dry_run,
                    },
                )
                .await?;
        }
        Ok(decision)
    }

    /// What a delete does to this state (`registry/R-DEL-07` to `R-DEL-14`).
    fn decide(&self, current: &Entry) -> Result<Decision<T>> {
        let (store, ctx, options) = (self.store, self.ctx, self.options);
        let main = &store.inner.main;
        let policy = main.garbage_collection(ctx);
        let propagate = |finalizers: &mut Vec<String>| {
            if store.inner.options.garbage_collection {
                graceful::propagate(finalizers, policy, options);
            }
        };
        let mut draft = Draft::<T>::from_entry(current)?;
        let was_deleting = draft.meta.is_deleting();
        if main.mark_for_deletion(ctx, &mut draft) == Hold::Kept {
            if was_deleting {
                return Ok(Decision::Held);
            }
            draft.meta.deletion_timestamp = Some(ctx.now());
            propagate(&mut draft.meta.finalizers);
            return Ok(Decision::Mark(draft));
        }
        // Absent options are the oldest form of "at once".
        let requested = if options.absent {
            Some(0)
        } else {
            options.grace_period_seconds
        };
        let mut meta = draft.meta.clone();
        let grace = graceful::grace(&mut meta, requested, ctx.now(), |asked| {
            main.grace_period(ctx, &draft, asked)
        });
        draft.meta = meta;
        if grace == Grace::Pending {
            return Ok(Decision::Pending);
        }
        propagate(&mut draft.meta.finalizers);
        let held = !draft.meta.finalizers.is_empty();
        let time_left = draft.meta.deletion_grace_period_seconds.unwrap_or(0) > 0;
        Ok(match (grace, held) {
            (Grace::Begun, false) if !time_left => Decision::MarkAndRemove(draft),
            (Grace::Begun, _) => Decision::Mark(draft),
            (_, true) => {
                graceful::mark(&mut draft.meta, ctx.now());
                Decision::Mark(draft)
            }
            (_, false) => Decision::Remove(draft),
        })
    }

    /// Uid and resourceVersion that the client expects (`registry/R-DEL-04`, `R-DEL-05`).
    fn check_preconditions(&self, current: &Entry) -> Result<()> {
        let Some(asked) = &self.options.preconditions else {
            return Ok(());
        };
        let uid = current.attributes().map_or("", |attributes| &attributes.uid);
        let version = current.revision().to_string();
        let (what, asked, stored, hint) = match (&asked.uid, &asked.resource_version) {
            (Some(asked), _) if asked != uid => (
                "UID",
                asked,
                uid,
                "The object might have been deleted and then recreated",
            ),
            (_, Some(asked)) if *asked != version => (
                "ResourceVersion",
                asked,
                version.as_str(),
                "The object might have been modified",
            ),
            _ => return Ok(()),
        };
        let info = self.store.info();
        let text =
            format!("the {what} in the precondition ({asked}) does not match the {what} in record ({stored}). {hint}");
        // The kind where the resource should stand: so it goes over the wire since ever.
        Err(ApiError::conflict(info.group(), &info.gvk().kind, self.name, text)
            .with_mismatch(Some(asked.clone()), Some(stored.to_owned())))
    }
}

/// Options that contradict each other or mean nothing (`registry/R-DEL-03`).
pub(super) fn validate(options: &DeleteOptions) -> Result<()> {
    let mut errors = Vec::new();
    let policy = FieldPath::new("propagationPolicy");
    if let Some(asked) = options.propagation_policy.as_deref() {
        if options.orphan_dependents.is_some() {
            let text = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&policy, asked, text));
        }
        let known = ["Foreground", "Background", "Orphan"];
        if !known.contains(&asked) {
            let supported = [&known[..], &["nil"]].concat();
            errors.push(FieldError::not_supported(&policy, asked, &supported));
        }
    }
    if options.dry_run.iter().any(|value| value != "All") {
        let field = FieldPath::new("dryRun");
        errors.push(FieldError::not_supported(&field, options.dry_run.clone(), &["All"]));
    }
    if options.ignore_store_read_error == Some(true) {
        let field = FieldPath::new("ignoreStoreReadErrorWithClusterBreakingPotential");
        for (name, set) in [
            ("propagationPolicy", options.propagation_policy.is_some()),
            ("orphanDependents", options.orphan_dependents.is_some()),
            ("gracePeriodSeconds", options.grace_period_seconds.is_some()),
            ("preconditions", options.preconditions.is_some()),
        ] {
            if set {
                errors.push(FieldError::invalid(
                    &field,
                    true,
                    format!("cannot be set together with .{name}"),
                ));
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", errors))
    }
}
