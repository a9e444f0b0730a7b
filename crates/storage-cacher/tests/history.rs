//! What a cache does about history: where it comes from after a start, and when it must not be continued.

mod common;

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{ListAt, ListOptions, Storage, StorageError, WatchOptions, WatchStart};
use common::script::{Script, Stage, listed, revision};
use common::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A script with history from before the cache.
fn old() -> Arc<Script> {
    let script = Script::new();
    for name in ["a", "b", "c"] {
        script.put("ns", name, "n1");
    }
    script.put("ns", "a", "n2");
    script.remove("ns", "b");
    script.write(vec![
        (key("ns", "d"), Some("n1".into())),
        (key("ns2", "d"), Some("n2".into())),
    ]);
    script.elsewhere();
    script
}

const EVENTS: [&str; 7] = [
    "ADDED a 101",
    "ADDED b 102",
    "ADDED c 103",
    "MODIFIED a 104",
    "DELETED b 105",
    "ADDED d 106",
    "ADDED d 106",
];

// covers: storage-cacher/HIST-10
#[test]
fn who_resumes_before_the_first_list_is_served_by_one_reading_of_history() {
    let mut stage = Stage::new(old(), |config| config);
    stage.script.asked();
    let mut watches = Vec::new();
    for round in 0..50 {
        let after = revision(100 + round % 8);
        let cache = Arc::clone(&stage.cache);
        watches.push((
            after.get(),
            stage.spawn(async move { cache.watch(&all(), from(WatchStart::After(after))).await }),
        ));
    }
    let asked = stage.script.asked();
    let read = asked.iter().filter(|asked| asked.starts_with("watch")).count();
    assert!((1..=2).contains(&read), "{asked:?}");
    for (after, mut watch) in watches {
        let mut watch = watch.outcome().unwrap().unwrap();
        let want: Vec<_> = EVENTS
            .iter()
            .filter(|event| event.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap() > after)
            .copied()
            .collect();
        assert_eq!(stage.heard(&mut watch), want, "after {after}");
    }
    // What was read serves selections, and reads of earlier states, too.
    let options = WatchOptions {
        predicate: fields("spec.nodeName=n1"),
        ..from(WatchStart::After(revision(102)))
    };
    let mut selecting = stage.watch(under("ns"), options).unwrap();
    let want = ["ADDED c 103", "DELETED a 104", "DELETED b 105", "ADDED d 106"];
    assert_eq!(stage.heard(&mut selecting), want);
    for (at, want) in [
        (101, vec!["a"]),
        (103, vec!["a", "b", "c"]),
        (105, vec!["a", "c"]),
        (107, vec!["a", "c", "d", "d"]),
    ] {
        let list = stage.list(common::at(ListAt::Exact(revision(at)))).unwrap();
        assert_eq!(listed(&list), want, "at {at}");
    }
    assert!(stage.script.asked().is_empty(), "from memory");
    // And the log goes on where it was.
    let mut live = stage.watch(all(), from(WatchStart::After(revision(105)))).unwrap();
    stage.script.put("ns", "e", "n1");
    assert_eq!(stage.heard(&mut live), ["ADDED d 106", "ADDED d 106", "ADDED e 108"]);
    assert_eq!(stage.heard(&mut selecting), ["ADDED e 108"]);
}

#[test]
fn history_that_is_gone_below_is_410() {
    let script = old();
    script.compact(revision(104));
    let mut stage = Stage::new(script, |config| config);
    for (after, want) in [(103, Some(4)), (102, None), (101, None), (103, Some(4))] {
        match stage.watch(all(), from(WatchStart::After(revision(after)))) {
            Ok(mut watch) => assert_eq!(Some(stage.heard(&mut watch).len()), want, "after {after}"),
            Err(error) => assert!(error.is_expired() && want.is_none(), "after {after}: {error}"),
        }
    }
}

#[test]
fn history_that_there_is_no_room_for_is_read_by_each_watch_of_its_own() {
    let mut stage = Stage::new(old(), |config| {
        config.with_history_bytes(4_000).with_history_min_records(1)
    });
    let mut watch = stage.watch(all(), from(WatchStart::After(revision(100)))).unwrap();
    assert_eq!(stage.heard(&mut watch), EVENTS);
    let later = stage.script.put("ns", "e", "n").get();
    assert_eq!(stage.heard(&mut watch), [format!("ADDED e {later}")]);
}

#[test]
fn history_that_cannot_be_read_keeps_nobody_waiting_for_long() {
    let script = old();
    script.know_progress(false);
    let mut stage = Stage::new(script, |config| config);
    stage.script.fail_watches(vec![StorageError::internal("no leader")]);
    let mut first = stage.watch(all(), from(WatchStart::After(revision(102)))).unwrap();
    assert_eq!(stage.heard(&mut first).len(), 5, "by a watch of its own");
    stage.script.asked();
    let mut second = stage.watch(all(), from(WatchStart::After(revision(102)))).unwrap();
    assert_eq!(stage.script.count("watch"), 1, "nobody tries again in vain");
    assert_eq!(stage.heard(&mut second).len(), 5);
}

// covers: storage-cacher/OPP-12
#[test]
fn another_store_is_never_a_continuation() {
    let script = Script::new();
    script.set_id("one");
    script.put("ns", "a", "n");
    let mut stage = Stage::new(script, |config| config.with_retry_pause(MS(10)));
    let mut watch = stage.watch(all(), from(WatchStart::After(revision(101)))).unwrap();
    // The same revision, the same watch that opens: only the id tells.
    stage.script.reset("two", 101);
    stage.script.end_watches(|| None);
    stage.pass(MS(100));
    let heard = stage.heard(&mut watch);
    assert!(heard.len() == 2 && heard[0].starts_with("ERROR"), "{heard:?}");
    assert!(listed(&stage.list(ListOptions::default()).unwrap()).is_empty());
    stage.script.put("ns", "z", "n");
    assert_eq!(listed(&stage.list(ListOptions::default()).unwrap()), ["z"]);
    // The same store again: its watch goes on.
    let mut watch = stage.watch(all(), from(WatchStart::After(revision(102)))).unwrap();
    stage.script.end_watches(|| None);
    stage.pass(MS(100));
    stage.script.put("ns", "y", "n");
    assert_eq!(stage.heard(&mut watch), ["ADDED y 103"]);
}

// covers: storage-cacher/BKM-14, storage-cacher/LIFE-04, storage-cacher/CFG-08, storage-cacher/NRDY-07
#[test]
fn a_cache_that_is_shut_down_lets_its_watches_finish() {
    let mut stage = Stage::new(old(), |config| config);
    let options = |progress| WatchOptions {
        progress,
        ..from(WatchStart::After(revision(107)))
    };
    let mut asking = stage.watch(under("ns"), options(true)).unwrap();
    let mut quiet = stage.watch(under("ns"), options(false)).unwrap();
    stage.script.put("ns", "x", "n");
    stage.script.put("elsewhere", "y", "n");
    stage.settle();
    let cache = Arc::clone(&stage.cache);
    let mut down = stage.spawn(async move { cache.shut_down(MS(5_000)).await });
    assert!(down.outcome().is_none(), "two watches are open");
    let end = ["ADDED x 108", "PROGRESS 109", "END OF STREAM"];
    assert_eq!(stage.heard(&mut asking), end, "all there is, and where it is");
    assert_eq!(stage.heard(&mut quiet), ["ADDED x 108", "END OF STREAM"]);
    drop(asking);
    stage.settle();
    assert!(down.outcome().is_none());
    drop(quiet);
    stage.settle();
    assert!(down.outcome().is_some());
    assert!(stage.watch(all(), options(true)).is_err());
    // Nobody waits for ever for a client that does not read.
    let mut stage = Stage::new(old(), |config| config);
    let stuck = stage.watch(all(), options(true)).unwrap();
    let cache = Arc::clone(&stage.cache);
    let mut down = stage.spawn(async move { cache.shut_down(MS(5_000)).await });
    stage.pass(MS(4_990));
    assert!(down.outcome().is_none());
    stage.pass(MS(20));
    assert!(down.outcome().is_some());
    drop(stuck);
}

#[test]
fn watches_that_read_below_end_with_the_cache() {
    // Too much to be kept, so that each watch reads below for itself.
    let mut stage = Stage::new(old(), |config| config.with_live_bytes(Some(1)));
    let mut below = stage.watch(all(), from(WatchStart::After(revision(103)))).unwrap();
    assert_eq!(stage.heard(&mut below).len(), 4);
    // No history may be kept, so that this one has yet to meet the log.
    let mut other = Stage::new(old(), |config| config.with_history_bytes(1).with_history_min_records(1));
    let mut catching_up = other.watch(all(), from(WatchStart::After(revision(103)))).unwrap();
    for (stage, watch) in [(&mut stage, &mut below), (&mut other, &mut catching_up)] {
        let cache = Arc::clone(&stage.cache);
        let mut down = stage.spawn(async move { cache.shut_down(MS(60_000)).await });
        assert!(down.outcome().is_none(), "a watch is open");
        let heard = stage.heard(watch);
        assert_eq!(heard.last().map(String::as_str), Some("END OF STREAM"), "{heard:?}");
    }
}
