//! Ranges as streams, against whatever the server offers: from etcd 3.7 on streams, before that the way that they
//! replace. Which of them was seen is printed; the results have to be the same.
#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod common;
mod seen;

use std::io::Write as _;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::{Kv, KvError, KvPair, RangeRequest};
use apiserver_storage_testing::proxy::{CallProxy, Fate};
use futures::future::join_all;

use common::{Etcd, config, connect, create, soon};
use seen::counted;
use seen::meter::Meter;

/// Whether the server has streams of ranges. Says so past the test runner's capture.
fn has_streams() -> bool {
    let binary = common::etcd_binary().unwrap();
    let said = std::process::Command::new(binary).arg("--version").output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "))
        .unwrap();
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or_default());
    let streams = (numbers.next().unwrap(), numbers.next().unwrap()) >= (3, 7);
    let what = if streams {
        "a stream of ranges"
    } else {
        "the way without streams"
    };
    let _ = writeln!(std::io::stderr(), "etcd {version}: {what}");
    streams
}

/// How many streams the server has begun.
async fn begun(etcd: &Etcd) -> f64 {
    let method = ["grpc_method=\"RangeStream\""];
    counted(etcd.port(), "grpc_server_started_total", &method).await
}

/// Stores keys side by side; returns them in order.
async fn fill(kv: &EtcdKv, count: usize, bytes: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|number| format!("/registry/pods/{number:05}")).collect();
    let value = "x".repeat(bytes);
    for chunk in keys.chunks(64) {
        join_all(chunk.iter().map(|key| create(kv, key, &value))).await;
    }
    keys
}

/// The same range in bounded pages, which never come as a stream.
async fn in_pages(kv: &EtcdKv, whole: &RangeRequest) -> Vec<KvPair> {
    let mut request = whole.clone();
    request.limit = NonZeroU64::new(37);
    let mut pairs: Vec<KvPair> = Vec::new();
    loop {
        let page = kv.range(request.clone()).await.unwrap();
        request.at = request.at.or(Some(page.revision));
        let more = page.more;
        pairs.extend(page.pairs);
        if !more {
            return pairs;
        }
        request.start = format!("{}\0", pairs.last().unwrap().key);
    }
}

fn pods() -> RangeRequest {
    RangeRequest::prefix("/registry/pods/")
}

// covers: storage-etcd3/STREAM-02, storage-etcd3/STREAM-05, storage-etcd3/STREAM-08, storage-etcd3/STREAM-09
#[tokio::test]
async fn a_range_without_bounds_is_the_same_however_it_comes() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    for count in [25, 700] {
        fill(&kv, count, 100).await;
        let before = kv.now().await.unwrap();
        let later = create(&kv, "/registry/pods/later", "written later").await;
        create(&kv, "/registry/podsets/a", "of another prefix").await;
        let now = kv.now().await.unwrap();
        for at in [None, Some(before), Some(later)] {
            let whole = RangeRequest { at, ..pods() };
            let page = kv.range(whole.clone()).await.unwrap();
            assert_eq!(page.pairs, in_pages(&kv, &whole).await, "{at:?}");
            let there = count + usize::from(at != Some(before));
            assert_eq!(
                (page.pairs.len(), page.count, page.more, page.revision),
                (there, there as u64, false, now),
                "{at:?}"
            );
            let keys = RangeRequest {
                keys_only: true,
                ..whole
            };
            let keys = kv.range(keys).await.unwrap();
            assert!(keys.pairs.len() == there && keys.pairs.iter().all(|pair| pair.value.is_empty()));
        }
        let nothing = kv.range(RangeRequest::prefix("/registry/none/")).await.unwrap();
        assert_eq!((nothing.pairs.len(), nothing.count, nothing.revision), (0, 0, now));
        for key in kv.range(RangeRequest::prefix("/registry/")).await.unwrap().pairs {
            common::delete(&kv, &key.key, key.revision).await;
        }
    }
    let streams = begun(&etcd).await;
    assert_eq!(streams, if has_streams() { 2.0 * 8.0 } else { 0.0 });
}

// covers: storage-etcd3/STREAM-09
#[tokio::test]
async fn a_server_without_streams_is_asked_for_one_once() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = CallProxy::to(etcd.port()).await;
    let (asked, ranges) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (Arc::clone(&asked), Arc::clone(&ranges));
    proxy.decide(move |call| {
        let of_pods = call.mentions("/registry/pods/");
        match call.method() {
            "RangeStream" if call.number <= 1 => counts.0.fetch_add(1, Ordering::Relaxed),
            "Range" if of_pods => counts.1.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        Fate::Pass
    });
    let kv = connect(config([proxy.url()])).await;
    fill(&kv, 20, 10).await;
    for _ in 0..5 {
        assert_eq!(kv.range(pods()).await.unwrap().pairs.len(), 20);
    }
    let counted = (asked.load(Ordering::Relaxed), ranges.load(Ordering::Relaxed));
    assert_eq!(counted, if has_streams() { (5, 0) } else { (1, 5) });
}

// covers: storage-etcd3/STREAM-07
#[tokio::test]
async fn a_range_that_its_limit_cuts_off_says_how_much_is_behind_it() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let keys = fill(&kv, 800, 10).await;
    for (limit, start) in [(600, 0), (600, 100), (800, 0), (700, 100), (900, 0)] {
        let mut request = pods();
        request.start.clone_from(&keys[start]);
        request.limit = NonZeroU64::new(limit);
        let page = kv.range(request).await.unwrap();
        let behind = 800 - start;
        assert_eq!(
            (page.pairs.len(), page.count, page.more),
            (behind.min(limit as usize), behind as u64, behind > limit as usize),
            "limit={limit} start={start}"
        );
        assert_eq!(&*page.pairs[0].key, keys[start]);
    }
    let streams = begun(&etcd).await;
    assert_eq!(streams, if has_streams() { 5.0 } else { 0.0 });
}

// covers: storage-etcd3/STREAM-16, storage-etcd3/OPEN-07
#[tokio::test]
async fn a_range_whose_connection_breaks_on_the_way_comes_whole() {
    let Some(etcd) = Etcd::start().await else { return };
    let direct = etcd.connect().await;
    fill(&direct, 60, 200_000).await;
    let meter = Meter::to(etcd.port()).await;
    let kv = connect(config([meter.url()])).await;
    let streams = has_streams();
    for (limit, want) in [(None, 60), (NonZeroU64::new(501), 60)] {
        let before = (meter.sent(), begun(&etcd).await);
        meter.break_after(6_000_000);
        let whole = RangeRequest { limit, ..pods() };
        let page = soon(kv.range(whole)).await.unwrap();
        assert_eq!((page.pairs.len(), page.count, page.more), (want, want as u64, false));
        assert!(page.pairs.is_sorted_by(|one, next| one.key < next.key));
        let (sent, begun) = (meter.sent() - before.0, begun(&etcd).await - before.1);
        if streams {
            assert_eq!(begun, 2.0);
            // What had come was not asked for again, apart from what was on its way.
            assert!(sent < 17_000_000, "{sent}");
        }
    }
}

// covers: storage-etcd3/STREAM-11, storage-etcd3/STREAM-15
#[tokio::test]
async fn compaction_under_a_stream_ends_a_range_of_a_named_state_and_no_other() {
    let Some(etcd) = Etcd::start().await else { return };
    let direct = etcd.connect().await;
    let keys = fill(&direct, 50, 1_000_000).await;
    let meter = Meter::to(etcd.port()).await;
    let kv = Arc::new(connect(config([meter.url()])).await);
    let streams = has_streams();
    for named in [true, false] {
        let now = direct.now().await.unwrap();
        let at = named.then_some(now);
        meter.stop_after(3_000_000);
        let reader = Arc::clone(&kv);
        let read = tokio::spawn(async move { reader.range(RangeRequest { at, ..pods() }).await });
        soon(meter.reached()).await;
        let (first, _) = direct.get(&keys[0], None).await.unwrap();
        let written = common::update(&direct, &keys[0], "changed", first.unwrap().revision).await;
        direct.compact(written).await.unwrap();
        meter.go_on();
        match soon(read).await.unwrap() {
            Err(KvError::Compacted {
                compacted: Some(compacted),
            }) if streams && named => {
                assert!(compacted > now && compacted <= written, "{compacted}");
            }
            // Without a stream the answer was complete before; and the latest state is never gone.
            Ok(page) if !(streams && named) => assert_eq!(page.pairs.len(), 50),
            other => panic!("{:?}", other.map(|page| page.pairs.len())),
        }
    }
}

// covers: storage-etcd3/STREAM-17
#[tokio::test]
async fn a_range_that_nobody_waits_for_is_called_off() {
    let Some(etcd) = Etcd::start().await else { return };
    if !has_streams() {
        // One answer is on its way or not; there is nothing to call off.
        return;
    }
    let direct = etcd.connect().await;
    fill(&direct, 50, 1_000_000).await;
    let meter = Meter::to(etcd.port()).await;
    let kv = Arc::new(connect(config([meter.url()])).await);
    meter.stop_after(3_000_000);
    let reader = Arc::clone(&kv);
    let read = tokio::spawn(async move { reader.range(pods()).await });
    soon(meter.reached()).await;
    read.abort();
    meter.go_on();
    // It ended, and not by having sent everything.
    let ended = async |texts: &[&str]| counted(etcd.port(), "grpc_server_handled_total", texts).await;
    let method = "grpc_method=\"RangeStream\"";
    soon(async { while ended(&[method]).await < 1.0 {} }).await;
    assert_eq!(ended(&[method, "grpc_code=\"OK\""]).await, 0.0);
    assert!(meter.sent() < 40_000_000, "the rest was not sent: {}", meter.sent());
}
