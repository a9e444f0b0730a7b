//! Create: fill in what the server owns, prepare, validate, ask, write.

use apiserver_storage_api::time::Rng;
use apiserver_storage_api::{
    Encoded, GetOptions, Key, MediaType, Meta, Object, Revision, StorageError, Ttl, generate_name,
};
use bytes::Bytes;
use serde_json::Value;

use super::Store;
use crate::admission::{Operation, Review};
use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::field_error::FieldPath;
use crate::resource::{Answer, CreateOptions, Written};
use crate::status::StatusCause;
use crate::storage_error::{StorageVerb, from_storage_error, version_on_create};
use crate::strategy::{Draft, Write, WriteGuard};
use crate::validation::object_meta;

/// How many names are tried. With one million objects of one prefix about one create in a thousand still fails.
const NAME_ATTEMPTS: u32 = 8;

/// A new object that may be written.
pub(super) struct Ready<T> {
    pub(super) draft: Draft<T>,
    pub(super) value: Encoded,
    pub(super) ttl: Ttl,
    pub(super) guard: Option<Box<dyn WriteGuard>>,
}

impl<T: Object> Store<T> {
    pub(super) async fn create_object(
        &self,
        ctx: &RequestContext,
        object: Value,
        options: CreateOptions,
    ) -> Result<Written> {
        let meta = Meta::of(&object).map_err(|error| ApiError::bad_request(format!("metadata: {error}")))?;
        if let Some(version) = meta.resource_version.as_deref().filter(|version| !version.is_empty()) {
            return Err(version_on_create(self.info(), meta.name(), version));
        }
        let base = meta
            .generate_name
            .as_deref()
            .filter(|base| meta.name().is_empty() && !base.is_empty());
        let Some(base) = base else {
            return self.create_named(ctx, self.read(object)?, &options).await;
        };
        let mut attempt = 1;
        loop {
            let mut draft = self.read(object.clone())?;
            draft.meta.name = Some(generate_name(base, &*self.inner.rng));
            match self.create_named(ctx, draft, &options).await {
                Err(error) if error.is_already_exists() && attempt < NAME_ATTEMPTS => attempt += 1,
                Err(error) if error.is_already_exists() => return Err(self.no_free_name(ctx, &error, base)),
                done => return done,
            }
        }
    }

    /// Reads an object that a client sent. The front has checked and converted its version; another kind would lose
    /// its fields here without a word.
    pub(super) fn read(&self, object: Value) -> Result<Draft<T>> {
        let gvk = self.info().gvk();
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let own = (kind.is_empty() || kind == gvk.kind) && (api_version.is_empty() || group == gvk.group);
        if own {
            return Draft::from_value(object);
        }
        let want = &gvk.kind;
        Err(ApiError::bad_request(format!(
            "{kind} in version {api_version:?} cannot be handled as a {want}"
        )))
    }

    // deviates: registry/R-CRE-22: only where the server generated the name.
    /// Every generated name was taken (`registry/R-CRE-21`, `R-NEW-15`).
    fn no_free_name(&self, ctx: &RequestContext, last: &ApiError, base: &str) -> ApiError {
        let (group, resource) = self.asked(ctx);
        let name = last.details().map(|details| details.name.clone()).unwrap_or_default();
        let tried = format!("{NAME_ATTEMPTS} names beginning with {base:?} were taken");
        ApiError::generate_name_conflict(group, resource, &name, 1).with_cause(StatusCause::new(
            "",
            tried,
            "metadata.generateName",
        ))
    }

    async fn create_named(&self, ctx: &RequestContext, draft: Draft<T>, options: &CreateOptions) -> Result<Written> {
        let Ready {
            draft,
            value,
            ttl,
            guard,
        } = self.ready_to_create(ctx, draft, options.dry_run).await?;
        // The name is taken from the finished object: preparation may have set it.
        let name = draft.meta.name();
        let key = self.key(ctx, name)?;
        if options.dry_run {
            let object = self.create_dry(ctx, &key, name, &value).await?;
            return Ok(Written {
                object: Answer::DryRun(object),
                created: true,
            });
        }
        let ttl = match ttl {
            Ttl::After(ttl) => Some(ttl),
            Ttl::Keep | Ttl::Never => None,
        };
        let entry = match self
            .inner
            .storage
            .create(&key, value, apiserver_storage_api::CreateOptions { ttl })
            .await
        {
            Ok(entry) => entry,
            Err(error) => {
                let error = self.translate(ctx, error, StorageVerb::Create, name);
                return Err(self.about_the_taken_name(&key, error).await);
            }
        };
        if let Some(guard) = guard {
            guard.commit().await;
        }
        Ok(Written {
            object: Answer::Stored(self.decorated(entry)?),
            created: true,
        })
    }

    /// All steps of a create but the write (`registry/R-CRE-01` to `R-CRE-17`); also those of an update that creates.
    pub(super) async fn ready_to_create(
        &self,
        ctx: &RequestContext,
        mut draft: Draft<T>,
        dry_run: bool,
    ) -> Result<Ready<T>> {
        let (info, main) = (self.info(), &self.inner.main);
        fill_system_fields(&mut draft.meta, ctx, &*self.inner.rng);
        let guard = main
            .begin(
                ctx,
                Write {
                    new: &mut draft,
                    old: None,
                    dry_run,
                },
            )
            .await?;
        self.place(ctx, &mut draft.meta)?;
        main.prepare_for_create(ctx, &mut draft);
        let mut errors = main.validate_create(ctx, &draft);
        if errors.is_empty() {
            errors = self.meta_errors(&draft.meta);
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(
                info.group(),
                &info.gvk().kind,
                draft.meta.name(),
                errors,
            ));
        }
        for warning in main.warnings_on_create(ctx, &draft) {
            ctx.warn(warning);
        }
        main.canonicalize(&mut draft);
        let value = draft.to_value(info)?;
        if let Some(admission) = ctx.admission() {
            let review = Review {
                operation: Operation::Create,
                object: Some(&value),
                old: None,
                dry_run,
            };
            admission.validate(ctx, review).await?;
        }
        let ttl = main.ttl(ctx, &draft, None)?;
        let value = Encoded::of(&value).map_err(ApiError::internal)?;
        Ok(Ready {
            draft,
            value,
            ttl,
            guard,
        })
    }

    /// Faults of the metadata of any object of this kind.
    pub(super) fn meta_errors(&self, meta: &Meta) -> Vec<crate::FieldError> {
        let name_faults = |name: &str, prefix: bool| self.inner.main.validate_name(name, prefix);
        object_meta(
            meta,
            self.info().is_namespaced(),
            name_faults,
            &FieldPath::new("metadata"),
        )
    }

    /// Brings the namespace of the object in line with that of the request (`registry/R-META-04`, `R-META-05`).
    pub(super) fn place(&self, ctx: &RequestContext, meta: &mut Meta) -> Result<()> {
        let requested = ctx.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        match requested.filter(|_| self.info().is_namespaced()) {
            None => meta.namespace = None,
            Some(requested) if meta.namespace().is_empty() => meta.namespace = Some(requested.to_owned()),
            Some(requested) if meta.namespace() == requested => {}
            Some(_) => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        Ok(())
    }

    /// Says so when the object whose name is taken is on its way out (`registry/R-CRE-20`).
    async fn about_the_taken_name(&self, key: &Key, error: ApiError) -> ApiError {
        if !error.is_already_exists() {
            return error;
        }
        match self.inner.storage.get(key, GetOptions::default()).await {
            Ok(entry) if entry.attributes().is_some_and(|attributes| attributes.deleting) => {
                let message = format!("object is being deleted: {}", error.message());
                error.with_message(message)
            }
            _ => error,
        }
    }

    // deviates: registry/R-DRY-04: upstream takes any read error for a free name.
    /// The live data decides; a backend that cannot be asked is an error, not a free name.
    async fn create_dry(&self, ctx: &RequestContext, key: &Key, name: &str, value: &Encoded) -> Result<Bytes> {
        match self.inner.storage.get(key, GetOptions::default()).await {
            // Nobody can read what is there, but the name is taken all the same.
            Ok(_) | Err(StorageError::Unreadable { .. }) => {
                let (group, resource) = self.asked(ctx);
                let error = ApiError::already_exists(group, resource, name);
                Err(self.about_the_taken_name(key, error).await)
            }
            Err(error) if error.is_not_found() => self.as_served(value, None),
            Err(error) => Err(self.translate(ctx, error, StorageVerb::Create, name)),
        }
    }

    /// The object as it would be served if it were stored, at a revision or at none.
    pub(super) fn as_served(&self, value: &Encoded, revision: Option<Revision>) -> Result<Bytes> {
        let info = self.info();
        let refused = |error| {
            let error = StorageError::Codec {
                key: String::new(),
                action: "encode",
                source: Box::new(error),
            };
            from_storage_error(error, StorageVerb::Create, info, "")
        };
        let normalizer = info.normalizer();
        let stored = normalizer.encode(value, MediaType::Json).map_err(refused)?;
        let at = revision.unwrap_or(Revision::MIN);
        let served = normalizer
            .normalize(&stored, at, info.selectable_fields())
            .map_err(refused)?;
        Ok(match revision {
            Some(_) => served.json,
            None => without_version(&served.json, served.resource_version),
        })
    }
}

/// Takes the resourceVersion, whose digits stand at `digits`, out of served JSON.
fn without_version(json: &Bytes, digits: std::ops::Range<usize>) -> Bytes {
    const FIELD: &[u8] = b"\"resourceVersion\":\"";
    let (mut start, mut end) = (digits.start.saturating_sub(FIELD.len()), digits.end + 1);
    if json.get(start..digits.start) != Some(FIELD) {
        return json.clone();
    }
    // One comma goes with the field: the one before it, else the one after it.
    if start.checked_sub(1).and_then(|at| json.get(at)) == Some(&b',') {
        start -= 1;
    } else if json.get(end) == Some(&b',') {
        end += 1;
    }
    let parts = [
        json.get(..start).unwrap_or_default(),
        json.get(end..).unwrap_or_default(),
    ];
    parts.concat().into()
}

// deviates: registry/R-CRE-30: also what marks an object as being deleted, so that none is born dying.
/// What the server owns on a new object (`registry/R-META-01`, `R-META-02`), whatever the client sent.
pub(super) fn fill_system_fields(meta: &mut Meta, ctx: &RequestContext, rng: &dyn Rng) {
    meta.self_link = None;
    meta.resource_version = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.creation_timestamp = Some(ctx.now());
    let random = [rng.next_u64().to_be_bytes(), rng.next_u64().to_be_bytes()].concat();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(random).for_each(|(to, from)| *to = from);
    meta.uid = Some(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: registry/R-DRY-03
    #[test]
    fn the_version_is_taken_out_with_one_comma() {
        for (json, want) in [
            (
                r#"{"metadata":{"name":"a","resourceVersion":"7","uid":"u"}}"#,
                r#"{"metadata":{"name":"a","uid":"u"}}"#,
            ),
            (
                r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#,
                r#"{"metadata":{"uid":"u"}}"#,
            ),
            (
                r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#,
                r#"{"metadata":{"name":"a"}}"#,
            ),
            (r#"{"metadata":{"resourceVersion":"7"}}"#, r#"{"metadata":{}}"#),
        ] {
            let at = json.find('7').unwrap();
            assert_eq!(without_version(&Bytes::from(json), at..at + 1), want, "{json}");
        }
    }
}
