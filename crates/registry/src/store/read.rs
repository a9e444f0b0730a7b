//! Get, list and watch: the bytes of the storage handed through, narrowed to the keys that can match.

use apiserver_storage_api::{
    Entry, Event, GetOptions, List, ListAt, ListOptions, Object, Origin, ReadAt, Scope, SelectionPredicate, Watch,
    WatchItem, WatchOptions,
};
use futures::StreamExt;

use super::Store;
use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::storage_error::StorageVerb;
use crate::strategy::Draft;
use crate::validation::is_dns1123_label;

impl<T: Object> Store<T> {
    pub(super) async fn get_object(&self, ctx: &RequestContext, name: &str, at: ReadAt) -> Result<Entry> {
        let key = self.key(ctx, name)?;
        let entry = self.inner.storage.get(&key, GetOptions { at }).await;
        let entry = entry.map_err(|error| self.translate(ctx, error, StorageVerb::Get, name))?;
        self.decorated(entry)
    }

    pub(super) async fn list_objects(&self, ctx: &RequestContext, options: ListOptions) -> Result<List> {
        let paged = matches!(options.at, ListAt::Continue(_));
        let scope = self.narrowed(ctx, &options.predicate, !paged)?;
        let list = self.inner.storage.list(&scope, options).await;
        let list = list.map_err(|error| self.translate(ctx, error, StorageVerb::List, ""))?;
        if !self.inner.front.decorates() {
            return Ok(list);
        }
        let (revision, store) = (list.revision(), self.clone());
        let pages = list.into_pages().map(move |page| {
            let mut page = page?;
            for entry in &mut page.entries {
                *entry = store.decorated_or_as_it_is(entry);
            }
            Ok(page)
        });
        Ok(List::new(revision, pages.boxed()))
    }

    pub(super) async fn watch_objects(&self, ctx: &RequestContext, options: WatchOptions) -> Result<Watch> {
        let scope = self.narrowed(ctx, &options.predicate, true)?;
        let watch = self.inner.storage.watch(&scope, options).await;
        let watch = watch.map_err(|error| self.translate(ctx, error, StorageVerb::Watch, ""))?;
        if !self.inner.front.decorates() {
            return Ok(watch);
        }
        let store = self.clone();
        Ok(Watch::new(
            watch.map(move |item| item.map(|item| store.decorated_item(item))),
        ))
    }

    // deviates: registry/R-LST-08: upstream narrows the first page alone and then misreads its own token.
    /// The keys that can match: one key for `metadata.name=x` where a key can be made (`registry/R-LST-06`), else one
    /// namespace where the request or `metadata.namespace=x` names it (`R-LST-05`), else everything.
    ///
    /// The namespace is narrowed on every page of a list in the same way, because a token counts from the start of
    /// its range. A list of one key knows no tokens, so that a request with one is never narrowed to a name.
    fn narrowed(&self, ctx: &RequestContext, predicate: &SelectionPredicate, by_name: bool) -> Result<Scope> {
        let info = self.info();
        let selected = predicate
            .exact_field("metadata.namespace")
            .filter(|name| is_dns1123_label(name));
        let requested = ctx.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let namespace = if info.is_namespaced() {
            requested.or(selected)
        } else {
            None
        };
        if let (true, Some(name)) = (by_name, predicate.exact_field("metadata.name")) {
            let placed = namespace.is_some() || !info.is_namespaced();
            // A name that can stand in no key matches nothing; the ordinary way finds that out.
            if let (true, false, Ok(key)) = (placed, name.is_empty(), info.object_key(namespace, name)) {
                return Ok(Scope::Key(key));
            }
        }
        info.list_scope(namespace)
            .map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// The entry as clients are to see it.
    pub(super) fn decorated(&self, entry: Entry) -> Result<Entry> {
        if !self.inner.front.decorates() || entry.unreadable_reason().is_some() {
            return Ok(entry);
        }
        let mut draft = Draft::<T>::from_entry(&entry)?;
        self.inner.front.decorate(&mut draft);
        let info = self.info();
        let json = draft.encode(info)?;
        let normalized = info
            .normalizer()
            .normalize(json.json(), entry.revision(), info.selectable_fields());
        let normalized = normalized.map_err(ApiError::internal)?;
        let origin: Origin = *entry.record().map_err(ApiError::internal)?.origin();
        Ok(Entry::from_normalized(
            entry.key().clone(),
            entry.revision(),
            normalized,
            origin,
        ))
    }

    /// An entry that cannot be decorated is shown as stored: one odd object must not take a list down.
    fn decorated_or_as_it_is(&self, entry: &Entry) -> Entry {
        match self.decorated(entry.clone()) {
            Ok(decorated) => decorated,
            Err(error) => {
                tracing::warn!(key = %entry.key(), %error, "object cannot be decorated");
                entry.clone()
            }
        }
    }

    fn decorated_item(&self, item: WatchItem) -> WatchItem {
        match item {
            WatchItem::Initial(entries) => {
                WatchItem::Initial(entries.iter().map(|entry| self.decorated_or_as_it_is(entry)).collect())
            }
            WatchItem::Batch(mut batch) => {
                let decorated = |event: &Event| {
                    let object = event.object.as_ref().map(|entry| self.decorated_or_as_it_is(entry));
                    Event {
                        object,
                        ..event.clone()
                    }
                };
                batch.events = batch.events.iter().map(decorated).collect();
                WatchItem::Batch(batch)
            }
            other => other,
        }
    }
}
