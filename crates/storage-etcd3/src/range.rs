//! Reads: one key, or a range in parts.
//!
//! etcd bounds an answer by keys only. What a number of keys weighs is remembered per range, so that a bound in bytes
//! becomes one in keys. A range that is bounded by nothing is read as a stream where the server has them.

mod stream;

use std::collections::HashMap;
use std::num::NonZeroU64;

use parking_lot::Mutex;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvPair, KvResult, Progress, RangeEnd, RangePage, RangeParts, RangeRequest};

pub(crate) use self::stream::Streams;
use crate::answer::{End, Part};
use crate::convert;
use crate::error::fault;
use crate::proto;
use crate::rpc::Came;
use crate::shared::Shared;

/// Keys of a bounded page whose weight is not known yet: few enough that the largest values do no harm.
const FIRST_KEYS: u64 = 32;
/// Fewer keys are not asked for, whatever they weigh, unless the caller wants fewer.
const LEAST_KEYS: u64 = 10;
/// The character after the slash.
const AFTER_SLASH: char = '0';
/// Ranges whose weight is remembered.
const REMEMBERED: usize = 4096;

/// What a value of a range weighs, by the end of the range, which all pages of a list share.
#[derive(Debug, Default)]
pub(crate) struct Averages(Mutex<HashMap<String, u64>>);

impl Averages {
    /// How many keys to ask for.
    fn limit(&self, request: &RangeRequest) -> Option<u64> {
        let keys = request.limit.map(NonZeroU64::get);
        let Some(bytes) = request
            .limit_bytes
            .filter(|_| !request.keys_only && !request.count_only)
        else {
            return keys;
        };
        let average = self.average(request.end.as_deref().unwrap_or_default());
        let fitting = average.map_or(FIRST_KEYS, |average| (bytes.get() / average.max(1)).max(LEAST_KEYS));
        Some(keys.map_or(fitting, |keys| keys.min(fitting)))
    }

    /// What is known of a range, or else of the narrowest one around it that was read: of all pods, where the pods of one
    /// namespace are to be read for the first time.
    fn average(&self, end: &str) -> Option<u64> {
        let known = self.0.lock();
        let mut end = end.to_owned();
        loop {
            if let Some(average) = known.get(&end) {
                return Some(*average);
            }
            // A prefix that ends in a slash ends before the same with the next character.
            let inner = end.strip_suffix(AFTER_SLASH)?;
            let outer = inner.rfind('/')?;
            end.truncate(outer);
            end.push(AFTER_SLASH);
        }
    }

    /// So many keys had so many bytes, which is too much: how many to ask for instead. Always fewer.
    fn too_large(&self, request: &RangeRequest, keys: u64, found: usize) -> u64 {
        let found = u64::try_from(found).unwrap_or(u64::MAX);
        let average = found / keys.max(1);
        self.weigh(request, average);
        let bytes = request.limit_bytes.map_or(0, NonZeroU64::get);
        // There may have been fewer keys than were asked for, and heavier ones.
        (bytes / average.max(1)).min(keys / 2).max(1)
    }

    fn learn(&self, request: &RangeRequest, came: &Progress) {
        let Some(average) = came.bytes.checked_div(came.pairs) else {
            return;
        };
        if request.limit_bytes.is_some() && !request.keys_only {
            self.weigh(request, average);
        }
    }

    fn weigh(&self, request: &RangeRequest, average: u64) {
        let mut known = self.0.lock();
        let range = request.end.as_deref().unwrap_or_default();
        match known.get_mut(range) {
            // Heavy values count at once, light ones slowly: a page that is too large costs more than one more page.
            Some(weight) => *weight = average.max((*weight * 3 + average) / 4),
            None => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(range.to_owned(), average);
            }
        }
    }
}

impl Shared {
    pub(crate) async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        let request = proto::RangeRequest {
            key: convert::key(key),
            limit: 1,
            ..proto::RangeRequest::default()
        };
        let request = proto::RangeRequest {
            revision: self.pinned(at).await?,
            ..request
        };
        let mark = self.cluster.mark();
        match self.cluster.range(&request).await {
            Ok(answer) => {
                let revision = self.cluster.observe(answer.header, Some(mark))?;
                let stored = answer.kvs.into_iter().next();
                Ok((stored.map(convert::pair).transpose()?, revision))
            }
            Err(error) => Err(self.range_error(error, at, mark.generation).await),
        }
    }

    // deviates: storage-etcd3/STREAM-01: streams carry ranges that are bounded by nothing. Lists ask for parts that are
    // bounded by bytes and read ahead by one, so a stream would have to be cut off and begun anew with each of them; they
    // are read in pages, as is the initial state of a watch (also EWATCH-08, EWATCH-09).
    // deviates: storage-etcd3/PAGE-20: there is no vector of all results that could grow: what came is looked at, and let
    // go, while the rest of the answer is on its way.
    // deviates: storage-etcd3/PAGE-21: what is let go at a time is a piece of an answer as it came over the wire, once no
    // value in it is looked at any more. Nothing of it stays because of an object that does, since objects are copies. Those
    // of at most 2 KiB lie together with their neighbours, in pieces of at most 32 KiB that stay for as long as one of them.
    pub(crate) async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        match self.streamed(&request).await? {
            Some(whole) => Ok(whole),
            None => self.page(request).await,
        }
    }

    /// A range, or as much of it as one answer may hold, whose pairs are taken while they come.
    pub(crate) async fn range_into(&self, request: RangeRequest, parts: &RangeParts) -> KvResult<RangeEnd> {
        match self.streamed(&request).await? {
            Some(whole) => Ok(parts.page(whole)),
            None => self.page_into(&request, parts).await,
        }
    }

    async fn page(&self, request: RangeRequest) -> KvResult<RangePage> {
        let parts = RangeParts::default();
        let RangeEnd { more, count } = self.page_into(&request, &parts).await?;
        let mut pairs = Vec::with_capacity(parts.waiting());
        parts.take(usize::MAX, &mut pairs);
        let revision = parts.revision().ok_or_else(headless)?;
        Ok(RangePage {
            pairs,
            more,
            count,
            revision,
        })
    }

    // deviates: storage-etcd3/PAGE-13: the state is named in each request and no other can come; the revision of the
    // answer is where the store is, which moves while a list is read.
    async fn page_into(&self, request: &RangeRequest, parts: &RangeParts) -> KvResult<RangeEnd> {
        if is_empty(request) {
            // etcd would take an empty end for a single key.
            parts.answered(self.now().await?);
            return Ok(RangeEnd { more: false, count: 0 });
        }
        let mut limit = self.averages.limit(request).unwrap_or_default();
        let at = self.pinned(request.at).await?;
        loop {
            let mark = self.cluster.mark();
            // One value is read whatever it weighs.
            let room = request.limit_bytes.filter(|_| limit > 1).map_or(usize::MAX, room);
            let ask = || rest(request, limit, at, &parts.progress());
            let take = |part: Part| {
                if let Some(header) = part.header {
                    parts.answered(self.cluster.observe(Some(header), Some(mark))?);
                }
                if !part.pairs.is_empty() {
                    parts.revision().ok_or_else(headless)?;
                    parts.push(part.pairs);
                }
                Ok(())
            };
            match self.cluster.range_into(ask, room, take).await {
                Ok((Came::All(end), before)) => {
                    self.averages.learn(request, &parts.progress());
                    return Ok(whole(end, before));
                }
                Ok((Came::TooLarge(found), _)) => limit = self.averages.too_large(request, limit, found),
                Err(error) => return Err(self.range_error(error, request.at, mark.generation).await),
            }
        }
    }

    /// A revision as requests say it; zero: the latest.
    async fn pinned(&self, at: Option<Revision>) -> KvResult<i64> {
        let Some(at) = at else { return Ok(0) };
        match convert::signed(at) {
            Some(at) => Ok(at),
            None => Err(self.future().await),
        }
    }

    /// What the error of a read at a revision says, as far as the answer does not say it itself.
    async fn range_error(&self, error: KvError, at: Option<Revision>, generation: u64) -> KvError {
        match error {
            KvError::Future { .. } => self.future().await,
            // What is asked for is gone, so everything below the revision after it is.
            KvError::Compacted { .. } => {
                let compacted = at.map(Revision::next);
                self.learned(KvError::Compacted { compacted }, generation)
            }
            other => other,
        }
    }

    /// The error of a read from the future, which has to say where the store is.
    async fn future(&self) -> KvError {
        match self.now().await {
            Ok(current) => KvError::Future { current },
            Err(error) => error,
        }
    }
}

/// What came of a range before an attempt at the rest of it.
struct Before {
    pairs: u64,
    /// All that was wanted came, but not how the range ends: only what is behind it is counted.
    counts: bool,
}

/// What is to be asked for of a range of which some has come already, before a connection broke.
fn rest(request: &RangeRequest, limit: u64, at: i64, came: &Progress) -> (proto::RangeRequest, Before) {
    let mut asked = proto::RangeRequest {
        count_only: request.count_only,
        revision: at,
        ..plain(request)
    };
    let counts = limit > 0 && came.pairs >= limit;
    if counts {
        asked.count_only = true;
    } else {
        // Without a limit it is zero, which is none.
        asked.limit = i64::try_from(limit.saturating_sub(came.pairs)).unwrap_or(i64::MAX);
    }
    if let Some(last) = &came.last {
        asked.key = convert::key(&format!("{last}\0"));
        // The same state, wherever the rest comes from.
        if let (0, Some(revision)) = (at, came.revision.and_then(convert::signed)) {
            asked.revision = revision;
        }
    }
    let pairs = came.pairs;
    (asked, Before { pairs, counts })
}

/// How a range ends, of which the end of an answer tells since an attempt at it.
fn whole(end: End, before: Before) -> RangeEnd {
    let count = u64::try_from(end.count).unwrap_or_default();
    RangeEnd {
        more: end.more || (before.counts && count > 0),
        count: count.saturating_add(before.pairs),
    }
}

fn headless() -> KvError {
    fault("an answer without header")
}

/// Bytes of the largest answer that is taken where so many are asked for. Values differ, so planning by their average
/// misses by a little; where it misses by more, because what comes is much heavier than what came before, the answer is
/// refused by its first bytes and fewer keys are asked for.
fn room(bytes: NonZeroU64) -> usize {
    usize::try_from(bytes.get().saturating_mul(2)).unwrap_or(usize::MAX)
}

/// Whether no key lies in a range.
fn is_empty(request: &RangeRequest) -> bool {
    request.end.as_ref().is_some_and(|end| *end <= request.start)
}

/// What pages and streams of a range have in common.
fn plain(request: &RangeRequest) -> proto::RangeRequest {
    proto::RangeRequest {
        key: convert::start_key(&request.start),
        range_end: convert::end_key(request.end.as_deref()),
        keys_only: request.keys_only,
        ..proto::RangeRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use apiserver_storage_api::Revision;
    use apiserver_storage_kv::{Progress, RangeRequest};

    use super::{Averages, End, FIRST_KEYS, rest, whole};

    fn page(pairs: u64, bytes: u64) -> Progress {
        Progress {
            pairs,
            bytes: pairs * bytes,
            ..Progress::default()
        }
    }

    #[test]
    fn a_bound_in_bytes_becomes_one_in_keys_once_their_weight_is_known() {
        let averages = Averages::default();
        let mut request = RangeRequest::prefix("/registry/pods/");
        assert_eq!(averages.limit(&request), None, "no bound, no limit");
        request.limit_bytes = NonZeroU64::new(1_000_000);
        assert_eq!(averages.limit(&request), Some(FIRST_KEYS));
        averages.learn(&request, &page(10, 10_000));
        assert_eq!(averages.limit(&request), Some(100));
        request.limit = NonZeroU64::new(7);
        assert_eq!(
            averages.limit(&request),
            Some(7),
            "the caller's limit is never exceeded"
        );
        request.limit = None;
        averages.learn(&request, &page(10, 100_000));
        assert_eq!(averages.limit(&request), Some(10), "heavier ones count at once");
        averages.learn(&request, &page(0, 0));
        assert_eq!(averages.limit(&request), Some(10), "an empty page says nothing");
        let other = RangeRequest {
            end: Some("/registry/x".into()),
            ..request.clone()
        };
        assert_eq!(averages.limit(&other), Some(FIRST_KEYS));
        let within = RangeRequest {
            limit_bytes: NonZeroU64::new(1_000_000),
            ..RangeRequest::prefix("/registry/pods/ns/")
        };
        assert_eq!(averages.limit(&within), Some(10), "as all pods do");
        averages.learn(&within, &page(10, 1000));
        assert_eq!(averages.limit(&within), Some(1000), "once it was read it has its own");
        assert_eq!(averages.too_large(&request, 10, 30_000_000), 1, "one of them at least");
        assert_eq!(averages.too_large(&request, 1000, 5_000_000), 200);
        assert_eq!(averages.too_large(&request, 1000, 1_100_000), 500, "always fewer");
        request.keys_only = true;
        assert_eq!(averages.limit(&request), None, "keys weigh nothing worth counting");
    }

    #[test]
    fn after_a_break_what_is_left_is_asked_for_at_the_same_state() {
        let mut request = RangeRequest::prefix("/registry/pods/");
        let fresh = rest(&request, 500, 0, &Progress::default());
        assert_eq!(
            (&*fresh.0.key, fresh.0.limit, fresh.0.revision),
            (&b"/registry/pods/"[..], 500, 0)
        );
        let came = Progress {
            revision: Revision::new(7),
            pairs: 200,
            bytes: 1,
            last: Some("/registry/pods/b".into()),
        };
        for (at, want) in [(0, 7), (5, 5)] {
            let (asked, before) = rest(&request, 500, at, &came);
            let seen = (&*asked.key, asked.limit, asked.revision, asked.count_only);
            assert_eq!(seen, (&b"/registry/pods/b\0"[..], 300, want, false));
            let end = whole(
                End {
                    more: true,
                    count: 1000,
                },
                before,
            );
            assert_eq!((end.more, end.count), (true, 1200));
        }
        let (asked, _) = rest(&request, 0, 0, &came);
        assert_eq!(
            (asked.limit, asked.count_only),
            (0, false),
            "no limit is none afterwards either"
        );
        for (left, more) in [(0, false), (3, true)] {
            let (asked, before) = rest(&request, 200, 0, &came);
            assert_eq!((asked.limit, asked.count_only), (0, true), "all came but how it ends");
            let end = whole(
                End {
                    more: false,
                    count: left,
                },
                before,
            );
            assert_eq!((end.more, end.count), (more, 200 + left.unsigned_abs()));
        }
        request.count_only = true;
        let (asked, before) = rest(&request, 0, 0, &Progress::default());
        assert!(asked.count_only);
        assert!(!whole(End { more: false, count: 9 }, before).more);
    }
}
