//! The factory over the embedded backends: what it opens, shares, encrypts and caches.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_api::{
    Collected, CreateOptions, Encoded, GetOptions, Index, LabelSelector, ListAt, ListOptions, ReadAt, ResourceInfo,
    ResourceScope, Scope, SelectionPredicate, Storage, StorageError, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::Kv as _;
use apiserver_storagebackend::{CacheRule, CachesConfig, Config, Factory, OpenError};
use futures::StreamExt as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;

fn kind(group: &str, resource: &str, kind: &str) -> ResourceInfo {
    ResourceInfo::new(group, "v1", resource, kind, ResourceScope::Namespaced)
}

async fn create(store: &Arc<dyn Storage>, name: &str) {
    let info = store.resource();
    let key = info.object_key(Some("ns"), name).unwrap();
    let object = json!({
        "apiVersion": info.gvk().api_version(),
        "kind": info.gvk().kind,
        "metadata": { "name": name, "namespace": "ns" },
        "data": { "word": "plaintext-in-the-object" },
    });
    store
        .create(&key, Encoded::of(&object).unwrap(), CreateOptions::default())
        .await
        .unwrap();
}

/// The bytes that lie at a key of a directory that nobody has open.
async fn stored(dir: &std::path::Path, key: &str) -> Vec<u8> {
    let kv = EmbeddedKv::open(EmbeddedConfig::directory(dir)).await.unwrap();
    let (pair, _) = kv.get(key, None).await.unwrap();
    kv.close().await;
    pair.unwrap().value.to_vec()
}

// covers: storagebackend/B-CRT-05, storagebackend/B-CRT-11, storagebackend/B-DST-01, storagebackend/B-DST-05
#[tokio::test(flavor = "multi_thread")]
async fn stores_are_shared_while_held_and_fail_once_the_factory_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let factory = Factory::open(Config::embedded(dir.path())).await.unwrap();
    let info = kind("", "configmaps", "ConfigMap");
    let store = factory.storage_for(&info);
    assert!(
        Arc::ptr_eq(&store, &factory.storage_for(&info)),
        "one store while it is held"
    );
    create(&store, "a").await;
    factory.close().await;
    factory.close().await;
    let key = info.object_key(Some("ns"), "a").unwrap();
    let most_recent = GetOptions { at: ReadAt::MostRecent };
    assert!(
        store.get(&key, most_recent).await.is_err(),
        "a closed store answers with an error"
    );
    drop((store, factory));
    let bytes = stored(dir.path(), "/registry/configmaps/ns/a").await;
    assert!(
        bytes.starts_with(b"{"),
        "stored under prefix, resource, namespace and name"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_encrypted_as_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("encryption.yaml");
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - aesgcm: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}\n  - identity: {}\n";
    std::fs::write(&config, text).unwrap();
    let data = dir.path().join("data");
    let open = || Config::embedded(&data).with_encryption_config(Some(config.clone()));
    let factory = Factory::open(open()).await.unwrap();
    let (secrets, maps) = (kind("", "secrets", "Secret"), kind("", "configmaps", "ConfigMap"));
    let store = factory.storage_for(&secrets);
    create(&store, "a").await;
    create(&factory.storage_for(&maps), "a").await;
    drop(store);
    factory.close().await;
    drop(factory);

    let bytes = stored(&data, "/registry/secrets/ns/a").await;
    assert!(bytes.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
    assert!(!bytes.windows(9).any(|part| part == b"plaintext"));
    let bytes = stored(&data, "/registry/configmaps/ns/a").await;
    assert!(bytes.windows(9).any(|part| part == b"plaintext"));

    // Without the keys the value is named, not served.
    let factory = Factory::open(Config::embedded(&data)).await.unwrap();
    let key = secrets.object_key(Some("ns"), "a").unwrap();
    let error = factory
        .storage_for(&secrets)
        .get(&key, GetOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StorageError::Unreadable { key, .. } if key.contains("secrets/ns/a")),
        "{error}"
    );
    factory.close().await;
}

// covers: storagebackend/B-DEC-07, storagebackend/B-DEC-09, storagebackend/B-GRO-04
/// On one thread, so that no cache gets its turn before it is looked at.
#[tokio::test]
async fn the_cache_is_on_or_off_per_resource() {
    let mut caches = CachesConfig::default();
    *caches.rule("configmaps") = CacheRule::off();
    let config = Config::memory().with_caches(caches);
    let factory = Factory::open(config.clone()).await.unwrap();
    // A cache is not ready until its first list has come; a direct store is ready at once.
    let ready = |factory: &Factory, resource| factory.storage_for(&kind("", resource, "Kind")).ready().is_ok();
    assert!(ready(&factory, "configmaps"));
    assert!(ready(&factory, "events"));
    assert!(!ready(&factory, "pods"));
    factory.close().await;
    let factory = Factory::open(config.with_watch_cache(false)).await.unwrap();
    assert!(ready(&factory, "configmaps") && ready(&factory, "pods"));
    factory.close().await;
}

// covers: storagebackend/B-FLG-10, storagebackend/B-NEW-05
#[tokio::test]
async fn faults_of_caches_are_told_with_all_others() {
    let mut caches = CachesConfig::default();
    caches.rule("pods").history_bytes = Some(0);
    let config = Config::memory().with_media_type("x".into()).with_caches(caches);
    match Factory::open(config).await {
        Err(OpenError::Config(faults)) => {
            let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(fields, ["storage-media-type", "watch-cache-history[pods]"]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_stored_in_the_configured_form_and_read_in_any() {
    let dir = tempfile::tempdir().unwrap();
    let info = kind("example.com", "widgets", "Widget");
    for (name, media_type, start) in [
        ("j", "application/json", &b"{"[..]),
        ("c", "application/cbor", &[0xd9, 0xd9, 0xf7]),
    ] {
        let config = Config::embedded(dir.path()).with_media_type(media_type.into());
        let factory = Factory::open(config).await.unwrap();
        create(&factory.storage_for(&info), name).await;
        factory.close().await;
        drop(factory);
        let bytes = stored(dir.path(), &format!("/registry/example.com/widgets/ns/{name}")).await;
        assert!(bytes.starts_with(start), "{name}");
    }
    let factory = Factory::open(Config::embedded(dir.path())).await.unwrap();
    let store = factory.storage_for(&info);
    for name in ["j", "c"] {
        let key = info.object_key(Some("ns"), name).unwrap();
        let entry = store.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(
            entry.decode::<serde_json::Value>().unwrap()["data"]["word"],
            "plaintext-in-the-object"
        );
    }
    drop(store);
    factory.close().await;
}

// covers: storagebackend/B-TYP-02, storagebackend/B-TYP-03
#[tokio::test]
async fn a_wrong_configuration_opens_nothing_and_names_every_fault() {
    let config = Config::default()
        .with_backend(Some("etcd2".into()))
        .with_media_type("text/plain".into())
        .with_encryption_config(Some("/nonexistent/encryption.yaml".into()));
    match Factory::open(config).await {
        Err(OpenError::Config(faults)) => {
            let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(
                fields,
                ["storage-backend", "storage-media-type", "encryption-provider-config"]
            );
        }
        other => panic!("{other:?}"),
    }
}

/// The value of a line that `/metrics` would have.
fn value(handle: &PrometheusHandle, line: &str) -> Option<f64> {
    let text = handle.render();
    let value = text.lines().find_map(|found| found.strip_prefix(line))?;
    value.trim().parse().ok()
}

/// Moves the clock on until a line has a value that is wanted; how far that was.
async fn until(clock: &ManualClock, handle: &PrometheusHandle, line: &str, wanted: impl Fn(f64) -> bool) -> Duration {
    let mut moved = Duration::ZERO;
    while !value(handle, line).is_some_and(&wanted) {
        // While something is counted nobody sleeps, and the clock stands.
        if let Some(next) = clock.until_next() {
            clock.advance(next);
            moved += next;
        }
        assert!(
            moved < Duration::from_secs(3600),
            "{line} is not there:\n{}",
            handle.render()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    moved
}

/// Runs something on this thread, whose metrics the handle shows.
fn recorded<F: Future<Output = ()>>(run: impl FnOnce(PrometheusHandle) -> F) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(run(handle));
    });
}

fn standing() -> (ManualClock, Config) {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let config = Config::memory()
        .with_clock(Arc::new(clock.clone()))
        .with_watch_cache(false);
    (clock, config)
}

// covers: storagebackend/B-FLG-10, storagebackend/B-DEC-03
#[test]
fn each_cache_keeps_what_is_said_of_its_resource() {
    recorded(async |handle| {
        let (clock, config) = standing();
        let mut caches = CachesConfig::default();
        *caches.rule("configmaps") = CacheRule::of_size(3);
        caches.rule("configmaps").history_time = Some(Duration::from_secs(1));
        caches.rule("secrets").indexes = vec![Index::Label("app".into())];
        let factory = Factory::open(config.with_watch_cache(true).with_caches(caches));
        let factory = factory.await.unwrap();
        let maps = factory.storage_for(&kind("", "configmaps", "ConfigMap"));
        let secrets = factory.storage_for(&kind("", "secrets", "Secret"));
        let kept = |resource: &str| format!(r#"watch_cache_capacity{{group="",resource="{resource}"}}"#);
        let list = async |store: &Arc<dyn Storage>| {
            let everything = Scope::all(store.resource().prefix());
            let predicate = SelectionPredicate::new(LabelSelector::parse("app=a").unwrap(), Default::default());
            let options = ListOptions {
                at: ListAt::MostRecent,
                predicate,
                ..ListOptions::default()
            };
            store.list(&everything, options).await.unwrap().collect().await.unwrap();
        };
        for store in [&maps, &secrets] {
            while store.ready().is_err() {
                tokio::task::yield_now().await;
            }
            for at in 0..10 {
                create(store, &format!("o{at}")).await;
            }
            list(store).await;
        }
        // Both have aged the same; only one was told to keep less.
        until(&clock, &handle, &kept("configmaps"), |records| records == 3.0).await;
        until(&clock, &handle, &kept("secrets"), |records| records == 10.0).await;
        assert_eq!(value(&handle, &kept("configmaps")), Some(3.0));

        let along = |resource: &str, index: &str| {
            let labels = format!(r#"group="",resource="{resource}",storage="watchcache",index="{index}""#);
            value(&handle, &format!("apiserver_storage_list_total{{{labels}}}"))
        };
        assert!(along("secrets", "l:app").is_some_and(|lists| lists >= 1.0));
        assert_eq!(along("configmaps", "l:app"), None, "an index that nobody asked for");
        factory.close().await;
    });
}

// covers: storagebackend/B-DST-03, storagebackend/B-DST-05
#[tokio::test(flavor = "multi_thread")]
async fn watches_end_where_they_are_and_the_rest_goes_on_until_the_end() {
    let factory = Factory::open(Config::memory()).await.unwrap();
    let maps = factory.storage_for(&kind("", "configmaps", "ConfigMap"));
    let events = factory.storage_for(&kind("", "events", "Event"));
    let watch = async |store: &Arc<dyn Storage>, namespace: &str| {
        let scope = store.resource().list_scope(Some(namespace)).unwrap();
        let mut options = WatchOptions::from_start(WatchStart::InitialState(ReadAt::MostRecent));
        options.progress = true;
        let mut watch = store.watch(&scope, options).await.unwrap();
        let initial = async { while !matches!(watch.next().await, Some(Ok(WatchItem::InitialEnd(_)))) {} };
        tokio::time::timeout(Duration::from_secs(30), initial).await.unwrap();
        watch
    };
    let (mut cached, mut direct) = (watch(&maps, "elsewhere").await, watch(&events, "ns").await);
    create(&maps, "a").await;
    let revision = maps.current_revision().await.unwrap();
    // The cache has seen it, the watch has nothing to tell.
    let key = maps.resource().object_key(Some("ns"), "a").unwrap();
    let at = ReadAt::NotOlderThan(revision);
    maps.get(&key, GetOptions { at }).await.unwrap();
    let read = async {
        let mut items = Vec::new();
        while let Some(item) = cached.next().await {
            items.push(item.unwrap());
        }
        // What is not dropped is waited for.
        drop(cached);
        items
    };
    let (items, ()) = tokio::join!(read, factory.end_watches(Duration::from_secs(30)));
    assert!(
        matches!(items[..], [WatchItem::Progress(at)] if at == revision),
        "{items:?}"
    );
    // Everything else still works, and so does the watch that no cache serves.
    create(&maps, "b").await;
    create(&events, "e").await;
    assert!(matches!(direct.next().await, Some(Ok(WatchItem::Batch(_)))));
    let key = maps.resource().object_key(Some("ns"), "b").unwrap();
    maps.get(&key, GetOptions::default()).await.unwrap();
    // A client that does not read holds nothing up for longer than it may.
    factory.shut_down(Duration::from_millis(10)).await;
    while let Some(item) = direct.next().await {
        assert!(item.is_ok() || matches!(item, Err(StorageError::Closed)), "{item:?}");
    }
    assert!(maps.get(&key, GetOptions { at: ReadAt::MostRecent }).await.is_err());
    assert!(maps.ready().is_err());
}

/// A store in memory that was made so long after the first one, with three objects in it, and its first page of them.
async fn first_page(after: Duration) -> (Arc<dyn Storage>, ListOptions) {
    let (clock, config) = standing();
    clock.advance(after);
    let factory = Factory::open(config).await.unwrap();
    let store = factory.storage_for(&kind("", "configmaps", "ConfigMap"));
    for name in ["a", "b", "c"] {
        create(&store, name).await;
    }
    let mut options = ListOptions {
        limit: NonZeroU64::new(1),
        ..ListOptions::default()
    };
    let page = list(&store, options.clone()).await.unwrap();
    options.at = ListAt::Continue(page.next.unwrap());
    (store, options)
}

async fn list(store: &Arc<dyn Storage>, options: ListOptions) -> Result<Collected, StorageError> {
    let everything = Scope::all(store.resource().prefix());
    store.list(&everything, options).await?.collect().await
}

// covers: storage-api/CONT-10
#[tokio::test]
async fn pages_that_began_in_an_earlier_or_a_later_store_are_not_completed_from_this_one() {
    let (first, of_first) = first_page(Duration::ZERO).await;
    let (later, of_later) = first_page(Duration::from_secs(3600)).await;
    assert_eq!(list(&first, of_first.clone()).await.unwrap().entries.len(), 1);
    // What a new store never had counts as compacted; the client may go on at the latest state, and is told so.
    let error = list(&later, of_first).await.unwrap_err();
    let StorageError::Expired {
        token: Some(latest), ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(latest.revision(), None);
    let at = ListAt::Continue(latest);
    let rest = list(
        &later,
        ListOptions {
            at,
            ..ListOptions::default()
        },
    )
    .await
    .unwrap();
    assert_eq!(rest.entries.len(), 2, "the objects behind the first");
    // What a store has not reached is refused.
    let error = list(&first, of_later).await.unwrap_err();
    assert!(
        matches!(error, StorageError::TooLargeResourceVersion { .. }),
        "{error:?}"
    );
}

const MAPS: &str = r#"apiserver_storage_objects{resource="configmaps"}"#;
const SECRETS: &str = r#"apiserver_storage_objects{resource="secrets"}"#;
const BYTES: &str = r#"apiserver_resource_size_estimate_bytes{group="",resource="configmaps"}"#;

// covers: storagebackend/B-CFG-07, storagebackend/B-FLG-15, storagebackend/B-DST-04, storage-api/GATE-05
// covers: storage-etcd3/METR-10, storage-etcd3/METR-11
#[test]
fn objects_of_open_stores_are_counted_about_once_a_minute_until_the_factory_closes() {
    recorded(async |handle| {
        let (clock, config) = standing();
        let factory = Factory::open(config).await.unwrap();
        let maps = factory.storage_for(&kind("", "configmaps", "ConfigMap"));
        let secrets = factory.storage_for(&kind("", "secrets", "Secret"));
        create(&maps, "a").await;
        let first = until(&clock, &handle, MAPS, |count| count == 1.0).await;
        assert!(first < Duration::from_secs(2), "{first:?} until the first count");
        until(&clock, &handle, SECRETS, |count| count == 0.0).await;
        let stats = maps.stats().await.unwrap();
        assert!(stats.average_size > 0);
        assert_eq!(value(&handle, BYTES), Some((stats.count * stats.average_size) as f64));

        create(&maps, "b").await;
        let next = until(&clock, &handle, MAPS, |count| count == 2.0).await;
        // A count that was under way may have missed it.
        let about_a_minute = Duration::from_secs(30)..Duration::from_secs(180);
        assert!(about_a_minute.contains(&next), "{next:?} until the next count");

        // Counting holds no store open, and what is closed has no number.
        let closed = Arc::downgrade(&secrets);
        drop(secrets);
        assert!(closed.upgrade().is_none());
        until(&clock, &handle, SECRETS, f64::is_nan).await;
        assert_eq!(value(&handle, MAPS), Some(2.0));

        factory.close().await;
        assert!(value(&handle, MAPS).unwrap().is_nan(), "gone when closing returns");
        assert!(value(&handle, BYTES).unwrap().is_nan());
        factory.close().await;
    });
}

// covers: storagebackend/B-CFG-07, storagebackend/B-FLG-15
#[test]
fn counting_ends_with_the_last_factory_and_can_be_off() {
    recorded(async |handle| {
        let (clock, config) = standing();
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let off = Factory::open(config.clone().with_count_metric_poll_period(Duration::ZERO));
        let off = off.await.unwrap();
        let without = tasks();
        off.close().await;
        drop(off);
        let before = tasks();

        let factory = Factory::open(config).await.unwrap();
        assert_eq!(tasks() - before, without + 1, "one task for all resources");
        let other = factory.clone();
        let maps = factory.storage_for(&kind("", "configmaps", "ConfigMap"));
        until(&clock, &handle, MAPS, |count| count == 0.0).await;
        drop(factory);
        create(&maps, "a").await;
        until(&clock, &handle, MAPS, |count| count == 1.0).await;
        drop(other);
        // Without the clock: it ends because nobody has the factory, not because it looked again.
        let gone = async {
            while !value(&handle, MAPS).unwrap().is_nan() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    });
}
