//! `list`: a range in pages, at one revision, decoded one by one and never more than needed.
//!
//! A page of the backend is bounded by keys and bytes, and its size follows what the values seen so far weigh. What comes
//! of it is looked at while the rest is on its way. Where a page has come before it was looked at, the next one is asked
//! for meanwhile. So at any moment a list holds three things, however long it is: what has come of a page and was not
//! looked at yet, what was found in it, and the page behind it. Each is about [`PAGE_BYTES`]; what the reader keeps comes
//! on top. A limited list with a selector sizes its pages by how much
//! of the last ones was selected, so that little is read beyond what it hands out, and reads nothing ahead.
//!
//! While nobody asks for the next page nothing is on its way: a backend may hold up others until an answer was taken.

mod coming;
mod looking;

use std::num::NonZeroU64;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;

use apiserver_storage_api::{
    ContinueToken, Entry, Key, KeyPrefix, List, ListAt, ListEnd, ListOptions, OnUnreadable, Page, Result, Revision,
    Scope, SelectionPredicate,
};

use self::looking::{Found, Looking};
use crate::convert::{self, Call};
use crate::kv::{Kv, RangeRequest, prefix_end};
use crate::metric::ListMeter;
use crate::parts::{Progress, RangeEnd};
use crate::store::Inner;

/// Keys of the first page when the reader wants everything and nothing is known of what values of the kind weigh.
const FIRST_PAGE: u64 = 100;
/// Keys of a page are never more than this (`storage-etcd3/PAGE-09`).
const LARGEST_PAGE: u64 = 10_000;
/// Bytes that a page is meant to bring.
///
/// etcd looks at the key of each object that lies behind a page to count them, once for every page: 0.26 us each, as much
/// as reading 100 bytes. Small pages would cost a long list many times what it is about.
const PAGE_BYTES: u64 = 16 * 1024 * 1024;
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
            reader: Arc::new(Reader {
                store: Arc::clone(self),
                prefix: prefix.clone(),
                token,
                predicate: options.predicate,
                unreadable: options.unreadable,
            }),
            request,
            left: options.limit.map(NonZeroU64::get),
            page_size,
            // Replaced by what the first page says.
            revision: Revision::MIN,
            looked_at: 0,
            selected: 0,
            ahead: None,
            meter: ListMeter::new(&self.meter),
        };
        let revision = cursor.begin(at).await?;
        let (first, rest) = cursor.next().await?;
        let rest = stream::unfold(rest, |cursor| async move {
            match cursor?.next().await {
                Ok((page, cursor)) => Some((Ok(page), cursor)),
                Err(error) => Some((Err(error), None)),
            }
        });
        let first = stream::iter([Ok(first)]);
        Ok(List::new(revision, first.chain(rest).boxed()))
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

/// A list that is being read.
struct Cursor<K> {
    reader: Arc<Reader<K>>,
    /// The next page: where it begins, and at which revision.
    request: RangeRequest,
    /// How many more entries the caller wants.
    left: Option<u64>,
    page_size: u64,
    revision: Revision,
    /// How many pairs were looked at, and how many of them the caller got.
    looked_at: u64,
    selected: u64,
    /// The page that comes next, where it was asked for before its time.
    ahead: Option<Looking<K>>,
    meter: ListMeter,
}

impl<K: Kv> Cursor<K> {
    /// Asks for the next page, of which `left` entries are wanted.
    fn ask(&self, left: Option<u64>) -> Looking<K> {
        let mut request = self.request.clone();
        request.limit = NonZeroU64::new(self.page_size);
        Looking::new(&self.reader, request, left)
    }

    /// Asks for the first page, and returns the revision that the list shows.
    async fn begin(&mut self, at: At) -> Result<Revision> {
        let mut first = self.ask(self.left);
        let current = first.coming.answered().await?;
        self.revision = at.decide(current)?;
        self.request.at = Some(self.revision);
        self.ahead = Some(first);
        Ok(self.revision)
    }

    /// The next page of entries, and the rest of the list; the last page has none.
    async fn next(mut self) -> Result<(Page, Option<Self>)> {
        loop {
            let mut page = self.ahead.take().unwrap_or_else(|| self.ask(self.left));
            let read = self.read(&mut page).await;
            let Looking { coming, found, .. } = page;
            let came = coming.progress();
            self.meter.fetched += came.pairs;
            self.meter.evaluated += found.evaluated;
            let RangeEnd { more, count } = read?;
            let Found {
                entries,
                looked_at,
                last,
                ..
            } = found;
            self.count(&entries, looked_at);
            let last = match last {
                Some(last) if more || looked_at < came.pairs => last,
                _ => return Ok(end(entries, ListEnd::default())),
            };
            if self.left == Some(0) {
                let next = self.end(&last, count.saturating_sub(looked_at));
                return Ok(end(entries, next));
            }
            if self.ahead.is_none() {
                self.behind(&came, self.left);
            }
            if !entries.is_empty() {
                return Ok((Page { entries, end: None }, Some(self)));
            }
        }
    }

    /// Looks at a page to its end, or until enough is found. What was asked for behind it has come when this returns.
    async fn read(&mut self, page: &mut Looking<K>) -> Result<RangeEnd> {
        while page.fetch().await? {
            self.read_ahead(page);
            page.look(self.ahead.as_mut()).await?;
        }
        let end = page.end().await?;
        if let Some(ahead) = &mut self.ahead {
            ahead.follow().await;
        }
        Ok(end)
    }

    /// Asks for the page behind one that has come while there is more of it to look at, if what is wanted of it does not
    /// depend on what is found.
    fn read_ahead(&mut self, page: &Looking<K>) {
        if self.ahead.is_none()
            && let Some(RangeEnd { more: true, .. }) = page.coming.end()
        {
            let came = page.coming.progress();
            if let Some(left) = self.foreseen(came.pairs) {
                self.behind(&came, left);
                self.ahead = Some(self.ask(left));
            }
        }
    }

    /// What is asked for next begins behind a page, and is as large as that says; `left` entries are wanted of it.
    fn behind(&mut self, page: &Progress, left: Option<u64>) {
        if let Some(last) = &page.last {
            self.request.start = format!("{last}\0");
        }
        self.resize(weight(page), left);
    }

    fn count(&mut self, entries: &[Entry], looked_at: u64) {
        let selected = entries.len() as u64;
        self.meter.returned += selected;
        self.looked_at += looked_at;
        self.selected += selected;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(selected);
        }
    }

    /// How a list ends that was cut off after `last`, with so many keys behind it (`storage-api/CONT-19`).
    // deviates: storage-api/GAP-07: whether a token follows depends on keys that are left, as the contract has it
    // (`storage-api/LIST-30`), and no value is decoded only to find out whether one of them is selected
    // (`storage-api/LIST-39`). What is read again by the next request is little, because pages are sized by what was
    // selected of those before.
    fn end(&self, last: &str, behind: u64) -> ListEnd {
        let (store, prefix) = (&self.reader.store, &self.reader.prefix);
        let next = store
            .relative(last)
            .and_then(|key| ContinueToken::after(self.revision, prefix, key));
        ListEnd {
            next,
            remaining: self.reader.predicate.is_empty().then_some(behind),
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
        let by_weight = (PAGE_BYTES / weight).min(self.page_size.saturating_mul(4));
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
fn weight(page: &Progress) -> u64 {
    let key = page.last.as_ref().map_or(0, |last| last.len());
    let value = page.bytes.checked_div(page.pairs).unwrap_or_default();
    value + (key + PAIR_BYTES) as u64
}

/// The last page of a list.
fn end<K>(entries: Vec<Entry>, end: ListEnd) -> (Page, Option<Cursor<K>>) {
    let end = Some(end);
    (Page { entries, end }, None)
}
