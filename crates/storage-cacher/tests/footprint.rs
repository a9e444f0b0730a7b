//! What a cache and its watches hold in memory.
//!
//! One test alone in its process, because the whole process is measured.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Waker};

use apiserver_storage_api::{
    FieldSelector, LabelSelector, ListAt, ListOptions, ReadAt, SelectionPredicate, Storage, Watch, WatchOptions,
    WatchStart,
};
use common::script::{Script, Stage};
use common::*;
use futures::{FutureExt, StreamExt};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const WATCHES: usize = 100_000;

/// What something leaves behind in memory, and what it returns.
fn kept<T>(make: impl FnOnce() -> T) -> (usize, T) {
    let before = MEMORY.current_usage();
    let made = make();
    (MEMORY.current_usage().saturating_sub(before), made)
}

/// What something takes at most.
fn peak(run: impl FnOnce()) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    run();
    MEMORY.peak_usage().saturating_sub(before)
}

fn open(stage: &Stage, at: usize, start: WatchStart, progress: bool) -> Watch {
    // A server parses each selector anew: watchers do not share it by themselves.
    let node = |at: usize| {
        SelectionPredicate::new(
            LabelSelector::default(),
            FieldSelector::parse(&format!("spec.nodeName=node-{at}")).unwrap(),
        )
    };
    let (scope, predicate) = match at % 4 {
        0 => (all(), SelectionPredicate::default()),
        1 => (under("ns"), labels("app notin (a,b)")),
        _ => (all(), node(at)),
    };
    let options = WatchOptions {
        predicate,
        progress,
        ..from(start)
    };
    let mut watch = stage.cache.watch(&scope, options).now_or_never().unwrap().unwrap();
    if !matches!(start, WatchStart::InitialState(_)) {
        let waits = watch.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
        assert!(waits.is_pending());
    }
    watch
}

// covers: storage-cacher/MEM-01, storage-cacher/MEM-02, storage-cacher/MEM-03, storage-cacher/MEM-04, storage-cacher/MEM-05, storage-cacher/MEM-07, storage-cacher/MEM-08, storage-cacher/MEM-09, storage-cacher/MEM-10, storage-cacher/MEM-13, storage-cacher/LIST-21, storage-cacher/LIST-22, storage-cacher/OPP-03
#[test]
fn watches_lists_and_objects_cost_what_they_may() {
    // Objects: their bytes, and less than a third more for everything that is known of them.
    let script = Script::new();
    let (objects, padding) = (4_000, "x".repeat(9_000));
    let (held, mut stage) = kept(|| {
        let write = |at: usize| (key("ns", &format!("p{at:06}")), Some(format!("node-{}", at % 500)));
        script.pad(&padding);
        script.write((0..objects).map(write).collect());
        Stage::new(Arc::clone(&script), |config| config)
    });
    let list = stage.list(at(ListAt::Any)).unwrap();
    let encoded: usize = list.entries.iter().map(|entry| entry.json().unwrap().len()).sum();
    drop(list);
    assert!(encoded > objects * 9_000);
    let ratio = held as f64 / encoded as f64;
    println!("{ratio:.3} bytes held per byte of objects");
    assert!(ratio <= 1.3, "{ratio:.3} bytes held per byte of objects");

    // Watches that wait.
    for progress in [false, true] {
        let start = WatchStart::After(common::script::revision(101));
        let (held, watches) = kept(|| {
            (0..WATCHES)
                .map(|at| open(&stage, at, start, progress))
                .collect::<Vec<_>>()
        });
        let each = held / WATCHES;
        println!("{each} bytes per idle watch, progress {progress}");
        assert!(each < 1_024, "{each} bytes per idle watch, progress {progress}");
        let (left, ()) = kept(|| drop(watches));
        assert_eq!(left, 0);
        stage.pass(std::time::Duration::from_secs(80));
    }
    let (left, ()) = kept(|| stage.settle());
    assert!(left < 1_000);

    // Watches that are about to read their initial state keep no list of it.
    let start = WatchStart::InitialState(ReadAt::Any);
    let (held, watches) = kept(|| {
        (0..2_000)
            .map(|at| open(&stage, 4 * at, start, true))
            .collect::<Vec<_>>()
    });
    assert!(
        held / 2_000 < 1_024,
        "{} bytes per watch with an initial state",
        held / 2_000
    );
    drop(watches);

    // Lists: a part at a time, whole or paged, and no more than the part needs.
    let all_parts = peak(|| {
        let list = stage
            .cache
            .list(&all(), at(ListAt::Any))
            .now_or_never()
            .unwrap()
            .unwrap();
        let mut pages = list.into_pages();
        while let Some(page) = pages.next().now_or_never().unwrap() {
            assert!(!page.unwrap().entries.is_empty());
        }
    });
    println!("{all_parts} bytes at most to list {objects} objects");
    assert!(all_parts < objects * 16 + 8_192, "{all_parts} bytes to list everything");
    let page = peak(|| {
        let options = ListOptions {
            limit: NonZeroU64::new(10),
            ..at(ListAt::NotOlderThan(common::script::revision(101)))
        };
        let list = stage.cache.list(&all(), options).now_or_never().unwrap().unwrap();
        let list = list.collect().now_or_never().unwrap().unwrap();
        assert_eq!((list.entries.len(), list.remaining), (10, Some(objects as u64 - 10)));
    });
    assert!(page < 4_096, "{page} bytes for a page of ten");

    // History: what the budget says, roughly, without a snapshot for each change.
    drop(stage);
    let script = Script::new();
    script.pad(&padding[..1_000]);
    script.write(
        (0..1_000)
            .map(|at| (key("ns", &format!("p{at:06}")), Some("n".into())))
            .collect(),
    );
    let budget = apiserver_storage_cacher::HistoryBudget::new(1 << 30);
    let share = budget.clone();
    let mut stage = Stage::new(Arc::clone(&script), |config| config.with_history_budget(share));
    let (held, ()) = kept(|| {
        for at in 0..5_000 {
            script.put("ns", &format!("p{:06}", at % 1_000), "m");
            if at % 100 == 0 {
                stage.settle();
            }
        }
        stage.settle();
        script.forget();
    });
    println!(
        "{held} bytes held by history of 5000 changes, {} by the budget",
        budget.used()
    );
    let ratio = held as f64 / budget.used() as f64;
    assert!(
        (0.7..1.15).contains(&ratio),
        "{held} bytes, {} by the budget",
        budget.used()
    );
    drop((stage, script));

    // What a thousand selections see of each change: all of it, mostly, and some what came to them and what left.
    let without = postings(0, 1 << 30);
    let with = postings(1_000, 1 << 30);
    println!("{without:?} bytes held and counted without watches, {with:?} with a thousand selections");
    assert!(with.1 > without.1 + 500 * 1_000 * size_of::<usize>());
    let ratio = with.0 as f64 / with.1 as f64;
    assert!((0.7..1.3).contains(&ratio), "{with:?}");
    assert!(
        with.0 - without.0 < 500 * 1_000 * 24,
        "a posting is little more than a pointer"
    );
    // And they are bounded by what history may take.
    let bounded = postings(1_000, 1_000_000);
    println!("{bounded:?} bytes of 1000000");
    assert!(bounded.1 <= 1_000_000 && bounded.0 < 1_300_000, "{bounded:?}");
}

/// Bytes that are held by the history of 500 changes beside so many watches, each of a selection of its own; and bytes by
/// the budget.
fn postings(watches: usize, limit: usize) -> (usize, usize) {
    let script = Script::new();
    script.write(
        (0..100)
            .map(|at| (key("ns", &format!("p{at:06}")), Some("n".into())))
            .collect(),
    );
    let budget = apiserver_storage_cacher::HistoryBudget::new(1 << 30);
    let share = budget.clone();
    let mut stage = Stage::new(Arc::clone(&script), |config| {
        config.with_history_budget(share).with_history_bytes(limit)
    });
    let start = WatchStart::After(common::script::revision(101));
    let watch = |at: usize| {
        let fields = FieldSelector::parse(&format!("spec.nodeName!=x{at}")).unwrap();
        let options = WatchOptions {
            predicate: SelectionPredicate::new(LabelSelector::default(), fields),
            ..from(start)
        };
        stage.cache.watch(&all(), options).now_or_never().unwrap().unwrap()
    };
    let open: Vec<Watch> = (0..watches).map(watch).collect();
    let (held, ()) = kept(|| {
        for at in 0..500 {
            script.put("ns", &format!("p{:06}", at % 100), &format!("x{}", at % 7));
            if at % 100 == 0 {
                stage.settle();
            }
        }
        stage.settle();
        script.forget();
    });
    let counted = budget.used();
    drop(open);
    script.put("ns", "p000000", "n");
    stage.settle();
    assert!(
        watches == 0 || counted < 2_000_000 || budget.used() < counted / 2,
        "{} of {counted}",
        budget.used()
    );
    (held, counted)
}
