//! What is kept, at most, and what gives way first.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{ManualClock, SeededRng};
use apiserver_storage_api::{GetOptions, ListAt, ListOptions, ReadAt, Stats, Storage, StorageError, WatchStart};
use apiserver_storage_cacher::{Cacher, CacherConfig, HistoryBudget};
use common::script::{Script, Stage, listed, revision};
use common::*;
use futures::StreamExt;
use futures::executor::LocalPool;
use futures::task::LocalSpawnExt;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn full(objects: usize) -> Arc<Script> {
    let script = Script::new();
    let changes = (0..objects).map(|at| (key("ns", &format!("p{at:05}")), Some("n".to_owned())));
    script.write(changes.collect());
    script
}

// covers: storage-cacher/OPP-09, storage-cacher/MEM-06
#[test]
fn history_ages_even_where_nothing_happens() {
    let budget = HistoryBudget::new(1 << 30);
    let (share, min) = (budget.clone(), 10);
    let mut stage = Stage::new(full(1), |config| {
        config.with_history_budget(share).with_history_min_records(min)
    });
    for round in 0..500 {
        stage.script.put("ns", "p00000", &format!("n{round}"));
        stage.settle();
    }
    let held = budget.used();
    assert!(held > 100_000);
    stage.pass(Duration::from_secs(70));
    assert_eq!(budget.used(), held, "75 s are kept");
    stage.pass(Duration::from_secs(8));
    assert!(budget.used() < held / 20, "{} of {held}", budget.used());
    assert_eq!(stage.clock.sleepers(), 0, "and then there is nothing to wait for");
    drop(stage);
    assert_eq!(budget.used(), 0);
}

#[test]
fn answers_that_are_read_slowly_give_way_after_history_does() {
    let budget = HistoryBudget::new(1 << 30);
    let share = budget.clone();
    let mut stage = Stage::new(full(6_000), |config| {
        config
            .with_history_budget(share)
            .with_history_bytes(400_000)
            .with_history_min_records(1)
    });
    let cache = Arc::clone(&stage.cache);
    let pages = |stage: &mut Stage| {
        let cache = Arc::clone(&cache);
        let list = stage.run(async move { cache.list(&all(), at(ListAt::Any)).await });
        let mut pages = list.unwrap().into_pages();
        let first = futures::FutureExt::now_or_never(pages.next())
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(first.entries.len(), 4_096);
        pages
    };
    let mut slow = pages(&mut stage);
    let write = |stage: &mut Stage, rounds: std::ops::Range<usize>| {
        for round in rounds {
            stage.script.put("ns", &format!("p{round:05}"), "other");
            stage.settle();
        }
    };
    write(&mut stage, 0..1_000);
    let mut young = pages(&mut stage);
    write(&mut stage, 1_000..1_200);
    stage.pass(MS(2_000));
    // Half of the budget is the log's, whatever the slow reader keeps; the rest was not enough for both.
    let rest = |pages: &mut futures::stream::BoxStream<'static, _>| {
        let page: apiserver_storage_api::Result<apiserver_storage_api::Page> =
            futures::FutureExt::now_or_never(pages.next()).unwrap().unwrap();
        page.map(|page| page.entries.len())
    };
    let ended = rest(&mut slow);
    assert!(matches!(ended, Err(StorageError::TooManyRequests { .. })), "{ended:?}");
    assert_eq!(rest(&mut young).unwrap(), 6_000 - 4_096, "the younger one goes on");
    assert!(budget.used() <= 400_000, "{}", budget.used());
    stage.script.asked();
    let watch = stage.watch(all(), from(WatchStart::After(revision(1_200))));
    assert!(watch.is_ok() && stage.script.asked().is_empty(), "some history is left");
}

#[test]
fn no_heavy_answer_is_begun_while_the_budget_is_exhausted() {
    let budget = HistoryBudget::new(100_000);
    let share = budget.clone();
    // Somebody else holds it all, and does not tick.
    let hog = Stage::new(full(1), |config| {
        config
            .with_history_budget(share)
            .with_history_bytes(1 << 30)
            .with_history_min_records(1_000_000)
    });
    let share = budget.clone();
    let mut stage = Stage::new(full(6_000), |config| config.with_history_budget(share));
    assert_eq!(stage.list(at(ListAt::Any)).unwrap().entries.len(), 6_000);
    let mut hog = hog;
    hog.script.hold(true);
    let changes = (0..2_000).map(|at| (key("ns", &format!("x{at}")), Some("n".to_owned())));
    hog.script.write(changes.collect());
    hog.script.hold(false);
    hog.settle();
    assert!(budget.used() > 120_000, "{}", budget.used());
    let refused = stage.list(at(ListAt::Any)).map(|list| list.entries.len());
    assert!(
        matches!(refused, Err(StorageError::TooManyRequests { .. })),
        "{refused:?}"
    );
    let page = ListOptions {
        limit: NonZeroU64::new(500),
        ..ListOptions::default()
    };
    assert_eq!(
        stage.list(page).unwrap().entries.len(),
        500,
        "a page keeps nothing alive"
    );
    drop(hog);
    assert_eq!(stage.list(at(ListAt::Any)).unwrap().entries.len(), 6_000);
}

/// Caches of one process: one clock, one budget.
struct Process {
    clock: ManualClock,
    budget: HistoryBudget,
    pool: LocalPool,
}

impl Process {
    fn cache(&self, script: &Arc<Script>, change: impl FnOnce(CacherConfig) -> CacherConfig) -> Arc<Cacher> {
        let config = CacherConfig::new(Arc::new(self.clock.clone()), Arc::new(SeededRng::new(1)))
            .with_check_period(None)
            .with_history_budget(self.budget.clone());
        let (cache, feed) = Cacher::parts(Arc::clone(script) as Arc<dyn Storage>, change(config));
        self.pool.spawner().spawn_local(feed).expect("the pool is there");
        Arc::new(cache)
    }

    /// A list of everything, in as many pages as it takes.
    fn list(&mut self, cache: &Arc<Cacher>) -> apiserver_storage_api::Result<usize> {
        let list = self.pool.run_until(cache.list(&all(), at(ListAt::Any)))?;
        let list = self.pool.run_until(list.collect())?;
        Ok(list.entries.len())
    }
}

// A quiet kind holds most of what all may keep, within what it keeps whatever its age: it has nothing to age, and has to
// give way all the same. Also when its backend has gone away meanwhile.
#[test]
fn a_quiet_cache_gives_way_to_others() {
    for away in [false, true] {
        let mut process = Process {
            clock: ManualClock::new(SystemTime::UNIX_EPOCH),
            budget: HistoryBudget::new(1_000_000),
            pool: LocalPool::new(),
        };
        let quiet = full(1);
        // As by default, it keeps more records than these whatever their age.
        let quiet_cache = process.cache(&quiet, |config| config.with_history_min_records(10_000));
        process.pool.run_until_stalled();
        for round in 0..600 {
            quiet.put("ns", "p00000", &format!("n{round}"));
        }
        process.pool.run_until_stalled();
        let held = process.budget.used();
        assert!(held > 600_000 && held < 1_000_000, "{held}");
        // Long enough that nothing is left to be done for it.
        for _ in 0..100 {
            process.clock.advance(MS(1_000));
            process.pool.run_until_stalled();
        }
        assert_eq!((process.budget.used(), process.clock.sleepers()), (held, 0));
        if away {
            let away = || Some(StorageError::internal("away"));
            quiet.fail_watches((0..1_000).filter_map(|_| away()).collect());
            quiet.fail_lists((0..1_000).filter_map(|_| away()).collect());
            quiet.end_watches(away);
            process.pool.run_until_stalled();
        }

        let busy = full(6_000);
        let busy_cache = process.cache(&busy, |config| config);
        process.pool.run_until_stalled();
        let mut round = 0;
        while process.budget.used() <= 1_125_000 {
            busy.put("ns", "p00000", &format!("m{round}"));
            process.pool.run_until_stalled();
            round += 1;
            assert!(round < 5_000, "{}", process.budget.used());
        }
        let refused = process.list(&busy_cache);
        let Err(StorageError::TooManyRequests { cause, .. }) = &refused else {
            panic!("{refused:?}")
        };
        assert!(cause.contains("history") && !cause.contains("answers"), "{cause}");
        for _ in 0..2 {
            process.clock.advance(MS(1_000));
            process.pool.run_until_stalled();
        }
        assert!(process.budget.used() <= 1_000_000, "{}", process.budget.used());
        assert_eq!(process.list(&busy_cache).unwrap(), 6_000);
        assert_eq!(process.list(&quiet_cache).unwrap(), 1);
    }
}

#[test]
fn a_kind_that_is_too_large_is_served_from_below() {
    let mut stage = Stage::new(full(100), |config| {
        config
            .with_live_bytes(Some(80_000))
            .with_uncached_period(Duration::from_secs(100))
    });
    let at_start = WatchStart::After(revision(101));
    let mut watch = stage.watch(all(), from(at_start)).unwrap();
    assert_eq!(stage.list(at(ListAt::Any)).unwrap().entries.len(), 100);
    assert!(
        stage.script.asked().iter().all(|asked| !asked.contains("Any")),
        "from memory"
    );
    let changes = (0..200).map(|at| (key("big", &format!("x{at}")), Some("n".to_owned())));
    stage.script.write(changes.collect());
    stage.settle();
    let heard = stage.heard(&mut watch);
    assert_eq!(
        heard.last().map(String::as_str),
        Some("END OF STREAM"),
        "it can be resumed"
    );
    let delivered = heard.len() - 1;
    assert!(
        delivered == 0 || delivered == 200,
        "never half of a revision: {delivered}"
    );
    assert!(stage.cache.ready().is_ok(), "it is served");
    stage.script.asked();
    assert_eq!(stage.list(at(ListAt::Any)).unwrap().entries.len(), 300);
    assert_eq!(stage.list(ListOptions::default()).unwrap().entries.len(), 300);
    let cache = Arc::clone(&stage.cache);
    let any = GetOptions { at: ReadAt::Any };
    assert!(
        stage
            .run(async move { cache.get(&key("big", "x1"), any).await })
            .is_ok()
    );
    let mut below = stage
        .watch(under("ns"), from(WatchStart::After(revision(102))))
        .unwrap();
    let asked = stage.script.asked();
    for want in [
        "list /pods/ Any",
        "list /pods/ MostRecent",
        "get /pods/big/x1",
        "watch /pods/ns/ After(102)",
    ] {
        assert!(asked.iter().any(|asked| asked == want), "{want} in {asked:?}");
    }
    stage.script.put("ns", "new", "n");
    assert_eq!(stage.heard(&mut below), ["ADDED new 103"]);
    // As long as it is too large, nothing is listed in vain.
    stage.script.set_stats(Stats::new(301, 1_000));
    stage.pass(Duration::from_secs(400));
    let asked = stage.script.asked();
    assert!(
        asked.iter().all(|asked| asked == "stats") && asked.len() >= 2,
        "{asked:?}"
    );
    let changes = (0..200).map(|at| (key("big", &format!("x{at}")), None));
    stage.script.write(changes.collect());
    stage.script.set_stats(Stats::new(101, 500));
    stage.pass(Duration::from_secs(200));
    stage.script.asked();
    assert_eq!(stage.list(at(ListAt::Any)).unwrap().entries.len(), 101);
    assert!(stage.script.asked().is_empty(), "from memory again");
}

// covers: storage-cacher/DISP-13, storage-cacher/IVAL-05, storage-cacher/SCALE-11, storage-cacher/SCALE-12
#[test]
fn churn_does_not_harm_a_watcher_that_reads_its_initial_state() {
    let mut stage = Stage::new(full(2_000), |config| config);
    let start = WatchStart::InitialState(ReadAt::Any);
    let mut watch = stage.watch(all(), from(start)).unwrap();
    let mut empty = stage.watch(under("none"), from(start)).unwrap();
    for round in 0..3_000 {
        stage.script.put("ns", &format!("p{round:05}"), "other");
    }
    stage.settle();
    let heard = stage.heard(&mut watch);
    let initial = heard.iter().filter(|heard| heard.starts_with("INITIAL")).count();
    assert_eq!(
        (initial, heard[2_000].as_str()),
        (2_000, "END 101"),
        "the state as it was"
    );
    assert_eq!(heard.len(), 2_000 + 1 + 3_000, "then every change");
    assert_eq!(stage.heard(&mut empty), ["END 101"]);
    let listed = listed(&stage.list(at(ListAt::Any)).unwrap());
    assert_eq!(listed.len(), 3_000);
}

// covers: storage-cacher/OPP-11, storage-cacher/SCALE-16
#[test]
fn caches_that_share_a_budget_share_a_timer() {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let budget = HistoryBudget::new(1 << 30);
    let mut pool = LocalPool::new();
    let mut caches = Vec::new();
    for _ in 0..20 {
        let script = full(1);
        let config = CacherConfig::new(Arc::new(clock.clone()), Arc::new(SeededRng::new(1)))
            .with_check_period(None)
            .with_history_min_records(0)
            .with_history_budget(budget.clone());
        let (cache, feed) = Cacher::parts(Arc::clone(&script) as Arc<dyn Storage>, config);
        pool.spawner().spawn_local(feed).unwrap();
        caches.push((script, cache));
    }
    pool.run_until_stalled();
    for (script, _) in &caches {
        script.put("ns", "p00000", "other");
    }
    pool.run_until_stalled();
    assert!(budget.used() > 0);
    for _ in 0..80 {
        assert!(clock.sleepers() <= 1, "{} timers", clock.sleepers());
        clock.advance(MS(1_000));
        pool.run_until_stalled();
    }
    assert_eq!(budget.used(), 0, "all of them forget in time");
    assert_eq!(clock.sleepers(), 0);
}

// covers: storage-cacher/SCALE-13, storage-cacher/SNAP-09, storage-cacher/SNAP-10
#[test]
fn a_quiet_kind_is_paged_from_memory_after_a_compaction() {
    let mut stage = Stage::new(full(100), |config| config);
    for _ in 0..10 {
        stage.script.elsewhere();
    }
    stage.pass(Duration::from_secs(600));
    stage.script.compact(revision(108));
    stage.script.asked();
    let limit = NonZeroU64::new(10);
    let mut next = ListAt::MostRecent;
    let mut pages = 0;
    loop {
        let options = ListOptions {
            limit,
            at: next,
            ..ListOptions::default()
        };
        let list = stage.list(options).unwrap();
        assert_eq!((list.entries.len(), list.revision), (10, revision(111)));
        pages += 1;
        match list.next {
            Some(token) => next = ListAt::Continue(token),
            None => break,
        }
    }
    assert_eq!(pages, 10);
    // A state between two writes is there as long as nothing was written since.
    let exact = stage.list(at(ListAt::Exact(revision(109)))).unwrap();
    assert_eq!((exact.entries.len(), exact.revision), (100, revision(109)));
    assert_eq!(stage.script.count("list"), 0, "the storage is asked for no list");
}
