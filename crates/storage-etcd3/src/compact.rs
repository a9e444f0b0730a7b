//! The compactor: forgets history in step with all other API servers of the cluster.
//!
//! There is no leader. One key counts the cycles; whoever moves the count wins the cycle and compacts at the revision
//! that was current one interval ago, the others learn from the key (`storage-etcd3/COMPACT-02` to `COMPACT-05`). This
//! is what Kubernetes' own API servers do, so theirs and these share the work. History stays readable for at least one
//! interval, and for about two at most. Of several intervals on one cluster the shortest counts.
//!
//! Where a budget is configured, a burst of writes is not kept for that long: the same key is moved, and what exceeds
//! the budget goes at once. What others compact is learned from the key, and what is compacted without it (by etcd
//! itself, or by hand) by trying to read it. The key is anybody's to write: what it says is believed as far as it can be
//! true. All of it is about one store, and forgotten when that is another one, or went back.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvResult, KvWatchItem, WatchRequest};

use crate::cluster::positive;
use crate::config::EtcdConfig;
use crate::convert;
use crate::proto::{Compare, Operation, PutRequest, RangeRequest, TxnRequest};
use crate::shared::Shared;
use crate::watch;

/// The key of all API servers on a cluster, at the root, below no prefix.
pub(crate) const KEY: &str = "compact_rev_key";

/// Where a compactor is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// How often the key was written.
    time: i64,
    /// Where the store was a cycle ago. Absent: not known yet.
    revision: Option<Revision>,
    /// Of which store that is.
    generation: u64,
}

/// When to compact.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Pause between cycles.
    pub(crate) interval: Option<Duration>,
    /// Revisions that are kept when there are more.
    pub(crate) budget: Option<NonZeroU64>,
}

impl Plan {
    /// What is configured; `None` if that is never.
    pub(crate) fn of(config: &EtcdConfig) -> Option<Self> {
        let interval = config.compaction_interval.filter(|interval| !interval.is_zero());
        let budget = config.compaction_budget;
        (interval.is_some() || budget.is_some()).then_some(Self { interval, budget })
    }
}

// deviates: storage-etcd3/COMPACT-01: the loop belongs to the one value that a process has for a cluster, so that there
// is none to be found by endpoint, counted or replaced. Two values for one cluster share the cycles as processes do.
/// Compacts until the cluster is closed.
pub(crate) async fn run(shared: Arc<Shared>, plan: Plan) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    let mut state = State::default();
    loop {
        let closed = closed.wait_for(|closed| *closed).map(drop);
        let interval = async {
            match plan.interval {
                Some(interval) => cluster.clock().sleep(interval).await,
                None => future::pending().await,
            }
        };
        let target = tokio::select! {
            biased;
            () = closed => return,
            () = interval => state.revision,
            target = over_budget(&shared, plan.budget) => Some(target),
        };
        match cycle(&shared, state, target).await {
            Ok(next) => state = next,
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "etcd compaction cycle failed"),
        }
    }
}

/// How often the budget is looked at. What is written in between comes on top of it.
const BUDGET_LOOK: Duration = Duration::from_secs(5);

/// Waits until more history is kept than the budget allows; where to compact then. Looks only at what is known anyway.
async fn over_budget(shared: &Shared, budget: Option<NonZeroU64>) -> Revision {
    let Some(budget) = budget.map(NonZeroU64::get) else {
        return future::pending().await;
    };
    loop {
        shared.cluster.clock().sleep(BUDGET_LOOK).await;
        let (highest, kept) = shared.cluster.kept();
        // A tenth more, so that steady writing does not compact each time.
        if kept > budget.saturating_add(budget / 10)
            && let Some(target) = Revision::new(highest - budget)
        {
            return target;
        }
    }
}

/// Tries to win a cycle, and compacts at the target if it did.
async fn cycle(shared: &Shared, state: State, target: Option<Revision>) -> KvResult<State> {
    let generation = shared.cluster.mark().generation;
    let (state, target) = if state.generation == generation {
        (state, target)
    } else {
        // Where another store was a cycle ago is no place in this one: time begins again.
        (State::default(), None)
    };
    let written = target.map_or(0, Revision::get);
    let key = || Bytes::from_static(KEY.as_bytes());
    let put = Operation::Put(PutRequest {
        key: key(),
        value: written.to_string().into(),
        ..PutRequest::default()
    });
    let get = Operation::Range(RangeRequest {
        key: key(),
        ..RangeRequest::default()
    });
    let txn = TxnRequest::new(Compare::version(key(), state.time), put, Some(get));
    let (answer, now) = shared.transaction(&txn, || {}).await?;
    if !answer.succeeded {
        // deviates: storage-etcd3/COMPACT-14: a key that somebody deleted is the beginning of time, not a crash.
        let Some(stored) = convert::else_branch(answer)? else {
            let time = 0;
            return Ok(State {
                time,
                revision: Some(now),
                generation,
            });
        };
        learn(shared, &stored.value, positive(stored.mod_revision)?, generation);
        return Ok(State {
            time: stored.version,
            revision: Some(now),
            generation,
        });
    }
    if let Some(revision) = target {
        match shared.compact(revision).await {
            Ok(()) => tracing::debug!(%revision, "etcd compacted"),
            // Somebody went further; the next cycle has another revision.
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(%revision, error, "etcd not compacted");
            }
        }
    }
    Ok(State {
        time: state.time + 1,
        revision: Some(now),
        generation,
    })
}

/// How long after a failure the key is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Follows the key until the cluster is closed: what others compact is known here, too.
pub(crate) async fn observe(shared: Arc<Shared>) {
    loop {
        match follow(&shared).await {
            Ok(()) | Err(KvError::Closed) => return,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "etcd compaction key cannot be followed");
            }
        }
        shared.cluster.clock().sleep(LOOK_AGAIN).await;
    }
}

async fn follow(shared: &Arc<Shared>) -> KvResult<()> {
    let generation = shared.cluster.mark().generation;
    let (stored, revision) = shared.get(KEY, None).await?;
    if let Some(stored) = stored {
        learn(shared, &stored.value, stored.revision, generation);
    }
    let request = WatchRequest {
        key: KEY.to_owned(),
        prefix: false,
        from: Some(revision.next()),
        previous: false,
    };
    let mut watch = watch::open(Arc::clone(shared), request).await?;
    while let Some(item) = watch.items.next().await {
        let item = item?;
        if shared.cluster.mark().generation != generation {
            return Err(KvError::Reset);
        }
        if let KvWatchItem::Batch { events, .. } = item {
            let written = events.iter().filter_map(|event| event.current.as_ref());
            written.for_each(|pair| learn(shared, &pair.value, pair.revision, generation));
        }
    }
    Ok(())
}

/// How often it is tried whether history is still there that should be.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Notices until the cluster is closed what is compacted without a word in the key.
pub(crate) async fn notice(shared: Arc<Shared>) {
    let mut closed = shared.cluster.closed();
    let look = async {
        loop {
            if let Err(error) = find_end(&shared).await {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "etcd history cannot be looked at");
            }
            shared.cluster.clock().sleep(TRY_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        _ = closed.wait_for(|closed| *closed) => {}
        () = look => {}
    }
}

/// Finds the oldest revision that can be read. Costs one small read when that is the one that is known, else one for
/// each halving of what lies between it and now.
async fn find_end(shared: &Shared) -> KvResult<()> {
    let generation = shared.cluster.mark().generation;
    let known = shared.compacted().unwrap_or(Revision::MIN);
    if readable(shared, known).await? {
        return Ok(());
    }
    let (mut gone, mut there) = (known.get(), shared.now().await?.get());
    while gone + 1 < there {
        let middle = gone + (there - gone) / 2;
        match Revision::new(middle) {
            Some(at) if !readable(shared, at).await? => gone = middle,
            _ => there = middle,
        }
    }
    if let Some(end) = Revision::new(there) {
        shared.cluster.note_compacted(end, generation);
        tracing::info!(revision = %end, "etcd was compacted by somebody who does not say so in the key");
    }
    Ok(())
}

async fn readable(shared: &Shared, at: Revision) -> KvResult<bool> {
    match shared.get(KEY, Some(at)).await {
        Ok(_) => Ok(true),
        Err(KvError::Compacted { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the revision out of the key as it was written at `written`. What is no number says nothing, and neither does one
/// that the store had not reached by then.
fn learn(shared: &Shared, value: &[u8], written: Revision, generation: u64) {
    let revision = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match revision.and_then(Revision::new) {
        Some(revision) if revision < written => shared.cluster.note_compacted(revision, generation),
        Some(revision) => {
            tracing::debug!(%revision, %written, "the etcd compaction key names a revision of the future");
        }
        None => {}
    }
}
