//! A cache without a runtime: a test drives it, and moves its clock.

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{ManualClock, SeededRng};
use apiserver_storage_api::{ListAt, ListOptions, ReadAt, Storage, StorageError, WatchOptions, WatchStart};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use common::script::{Script, Stage, listed};
use common::*;

// covers: storage-cacher/CFG-06, storage-cacher/INIT-02
#[test]
fn a_cache_is_driven_by_whoever_holds_its_feed() {
    let script = Script::new();
    script.put("ns", "a", "n");
    script.fail_lists(vec![StorageError::internal("not yet")]);
    let mut stage = Stage::new(script, |config| config.with_retry_pause(Duration::from_secs(1)));
    assert!(stage.cache.ready().is_err(), "the first list failed");
    stage.pass(Duration::from_secs(2));
    assert!(stage.cache.ready().is_ok());
    let options = WatchOptions {
        progress: true,
        ..from(WatchStart::InitialState(ReadAt::Any))
    };
    let mut watch = stage.watch(all(), options).unwrap();
    assert_eq!(stage.heard(&mut watch), ["INITIAL a 101", "END 101"]);
    stage.script.put("ns", "b", "n");
    assert_eq!(stage.heard(&mut watch), ["ADDED b 102"]);
    assert_eq!(listed(&stage.list(ListOptions::default()).unwrap()), ["a", "b"]);
    stage.script.elsewhere();
    stage.pass(Duration::from_secs(121));
    assert_eq!(stage.heard(&mut watch), ["PROGRESS 103"]);
    let cache = Arc::clone(&stage.cache);
    stage.run(async move { cache.close().await });
    assert_eq!(stage.heard(&mut watch), ["END OF STREAM"]);
}

// covers: storage-cacher/CFG-08
#[test]
fn a_cache_without_its_feed_is_closed() {
    let script = Script::new();
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let config = CacherConfig::new(Arc::new(clock), Arc::new(SeededRng::new(1)));
    let (cache, feed) = Cacher::parts(script, config);
    assert!(cache.ready().is_err());
    drop(feed);
    assert_eq!(cache.ready().unwrap_err().cause, "apiserver cacher is stopped");
    futures::executor::block_on(async {
        cache.close().await;
        assert!(cache.wait_ready().await.is_err());
        let list = cache.list(&all(), at(ListAt::MostRecent)).await.unwrap();
        assert!(names(list).await.is_empty(), "reads go below");
    });
}
