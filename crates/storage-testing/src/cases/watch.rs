//! Watching: starts, what is seen, and how streams end.

use std::time::Duration;

use apiserver_storage_api::{
    EventKind, ListAt, ReadAt, Revision, Scope, Storage, StorageError, WatchItem, WatchOptions, WatchStart,
};

use crate::fixture::*;
use crate::harness::Harness;

const INITIAL: WatchStart = WatchStart::InitialState(ReadAt::MostRecent);

// covers: storage-api/WATCH-02, storage-api/WATCH-04, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-24, storage-api/WATCH-25, storage-api/GLOB-07
/// A watch from a revision shows every later change once, in order, at its revision.
pub async fn a_watch_shows_every_later_change_once<H: Harness>(h: H) {
    let store = h.store();
    let start = now(&*store).await;
    let a = key("ns", "a");
    let writes = [
        (EventKind::Added, create_pod(&*store, "ns", "a").await),
        (EventKind::Modified, change(&*store, &a, label("x", "1")).await),
        (EventKind::Added, create_pod(&*store, "ns", "b").await),
        (EventKind::Deleted, delete(&*store, &a).await),
        (EventKind::Added, create_pod(&*store, "ns", "a").await),
    ];
    for skip in 0..writes.len() {
        let after = skip.checked_sub(1).map_or(start, |before| writes[before].1.revision());
        let mut watch = Watching::all(&*store, WatchStart::After(after)).await;
        for (kind, entry) in &writes[skip..] {
            let event = watch.expect(*kind, entry.key()).await;
            assert_eq!(event.revision, entry.revision());
            assert_eq!(
                states(&[event.object.expect("an object")]),
                states(std::slice::from_ref(entry))
            );
        }
    }
}

// covers: storage-api/WATCH-03
/// A watch from now shows what comes after the call.
pub async fn a_watch_from_now_shows_what_comes<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let mut watch = Watching::all(&*store, WatchStart::Now).await;
    let created = create_pod(&*store, "ns", "b").await;
    assert_eq!(
        watch.expect(EventKind::Added, &key("ns", "b")).await.revision,
        created.revision()
    );
}

// covers: storage-api/WATCH-01, storage-api/WATCH-05, storage-api/WATCH-08, storage-api/WATCH-09, storage-api/WATCH-11, storage-api/GATE-01
/// An initial state comes in key order, ends at the counter, and goes over into changes without gap or overlap.
pub async fn an_initial_state_goes_over_into_changes<H: Harness>(h: H) {
    let store = h.store();
    let entries = create_pods(&*store, &["b", "a", "c"]).await;
    let unrelated = create(&*h.other(), &config_map_key("c"), &config_map("c")).await;
    let mut watch = Watching::all(&*store, INITIAL).await;
    let later = create_pod(&*store, "ns", "later").await;
    let (initial, revision) = watch.initial().await;
    let mut want = entries.clone();
    want.sort_by(|x, y| x.key().cmp(y.key()));
    // The write after the call may be in the initial state, or follow it: never both, never neither.
    if revision >= later.revision() {
        want.push(later.clone());
    }
    assert_eq!(states(&initial), states(&want));
    assert!(revision >= unrelated.revision());
    if revision < later.revision() {
        assert_eq!(
            watch.expect(EventKind::Added, later.key()).await.revision,
            later.revision()
        );
    }
    let last = change(&*store, &key("ns", "a"), label("x", "1")).await;
    assert_eq!(
        watch.expect(EventKind::Modified, &key("ns", "a")).await.revision,
        last.revision()
    );
}

// covers: storage-api/WATCH-06
/// An initial state may be asked not to be older than a revision; it is a state, not a replay.
pub async fn an_initial_state_is_not_older_than_asked<H: Harness>(h: H) {
    let store = h.store();
    let first = create_pod(&*store, "ns", "a").await;
    change(&*store, &key("ns", "a"), label("x", "1")).await;
    let last = create_pod(&*store, "ns", "b").await;
    for minimum in [first.revision(), last.revision()] {
        let start = WatchStart::InitialState(ReadAt::NotOlderThan(minimum));
        let (entries, revision) = Watching::all(&*store, start).await.initial().await;
        assert!(revision >= minimum);
        assert!(entries.iter().any(|entry| entry.key() == &key("ns", "a")));
        assert!(entries.iter().all(|entry| entry.revision() <= revision));
    }
}

// covers: storage-api/WATCH-01
/// An empty scope has an empty initial state.
pub async fn an_empty_scope_has_an_empty_initial_state<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let revision = now(&*store).await;
    for scope in [within("other"), Scope::Key(key("ns", "b"))] {
        let mut watch = Watching::with(&*store, &scope, WatchOptions::from_start(INITIAL)).await;
        let (entries, end) = watch.initial().await;
        assert!(entries.is_empty() && end >= revision, "{scope}");
    }
}

// covers: storage-api/WATCH-07, storage-api/ERR-06
/// A start of the far future is refused after a short wait, with a hint when to come again.
pub async fn a_start_of_the_far_future_is_refused<H: Harness>(h: H) {
    let store = h.store();
    let current = create_pod(&*store, "ns", "a").await.revision();
    let starts = [
        WatchStart::After(Revision::MAX),
        WatchStart::InitialState(ReadAt::NotOlderThan(revision(current.get() + 1000))),
    ];
    let tries = starts.map(|start| {
        let store = h.store();
        async move { store.watch(&all(), WatchOptions::from_start(start)).await.map(|_| ()) }
    });
    for result in futures::future::join_all(tries).await {
        match result {
            Err(StorageError::TooLargeResourceVersion {
                current: at,
                retry_after,
                ..
            }) => {
                assert_eq!(at, current);
                assert!((1..=3).contains(&retry_after.as_secs()), "{retry_after:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

// covers: storage-api/WATCH-07
/// A start that is a little ahead is waited for.
pub async fn a_start_that_is_a_little_ahead_is_waited_for<H: Harness>(h: H) {
    let store = h.store();
    let current = create_pod(&*store, "ns", "a").await.revision();
    let ahead = revision(current.get() + 2);
    let writer = async {
        for name in ["b", "c", "d"] {
            create_pod(&*store, "ns", name).await;
        }
    };
    let (mut watch, ()) = futures::join!(Watching::all(&*store, WatchStart::After(ahead)), writer);
    let event = watch.expect(EventKind::Added, &key("ns", "d")).await;
    assert_eq!(event.revision, ahead.next());
}

// covers: storage-api/WATCH-10, storage-api/WATCH-18, storage-api/WATCH-23
/// A change into the selection is an addition, one out of it a deletion with the old content.
pub async fn changes_in_and_out_of_a_selection<H: Harness>(h: H) {
    let store = h.store();
    let a = key("ns", "a");
    create_pods(&*store, &["a", "other"]).await;
    let mut watch = Watching::selected(&*store, INITIAL, by_label("in=yes")).await;
    assert!(watch.initial().await.0.is_empty());
    let selected = change(&*store, &a, label("in", "yes")).await;
    let left = change(&*store, &a, label("in", "no")).await;
    change(&*store, &a, label("y", "1")).await;
    let back = change(&*store, &a, label("in", "yes")).await;
    let changed = change(&*store, &a, label("y", "2")).await;
    let deleted = delete(&*store, &a).await;
    change(&*store, &key("ns", "other"), label("in", "no")).await;
    let last = change(&*store, &key("ns", "other"), label("in", "yes")).await;
    for (kind, entry, in_selection) in [
        (EventKind::Added, &selected, "yes"),
        (EventKind::Deleted, &left, "yes"),
        (EventKind::Added, &back, "yes"),
        (EventKind::Modified, &changed, "yes"),
        (EventKind::Deleted, &deleted, "yes"),
        (EventKind::Added, &last, "yes"),
    ] {
        let event = watch.expect(kind, entry.key()).await;
        let object = event.object.expect("an object");
        assert_eq!(
            (event.revision, object.revision()),
            (entry.revision(), entry.revision())
        );
        carries_own_revision(&object);
        assert_eq!(label_of(&object, "in"), Some(in_selection));
    }
}

// covers: storage-api/WATCH-10, storage-api/WATCH-15
/// Fields select as labels do, in the initial state and after it; scope and selection must both hold.
pub async fn fields_select_changes<H: Harness>(h: H) {
    let store = h.store();
    create(&*store, &key("ns", "a"), &pod_on("ns", "a", "n1")).await;
    create(&*store, &key("ns", "b"), &pod_on("ns", "b", "n2")).await;
    let mut on_n1 = Watching::selected(&*store, INITIAL, by_field("spec.nodeName=n1")).await;
    let options = WatchOptions {
        predicate: by_field("metadata.namespace=ns"),
        ..WatchOptions::from_start(INITIAL)
    };
    let mut elsewhere = Watching::with(&*store, &within("other"), options).await;
    assert_eq!(names(&on_n1.initial().await.0), ["ns/a"]);
    assert!(elsewhere.initial().await.0.is_empty());
    change(&*store, &key("ns", "b"), node("n1")).await;
    change(&*store, &key("ns", "a"), node("n2")).await;
    create_pod(&*store, "other", "c").await;
    on_n1.expect(EventKind::Added, &key("ns", "b")).await;
    let left = on_n1.expect(EventKind::Deleted, &key("ns", "a")).await;
    let object = left.object.expect("the old content");
    assert_eq!(
        object.attributes().and_then(|fields| fields.field("spec.nodeName")),
        Some("n1")
    );
    // What is in the scope but not selected: the next event is one of an object that is both.
    let odd = raw_key("/pods/other/odd");
    create(&*store, &odd, &pod("ns", "odd")).await;
    elsewhere.expect(EventKind::Added, &odd).await;
}

// covers: storage-api/WATCH-14, storage-api/WATCH-15, storage-api/WATCH-16
/// A watch of one key shows that key alone, also before there is an object.
pub async fn a_watch_of_one_key_shows_that_key<H: Harness>(h: H) {
    let store = h.store();
    let a = key("ns", "a");
    let start = WatchStart::After(now(&*store).await);
    let mut watch = Watching::with(&*store, &Scope::Key(a.clone()), WatchOptions::from_start(start)).await;
    create_pods(&*store, &["aa", "b"]).await;
    create(&*store, &raw_key("/pods/ns/a/below"), &pod("ns", "below")).await;
    create_pod(&*store, "ns", "a").await;
    change(&*store, &key("ns", "b"), label("x", "1")).await;
    delete(&*store, &a).await;
    watch.expect(EventKind::Added, &a).await;
    watch.expect(EventKind::Deleted, &a).await;
}

// covers: storage-api/WATCH-12, storage-api/WATCH-13
/// The initial state is complete whatever was compacted, and to ask for none is no replay of what is forgotten.
pub async fn an_initial_state_survives_compaction<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b"]).await;
    let last = change(&*store, &key("ns", "b"), label("x", "1")).await;
    h.compact(last.revision()).await;
    // Any state may be an older one; that there is one is what matters.
    Watching::all(&*store, WatchStart::InitialState(ReadAt::Any))
        .await
        .initial()
        .await;
    for at in [ReadAt::MostRecent, ReadAt::NotOlderThan(last.revision())] {
        let (entries, _) = Watching::all(&*store, WatchStart::InitialState(at))
            .await
            .initial()
            .await;
        assert_eq!(names(&entries), ["ns/a", "ns/b"], "{at:?}");
    }
    // As clients ask for it: no version and no initial events.
    let start = WatchStart::parse("0", Some(false)).expect("a start");
    let mut watch = Watching::all(&*store, start).await;
    let created = create_pod(&*store, "ns", "c").await;
    assert_eq!(watch.event().await.revision, created.revision());
}

// covers: storage-api/WATCH-29, storage-api/WATCH-30, storage-api/ERR-07
/// A start below the compaction point is refused, one at it is not.
pub async fn a_compacted_start_is_refused<H: Harness>(h: H) {
    let store = h.store();
    let entries = create_pods(&*store, &["a", "b", "c", "d", "e"]).await;
    h.compact(entries[3].revision()).await;
    let refused = store
        .watch(
            &all(),
            WatchOptions::from_start(WatchStart::After(entries[0].revision())),
        )
        .await;
    match refused {
        Err(StorageError::Expired { message, token: None }) => {
            assert_eq!(message, "The resourceVersion for the provided watch is too old.");
        }
        other => panic!("{other:?}"),
    }
    let mut watch = Watching::all(&*store, WatchStart::After(entries[3].revision())).await;
    watch.expect(EventKind::Added, entries[4].key()).await;
}

// covers: storage-api/WATCH-31, storage-api/WATCH-34, storage-api/WATCH-40
/// A watch that compaction overtakes misses nothing: it shows all, or ends with 410 after what came before.
pub async fn a_watch_that_compaction_overtakes_skips_nothing<H: Harness>(h: H) {
    let store = h.store();
    let start = create_pod(&*store, "ns", "a").await.revision();
    let mut watch = Watching::all(&*store, WatchStart::After(start)).await;
    let mut last = start;
    for round in 0..200 {
        last = change(&*store, &key("ns", "a"), label("x", &round.to_string()))
            .await
            .revision();
    }
    h.compact(last).await;
    let mut at = start;
    while at < last {
        match watch.item().await {
            Some(Ok(WatchItem::Batch(batch))) => {
                assert_eq!(batch.revision, at.next(), "nothing is skipped");
                at = batch.revision;
            }
            Some(Err(error)) => {
                assert!(error.is_expired(), "{error:?}");
                assert!(watch.item().await.is_none());
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

// covers: storage-api/WATCH-35, storage-api/WATCH-36, storage-api/GLOB-12
/// Dropping a watch ends it; others go on.
pub async fn a_dropped_watch_is_gone<H: Harness>(h: H) {
    let store = h.store();
    let start = now(&*store).await;
    let mut kept = Watching::all(&*store, WatchStart::After(start)).await;
    for _ in 0..20 {
        drop(Watching::all(&*store, INITIAL).await);
        drop(Watching::all(&*store, WatchStart::After(start)).await);
    }
    create_pod(&*store, "ns", "a").await;
    kept.expect(EventKind::Added, &key("ns", "a")).await;
}

// covers: storage-api/WATCH-39, storage-api/WATCH-40
/// Watches that nobody reads hold up nobody.
pub async fn idle_watches_delay_nobody<H: Harness>(h: H) {
    let store = h.store();
    let start = WatchStart::After(now(&*store).await);
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(Watching::all(&*store, start).await);
    }
    let mut read = Watching::all(&*store, start).await;
    create_pod(&*store, "ns", "a").await;
    read.expect(EventKind::Added, &key("ns", "a")).await;
    for round in 0..21 {
        let changed = change(&*store, &key("ns", "a"), label("x", &round.to_string())).await;
        assert_eq!(read.event().await.revision, changed.revision());
    }
    // And they have lost nothing themselves.
    assert_eq!(idle[49].event().await.kind, EventKind::Added);
}

// covers: storage-api/WATCH-41
/// A call to watch returns when the watch is set up, which is what its caller may go by: nothing has to happen first, and
/// what happens from then on is shown, however late it is read.
pub async fn a_watch_is_open_before_anything_happens<H: Harness>(h: H) {
    let store = h.store();
    let start = now(&*store).await;
    let (mut live, mut initial) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        live.push(Watching::all(&*store, WatchStart::Now).await);
        live.push(Watching::all(&*store, WatchStart::After(start)).await);
        initial.push(Watching::all(&*store, INITIAL).await);
    }
    let created = create_pod(&*store, "ns", "a").await;
    for mut watch in live {
        assert_eq!(watch.event().await.revision, created.revision());
    }
    for mut watch in initial {
        let (entries, revision) = watch.initial().await;
        if revision < created.revision() {
            assert!(entries.is_empty());
            assert_eq!(watch.event().await.revision, created.revision());
        }
    }
}

// covers: storage-api/WATCH-42, storage-api/WATCH-45, storage-api/WATCH-48
/// Progress that was asked for comes, is not below the start, and promises that all before it was delivered.
pub async fn progress_comes_when_asked_for<H: Harness>(h: H) {
    let store = h.store();
    let start = now(&*store).await;
    let options = WatchOptions {
        progress: true,
        ..WatchOptions::from_start(WatchStart::After(start))
    };
    let mut watch = Watching::with(&*store, &all(), options).await;
    let created = create_pod(&*store, "ns", "a").await;
    watch.expect(EventKind::Added, &key("ns", "a")).await;
    let unrelated = create(&*h.other(), &config_map_key("c"), &config_map("c")).await;
    loop {
        store.request_progress().await.expect("progress can be asked for");
        // Best effort: it may be answered late, so it is asked for again.
        match tokio::time::timeout(Duration::from_millis(200), watch.item()).await {
            Ok(Some(Ok(WatchItem::Progress(revision)))) => {
                assert!(revision >= created.revision());
                if revision >= unrelated.revision() {
                    break;
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
}

// covers: storage-api/WATCH-44
/// Who does not ask for progress gets none.
pub async fn no_progress_comes_unasked<H: Harness>(h: H) {
    let store = h.store();
    let mut watch = Watching::all(&*store, WatchStart::After(now(&*store).await)).await;
    let asking = WatchOptions {
        progress: true,
        ..WatchOptions::from_start(WatchStart::Now)
    };
    let mut other = Watching::with(&*store, &all(), asking).await;
    // There is something to report only when the counter has moved.
    create(&*h.other(), &config_map_key("c"), &config_map("c")).await;
    store.request_progress().await.expect("progress can be asked for");
    loop {
        match tokio::time::timeout(Duration::from_millis(200), other.item()).await {
            Ok(Some(Ok(WatchItem::Progress(_)))) => break,
            Ok(item) => panic!("{item:?}"),
            Err(_) => store.request_progress().await.expect("progress can be asked for"),
        }
    }
    create_pod(&*store, "ns", "a").await;
    assert!(
        matches!(watch.item().await, Some(Ok(WatchItem::Batch(_)))),
        "the first item is the change"
    );
}

// covers: storage-api/GLOB-06, storage-api/GLOB-07
/// The state at a revision and the changes after it make the state at any later revision.
pub async fn a_state_and_its_changes_make_every_later_state<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b", "c"]).await;
    let base = list_at(&*store, ListAt::MostRecent).await;
    let mut watch = Watching::all(&*store, WatchStart::After(base.revision)).await;
    let mut state: std::collections::BTreeMap<_, _> = base
        .entries
        .iter()
        .map(|entry| (entry.key().clone(), entry.clone()))
        .collect();
    let history = writes(&*store).await;
    for revision in history {
        let event = watch.event().await;
        assert_eq!(event.revision, revision);
        match event.kind {
            EventKind::Deleted => state.remove(&event.key),
            _ => state.insert(event.key.clone(), event.object.expect("an object")),
        };
        let listed = list_at(&*store, ListAt::Exact(revision)).await;
        let replayed: Vec<_> = state.values().cloned().collect();
        assert_eq!(states(&listed.entries), states(&replayed), "revision {revision}");
    }
}

async fn writes(store: &dyn Storage) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for round in 0..5 {
        let name = format!("n{round}");
        revisions.push(create_pod(store, "ns", &name).await.revision());
        revisions.push(change(store, &key("ns", "a"), label("x", &name)).await.revision());
        revisions.push(change(store, &key("ns", &name), label("x", &name)).await.revision());
        revisions.push(delete(store, &key("ns", &name)).await.revision());
    }
    revisions
}

// covers: storage-api/WATCH-11, storage-api/WATCH-25
/// While others write, initial state and changes together show each object's every later state once.
pub async fn nothing_is_lost_or_doubled_while_others_write<H: Harness>(h: H) {
    const ROUNDS: usize = 60;
    let writer = h.store();
    create_pod(&*writer, "ns", "a").await;
    let writing = tokio::spawn(async move {
        let mut revisions = Vec::new();
        for round in 0..ROUNDS {
            revisions.push(
                change(&*writer, &key("ns", "a"), label("x", &round.to_string()))
                    .await
                    .revision(),
            );
        }
        revisions
    });
    let store = h.store();
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut watch = Watching::all(&*store, INITIAL).await;
        let (entries, revision) = watch.initial().await;
        watches.push((watch, entries[0].revision(), revision));
    }
    let revisions = writing.await.expect("the writer ends well");
    for (mut watch, initial, end) in watches {
        assert!(initial <= end);
        for revision in revisions.iter().filter(|revision| **revision > end) {
            assert_eq!(watch.event().await.revision, *revision);
        }
        assert!(!revisions.iter().any(|revision| *revision > initial && *revision <= end));
    }
}
