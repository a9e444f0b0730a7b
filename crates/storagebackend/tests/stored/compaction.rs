//! The key by which the API servers of a cluster agree on compactions, as a real one wrote it.

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{Kv, KvError};
use bytes::Bytes;
use serde_json::Value;

use crate::data::{array, read, text};
use crate::ground::{self, Ground};
use crate::play::{Points, number};

/// One state of the key.
struct State {
    value: String,
    version: u64,
    created: u64,
    revision: u64,
}

/// The recorded states, one after the other.
fn states() -> Vec<State> {
    let file = read("storagebackend/tests/data/revisions.json");
    let mut sequences = array(&file["sequences"]).iter();
    let recorded = sequences.find(|sequence| sequence["name"] == "compaction-key");
    let state = |state: &Value| {
        assert_eq!(state["key"], KEY);
        State {
            value: text(&state["value"]),
            version: number(&state["version"]),
            created: number(&state["create_revision"]),
            revision: number(&state["mod_revision"]),
        }
    };
    array(&recorded.unwrap()["states"]).iter().map(state).collect()
}

const KEY: &str = "compact_rev_key";

/// A recorded value with our revision. The first cycle of a cluster compacts nothing, which is a zero.
fn value(points: &Points, recorded: &str) -> String {
    match recorded {
        "0" => recorded.to_owned(),
        revision => points.at(revision.parse().unwrap()).to_string(),
    }
}

/// Whether a revision can still be read.
async fn is_readable<K: Kv>(ground: &Ground<K>, at: Revision) -> bool {
    match ground.kv.get(KEY, Some(at)).await {
        Ok(_) => true,
        Err(KvError::Compacted { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Writes something else, so often.
async fn others<K: Kv>(ground: &Ground<K>, times: u64) {
    for number in 0..times {
        ground.put("/registry/others", number.to_string().into(), None).await;
    }
}

/// Plays what a real server did with the key through the calls that a backend has for that.
async fn check<K: Kv>(ground: Ground<K>) {
    let (states, mut points, mut last) = (states(), Points::default(), None);
    assert_eq!(states.len(), 7);
    for state in &states {
        others(&ground, last.map_or(1, |last| state.revision - last - 1)).await;
        let put = |value: String, version| ground.kv.coordination_put(KEY, Bytes::from(value), version);
        let own = value(&points, &state.value);
        assert!(!put("late".into(), state.version).await.unwrap(), "not so often yet");
        assert!(put(own.clone(), state.version - 1).await.unwrap(), "{}", state.version);
        assert!(
            !put("again".into(), state.version - 1).await.unwrap(),
            "somebody was first"
        );
        let stored = ground.kv.coordination_get(KEY).await.unwrap();
        assert_eq!(stored, Some((own.clone().into(), state.version)));
        // Where the key is no key among others the store has not moved on; it is the same point all the same.
        points.note(state.revision, ground.now().await);
        if let Ok(Some(compacted)) = Revision::parse(&own) {
            ground.kv.compact(compacted).await.unwrap();
            assert_eq!(ground.kv.compacted_revision(), Some(compacted));
            assert!(is_readable(&ground, compacted).await);
            assert!(!is_readable(&ground, compacted.previous().unwrap()).await);
        }
        last = Some(state.revision);
    }
}

// covers: storage-etcd3/COMPACT-02
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_compactions_in_memory() {
    check(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_compactions_on_disk() {
    check(ground::disk().await).await;
}

#[cfg(feature = "etcd3")]
mod on_etcd {
    use std::sync::Arc;
    use std::time::Duration;

    use apiserver_storage_api::time::Clock;
    use apiserver_storage_etcd3::EtcdKv;
    use apiserver_storage_testing::StandingClock;

    use super::*;
    use crate::etcd::{Etcd, connect_still};

    /// The recorded `--etcd-compaction-interval`.
    const INTERVAL: Duration = Duration::from_secs(2);

    /// An etcd with a compactor on it that is about to wait for its first interval.
    async fn compacted() -> Option<(Ground<EtcdKv>, Arc<StandingClock>)> {
        let (etcd, clock) = (Etcd::start().await?, Arc::new(StandingClock::new()));
        let kv = connect_still(&etcd, Arc::clone(&clock) as Arc<dyn Clock>, Some(INTERVAL)).await;
        clock.waits(INTERVAL, 1).await;
        Some((Ground::new(kv, etcd), clock))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_key_of_compactions_on_etcd() {
        if let Some(ground) = ground::etcd().await {
            check(ground).await;
        }
    }

    // covers: storage-etcd3/COMPACT-02, storage-etcd3/COMPACT-03, storage-etcd3/COMPACT-12, storage-etcd3/LAYOUT-05
    #[tokio::test(flavor = "multi_thread")]
    async fn a_compactor_writes_what_a_real_server_wrote() {
        let Some((ground, clock)) = compacted().await else {
            return;
        };
        let (mut points, mut last) = (Points::default(), None);
        for state in states() {
            others(&ground, last.map_or(1, |last| state.revision - last - 1)).await;
            clock.pass(INTERVAL).await;
            let (pair, own) = (ground.raw(KEY).await.unwrap(), value(&points, &state.value));
            points.note(state.revision, pair.revision);
            assert_eq!((pair.created, pair.lease), (points.at(state.created), None), "{own}");
            let stored = ground.kv.coordination_get(KEY).await.unwrap();
            assert_eq!(stored, Some((own.clone().into(), state.version)));
            assert_eq!(ground.now().await, pair.revision, "a cycle costs one revision");
            assert_eq!(ground.kv.compacted_revision(), Revision::parse(&own).unwrap());
            last = Some(state.revision);
        }
    }

    // covers: storage-etcd3/COMPACT-04, storage-etcd3/COMPACT-09
    #[tokio::test(flavor = "multi_thread")]
    async fn a_compactor_takes_turns_with_a_real_server() {
        let Some((ground, clock)) = compacted().await else {
            return;
        };
        let mut points = Points::default();
        others(&ground, 1).await;
        for state in states() {
            let own = value(&points, &state.value);
            // The odd states are the other server's; ours loses those cycles, and learns.
            if state.version % 2 == 1 {
                let put = ground.kv.coordination_put(KEY, own.clone().into(), state.version - 1);
                assert!(put.await.unwrap(), "{own}");
            }
            clock.pass(INTERVAL).await;
            let stored = ground.kv.coordination_get(KEY).await.unwrap();
            assert_eq!(stored, Some((own.clone().into(), state.version)));
            points.note(state.revision, ground.raw(KEY).await.unwrap().revision);
            assert_eq!(ground.kv.compacted_revision(), Revision::parse(&own).unwrap());
        }
    }
}
