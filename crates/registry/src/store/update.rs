//! Update: one transaction function, run again from the start whenever another writer got in between.

use apiserver_storage_api::{
    Change, Encoded, Entry, GetOptions, Key, Meta, Object, Preconditions, Revision, StorageError, Update,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::Store;
use super::create::Ready;
use crate::admission::{Operation, Review};
use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::field_error::{FieldError, FieldPath};
use crate::resource::{Answer, ObjectUpdate, UpdateOptions, Written};
use crate::storage_error::{MODIFIED, StorageVerb};
use crate::strategy::{Draft, Write, WriteGuard};
use crate::validation::object_meta_update;

/// One update: what the transaction function needs, and what its last run came to.
struct Run<'a, T> {
    store: &'a Store<T>,
    ctx: &'a RequestContext,
    name: &'a str,
    recipe: &'a mut dyn ObjectUpdate,
    preconditions: Preconditions,
    dry_run: bool,
    /// What the last attempt took; dropped when another attempt begins.
    guard: Option<Box<dyn WriteGuard>>,
    /// The last attempt creates the object.
    creates: bool,
    /// The last attempt completes a deletion.
    completes: Option<Completion<T>>,
}

/// A deletion that an update completes by taking away the last finalizer.
struct Completion<T> {
    /// The updated object, as it would have been stored, at the revision that was stored.
    answer: Bytes,
    /// What is deleted.
    last: Draft<T>,
}

impl<T: Object> Store<T> {
    pub(super) async fn update_object(
        &self,
        ctx: &RequestContext,
        name: &str,
        recipe: &mut dyn ObjectUpdate,
        options: UpdateOptions,
    ) -> Result<Written> {
        let key = self.key(ctx, name)?;
        let main_front = self.inner.subresource.is_none();
        let may_create = main_front && (options.force_create || self.inner.front.allow_create_on_update(ctx));
        let preconditions = recipe.preconditions();
        let mut run = Run {
            store: self,
            ctx,
            name,
            recipe,
            preconditions: preconditions.clone(),
            dry_run: options.dry_run,
            guard: None,
            creates: false,
            completes: None,
        };
        if options.dry_run {
            return self.update_dry(&key, may_create, &mut run).await;
        }
        let asked_uid = preconditions.uid.clone();
        let storage_options = apiserver_storage_api::UpdateOptions {
            preconditions,
            suggestion: None,
            create_if_missing: may_create,
            deadline: self.inner.options.deadline,
        };
        let result = self
            .inner
            .storage
            .guaranteed_update(&key, storage_options, &mut run)
            .await;
        let Run {
            guard,
            creates,
            completes,
            ..
        } = run;
        let entry = match result {
            Ok(entry) => entry,
            // Several parties may take away the last finalizer at once: whoever comes late finds it done.
            Err(error) if error.is_not_found() && completes.is_some() => return self.completed(ctx, completes).await,
            Err(error) => {
                let verb = if creates {
                    StorageVerb::Create
                } else {
                    StorageVerb::Update
                };
                let error = self.translate(ctx, error, verb, name);
                return Err(match asked_uid {
                    Some(_) if error.is_conflict() && error.mismatch().is_none() => {
                        error.with_mismatch(asked_uid, None)
                    }
                    _ => error,
                });
            }
        };
        if completes.is_some() {
            return self.completed(ctx, completes).await;
        }
        if let Some(guard) = guard {
            guard.commit().await;
        }
        Ok(Written {
            object: Answer::Stored(self.decorated(entry)?),
            created: creates,
        })
    }

    async fn completed(&self, ctx: &RequestContext, completion: Option<Completion<T>>) -> Result<Written> {
        let Some(Completion { answer, last }) = completion else {
            return Err(ApiError::internal("deletion completed without a state"));
        };
        self.inner.main.after_delete(ctx, &last).await;
        Ok(Written {
            object: Answer::Computed(answer),
            created: false,
        })
    }

    /// The same on live data, once, without the write (`registry/R-DRY-05`).
    async fn update_dry(&self, key: &Key, may_create: bool, run: &mut Run<'_, T>) -> Result<Written> {
        let translate = |error| self.translate(run.ctx, error, StorageVerb::Update, run.name);
        let current = match self.inner.storage.get(key, GetOptions::default()).await {
            Ok(entry) => {
                run.preconditions.check(&entry).map_err(translate)?;
                Some(entry)
            }
            Err(error) if error.is_not_found() && may_create => None,
            Err(error) => return Err(translate(error)),
        };
        let change = run.attempt(current.as_ref()).await?;
        let object = match (change, run.completes.take(), current) {
            (Change::Put { value, .. }, _, current) => {
                Answer::DryRun(self.as_served(&value, current.as_ref().map(Entry::revision))?)
            }
            (_, Some(completion), _) => Answer::DryRun(completion.answer),
            (_, None, Some(current)) => Answer::Stored(current),
            (_, None, None) => {
                let (group, resource) = self.asked(run.ctx);
                return Err(ApiError::not_found(group, resource, run.name));
            }
        };
        Ok(Written {
            object,
            created: run.creates,
        })
    }
}

#[async_trait]
impl<T: Object> Update for Run<'_, T> {
    async fn update(&mut self, current: Option<&Entry>) -> Result<Change, StorageError> {
        self.attempt(current).await.map_err(StorageError::callback)
    }
}

impl<T: Object> Run<'_, T> {
    async fn attempt(&mut self, current: Option<&Entry>) -> Result<Change> {
        // Whatever an earlier attempt took goes back before this one takes its own.
        (self.guard, self.completes, self.creates) = (None, None, current.is_none());
        let value = self.recipe.update(current).await?;
        let new = self.store.read(value)?;
        match current {
            Some(current) => self.change(new, current).await,
            None => self.create(new).await,
        }
    }

    /// An update of an object that is not there (`registry/R-COU-01` to `R-COU-10`).
    async fn create(&mut self, new: Draft<T>) -> Result<Change> {
        if let Some(uid) = self.preconditions.uid.as_deref().filter(|uid| !uid.is_empty()) {
            let text = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
            let (group, resource) = self.store.asked(self.ctx);
            let error = ApiError::conflict(group, resource, self.name, text);
            return Err(error.with_mismatch(Some(uid.to_owned()), None));
        }
        if new.meta.name().is_empty() && new.meta.generate_name.is_some() {
            return Err(ApiError::internal("metadata.name was not generated"));
        }
        let Ready {
            draft,
            value,
            ttl,
            guard,
        } = self.store.ready_to_create(self.ctx, new, self.dry_run).await?;
        self.guard = guard;
        if draft.meta.name() != self.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                draft.meta.name(),
                self.name
            )));
        }
        Ok(Change::Put { value, ttl })
    }

    /// An update of an object that is there (`registry/R-UPD-05` to `R-UPD-25`).
    async fn change(&mut self, mut new: Draft<T>, current: &Entry) -> Result<Change> {
        let (store, ctx) = (self.store, self.ctx);
        let (info, front) = (store.info(), &store.inner.front);
        let mut old = Draft::<T>::from_entry(current)?;
        self.check_version(&new.meta, current.revision())?;
        let write = Write {
            new: &mut new,
            old: Some(&old),
            dry_run: self.dry_run,
        };
        self.guard = front.begin(ctx, write).await?;
        store.place(ctx, &mut new.meta)?;
        new.meta.generation = old.meta.generation;
        front.prepare_for_update(ctx, &mut new, &old);
        keep_system_fields(&mut new.meta, &mut old.meta);
        let mut errors = store.meta_errors(&new.meta);
        errors.extend(object_meta_update(&new.meta, &old.meta, &FieldPath::new("metadata")));
        errors.extend(front.validate_update(ctx, &new, &old));
        if !errors.is_empty() {
            return Err(ApiError::invalid(
                info.group(),
                &info.gvk().kind,
                new.meta.name(),
                errors,
            ));
        }
        for warning in front.warnings_on_update(ctx, &new, &old) {
            ctx.warn(warning);
        }
        front.canonicalize(&mut new);
        keep_times_of_managers(&mut new, &old, info)?;
        let value = new.to_value(info)?;
        if let Some(admission) = ctx.admission() {
            let (operation, dry_run) = (Operation::Update, self.dry_run);
            let review = Review {
                operation,
                object: Some(&value),
                old: Some(current),
                dry_run,
            };
            admission.validate(ctx, review).await?;
        }
        let encoded = Encoded::of(&value).map_err(ApiError::internal)?;
        if completes_deletion(&new.meta, &old.meta) && store.inner.main.may_complete_deletion(&new, &old) {
            // The update itself is never stored, so what it took goes back.
            self.guard = None;
            let answer = store.as_served(&encoded, Some(current.revision()))?;
            self.completes = Some(Completion { answer, last: old });
            return Ok(Change::Delete);
        }
        let ttl = store.inner.main.ttl(ctx, &new, Some(&old))?;
        Ok(Change::Put { value: encoded, ttl })
    }

    /// The optimistic lock (`registry/R-UPD-07` to `R-UPD-10`).
    fn check_version(&self, new: &Meta, current: Revision) -> Result<()> {
        let (group, resource) = self.store.asked(self.ctx);
        let text = new.resource_version.as_deref().unwrap_or_default();
        let asked = Revision::parse(text)
            .map_err(|error| self.store.translate(self.ctx, error, StorageVerb::Update, self.name))?;
        match asked {
            None if self.store.inner.front.allow_unconditional_update(self.ctx) => Ok(()),
            None => {
                let field = FieldPath::new("metadata.resourceVersion");
                let error = FieldError::invalid(&field, 0, "must be specified for an update");
                // The resource where the kind should stand: so it goes over the wire since ever.
                Err(ApiError::invalid(group, resource, self.name, vec![error]))
            }
            Some(asked) if asked == current => Ok(()),
            Some(asked) => Err(ApiError::conflict(group, resource, self.name, MODIFIED)
                .with_mismatch(Some(asked.to_string()), Some(current.to_string()))),
        }
    }
}

/// What an update cannot change even by leaving it out (`registry/R-UPD-14`).
fn keep_system_fields(new: &mut Meta, old: &mut Meta) {
    if new.uid().is_empty() {
        new.uid.clone_from(&old.uid);
    }
    match old.creation_timestamp {
        Some(_) => new.creation_timestamp = old.creation_timestamp,
        None => old.creation_timestamp = new.creation_timestamp,
    }
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp = old.deletion_timestamp;
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.self_link = None;
}

/// Whether an update takes the last finalizer from an object that waits for nothing else (`registry/R-DDU-01`).
fn completes_deletion(new: &Meta, old: &Meta) -> bool {
    let no_grace = matches!(old.deletion_grace_period_seconds, None | Some(0));
    new.finalizers.is_empty() && old.is_deleting() && no_grace
}

/// Puts the old times of field managers back where nothing else changed, so that applying the same again is no write
/// (`registry/R-UPD-22`).
fn keep_times_of_managers<T: Object>(
    new: &mut Draft<T>,
    old: &Draft<T>,
    info: &apiserver_storage_api::ResourceInfo,
) -> Result<()> {
    let (ours, theirs) = (&new.meta.managed_fields, &old.meta.managed_fields);
    if ours.is_empty() || ours.len() != theirs.len() || ours == theirs {
        return Ok(());
    }
    let only_times = ours
        .iter()
        .zip(theirs)
        .all(|(new, old)| without_time(new) == without_time(old));
    if !only_times {
        return Ok(());
    }
    let written = std::mem::replace(&mut new.meta.managed_fields, theirs.clone());
    let version = std::mem::replace(&mut new.meta.resource_version, old.meta.resource_version.clone());
    let same = new.to_value(info)? == old.to_value(info)?;
    new.meta.resource_version = version;
    if !same {
        new.meta.managed_fields = written;
    }
    Ok(())
}

fn without_time(entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let Some(fields) = entry.as_object_mut() {
        fields.remove("time");
    }
    entry
}
