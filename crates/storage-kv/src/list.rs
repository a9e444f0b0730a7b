//! `list`: a range in pages, at one revision, decoded one by one and never more than needed.
//!
//! Pages of the backend are bounded by keys and bytes; their size follows what the values seen so far weigh. At any
//! time one of them is held, beside what the reader has taken.

use std::num::NonZeroU64;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;

use apiserver_storage_api::{
    ContinueToken, Entry, Key, KeyPrefix, List, ListAt, ListEnd, ListOptions, OnUnreadable, Page, Result, Revision,
    Scope, SelectionPredicate, StorageError,
};

use crate::convert::{self, Call};
use crate::kv::{Kv, KvPair, RangePage, RangeRequest, prefix_end};
use crate::metric::ListMeter;
use crate::store::Inner;
use crate::turn;

/// Keys of the first page when the reader wants everything.
const FIRST_PAGE: u64 = 500;
/// Keys of a page are never more than this (`storage-etcd3/PAGE-09`) and, once the weight of values is known, seldom
/// fewer than this.
const LARGEST_PAGE: u64 = 10_000;
const SMALLEST_PAGE: u64 = 50;
/// So many values are decrypted at a time, where a key service has to be asked for each.
const CHUNK: usize = 16;
/// Bytes of values that a page is meant to bring.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;

/// Which state a list reads.
#[derive(Debug, Clone, Copy, Default)]
struct At {
    /// Exactly this one.
    pinned: Option<Revision>,
    /// The latest, if it is not older than this one.
    minimum: Option<Revision>,
}

impl At {
    fn of(at: &ListAt) -> Self {
        match at {
            ListAt::MostRecent | ListAt::Any => Self::default(),
            ListAt::NotOlderThan(revision) => Self {
                pinned: None,
                minimum: Some(*revision),
            },
            ListAt::Exact(revision) => Self {
                pinned: Some(*revision),
                minimum: None,
            },
            ListAt::Continue(token) => Self {
                pinned: token.revision(),
                minimum: None,
            },
        }
    }

    /// The revision that the list shows, given where the store was when it answered.
    fn decide(self, current: Revision) -> Result<Revision> {
        match self {
            Self {
                minimum: Some(asked), ..
            } if asked > current => Err(convert::too_large(asked, current)),
            Self {
                pinned: Some(pinned), ..
            } => Ok(pinned),
            Self { .. } => Ok(current),
        }
    }
}

impl<K: Kv> Inner<K> {
    pub(crate) async fn list(self: &Arc<Self>, scope: &Scope, options: ListOptions) -> Result<List> {
        self.own_key(scope.as_str())?;
        let at = At::of(&options.at);
        if let Some(asked) = at.pinned.filter(|revision| *revision > Revision::MAX) {
            // Backends count with signed numbers and would take this for something else (`storage-api/CONT-24`).
            let current = self.kv.now().await;
            let current = current.map_err(|error| convert::storage_error(error, Call::Key(scope.as_str())))?;
            return Err(convert::too_large(asked, current));
        }
        match scope {
            Scope::Key(key) => self.list_one(key, at, &options).await,
            Scope::Under(prefix) => self.list_under(prefix, at, options).await,
        }
    }

    /// A list of one key: zero or one entries. Limit and token mean nothing here.
    async fn list_one(&self, key: &Key, at: At, options: &ListOptions) -> Result<List> {
        let at = if matches!(options.at, ListAt::Continue(_)) {
            At::default()
        } else {
            at
        };
        let full = self.full_key(key.as_str());
        let call = Call::List {
            prefix: &full,
            asked: at.pinned,
            token: None,
        };
        let read = self.timed("get", self.kv.get(&full, at.pinned)).await;
        let (pair, current) = read.map_err(|error| convert::storage_error(error, call))?;
        let revision = at.decide(current)?;
        let (mut entries, mut meter) = (Vec::new(), ListMeter::new(&self.meter));
        if let Some(pair) = pair {
            meter.fetched = 1;
            let entry = self.read(key.clone(), &pair, pair.revision).await?.entry;
            meter.evaluated = u64::from(entry.unreadable_reason().is_none());
            entries.extend(self.select(entry, &options.predicate, options.unreadable)?);
            meter.returned = entries.len() as u64;
        }
        Ok(List::complete(revision, entries, ListEnd::default()))
    }

    async fn list_under(self: &Arc<Self>, prefix: &KeyPrefix, at: At, options: ListOptions) -> Result<List> {
        let full = self.full_key(prefix.as_str());
        let token = match options.at {
            ListAt::Continue(token) => Some(token),
            _ => None,
        };
        let start = token
            .as_ref()
            .map_or_else(|| full.clone(), |token| self.full_key(&token.start(prefix)));
        let mut request = RangeRequest::between(start, prefix_end(&full));
        request.at = at.pinned;
        request.limit_bytes = NonZeroU64::new(PAGE_BYTES);
        let page_size = options.limit.map_or(FIRST_PAGE, |limit| limit.get().min(LARGEST_PAGE));
        let mut cursor = Cursor {
            store: Arc::clone(self),
            prefix: prefix.clone(),
            request,
            token,
            predicate: options.predicate,
            unreadable: options.unreadable,
            left: options.limit.map(NonZeroU64::get),
            page_size,
            // Replaced by what the first page says.
            revision: Revision::MIN,
            behind: 0,
            page: None,
            meter: ListMeter::new(&self.meter),
        };
        let first = cursor.fetch().await?;
        cursor.revision = at.decide(first.revision)?;
        cursor.request.at = Some(cursor.revision);
        cursor.behind = first.count;
        let revision = cursor.revision;
        cursor.page = Some(first);
        let pages = stream::unfold(Some(cursor), |cursor| async move {
            match cursor?.next().await {
                Ok((page, cursor)) => Some((Ok(page), cursor)),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(List::new(revision, pages.boxed()))
    }

    // deviates: storage-api/LIST-45: unreadable values are handed out as such where they are asked for, all of them;
    // who serves the list makes one error of them, or names them.
    /// The entry, if it is selected.
    fn select(&self, entry: Entry, predicate: &SelectionPredicate, unreadable: OnUnreadable) -> Result<Option<Entry>> {
        match entry.attributes() {
            Some(attributes) => Ok(predicate.matches(attributes).then_some(entry)),
            None if unreadable == OnUnreadable::Include => Ok(Some(entry)),
            None => self.readable(&entry).map(|()| None),
        }
    }
}

/// A list that is being read.
struct Cursor<K> {
    store: Arc<Inner<K>>,
    prefix: KeyPrefix,
    /// The next page: where it begins, and at which revision.
    request: RangeRequest,
    /// The token of the caller's request.
    token: Option<ContinueToken>,
    predicate: SelectionPredicate,
    unreadable: OnUnreadable,
    /// How many more entries the caller wants.
    left: Option<u64>,
    page_size: u64,
    revision: Revision,
    /// How many keys the range had, less those that were examined.
    behind: u64,
    /// A page that was read and not looked at yet.
    page: Option<RangePage>,
    meter: ListMeter,
}

impl<K: Kv> Cursor<K> {
    async fn fetch(&mut self) -> Result<RangePage> {
        let mut request = self.request.clone();
        request.limit = NonZeroU64::new(self.page_size);
        let page = self.store.timed("list", self.store.kv.range(request)).await;
        let page = page.map_err(|error| {
            let (asked, token) = (self.request.at, self.token.as_ref());
            convert::storage_error(
                error,
                Call::List {
                    prefix: self.prefix.as_str(),
                    asked,
                    token,
                },
            )
        })?;
        self.meter.fetched += page.pairs.len() as u64;
        if page.pairs.is_empty() && page.more {
            // Going on would never end.
            let message = "no results were found, but the backend indicated there were more values remaining";
            return Err(StorageError::internal(format!("{message}: prefix={}", self.prefix)));
        }
        Ok(page)
    }

    /// The next page of entries, and the rest of the list; the last page has none.
    async fn next(mut self) -> Result<(Page, Option<Self>)> {
        loop {
            let page = match self.page.take() {
                Some(page) => page,
                None => self.fetch().await?,
            };
            let (keys, bytes) = page
                .pairs
                .iter()
                .fold((0, 0), |(n, b), pair| (n + 1, b + pair.value.len() as u64));
            let more = page.more;
            let mut pairs = page.pairs.into_iter();
            let (mut entries, mut last, mut examined) = (Vec::new(), None, 0);
            while self.left != Some(0) {
                // Never more than may be needed: what is cut off is not decrypted.
                let size = self
                    .left
                    .map_or(CHUNK, |left| CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)));
                let chunk: Vec<KvPair> = pairs.by_ref().take(size).collect();
                let Some(end) = chunk.last() else { break };
                last = Some(Arc::clone(&end.key));
                self.examine(&chunk, &mut entries).await?;
                examined += chunk.len();
                if examined % turn::VALUES < CHUNK {
                    turn::end().await;
                }
            }
            let more = more || pairs.len() > 0;
            self.meter.returned += entries.len() as u64;
            let last = match last {
                Some(last) if more => last,
                _ => {
                    return Ok((
                        Page {
                            entries,
                            end: Some(ListEnd::default()),
                        },
                        None,
                    ));
                }
            };
            if self.left == Some(0) {
                return Ok((
                    Page {
                        entries,
                        end: Some(self.end(&last)),
                    },
                    None,
                ));
            }
            self.request.start = format!("{last}\0");
            self.adapt(keys, bytes);
            if !entries.is_empty() {
                return Ok((Page { entries, end: None }, Some(self)));
            }
        }
    }

    /// Reads some pairs side by side, and keeps in their order what the caller wants.
    async fn examine(&mut self, chunk: &[KvPair], entries: &mut Vec<Entry>) -> Result<()> {
        let store = &self.store;
        let reads = chunk.iter().map(|pair| async move {
            match store.object_key(&pair.key) {
                Some(key) => store
                    .read(key, pair, pair.revision)
                    .await
                    .map(|stored| Some(stored.entry)),
                None => Ok(None),
            }
        });
        for entry in join_all(reads).await {
            self.behind = self.behind.saturating_sub(1);
            let Some(entry) = entry? else { continue };
            self.meter.evaluated += u64::from(entry.unreadable_reason().is_none());
            let Some(entry) = self.store.select(entry, &self.predicate, self.unreadable)? else {
                continue;
            };
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(1);
            }
            entries.push(entry);
        }
        Ok(())
    }

    /// How a list ends that was cut off after `last` (`storage-api/CONT-19`).
    fn end(&self, last: &str) -> ListEnd {
        let next = self
            .store
            .relative(last)
            .and_then(|key| ContinueToken::after(self.revision, &self.prefix, key));
        ListEnd {
            next,
            remaining: self.predicate.is_empty().then_some(self.behind),
        }
    }

    /// Chooses the size of the next page by what the last one weighed. A selector that lets little through makes pages
    /// grow as upstream's do.
    fn adapt(&mut self, keys: u64, bytes: u64) {
        let by_weight = (PAGE_BYTES * keys).checked_div(bytes).unwrap_or(LARGEST_PAGE);
        let by_weight = by_weight.clamp(SMALLEST_PAGE, LARGEST_PAGE);
        self.page_size = match self.left {
            None => by_weight,
            Some(left) if self.predicate.is_empty() => left.min(by_weight),
            Some(_) => (self.page_size * 2).min(by_weight),
        }
        .max(1);
    }
}
