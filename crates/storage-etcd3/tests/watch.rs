//! Watches on one server: order, starts, progress, compaction, and going on after a crash.

mod common;
mod seen;

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{Kv, KvError, KvWatch, KvWatchItem, WatchRequest};
use apiserver_storage_testing::StandingClock;
use futures::{StreamExt, poll};

use common::{
    Etcd, Three, batch, config, connect, create, delete, end, has_progress, progress, revision, soon, still, update,
};
use seen::meter::Meter;

fn all(from: Option<Revision>) -> WatchRequest {
    WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from,
        previous: false,
    }
}

// covers: storage-etcd3/EWATCH-15, storage-etcd3/ETCD-15, storage-etcd3/RCLI-06
#[tokio::test]
async fn changes_come_in_order_with_what_was_there_before() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let request = WatchRequest {
        previous: true,
        ..all(None)
    };
    let mut watch = kv.watch(request).await.expect("accepted");
    assert_eq!(watch.revision, revision(1));
    let first = create(&kv, "/registry/a", "1").await;
    let second = update(&kv, "/registry/a", "2", first).await;
    create(&kv, "/elsewhere/a", "1").await;
    let third = delete(&kv, "/registry/a", second).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let KvWatchItem::Batch { revision, mut events } =
            soon(watch.items.next()).await.expect("goes on").expect("sound")
        {
            assert_eq!(events.len(), 1);
            let event = events.remove(0);
            assert_eq!(&*event.key, "/registry/a");
            let value = |pair: Option<apiserver_storage_kv::KvPair>| pair.map(|pair| (pair.value, pair.revision));
            seen.push((revision, value(event.current), value(event.previous)));
        }
    }
    let (one, two) = (("1".into(), first), ("2".into(), second));
    assert_eq!(
        seen,
        [
            (first, Some(one.clone()), None),
            (second, Some(two.clone()), Some(one)),
            (third, None, Some(two)),
        ]
    );
}

// covers: storage-etcd3/EWATCH-01
#[tokio::test]
async fn a_watch_begins_exactly_where_it_is_asked_to() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let first = create(&kv, "/registry/a", "1").await;
    let second = create(&kv, "/registry/b", "1").await;
    let mut past = kv.watch(all(Some(first))).await.expect("accepted");
    assert_eq!(past.revision, second);
    assert_eq!(batch(&mut past).await.0, first);
    assert_eq!(batch(&mut past).await.0, second);
    let mut now = kv.watch(all(None)).await.expect("accepted");
    let mut next = kv.watch(all(Some(second.next()))).await.expect("accepted");
    let mut later = kv
        .watch(all(Some(second.next().next())))
        .await
        .expect("a start in the future is no error");
    let key = WatchRequest {
        key: "/registry/c".into(),
        prefix: false,
        ..all(None)
    };
    let mut single = kv.watch(key).await.expect("accepted");
    let third = create(&kv, "/registry/c", "1").await;
    let fourth = create(&kv, "/registry/cc", "1").await;
    assert_eq!(batch(&mut now).await.0, third);
    assert_eq!(batch(&mut next).await.0, third);
    assert_eq!(batch(&mut later).await.0, fourth);
    assert_eq!(batch(&mut single).await, (third, vec!["/registry/c=1".to_owned()]));
    let fifth = update(&kv, "/registry/c", "2", third).await;
    assert_eq!(batch(&mut single).await.0, fifth, "a key is not a prefix");
}

// covers: storage-etcd3/ETCD-02, storage-etcd3/ETCD-03, storage-etcd3/EWATCH-17
#[tokio::test]
async fn a_compacted_start_is_refused_at_once_and_the_first_kept_one_works() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let first = create(&kv, "/registry/a", "1").await;
    let second = update(&kv, "/registry/a", "2", first).await;
    let third = update(&kv, "/registry/a", "3", second).await;
    kv.compact(third).await.expect("compacted");
    let fresh = etcd.connect().await;
    for start in [revision(1), first, second] {
        for key in ["/registry/", "/nothing/"] {
            let request = WatchRequest {
                key: key.into(),
                ..all(Some(start))
            };
            let refused = fresh.watch(request).await.map(|watch| watch.revision);
            assert!(
                matches!(refused, Err(KvError::Compacted { .. })),
                "{key} {start}: {refused:?}"
            );
        }
    }
    for start in [third, third.next()] {
        let watch = fresh.watch(all(Some(start))).await;
        watch.unwrap_or_else(|error| panic!("{start}: {error}"));
    }
    let mut watch = fresh.watch(all(Some(third))).await.expect("accepted");
    assert_eq!(batch(&mut watch).await.0, third);
}

// covers: storage-etcd3/EWATCH-19, storage-etcd3/FEAT-10, storage-etcd3/RCLI-04
#[tokio::test]
async fn progress_is_told_on_request_also_to_a_watch_on_an_idle_store() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    if !has_progress(&kv).await {
        assert!(matches!(kv.request_progress().await, Err(KvError::NotSupported(_))));
        return;
    }
    let mut idle = kv
        .watch(WatchRequest {
            key: "/nothing/".into(),
            ..all(None)
        })
        .await
        .expect("accepted");
    let mut busy = kv.watch(all(None)).await.expect("accepted");
    // A watch that the server has not caught up with gets no answer, so ask until one comes.
    let asked = async {
        loop {
            kv.request_progress().await.expect("supported");
            let item = tokio::time::timeout(Duration::from_millis(50), idle.items.next()).await;
            if let Ok(Some(Ok(KvWatchItem::Progress(revision)))) = item {
                break revision;
            }
        }
    };
    assert_eq!(soon(asked).await, revision(1), "nothing was ever written");
    let last = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut busy).await.0, last);
    kv.request_progress().await.expect("supported");
    while progress(&mut idle).await < last {
        kv.request_progress().await.expect("supported");
    }
    assert_eq!(progress(&mut busy).await, last, "never ahead of events");
}

// covers: storage-etcd3/EWATCH-28, storage-etcd3/RCLI-05
#[tokio::test]
async fn a_watch_goes_on_after_a_crash_and_loses_and_repeats_nothing() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let mut watch = kv.watch(all(None)).await.expect("accepted");
    let mut wanted = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            wanted.push(create(&kv, &format!("/registry/{round}/{number}"), "1").await);
        }
        // Some of it is read before the crash, some after.
        for at in &wanted[round * 20..round * 20 + 7] {
            assert_eq!(batch(&mut watch).await.0, *at);
        }
        etcd.restart().await;
        common::healthy(&kv).await;
        for at in &wanted[round * 20 + 7..] {
            assert_eq!(batch(&mut watch).await.0, *at);
        }
    }
    let last = create(&kv, "/registry/last", "1").await;
    assert_eq!(batch(&mut watch).await.0, last);
}

// covers: storage-etcd3/EWATCH-28, storage-etcd3/EERR-01
#[tokio::test]
async fn a_watch_that_was_overtaken_by_compaction_says_so() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let mut last = create(&kv, "/registry/a", "0").await;
    let mut watch = kv.watch(all(Some(last))).await.expect("accepted");
    assert_eq!(batch(&mut watch).await.0, last);
    etcd.restart().await;
    let other = etcd.connect().await;
    for number in 1..10 {
        last = update(&other, "/registry/a", &number.to_string(), last).await;
    }
    other.compact(last).await.expect("compacted");
    assert!(matches!(end(&mut watch).await, KvError::Compacted { compacted: Some(at) } if at == last));
    assert_eq!(kv.compacted_revision(), Some(last));
}

#[tokio::test]
async fn a_watch_on_a_store_that_went_back_ends() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let mut watch = kv.watch(all(None)).await.expect("accepted");
    let last = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, last);
    etcd.wipe().await;
    assert!(matches!(end(&mut watch).await, KvError::Reset));
}

// covers: storage-etcd3/SIZE-05, storage-etcd3/EWATCH-31, storage-etcd3/RCLI-02
#[tokio::test]
async fn catching_up_on_much_comes_whole_and_in_order() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let value = "x".repeat(900_000);
    let mut wanted = Vec::new();
    for number in 0..30 {
        wanted.push(create(&kv, &format!("/registry/{number}"), &value).await);
    }
    let mut watch = kv
        .watch(WatchRequest {
            previous: true,
            ..all(Some(wanted[0]))
        })
        .await
        .expect("accepted");
    for at in wanted {
        assert_eq!(batch(&mut watch).await.0, at);
    }
}

// covers: storage-etcd3/EWATCH-29, storage-etcd3/EWATCH-30
#[tokio::test]
async fn a_watch_that_nobody_reads_holds_back_no_other() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let mut lazy: Vec<KvWatch> = Vec::new();
    // More than one connection carries.
    for _ in 0..150 {
        lazy.push(kv.watch(all(None)).await.expect("accepted"));
    }
    let mut eager = kv.watch(all(None)).await.expect("accepted");
    let value = "x".repeat(500_000);
    let mut first = None;
    for number in 0..10 {
        let at = create(&kv, &format!("/registry/{number}"), &value).await;
        first = first.or(Some(at));
        assert_eq!(batch(&mut eager).await.0, at);
    }
    let mut late = lazy.pop().expect("many");
    assert_eq!(Some(batch(&mut late).await.0), first, "nothing was dropped for it");
}

// covers: storage-etcd3/EWATCH-24, storage-etcd3/OPEN-13
#[tokio::test]
async fn what_came_before_an_error_is_delivered_before_it() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let mut raw = etcd_client::Client::connect([etcd.url()], None)
        .await
        .expect("connected");
    let first = create(&kv, "/registry/a", "1").await;
    let second = create(&kv, "/registry/b", "1").await;
    // What is no text is no key of ours, and cannot be told: everybody else's changes before it can.
    raw.put(b"/registry/\xff".to_vec(), "1", None).await.expect("written");
    create(&kv, "/registry/c", "1").await;
    // All of it is history by now, and comes in one response.
    for _ in 0..10 {
        let mut watch = kv.watch(all(Some(first))).await.expect("accepted");
        assert_eq!(batch(&mut watch).await.0, first);
        assert_eq!(batch(&mut watch).await.0, second);
        let error = soon(watch.items.next()).await.expect("an error");
        let Err(KvError::Fault(cause)) = error else {
            panic!("{error:?}")
        };
        assert!(cause.to_string().contains(r"/registry/\xff"), "{cause}");
        assert!(soon(watch.items.next()).await.is_none(), "an error is the last item");
    }
}

// covers: storage-etcd3/EWATCH-29, storage-etcd3/OPEN-03
#[tokio::test]
async fn a_watch_that_is_not_read_takes_few_bytes_and_loses_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    let meter = Meter::to(etcd.port()).await;
    let kv = connect(config([meter.url()])).await;
    let direct = etcd.connect().await;
    let mut lazy = kv.watch(all(None)).await.expect("accepted");
    let mut eager = direct.watch(all(None)).await.expect("accepted");
    let value = "x".repeat(200_000);
    let mut wanted = Vec::new();
    for number in 0..200 {
        wanted.push(create(&direct, &format!("/registry/{number:03}"), &value).await);
    }
    for at in &wanted {
        assert_eq!(batch(&mut eager).await.0, *at);
    }
    // The server has sent all of it to the one that reads. What the other one gets has an end by itself.
    let (mut sent, mut grew) = (0, u64::MAX);
    while grew > 100_000 {
        // Calls share the wire with the watch, and are not held up by what it holds back.
        for _ in 0..50 {
            soon(kv.now()).await.expect("answered");
        }
        grew = meter.sent() - sent;
        sent += grew;
    }
    assert!(sent < 2_000_000, "of 40 MB: {sent}");
    for at in wanted {
        assert_eq!(batch(&mut lazy).await.0, at);
    }
    assert!(meter.sent() > 40_000_000);
}

// covers: storage-etcd3/EWATCH-27, storage-etcd3/ETCD-12
#[tokio::test]
async fn a_watch_on_a_member_without_a_leader_is_not_stuck() {
    let Some(mut three) = Three::start().await else { return };
    // Of this member only, which stays alive: nothing but its word says that something is wrong.
    let mut settings = three.members[0].config();
    settings.resume_deadline = Duration::from_millis(500);
    settings.watch_probe_interval = Duration::from_secs(3600);
    let kv = connect(settings).await;
    let mut ending = kv.watch(all(None)).await.expect("accepted");
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut ending).await.0, first);
    three.members[1].kill();
    three.members[2].kill();
    let error = end(&mut ending).await;
    assert!(matches!(error, KvError::Unreachable(_)), "{error:?}");
    three.members[1].run();
    three.members[1].ready().await;
    common::healthy(&kv).await;
    let mut again = kv.watch(all(Some(first))).await.expect("accepted");
    assert_eq!(batch(&mut again).await.0, first);
}

// covers: storage-etcd3/EWATCH-28
#[tokio::test]
async fn a_watch_is_asked_for_a_sign_of_life_when_it_was_silent_for_long_enough() {
    const LONG: Duration = Duration::from_secs(7);
    const BEFORE: Duration = Duration::from_secs(6);
    let Some(etcd) = Etcd::start().await else { return };
    let clock = Arc::new(StandingClock::new());
    let mut settings = still(&etcd, &clock);
    settings.watch_probe_interval = LONG;
    let kv = connect(settings).await;
    let mut watch = kv.watch(all(None)).await.expect("accepted");
    if !has_progress(&kv).await {
        // Without progress that can be believed nothing is asked.
        return;
    }
    assert!(poll!(watch.items.next()).is_pending());
    clock.clock.advance(BEFORE);
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    assert!(poll!(watch.items.next()).is_pending());

    // It is as long since the watch began, but not since it was heard.
    clock.clock.advance(LONG - BEFORE);
    assert!(poll!(watch.items.next()).is_pending());
    assert_eq!(clock.count(BEFORE), 1, "the rest is waited for");
    clock.clock.advance(BEFORE);
    assert_eq!(progress(&mut watch).await, first, "it was asked");
}

// covers: storage-etcd3/ETCD-10
#[tokio::test]
async fn previous_values_come_only_where_they_are_asked_for() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    for previous in [false, true] {
        let mut watch = kv
            .watch(WatchRequest { previous, ..all(None) })
            .await
            .expect("accepted");
        let first = create(&kv, "/registry/a", "1").await;
        let second = update(&kv, "/registry/a", "2", first).await;
        delete(&kv, "/registry/a", second).await;
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let KvWatchItem::Batch { events, .. } = soon(watch.items.next()).await.expect("goes on").expect("sound")
            {
                seen.extend(events.into_iter().map(|event| event.previous.map(|pair| pair.value)));
            }
        }
        let (one, two) = (Some("1".into()), Some("2".into()));
        assert_eq!(seen, if previous { [None, one, two] } else { [None, None, None] });
    }
}

// covers: storage-etcd3/EWATCH-26
#[tokio::test]
async fn a_watch_that_nobody_wants_any_more_is_none_on_the_server_either() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let open = async || seen::counted(etcd.port(), "etcd_debugging_mvcc_watcher_total", &[]).await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(kv.watch(all(None)).await.expect("accepted"));
    }
    // One more looks after compaction.
    soon(async { while open().await < 6.0 {} }).await;
    create(&kv, "/registry/a", "1").await;
    batch(&mut watches[0]).await;
    watches.truncate(1);
    soon(async { while open().await > 2.0 {} }).await;
    kv.close().await;
    // Its end can be read at any time, and is there once.
    assert!(matches!(end(&mut watches[0]).await, KvError::Closed));
    soon(async { while open().await > 0.0 {} }).await;
}
