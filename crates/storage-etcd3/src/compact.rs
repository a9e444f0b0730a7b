//! The compactor: forgets history in step with all other API servers of the cluster.
//!
//! There is no leader. One key counts the cycles; whoever moves the count wins the cycle and compacts at the revision
//! that was current one interval ago, the others learn from the key (`storage-etcd3/COMPACT-02` to `COMPACT-05`). This
//! is what Kubernetes' own API servers do, so theirs and these share the work. History stays readable for at least one
//! interval, and for about two at most.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use futures::{FutureExt, StreamExt};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvResult, KvWatchItem, WatchRequest};

use crate::convert;
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
}

/// Compacts until the cluster is closed.
pub(crate) async fn run(shared: Arc<Shared>, interval: Duration) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    let mut state = State::default();
    loop {
        let closed = closed.wait_for(|closed| *closed).map(drop);
        tokio::select! {
            biased;
            () = closed => return,
            () = cluster.clock().sleep(interval) => {}
        }
        match cycle(&shared, state).await {
            Ok(next) => state = next,
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "etcd compaction cycle failed"),
        }
    }
}

/// Tries to win a cycle, and compacts if it did.
async fn cycle(shared: &Shared, state: State) -> KvResult<State> {
    let remembered = state.revision.map_or(0, Revision::get);
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, state.time)])
        .and_then([TxnOp::put(KEY, remembered.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let (answer, now) = shared.transaction(txn).await?;
    if !answer.succeeded {
        // deviates: storage-etcd3/COMPACT-14: a key that somebody deleted is the beginning of time, not a crash.
        let Some(stored) = convert::else_branch(answer)? else {
            let time = 0;
            return Ok(State {
                time,
                revision: Some(now),
            });
        };
        learn(shared, &stored.value);
        return Ok(State {
            time: stored.version,
            revision: Some(now),
        });
    }
    if let Some(revision) = state.revision {
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
    let (stored, revision) = shared.get(KEY, None).await?;
    if let Some(stored) = stored {
        learn(shared, &stored.value);
    }
    let request = WatchRequest {
        key: KEY.to_owned(),
        prefix: false,
        from: Some(revision.next()),
        previous: false,
    };
    let mut watch = watch::open(Arc::clone(shared), request).await?;
    while let Some(item) = watch.items.next().await {
        if let KvWatchItem::Batch { events, .. } = item? {
            let written = events.iter().filter_map(|event| event.current.as_ref());
            written.for_each(|pair| learn(shared, &pair.value));
        }
    }
    Ok(())
}

/// Takes the revision out of the key. What is no number says nothing.
fn learn(shared: &Shared, value: &[u8]) {
    let revision = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    if let Some(revision) = revision.and_then(Revision::new) {
        shared.note_compacted(revision);
    }
}
