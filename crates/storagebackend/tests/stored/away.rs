//! A factory on an etcd that answers no more ends all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver_storage_api::{
    GetOptions, ReadAt, ResourceInfo, ResourceScope, Storage, StorageError, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storagebackend::{Config, Factory};
use futures::StreamExt as _;

use crate::etcd::Etcd;
use crate::ground::{everything, soon};

// covers: storagebackend/B-DST-02, storagebackend/B-DST-05
#[tokio::test(flavor = "multi_thread")]
async fn nothing_hangs_when_etcd_is_away() {
    let Some(etcd) = Etcd::start().await else { return };
    let factory = Factory::open(Config::etcd3([etcd.url()])).await.unwrap();
    let info = |resource| ResourceInfo::new("", "v1", resource, "Kind", ResourceScope::Namespaced);
    let watch = async |store: &Arc<dyn Storage>| {
        let options = WatchOptions::from_start(WatchStart::InitialState(ReadAt::MostRecent));
        let mut watch = store.watch(&everything(store.resource()), options).await.unwrap();
        while !matches!(watch.next().await, Some(Ok(WatchItem::InitialEnd(_)))) {}
        watch
    };
    let (pods, events) = (factory.storage_for(&info("pods")), factory.storage_for(&info("events")));
    let (mut cached, mut direct) = soon("watches", async { (watch(&pods).await, watch(&events).await) }).await;
    etcd.freeze();

    let key = pods.resource().object_key(Some("ns"), "a").unwrap();
    let store = Arc::clone(&pods);
    let read = tokio::spawn(async move { store.get(&key, GetOptions { at: ReadAt::MostRecent }).await });
    // A kind whose cache never came to its first list.
    let unready = factory.storage_for(&info("secrets"));
    assert!(unready.ready().is_err());

    let started = Instant::now();
    let read_to_the_end = async {
        let end = cached.next().await;
        drop(cached);
        end
    };
    let (end, ()) = soon("the end", async {
        tokio::join!(read_to_the_end, factory.shut_down(Duration::from_secs(20)))
    })
    .await;
    assert!(end.is_none(), "{end:?}");
    // Below all the times that something may take.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let ended = soon("the watch below", async {
        while let Some(item) = direct.next().await {
            assert!(matches!(item, Ok(_) | Err(StorageError::Closed)), "{item:?}");
        }
    });
    ended.await;
    // A read that was under way holds nothing up, and does not last much longer; one that comes later is refused at once.
    let read = soon("the read that was under way", read).await.unwrap();
    assert!(read.is_err(), "{read:?}");
    let key = pods.resource().object_key(Some("ns"), "b").unwrap();
    let later = soon("a later read", pods.get(&key, GetOptions { at: ReadAt::MostRecent })).await;
    assert!(later.is_err());
}
