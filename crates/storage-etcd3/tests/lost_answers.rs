//! Answers that get lost after etcd has handled the call, come late, or belong to a call that was handled twice; and
//! calls that never arrive. A write is then success, once, or said to be of unknown outcome, and never anything else.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::{SeededRng, random_below};
use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Encoded, Entry, ListOptions, NoCheck, Result, Storage, StorageError,
    UpdateOptions, WatchStart,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{Kv, KvStore, KvStoreConfig};
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::proxy::{Call, CallProxy, Fate};
use apiserver_storage_testing::race::{Faults, Load, Race};
use serde_json::{Value, json};

use common::{Etcd, config, connect, has_progress, soon};

/// How long a call waits for its answer here.
const TIMEOUT: Duration = Duration::from_millis(300);

/// What can happen to an answer. The last two are late: one in time, one not.
const LOSSES: [Fate; 5] = [
    Fate::Cut,
    Fate::Reset,
    Fate::Silence,
    Fate::Delay(Duration::from_millis(50)),
    Fate::Delay(Duration::from_millis(600)),
];

/// An etcd, a way to it on which nothing happens, and one with a proxy.
struct House {
    direct: Arc<dyn Storage>,
    store: Arc<dyn Storage>,
    kv: Arc<EtcdKv>,
    proxy: CallProxy,
    _etcd: Etcd,
}

fn store(kv: &Arc<EtcdKv>) -> Arc<dyn Storage> {
    let config = KvStoreConfig::new("/registry", Arc::new(Identity));
    Arc::new(KvStore::new(Arc::clone(kv), pods(), config))
}

impl House {
    async fn open() -> Option<Self> {
        let etcd = Etcd::start().await?;
        let direct = Arc::new(etcd.connect().await);
        let proxy = CallProxy::to(etcd.port()).await;
        let kv = Arc::new(connect(through(&proxy)).await);
        Some(Self {
            direct: store(&direct),
            store: store(&kv),
            kv,
            proxy,
            _etcd: etcd,
        })
    }

    /// The next call of this method that mentions a text has this fate; all others pass.
    fn next(&self, method: &'static str, text: &'static str, fate: Fate) {
        let done = AtomicBool::new(false);
        self.proxy.decide(move |call| {
            let chosen = call.method() == method && call.mentions(text) && !done.swap(true, Ordering::SeqCst);
            if chosen { fate } else { Fate::Pass }
        });
    }

    /// Appends to the list of pod `a`, as a JSON patch would. Also, how often the function ran.
    async fn append(&self, item: &str) -> (Result<Entry>, u32) {
        append(&*self.store, item).await
    }

    async fn items(&self) -> Vec<String> {
        let entry = get(&*self.direct, &key("ns", "a")).await;
        let object: Value = entry.decode().unwrap();
        serde_json::from_value(object["spec"]["items"].clone()).unwrap()
    }
}

fn through(proxy: &CallProxy) -> apiserver_storage_etcd3::EtcdConfig {
    let mut config = config([proxy.url()]);
    config.request_timeout = TIMEOUT;
    config.watch_open_timeout = TIMEOUT;
    config.watch_probe_interval = Duration::from_millis(100);
    config
}

async fn append(store: &dyn Storage, item: &str) -> (Result<Entry>, u32) {
    let runs = AtomicU32::new(0);
    let mut update = |current: Option<Entry>| {
        runs.fetch_add(1, Ordering::SeqCst);
        let mut object: Value = current.unwrap().decode().unwrap();
        object["spec"]["items"].as_array_mut().unwrap().push(item.into());
        async move { Ok(Change::put(Encoded::of(&object)?)) }
    };
    let key = key("ns", "a");
    let updated = store.guaranteed_update(&key, UpdateOptions::default(), &mut update);
    (soon(updated).await, runs.load(Ordering::SeqCst))
}

async fn with_items(store: &dyn Storage) {
    let mut object = pod("ns", "a");
    object["spec"]["items"] = json!(["first"]);
    create(store, &key("ns", "a"), &object).await;
}

fn unknown(result: &Result<Entry>) -> bool {
    matches!(result, Err(StorageError::OutcomeUnknown { .. }))
}

// covers: storage-etcd3/EERR-12, storage-etcd3/RCLI-14, storage-api/ERR-17
#[tokio::test]
async fn an_append_whose_answer_got_lost_is_applied_once() {
    let Some(house) = House::open().await else { return };
    with_items(&*house.direct).await;
    let mut want = vec!["first".to_owned()];
    let fates = LOSSES.into_iter().chain([Fate::Twice, Fate::Drop, Fate::Pass]);
    for (number, fate) in fates.enumerate() {
        let item = format!("item-{number}");
        house.next("Txn", "/registry/pods/ns/a", fate);
        let (answer, runs) = house.append(&item).await;
        want.push(item);
        let entry = answer.unwrap_or_else(|error| panic!("{fate:?}: {error:?}"));
        assert_eq!(house.items().await, want, "{fate:?}");
        let stored = get(&*house.direct, &key("ns", "a")).await;
        assert_eq!(states(&[entry]), states(&[stored]), "{fate:?}");
        assert_eq!(runs, 1, "{fate:?}");
    }
    assert_eq!(house.proxy.faults(), 7, "each fate but the last was met once");
}

// covers: storage-etcd3/EERR-12, storage-api/ERR-17
#[tokio::test]
async fn an_append_that_somebody_else_has_overtaken_is_unknown_and_the_state_tells() {
    let Some(house) = House::open().await else { return };
    with_items(&*house.direct).await;
    let mut want = vec!["first".to_owned()];
    for (number, (fate, applied)) in [(Fate::Cut, true), (Fate::Reset, true), (Fate::Drop, false)]
        .into_iter()
        .enumerate()
    {
        let (ours, theirs) = (format!("ours-{number}"), format!("theirs-{number}"));
        // Between the loss and the look at what became of it somebody else appends.
        let (lost, looked) = (AtomicBool::new(false), Arc::new(tokio::sync::Notify::new()));
        let looks = Arc::clone(&looked);
        house.proxy.decide(move |call| match call.method() {
            "Txn" if !lost.swap(true, Ordering::SeqCst) => fate,
            "Range" if lost.load(Ordering::SeqCst) && call.mentions("/registry/pods/ns/a") => {
                looks.notify_one();
                Fate::Drop
            }
            _ => Fate::Pass,
        });
        let other = async {
            looked.notified().await;
            let (answer, _) = append(&*house.direct, &theirs).await;
            answer.unwrap();
            house.proxy.pass();
        };
        let ((answer, runs), ()) = tokio::join!(house.append(&ours), other);
        assert!(unknown(&answer), "{fate:?}: {answer:?}");
        assert_eq!(runs, 1, "{fate:?}: the function is not run again for it");
        want.extend(applied.then_some(ours));
        want.push(theirs);
        assert_eq!(house.items().await, want, "{fate:?}");
    }
}

// covers: storage-etcd3/EERR-12, storage-api/ERR-17
#[tokio::test]
async fn a_create_whose_answer_got_lost_is_recognised_and_one_that_never_arrived_is_not_repeated() {
    let Some(house) = House::open().await else { return };
    let fates = LOSSES.into_iter().chain([Fate::Twice, Fate::Drop]);
    for (number, fate) in fates.enumerate() {
        house.next("Txn", "/registry/pods/ns/", fate);
        let (key, object) = (key("ns", &format!("p{number}")), pod("ns", &format!("p{number}")));
        let created = soon(house.store.create(&key, encoded(&object), CreateOptions::default())).await;
        let stored = house.direct.get(&key, Default::default()).await;
        if fate == Fate::Drop {
            assert!(unknown(&created) && stored.is_err(), "{created:?}, stored: {stored:?}");
        } else {
            let created = created.unwrap_or_else(|error| panic!("{fate:?}: {error:?}"));
            assert_eq!(states(&[created]), states(&[stored.unwrap()]), "{fate:?}");
        }
    }
}

// covers: storage-etcd3/EERR-12, storage-api/ERR-17
#[tokio::test]
async fn a_delete_whose_answer_got_lost_is_unknown_and_one_that_never_arrived_is_repeated() {
    let Some(house) = House::open().await else { return };
    let fates = LOSSES.into_iter().chain([Fate::Twice, Fate::Drop]);
    for fate in fates {
        create_pod(&*house.direct, "ns", "a").await;
        house.next("Txn", "/registry/pods/ns/a", fate);
        let key = key("ns", "a");
        let deleted = soon(house.store.delete(&key, DeleteOptions::default(), &mut NoCheck)).await;
        // Somebody else may have deleted what is not there: that proves nothing.
        let heard = matches!(fate, Fate::Twice | Fate::Drop) || fate == Fate::Delay(Duration::from_millis(50));
        assert_eq!(deleted.is_ok(), heard, "{fate:?}: {deleted:?}");
        assert!(heard || unknown(&deleted), "{fate:?}: {deleted:?}");
        let stored = house.direct.get(&key, Default::default()).await;
        assert!(stored.is_err_and(|error| error.is_not_found()), "{fate:?}");
    }
}

// covers: storage-etcd3/EERR-12, storage-etcd3/RCLI-14
#[tokio::test]
async fn a_lease_whose_grant_got_lost_is_granted_again_and_the_object_hangs_on_it() {
    let Some(house) = House::open().await else { return };
    for (number, fate) in [Fate::Cut, Fate::Reset, Fate::Twice, Fate::Drop]
        .into_iter()
        .enumerate()
    {
        house.next("LeaseGrant", "", fate);
        let key = key("ns", &format!("p{number}"));
        // Lifetimes that no lease can be shared for.
        let ttl = Some(Duration::from_secs(1000 * (1 + number as u64)));
        let created = soon(
            house
                .store
                .create(&key, encoded(&pod("ns", "p")), CreateOptions { ttl }),
        )
        .await;
        created.unwrap_or_else(|error| panic!("{fate:?}: {error:?}"));
        assert_eq!(house.proxy.faults(), number as u64 + 1, "{fate:?}");
        let (pair, _) = house.kv.get(&format!("/registry{key}"), None).await.unwrap();
        assert!(pair.unwrap().lease.is_some(), "{fate:?}");
    }
}

// covers: storage-etcd3/EERR-12
#[tokio::test]
async fn reads_are_repeated_until_they_are_whole() {
    let Some(house) = House::open().await else { return };
    for number in 0..30 {
        create_pod(&*house.direct, "ns", &format!("p{number:02}")).await;
    }
    let whole = list(&*house.direct, &all(), ListOptions::default()).await;
    for fate in [
        Fate::Cut,
        Fate::Reset,
        Fate::Drop,
        Fate::Twice,
        Fate::Delay(Duration::from_millis(50)),
    ] {
        for limit in [None, limit(7)] {
            // Every second read of the objects fails. Others, for health, come when they like.
            let reads = AtomicU32::new(0);
            house.proxy.decide(move |call| match call.method() {
                "Range" | "RangeStream"
                    if call.mentions("/registry/pods/") && reads.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) =>
                {
                    fate
                }
                _ => Fate::Pass,
            });
            let mut options = ListOptions {
                limit,
                ..ListOptions::default()
            };
            let mut entries = Vec::new();
            loop {
                let listed = soon(list(&*house.store, &all(), options.clone())).await;
                assert_eq!(listed.revision, whole.revision, "{fate:?}");
                entries.extend(listed.entries);
                let Some(next) = listed.next else { break };
                options.at = apiserver_storage_api::ListAt::Continue(next);
            }
            assert_eq!(states(&entries), states(&whole.entries), "{fate:?} {limit:?}");
        }
    }
}

// covers: storage-etcd3/EWATCH-28, storage-api/WATCH-25
#[tokio::test]
async fn watches_that_are_cut_reset_silenced_or_late_show_every_write_once() {
    let Some(house) = House::open().await else { return };
    let trusted = has_progress(&house.kv).await;
    for fate in [
        Fate::Cut,
        Fate::Reset,
        Fate::Delay(Duration::from_millis(20)),
        Fate::Silence,
    ] {
        if fate == Fate::Silence && !trusted {
            // Only progress that can be believed tells a silent watch from an idle one soon.
            continue;
        }
        house.proxy.pass();
        let start = now(&*house.direct).await;
        let mut watch = Watching::all(&*house.store, WatchStart::After(start)).await;
        let faults = house.proxy.faults();
        // The first message says that the watch is there.
        house.proxy.decide(move |call: &Call| match call.number {
            number if number > 1 && number.is_multiple_of(4) => fate,
            _ => Fate::Pass,
        });
        let mut written = Vec::new();
        for number in 0..24 {
            let name = format!("{number}-{}", start.get());
            written.push(create_pod(&*house.direct, "ns", &name).await.revision());
            if number % 2 == 1 {
                // Messages with few events each.
                assert_eq!(
                    soon(watch.event()).await.revision,
                    written[written.len() / 2 - 1],
                    "{fate:?}"
                );
            }
        }
        for revision in &written[12..] {
            assert_eq!(soon(watch.event()).await.revision, *revision, "{fate:?}");
        }
        assert!(house.proxy.faults() > faults, "{fate:?} never happened");
    }
}

/// Something happens to one call in so many.
fn anything(seed: u64, every: u64) -> impl Fn(&Call) -> Fate {
    let rng = SeededRng::new(seed);
    move |call| {
        if random_below(&rng, every) > 0 || call.number == 1 {
            return Fate::Pass;
        }
        match random_below(&rng, 12) {
            0..3 => Fate::Cut,
            3..6 => Fate::Reset,
            6..8 => Fate::Delay(Duration::from_millis(20)),
            8 if call.number == 0 => Fate::Silence,
            8..10 => Fate::Twice,
            _ => Fate::Drop,
        }
    }
}

/// Many clients over two such ways. The seed chooses what they do and what happens to them, not when.
async fn race(test: &str, wrap: impl AsyncFn(Arc<dyn Storage>) -> Arc<dyn Storage>) {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    // Shown when the test fails.
    println!("again: SEED={seed} cargo test -p apiserver-storage-etcd3 --test lost_answers {test}");
    let Some(house) = House::open().await else { return };
    let other = CallProxy::to(house._etcd.port()).await;
    let there = store(&Arc::new(connect(through(&other)).await));
    let stores = [wrap(Arc::clone(&house.store)).await, wrap(there).await];
    let race = Race::start(Load::until_finished(seed, Faults::Network), &stores, &*house.direct).await;
    house.proxy.decide(anything(seed, 25));
    other.decide(anything(seed + 1, 25));
    while house.proxy.faults() + other.faults() < 120 {
        race.goes_on(2).await;
    }
    house.proxy.pass();
    other.pass();
    race.goes_on(5).await;
    let verdict = race.finish(&*house.direct).await;
    println!("{verdict:?}");
    assert!(verdict.acknowledged > 100 && verdict.unknown > 0, "{verdict:?}");
}

// covers: storage-api/GLOB-01, storage-api/GLOB-04, storage-api/GLOB-07
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_whose_calls_get_lost_all_the_time() {
    race("many_clients_whose", async |store| store).await;
}

// covers: storage-api/GLOB-01, storage-api/GLOB-04, storage-api/GLOB-07
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_caches_whose_calls_get_lost_all_the_time() {
    race("many_clients_of_caches", async |store| {
        let cache = Cacher::new(store, CacherConfig::default());
        cache.wait_ready().await.expect("the cache gets ready");
        Arc::new(cache) as Arc<dyn Storage>
    })
    .await;
}
