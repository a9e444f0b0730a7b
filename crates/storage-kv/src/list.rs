//! `list`: a range in pages, at one revision, decoded one by one and never more than needed.
//!
//! A page of the backend is bounded by keys and bytes, and its size follows what the values seen so far weigh. A list
//! that needs more than one reads the next while it looks at the one it has. So at any moment it holds three things,
//! however long it is: the page it looks at, which a backend may hand out in one piece of memory, what it has found in
//! it, and the page on its way. Each is about [`PAGE_BYTES`], of a long list up to [`LARGEST_PAGE_BYTES`]; what the
//! reader keeps comes on top. A limited list
//! with a selector sizes its pages by how much of the last ones was selected, so that little is read beyond what it hands
//! out, and reads nothing ahead.

use std::num::NonZeroU64;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;

use apiserver_storage_api::{
    ContinueToken, Entry, Key, KeyPrefix, List, ListAt, ListEnd, ListOptions, OnUnreadable, Page, Result, Revision,
    Scope, SelectionPredicate, StorageError,
};
use apiserver_storage_transform::Outcome;

use crate::convert::{self, Call, Stored};
use crate::kv::{Kv, KvPair, RangePage, RangeRequest, prefix_end};
use crate::metric::ListMeter;
use crate::store::Inner;
use crate::turn;

/// Keys of the first page when the reader wants everything and nothing is known of what values of the kind weigh.
const FIRST_PAGE: u64 = 100;
/// Keys of a page are never more than this (`storage-etcd3/PAGE-09`).
const LARGEST_PAGE: u64 = 10_000;
/// So many values are decrypted at a time, where a key service has to be asked for each.
const CHUNK: usize = 16;
/// Bytes that a page is meant to bring.
///
/// A backend may have to count what lies behind a page for each of them, so smaller ones cost a long list more: with a third
/// of this, lists of 10,000 objects took 1.6 times as long.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that a page of a long list is meant to bring, once it has brought so many already.
const LARGEST_PAGE_BYTES: u64 = 2 * PAGE_BYTES;
/// What a pair, or the entry that it becomes, takes in memory beside its value and key, roughly.
const PAIR_BYTES: usize = 512;

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
        let page_size = options
            .limit
            .map_or_else(|| self.first_page(), |limit| limit.get().min(LARGEST_PAGE));
        let mut cursor = Cursor {
            reader: Reader {
                store: Arc::clone(self),
                prefix: prefix.clone(),
                token,
                predicate: options.predicate,
                unreadable: options.unreadable,
            },
            request,
            left: options.limit.map(NonZeroU64::get),
            page_size,
            // Replaced by what the first page says.
            revision: Revision::MIN,
            behind: 0,
            looked_at: 0,
            selected: 0,
            brought: 0,
            ahead: None,
            meter: ListMeter::new(&self.meter),
        };
        let first = cursor.reader.fetch(cursor.request()).await?;
        cursor.revision = at.decide(first.revision)?;
        cursor.request.at = Some(cursor.revision);
        cursor.behind = first.count;
        let revision = cursor.revision;
        cursor.ahead = Some(Ok(first));
        let pages = stream::unfold(Some(cursor), |cursor| async move {
            match cursor?.next().await {
                Ok((page, cursor)) => Some((Ok(page), cursor)),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(List::new(revision, pages.boxed()))
    }

    /// Keys of the first page when the reader wants everything, by what values of the kind weigh as far as is known.
    fn first_page(&self) -> u64 {
        match self.sizes.average() {
            (0, _) => FIRST_PAGE,
            (_, bytes) => (PAGE_BYTES / (bytes + PAIR_BYTES as u64)).clamp(1, LARGEST_PAGE),
        }
    }

    // deviates: storage-api/LIST-45: a list fails with the first unreadable object, or hands all of them out as such in
    // their places; `List::collect_readable` gathers their names, and who serves the list makes the status of them.
    // deviates: storage-etcd3/CORR-07: nothing between here and the server makes a text of an unreadable object: caches
    // pass it on as an entry. Recorded servers do not put the first cause into the message either.
    /// The entry, if it is selected.
    fn select(&self, entry: Entry, predicate: &SelectionPredicate, unreadable: OnUnreadable) -> Result<Option<Entry>> {
        match entry.attributes() {
            Some(attributes) => Ok(predicate.matches(attributes).then_some(entry)),
            None if unreadable == OnUnreadable::Include => Ok(Some(entry)),
            None => self.readable(&entry).map(|()| None),
        }
    }
}

/// What a list reads and whom it is for: all that stays the same from page to page.
struct Reader<K> {
    store: Arc<Inner<K>>,
    prefix: KeyPrefix,
    /// The token of the caller's request.
    token: Option<ContinueToken>,
    predicate: SelectionPredicate,
    unreadable: OnUnreadable,
}

// concerns: storage-etcd3/PAGE-20: a list hands its pages on as they are, so nothing grows over the whole of it; the
// entries of a page have room for all of it where nothing is selected, else for what there is.
/// What was found in a page.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    /// How many pairs were looked at, from the first on, and the key of the last of them.
    looked_at: usize,
    last: Option<Arc<str>>,
    /// How many of them could be read.
    evaluated: u64,
}

impl<K: Kv> Reader<K> {
    async fn fetch(&self, request: RangeRequest) -> Result<RangePage> {
        let asked = request.at;
        let page = self.store.timed("list", self.store.kv.range(request.clone())).await;
        let page = page.map_err(|error| {
            let (prefix, token) = (self.prefix.as_str(), self.token.as_ref());
            convert::storage_error(error, Call::List { prefix, asked, token })
        })?;
        self.store.sizes.page(&request, &page);
        if page.pairs.is_empty() && page.more {
            // Going on would never end.
            let message = "no results were found, but the backend indicated there were more values remaining";
            return Err(StorageError::internal(format!("{message}: prefix={}", self.prefix)));
        }
        Ok(page)
    }

    /// Keeps in their order what the caller wants of some pairs, until `left` of it are found. Never looks at more than
    /// may be needed: what is cut off is not decrypted. What was looked at is let go.
    async fn select(&self, pairs: Vec<KvPair>, left: Option<u64>, found: &mut Found) -> Result<()> {
        let left = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        if self.predicate.is_empty() {
            found.entries.reserve(pairs.len().min(left));
        }
        let mut pairs = pairs.into_iter();
        while found.entries.len() < left {
            let size = CHUNK.min(left - found.entries.len());
            let chunk: Vec<KvPair> = pairs.by_ref().take(size).collect();
            let Some(last) = chunk.last() else { break };
            found.last = Some(Arc::clone(&last.key));
            self.examine(&chunk, found).await?;
            if found.looked_at % turn::VALUES < CHUNK {
                turn::end().await;
            }
        }
        Ok(())
    }

    /// Reads some pairs, side by side where a key service has to be asked.
    // deviates: storage-api/GAP-10: what only costs time of a processor is done in turn, by the reader's own task, while
    // the next page is on its way. More threads for one list would be taken from other requests.
    async fn examine(&self, chunk: &[KvPair], found: &mut Found) -> Result<()> {
        found.looked_at += chunk.len();
        let mut pairs = chunk
            .iter()
            .filter_map(|pair| Some((self.store.object_key(&pair.key)?, pair)));
        let store = &*self.store;
        while let Some((key, pair)) = pairs.next() {
            match store.unseal(pair) {
                Outcome::Ready(opened) => self.take(store.unsealed(key, pair, pair.revision, opened)?, found)?,
                Outcome::Pending(opened) => {
                    // Where one answer has to be waited for, so have those of its neighbours.
                    let first = async move { store.unsealed(key, pair, pair.revision, opened.await) };
                    let rest = pairs.by_ref().map(|(key, pair)| store.read(key, pair, pair.revision));
                    let (first, rest) = futures::join!(first, join_all(rest));
                    for stored in std::iter::once(first).chain(rest) {
                        self.take(stored?, found)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&self, stored: Stored, found: &mut Found) -> Result<()> {
        let entry = stored.entry;
        found.evaluated += u64::from(entry.unreadable_reason().is_none());
        found
            .entries
            .extend(self.store.select(entry, &self.predicate, self.unreadable)?);
        Ok(())
    }
}

/// A list that is being read.
struct Cursor<K> {
    reader: Reader<K>,
    /// The next page: where it begins, and at which revision.
    request: RangeRequest,
    /// How many more entries the caller wants.
    left: Option<u64>,
    page_size: u64,
    revision: Revision,
    /// How many keys the range had, less those that were looked at.
    behind: u64,
    /// How many pairs were looked at, and how many of them the caller got.
    looked_at: u64,
    selected: u64,
    /// Bytes of the pages so far.
    brought: u64,
    /// The page that comes next, where it was read ahead.
    ahead: Option<Result<RangePage>>,
    meter: ListMeter,
}

impl<K: Kv> Cursor<K> {
    fn request(&self) -> RangeRequest {
        let mut request = self.request.clone();
        request.limit = NonZeroU64::new(self.page_size);
        request
    }

    /// The next page of entries, and the rest of the list; the last page has none.
    async fn next(mut self) -> Result<(Page, Option<Self>)> {
        loop {
            let page = match self.ahead.take() {
                Some(page) => page?,
                None => self.reader.fetch(self.request()).await?,
            };
            let RangePage { pairs, more, .. } = page;
            self.meter.fetched += pairs.len() as u64;
            let (size, weight) = (pairs.len(), weight(&pairs));
            self.brought += weight * size as u64;
            if let Some(last) = pairs.last() {
                self.request.start = format!("{}\0", last.key);
            }
            let mut found = Found::default();
            let selected = if let Some(left) = self.foreseen(size as u64).filter(|_| more) {
                self.resize(weight, left);
                let ahead = self.reader.fetch(self.request());
                // Asked for first: it is on its way while what is here is looked at.
                let (ahead, selected) = futures::join!(ahead, self.reader.select(pairs, self.left, &mut found));
                self.ahead = Some(ahead);
                selected
            } else {
                self.reader.select(pairs, self.left, &mut found).await
            };
            self.meter.evaluated += found.evaluated;
            selected?;
            let Found {
                entries,
                looked_at,
                last,
                ..
            } = found;
            self.count(&entries, looked_at);
            let last = match last {
                Some(last) if more || looked_at < size => last,
                _ => return Ok(end(entries, ListEnd::default())),
            };
            if self.left == Some(0) {
                let next = self.end(&last);
                return Ok(end(entries, next));
            }
            if self.ahead.is_none() {
                self.resize(weight, self.left);
            }
            if !entries.is_empty() {
                return Ok((Page { entries, end: None }, Some(self)));
            }
        }
    }

    fn count(&mut self, entries: &[Entry], looked_at: usize) {
        let (selected, looked_at) = (entries.len() as u64, looked_at as u64);
        self.meter.returned += selected;
        self.looked_at += looked_at;
        self.selected += selected;
        self.behind = self.behind.saturating_sub(looked_at);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(selected);
        }
    }

    /// How a list ends that was cut off after `last` (`storage-api/CONT-19`).
    // deviates: storage-api/GAP-07: whether a token follows depends on keys that are left, as the contract has it
    // (`storage-api/LIST-30`), and no value is decoded only to find out whether one of them is selected
    // (`storage-api/LIST-39`). What is read again by the next request is little, because pages are sized by what was
    // selected of those before.
    fn end(&self, last: &str) -> ListEnd {
        let (store, prefix) = (&self.reader.store, &self.reader.prefix);
        let next = store
            .relative(last)
            .and_then(|key| ContinueToken::after(self.revision, prefix, key));
        ListEnd {
            next,
            remaining: self.reader.predicate.is_empty().then_some(self.behind),
        }
    }

    /// How many entries the caller wants behind a page of so many pairs, where that does not depend on what is found in
    /// it. The outer `None`: it does, or nothing more is wanted.
    fn foreseen(&self, size: u64) -> Option<Option<u64>> {
        match self.left {
            None => Some(None),
            Some(left) if self.reader.predicate.is_empty() && left > size => Some(Some(left - size)),
            Some(_) => None,
        }
    }

    /// Chooses the size of the next page, of which `left` entries are wanted, `weight` being what a pair of the last one
    /// weighed.
    fn resize(&mut self, weight: u64, left: Option<u64>) {
        let wanted = match left {
            None => LARGEST_PAGE,
            Some(left) => self.keys_for(left),
        };
        // What came so far may have been lighter than what comes; pages grow in steps, but shrink at once.
        let bytes = self.brought.clamp(PAGE_BYTES, LARGEST_PAGE_BYTES);
        self.request.limit_bytes = NonZeroU64::new(bytes);
        let by_weight = (bytes / weight).min(self.page_size.saturating_mul(4));
        self.page_size = wanted.min(by_weight).clamp(1, LARGEST_PAGE);
    }

    /// How many keys have to be looked at to find `left` more that are selected, going by those so far and with an
    /// eighth to spare. While nothing was found, pages double, as upstream's do.
    fn keys_for(&self, left: u64) -> u64 {
        match (self.reader.predicate.is_empty(), self.selected) {
            (true, _) => left,
            (false, 0) => self.page_size.saturating_mul(2),
            (false, selected) => {
                let keys = left.saturating_mul(self.looked_at).div_ceil(selected);
                keys.saturating_add(keys / 8)
            }
        }
    }
}

/// What a pair of a page weighs on average; never zero.
fn weight(pairs: &[KvPair]) -> u64 {
    let weigh = |pair: &KvPair| pair.value.len() + pair.key.len() + PAIR_BYTES;
    let bytes: usize = pairs.iter().map(weigh).sum();
    (bytes / pairs.len().max(1)).max(1) as u64
}

/// The last page of a list.
fn end<K>(entries: Vec<Entry>, end: ListEnd) -> (Page, Option<Cursor<K>>) {
    let end = Some(end);
    (Page { entries, end }, None)
}
