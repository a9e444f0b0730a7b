//! Reads of one key and of ranges, at any kept revision.

use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvPair, KvResult, RangePage, RangeRequest};

use crate::engine::{Engine, Visible};
use crate::error::Trouble;
use crate::reader::Wanted;
use crate::record::Version;

/// A version that a read found in the index, its value still to be fetched.
type Found = (Arc<str>, Version);

/// Values that one turn reads at most. They lie in one piece, which can be used again when the last of them is gone: the
/// smaller, the sooner.
const VALUES_PER_TURN: usize = 128;
/// Keys that are walked before other tasks get their turn.
const KEYS_PER_TURN: usize = 4096;
/// A read without a revision starts anew when compaction overtook it; so often at most.
const ATTEMPTS: usize = 16;

impl Engine {
    /// One key, and where the store is.
    pub(crate) async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        self.check()?;
        for _ in 0..ATTEMPTS {
            let visible = self.visible();
            let at_revision = visible.readable(at)?;
            let Some(found) = visible.index.live_at(key, at_revision) else {
                return Ok((None, visible.head));
            };
            if let Some(pairs) = self.pairs(vec![found], at_revision, at.is_some()).await? {
                return Ok((pairs.into_iter().next(), visible.head));
            }
        }
        Err(Trouble::Outrun.into())
    }

    /// A page of a range.
    pub(crate) async fn range(&self, request: &RangeRequest) -> KvResult<RangePage> {
        self.check()?;
        for _ in 0..ATTEMPTS {
            let visible = self.visible();
            let at = visible.readable(request.at)?;
            let Selection { found, more, count } = select(&visible, request, at).await;
            let revision = visible.head;
            drop(visible);
            if request.keys_only || request.count_only {
                let pairs = found
                    .iter()
                    .map(|(key, version)| version.pair(key, Bytes::new()))
                    .collect();
                return Ok(RangePage {
                    pairs,
                    more,
                    count,
                    revision,
                });
            }
            if let Some(pairs) = self.pairs(found, at, request.at.is_some()).await? {
                return Ok(RangePage {
                    pairs,
                    more,
                    count,
                    revision,
                });
            }
        }
        Err(Trouble::Outrun.into())
    }

    /// Fetches the values of what was found at `at`. `None` when compaction overtook a read that may start anew.
    async fn pairs(&self, found: Vec<Found>, at: Revision, exact: bool) -> KvResult<Option<Vec<KvPair>>> {
        let mut pairs = Vec::with_capacity(found.len());
        for part in found.chunks(VALUES_PER_TURN) {
            let values = self.values(part.to_vec()).await?;
            for ((key, version), value) in part.iter().zip(values) {
                let Some(value) = value else {
                    return self.explain_missing(key, version.revision, at, exact).map(|()| None);
                };
                pairs.push(version.pair(key, value));
            }
        }
        Ok(Some(pairs))
    }

    /// Why a value that the index knew at `at` is not there: compacted meanwhile, or lost.
    fn explain_missing(&self, key: &str, revision: Revision, at: Revision, exact: bool) -> KvResult<()> {
        self.check()?;
        let compacted = self.compacted();
        if compacted <= at {
            return Err(Trouble::damaged(key, revision, "value is missing"));
        }
        if exact {
            Err(KvError::Compacted {
                compacted: Some(compacted),
            })
        } else {
            Ok(())
        }
    }

    /// Values by revision, from memory where they are there.
    pub(crate) async fn values(&self, wanted: Vec<Wanted>) -> KvResult<Vec<Option<Bytes>>> {
        let mut values = self.recent_values(&wanted);
        let missing: Vec<usize> = (0..values.len())
            .filter(|at| values.get(*at).is_some_and(Option::is_none))
            .collect();
        if missing.is_empty() {
            return Ok(values);
        }
        if missing.len() == wanted.len() {
            return self.reader.values(wanted).await;
        }
        let asked = missing.iter().filter_map(|at| wanted.get(*at).cloned()).collect();
        for (at, value) in missing.into_iter().zip(self.reader.values(asked).await?) {
            if let Some(slot) = values.get_mut(at) {
                *slot = value;
            }
        }
        Ok(values)
    }

    fn recent_values(&self, wanted: &[Wanted]) -> Vec<Option<Bytes>> {
        let log = self.log.read();
        wanted
            .iter()
            .map(|(_, version)| log.get(version.revision).and_then(|record| record.value.clone()))
            .collect()
    }
}

impl Visible {
    /// The revision to read at.
    fn readable(&self, at: Option<Revision>) -> KvResult<Revision> {
        match at {
            None => Ok(self.head),
            Some(at) if at > self.head => Err(KvError::Future { current: self.head }),
            Some(at) if at < self.compacted => Err(KvError::Compacted {
                compacted: Some(self.compacted),
            }),
            Some(at) => Ok(at),
        }
    }
}

/// What a range holds, as far as its page goes.
#[derive(Default)]
struct Selection {
    found: Vec<Found>,
    more: bool,
    count: u64,
}

async fn select(visible: &Visible, request: &RangeRequest, at: Revision) -> Selection {
    let mut selection = Selection::default();
    let (mut start, end) = request.bounds();
    if request.end.as_deref().is_some_and(|end| end <= request.start.as_str()) {
        return selection;
    }
    let mut bytes = 0;
    let mut resume: Arc<str>;
    loop {
        let mut last = None;
        for (key, versions) in visible.index.range((start, end)).take(KEYS_PER_TURN) {
            last = Some(key);
            if let Some(version) = versions.live_at(at) {
                selection.add(request, key, version, &mut bytes);
            }
        }
        let Some(last) = last else { return selection };
        resume = Arc::clone(last);
        start = Bound::Excluded(&resume);
        tokio::task::yield_now().await;
    }
}

impl Selection {
    fn add(&mut self, request: &RangeRequest, key: &Arc<str>, version: Version, bytes: &mut u64) {
        self.count += 1;
        if request.count_only || self.more {
            return;
        }
        let taken = self.found.len() as u64;
        let over = |limit: Option<NonZeroU64>, used: u64| limit.is_some_and(|limit| used >= limit.get());
        if taken > 0 && (over(request.limit, taken) || over(request.limit_bytes, *bytes)) {
            self.more = true;
            return;
        }
        *bytes += if request.keys_only {
            key.len() as u64
        } else {
            u64::from(version.bytes)
        };
        self.found.push((Arc::clone(key), version));
    }
}
