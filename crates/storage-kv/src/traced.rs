//! Lists and watches with their spans and times. They live on after the call has returned; so does what is told of
//! them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tracing::{Instrument, Span};

use apiserver_storage_api::{
    List, ListAt, ListOptions, Page, Result, Scope, StorageError, Watch, WatchItem, WatchOptions,
};

use crate::kv::Kv;
use crate::latency::{RequestLatency, scoped};
use crate::store::Inner;
use crate::trace::{SLOW, span};

/// A list that is read page by page: what it takes is what the pages take, however slowly they are read.
struct Reading<K> {
    store: Arc<Inner<K>>,
    full: String,
    pages: stream::BoxStream<'static, Result<Page>>,
    span: Span,
    latency: Option<RequestLatency>,
    recursive: bool,
    took: Duration,
    count: usize,
    entries: usize,
}

pub(crate) async fn list<K: Kv>(store: &Arc<Inner<K>>, scope: &Scope, options: ListOptions) -> Result<List> {
    let full = store.own_key(scope.as_str())?;
    let recursive = matches!(scope, Scope::Under(_));
    let span = list_span(store, &full, recursive, &options);
    let start = store.meter.now();
    let listed = store.list(scope, options).instrument(span.clone()).await;
    let took = store.meter.now().saturating_sub(start);
    let mut reading = Reading {
        store: Arc::clone(store),
        full,
        pages: stream::empty().boxed(),
        span,
        latency: RequestLatency::current(),
        recursive,
        took,
        count: 0,
        entries: 0,
    };
    // What failed is told as well, when it is dropped here.
    let list = listed?;
    let revision = list.revision();
    reading.pages = list.into_pages();
    let pages = stream::unfold(reading, |mut reading| async move {
        let page = reading.next().await?;
        Some((page, reading))
    });
    Ok(List::new(revision, pages.boxed()))
}

impl<K: Kv> Reading<K> {
    async fn next(&mut self) -> Option<Result<Page>> {
        let start = self.store.meter.now();
        let page = scoped(&self.latency, self.pages.next().instrument(self.span.clone())).await;
        self.took += self.store.meter.now().saturating_sub(start);
        if let Some(Ok(page)) = &page {
            self.count += 1;
            self.entries += page.entries.len();
            tracing::debug!(parent: &self.span, entries = page.entries.len(), "page read");
        }
        page
    }
}

impl<K> Drop for Reading<K> {
    fn drop(&mut self) {
        if self.took <= SLOW {
            return;
        }
        let (meter, recursive) = (&self.store.meter, self.recursive);
        let milliseconds = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            key = self.full,
            "type" = meter.kind(),
            group = meter.group(),
            resource = meter.resource(),
            milliseconds,
            pages = self.count,
            entries = self.entries,
            "slow storage call: List(recursive={recursive}) etcd3"
        );
    }
}

fn list_span<K>(store: &Inner<K>, full: &str, recursive: bool, options: &ListOptions) -> Span {
    let (version, version_match, token) = match &options.at {
        ListAt::MostRecent => (None, "", false),
        ListAt::Any => (Some(0), "NotOlderThan", false),
        ListAt::NotOlderThan(revision) => (Some(revision.get()), "NotOlderThan", false),
        ListAt::Exact(revision) => (Some(revision.get()), "Exact", false),
        ListAt::Continue(token) => (token.revision().map(|revision| revision.get()), "", true),
    };
    let limit = options.limit.map(|limit| limit.get());
    if recursive {
        span!(
            store,
            "List(recursive=true) etcd3",
            full,
            resource_version = version,
            resource_version_match = version_match,
            limit,
            r#continue = token
        )
    } else {
        span!(
            store,
            "List(recursive=false) etcd3",
            full,
            resource_version = version,
            resource_version_match = version_match,
            limit,
            r#continue = token
        )
    }
}

pub(crate) async fn watch<K: Kv>(store: &Arc<Inner<K>>, scope: &Scope, options: WatchOptions) -> Result<Watch> {
    let full = store.own_key(scope.as_str())?;
    let span = span!(store, "Watch etcd3", full);
    let opened = async {
        let mut trace = store.meter.trace("Watch etcd3", &full);
        let opened = store.watch(scope, options).await;
        trace.stage("called");
        opened
    };
    let watch = opened.instrument(span.clone()).await?;
    let (store, full) = (Arc::clone(store), full);
    Ok(Watch::new(watch.inspect(move |item| tell(&*store, &full, &span, item))))
}

/// An error that ends a watch. That history is gone is the reader's being slow, or a fact of life; anything else should
/// not happen.
fn tell<K>(store: &Inner<K>, key: &str, span: &Span, item: &Result<WatchItem>) {
    let Err(error) = item else { return };
    let (group, resource) = (store.meter.group(), store.meter.resource());
    match error {
        StorageError::Expired { .. } => {
            tracing::warn!(parent: span, key, group, resource, %error, "watch ended: history is compacted");
        }
        StorageError::Closed => {}
        error => tracing::error!(parent: span, key, group, resource, %error, "watch ended"),
    }
}
