//! Callers of one process who meet on one key.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_api::{DeleteOptions, Entry, NoCheck, Storage, UpdateOptions};
use apiserver_storage_kv::KvStore;
use apiserver_storage_testing::fixture::*;
use futures::future::join_all;
use serde_json::Value;

use common::Spy;
use common::config;

fn store(kv: &Arc<Spy>) -> KvStore<Spy> {
    KvStore::new(Arc::clone(kv), pods(), config())
}

fn count_up(object: &mut Value) {
    let count = object["spec"]["count"].as_u64().unwrap_or(0);
    object["spec"]["count"] = (count + 1).into();
}

fn count_of(entry: &Entry) -> u64 {
    entry.decode::<Value>().expect("readable")["spec"]["count"]
        .as_u64()
        .expect("a count")
}

// covers: storage-etcd3/TXN-10, storage-etcd3/OPEN-14, storage-api/GAP-05
#[tokio::test]
async fn updates_of_one_key_cost_a_transaction_each_and_not_one_for_each_other() {
    const WRITERS: u64 = 64;
    let kv = Spy::yielding();
    let store = store(&kv);
    let created = create_pod(&store, "ns", "a").await;
    kv.take_writes();
    // All of them read the same state first, so that all but one lose the first race.
    join_all((0..WRITERS).map(|_| change(&store, created.key(), count_up))).await;
    let writes = kv.take_writes().len() as u64;
    assert!(writes <= 2 * WRITERS, "{writes} transactions for {WRITERS} updates");
    let last = get(&store, created.key()).await;
    assert_eq!(
        (count_of(&last), last.revision().get()),
        (WRITERS, created.revision().get() + WRITERS)
    );
}

// covers: storage-etcd3/TXN-10, storage-etcd3/OPEN-14
#[tokio::test]
async fn who_comes_to_a_busy_key_joins_the_queue_and_starts_from_what_the_turn_before_wrote() {
    const WRITERS: u64 = 16;
    const ROUNDS: u64 = 20;
    let kv = Spy::yielding();
    let store = store(&kv);
    let created = create_pod(&store, "ns", "a").await;
    kv.take_writes();
    kv.kv.take_calls();
    join_all((0..WRITERS).map(|_| async {
        for _ in 0..ROUNDS {
            change(&store, created.key(), count_up).await;
        }
    }))
    .await;
    let (writes, reads) = (kv.take_writes().len() as u64, kv.kv.take_calls().gets);
    let updates = WRITERS * ROUNDS;
    assert!(
        writes <= updates + 2 * WRITERS,
        "{writes} transactions for {updates} updates"
    );
    assert!(reads <= 2 * WRITERS, "{reads} reads for {updates} updates");
    assert_eq!(count_of(&get(&store, created.key()).await), updates);
    // Afterwards nobody is in a queue, and an update costs what it always does.
    kv.take_writes();
    change(&store, created.key(), count_up).await;
    assert_eq!((kv.take_writes().len(), kv.kv.take_calls().gets), (1, 2));
}

#[tokio::test]
async fn deletes_wait_for_their_turn_as_updates_do() {
    let kv = Spy::yielding();
    let store = store(&kv);
    let created = create_pod(&store, "ns", "a").await;
    kv.take_writes();
    let updates = join_all((0..32).map(|_| change(&store, created.key(), count_up)));
    let delete = async {
        // Behind all of them in the queue.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        store
            .delete(created.key(), DeleteOptions::default(), &mut NoCheck)
            .await
    };
    let (_, deleted) = tokio::join!(updates, delete);
    assert_eq!(count_of(&deleted.expect("deleted")), 32);
    let writes = kv.take_writes().len();
    assert!(writes <= 2 * 33, "{writes} transactions");
}

#[tokio::test]
async fn a_callback_may_update_its_own_key_also_in_its_turn() {
    let kv = Spy::yielding();
    let store = store(&kv);
    let created = create_pod(&store, "ns", "a").await;
    let own = AtomicU32::new(0);
    // What it does itself in its first attempt makes it lose the race; the second one is in its turn.
    let mut update = |current: Option<Entry>| {
        let (store, own) = (&store, &own);
        async move {
            let run = own.fetch_add(1, Ordering::Relaxed);
            if run <= 1 {
                change(store, &key("ns", "a"), label("own", &run.to_string())).await;
            }
            edited(current.as_ref(), count_up)
        }
    };
    let nested = store.guaranteed_update(created.key(), UpdateOptions::default(), &mut update);
    let others = join_all((0..4).map(|_| change(&store, created.key(), count_up)));
    // The test is that this ends, long before any update gives up.
    let (_, nested) = tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(others, nested) })
        .await
        .expect("nobody waits for ever");
    nested.expect("updated");
    let last = get(&store, created.key()).await;
    assert_eq!((count_of(&last), label_of(&last, "own")), (5, Some("1")));
}

#[tokio::test]
async fn who_is_given_up_in_the_queue_is_in_nobodys_way() {
    let kv = Spy::yielding();
    // On a clock that stands, nobody's patience ever ends.
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let store = KvStore::new(Arc::clone(&kv), pods(), config().with_clock(clock));
    let created = create_pod(&store, "ns", "a").await;
    for _ in 0..20 {
        let abandoned = join_all((0..16).map(|_| change(&store, created.key(), count_up)));
        // Ends while most of them wait.
        tokio::select! {
            biased;
            _ = abandoned => {}
            () = async { for _ in 0..8 { tokio::task::yield_now().await } } => {}
        }
    }
    let before = count_of(&get(&store, created.key()).await);
    kv.take_writes();
    tokio::time::timeout(Duration::from_secs(10), change(&store, created.key(), count_up))
        .await
        .expect("it waits for nobody");
    assert_eq!(kv.take_writes().len(), 1, "there is no queue any more");
    assert_eq!(count_of(&get(&store, created.key()).await), before + 1);
}
