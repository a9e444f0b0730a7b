//! How long readers wait, for what, and what they ask of the storage meanwhile: with a clock that the test moves.

mod common;

use std::time::Duration;

use apiserver_storage_api::{GetOptions, ListAt, ListOptions, ReadAt, Storage, StorageError, WatchOptions, WatchStart};
use common::script::{Script, Stage, listed, revision};
use common::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn stage() -> Stage {
    let script = Script::new();
    script.put("ns", "a", "n");
    let stage = Stage::new(script, |config| config);
    stage.script.asked();
    stage
}

fn too_large<T: std::fmt::Debug>(outcome: Option<Result<T, StorageError>>) -> (u64, u64, Duration) {
    match outcome {
        Some(Err(StorageError::TooLargeResourceVersion {
            asked,
            current,
            retry_after,
        })) => (asked.get(), current.get(), retry_after),
        other => panic!("{other:?}"),
    }
}

// covers: storage-cacher/INIT-05, storage-cacher/INIT-08, storage-cacher/INIT-09, storage-cacher/BE-04, storage-cacher/CFG-07, storage-cacher/SCALE-16
#[test]
fn a_start_is_one_list_and_one_watch_and_then_nothing() {
    let script = Script::new();
    script.put("ns", "a", "n");
    let mut stage = Stage::new(script, |config| config);
    let want = ["list /pods/ MostRecent", "watch /pods/ After(101) bare"];
    assert_eq!(stage.script.asked(), want, "everything, and no previous values");
    stage.pass(MS(5_000));
    assert_eq!(stage.clock.sleepers(), 0, "an idle cache has no timer");
    stage.clock.advance(Duration::from_secs(100_000));
    stage.settle();
    assert!(stage.script.asked().is_empty(), "and asks for nothing");
    stage.script.put("ns", "b", "n");
    stage.settle();
    let list = stage.list(at(ListAt::Any)).unwrap();
    assert_eq!(listed(&list), ["a", "b"], "its watch has no end of its own");
}

// covers: storage-cacher/CONST-01, storage-cacher/FRSH-01, storage-cacher/FRSH-04, storage-cacher/FRSH-05, storage-cacher/LIST-16, storage-cacher/GET-04, storage-cacher/DLG-64
#[test]
fn readers_wait_three_seconds_for_the_future() {
    let mut stage = stage();
    for (at, _) in [(ReadAt::Any, ()), (ReadAt::NotOlderThan(revision(101)), ())] {
        let cache = std::sync::Arc::clone(&stage.cache);
        let got = stage.run(async move { cache.get(&key("ns", "a"), GetOptions { at }).await });
        assert_eq!(got.unwrap().revision(), revision(101));
    }
    assert!(stage.script.asked().is_empty(), "what is there is not waited for");
    stage.script.answer_progress(false);
    let cache = std::sync::Arc::clone(&stage.cache);
    let at_future = GetOptions {
        at: ReadAt::NotOlderThan(revision(150)),
    };
    let mut get = stage.spawn(async move { cache.get(&key("ns", "a"), at_future).await });
    let mut lists: Vec<_> = [ListAt::NotOlderThan(revision(150)), ListAt::Exact(revision(150))]
        .map(|at| stage.begin_list(common::at(at)))
        .into_iter()
        .collect();
    let token = apiserver_storage_api::ContinueToken::after(revision(150), &prefix(), "/pods/ns/a").unwrap();
    lists.push(stage.begin_list(at(ListAt::Continue(token))));
    stage.pass(MS(2_990));
    assert!(get.outcome().is_none());
    assert!(lists.iter_mut().all(|list| list.outcome().is_none()));
    stage.pass(MS(20));
    assert_eq!(too_large(get.outcome()), (150, 101, Duration::from_secs(1)));
    for mut list in lists {
        assert_eq!(too_large(list.outcome()), (150, 101, Duration::from_secs(1)));
    }
    assert_eq!(stage.script.count("list"), 0, "nobody is asked instead");
    // What comes at the last moment is in time.
    let mut list = stage.begin_list(at(ListAt::NotOlderThan(revision(102))));
    stage.pass(MS(2_990));
    stage.script.put("ns", "b", "n");
    stage.clock.advance(MS(10));
    stage.settle();
    assert_eq!(listed(&list.outcome().unwrap().unwrap()), ["a", "b"]);
}

fn prefix() -> apiserver_storage_api::KeyPrefix {
    match all() {
        apiserver_storage_api::Scope::Under(prefix) => prefix,
        apiserver_storage_api::Scope::Key(_) => unreachable!("everything is a prefix"),
    }
}

// covers: storage-cacher/CONST-02, storage-cacher/FRSH-03, storage-cacher/FRSH-10
#[test]
fn progress_is_asked_for_while_somebody_waits() {
    let mut stage = stage();
    stage.script.answer_progress(false);
    stage.pass(MS(2_000));
    assert_eq!(stage.script.count("progress"), 0);
    let mut list = stage.begin_list(at(ListAt::NotOlderThan(revision(103))));
    assert_eq!(stage.script.count("progress"), 1, "at once");
    for _ in 0..2 {
        stage.pass(MS(90));
        assert_eq!(stage.script.count("progress"), 0);
        stage.pass(MS(10));
        assert_eq!(stage.script.count("progress"), 1, "and then every 100 ms");
    }
    stage.script.elsewhere();
    stage.script.elsewhere();
    stage.script.progress();
    stage.settle();
    assert_eq!(list.outcome().unwrap().unwrap().revision, revision(103));
    stage.pass(MS(1_000));
    assert_eq!(stage.script.count("progress"), 0, "nobody waits any more");
    // Who leaves does not wait any more either.
    let gone = stage.begin_list(at(ListAt::NotOlderThan(revision(200))));
    assert_eq!(stage.script.count("progress"), 1);
    drop(gone);
    stage.pass(MS(1_000));
    assert!(stage.script.count("progress") <= 1);
}

// deviates: storage-cacher/DLG-61: a consistent read gives up when the cache has stood still for 300 ms, not after 3 s.
// covers: storage-cacher/DLG-61, storage-cacher/OPP-06
#[test]
fn a_consistent_read_does_not_wait_for_a_cache_that_stands_still() {
    let mut stage = stage();
    stage.script.hold(true);
    stage.script.put("ns", "b", "n");
    let mut list = stage.begin_list(ListOptions::default());
    stage.pass(MS(290));
    assert!(list.outcome().is_none());
    assert_eq!(stage.script.count("list"), 0);
    stage.pass(MS(20));
    let list = list.outcome().unwrap().unwrap();
    assert_eq!(
        (listed(&list), list.revision),
        (vec!["a".into(), "b".into()], revision(102))
    );
    assert_eq!(stage.script.count("list"), 1, "one list below");
}

#[test]
fn a_consistent_read_waits_for_a_cache_that_moves() {
    let mut stage = stage();
    stage.script.answer_progress(false);
    for _ in 0..10 {
        stage.script.elsewhere();
    }
    let mut list = stage.begin_list(ListOptions::default());
    for _ in 0..9 {
        stage.pass(MS(250));
        assert!(list.outcome().is_none(), "it comes nearer");
        stage.script.put("ns", "b", "n");
        stage.settle();
        if let Some(list) = list.outcome() {
            assert_eq!(listed(&list.unwrap()), ["a", "b"]);
            break;
        }
    }
    assert_eq!(stage.script.count("list"), 0, "from memory");
}

// covers: storage-cacher/GATE-10, storage-cacher/DLG-62
#[test]
fn a_consistent_read_may_be_told_to_come_back_instead() {
    let script = Script::new();
    let mut stage = Stage::new(script, |config| config.with_fallback(false));
    stage.script.hold(true);
    stage.script.put("ns", "b", "n");
    stage.script.asked();
    let mut list = stage.begin_list(ListOptions::default());
    stage.pass(MS(310));
    let Some(Err(StorageError::TooManyRequests { cause, retry_after })) = list.outcome() else {
        panic!("it is refused")
    };
    assert!(cause.contains("too large resource version"), "{cause}");
    assert_eq!(retry_after, Duration::from_secs(1));
    let asked = stage.script.asked();
    assert!(asked.iter().all(|asked| !asked.starts_with("list")), "{asked:?}");
    assert_eq!(asked.iter().filter(|asked| *asked == "now").count(), 1);
}

#[test]
fn a_watch_that_gives_no_progress_is_moved() {
    let mut stage = stage();
    stage.script.answer_progress(false);
    stage.script.elsewhere();
    let mut list = stage.begin_list(at(ListAt::NotOlderThan(revision(102))));
    stage.pass(MS(290));
    assert_eq!(stage.script.count("watch"), 0);
    stage.pass(MS(120));
    assert_eq!(stage.script.count("watch"), 1, "another member may know more");
    stage.pass(MS(2_300));
    assert!(stage.script.count("watch") <= 3, "but not again and again");
    stage.script.progress();
    stage.settle();
    assert!(list.outcome().unwrap().is_ok());
    assert!(stage.cache.ready().is_ok());
}

// covers: storage-cacher/LIST-20, storage-cacher/FRSH-07
#[test]
fn a_failing_question_is_the_answer_and_a_reader_may_leave() {
    let mut stage = stage();
    stage.script.fail_nows(vec![StorageError::internal("no quorum")]);
    let list = stage.list(ListOptions::default());
    assert!(list.is_err_and(|error| error.to_string().contains("revision") || error.to_string().contains("quorum")));
    stage.script.answer_progress(false);
    let waiting: Vec<_> = (0..50)
        .map(|_| stage.begin_list(at(ListAt::NotOlderThan(revision(500)))))
        .collect();
    assert!(stage.clock.sleepers() >= 50);
    drop(waiting);
    stage.pass(MS(110));
    assert!(stage.clock.sleepers() <= 1, "no timer outlives its reader");
}

// covers: storage-cacher/WATCH-05, storage-cacher/WATCH-37, storage-cacher/IEND-05
#[test]
fn the_end_of_the_initial_state_is_as_fresh_as_asked() {
    let watch = |stage: &mut Stage, start| {
        let options = WatchOptions {
            progress: true,
            ..from(start)
        };
        let mut watch = stage.watch(all(), options).unwrap();
        stage.heard(&mut watch)
    };
    for (at, want) in [
        (ReadAt::MostRecent, "END 103"),
        (ReadAt::Any, "END 102"),
        (ReadAt::NotOlderThan(revision(97)), "END 102"),
        (ReadAt::NotOlderThan(revision(103)), "END 103"),
    ] {
        let mut stage = stage();
        stage.script.put("ns", "b", "n");
        stage.settle();
        stage.script.elsewhere();
        let heard = watch(&mut stage, WatchStart::InitialState(at));
        assert_eq!(heard, ["INITIAL a 101", "INITIAL b 102", want], "{at:?}");
        for start in [WatchStart::Now, WatchStart::After(revision(102))] {
            assert!(watch(&mut stage, start).is_empty(), "no end without a state");
        }
    }
}

// covers: storage-cacher/BKM-05, storage-cacher/WATCH-17, storage-cacher/BKM-07
#[test]
fn a_watch_is_told_where_it_is_before_it_ends() {
    let mut stage = stage();
    let options = |progress| WatchOptions {
        progress,
        deadline: Some(MS(10_000)),
        ..from(WatchStart::After(revision(101)))
    };
    let mut asking = stage.watch(under("other"), options(true)).unwrap();
    let mut quiet = stage.watch(under("other"), options(false)).unwrap();
    assert!(stage.heard(&mut asking).is_empty());
    stage.script.put("ns", "b", "n");
    let mut told = Vec::new();
    for second in 1..=10 {
        stage.pass(MS(1_000));
        told.extend(stage.heard(&mut asking).into_iter().map(|heard| (second, heard)));
    }
    // The regular reminder may have come first; then there is nothing new to tell.
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 <= 9 && told[0].1 == "PROGRESS 102", "{told:?}");
    assert!(stage.heard(&mut quiet).is_empty());
}

// covers: storage-cacher/CONST-10, storage-cacher/CHK-02, storage-cacher/GATE-03
#[test]
fn the_cache_is_compared_every_five_to_seven_and_a_half_minutes() {
    let script = Script::new();
    script.put("ns", "a", "n");
    let check = Some(Duration::from_secs(300));
    let mut stage = Stage::new(script, |config| config.with_check_period(check));
    stage.script.asked();
    let (mut seconds, mut last) = (Vec::new(), 0);
    for second in 1..=2_000 {
        stage.clock.advance(MS(1_000));
        stage.settle();
        let asked = stage.script.asked();
        if asked.iter().any(|asked| asked == "list /pods/ Exact(101)") {
            seconds.push(second - last);
            last = second;
        }
    }
    assert!(seconds.len() >= 4);
    assert!(seconds.iter().all(|after| (300..=451).contains(after)), "{seconds:?}");
}
