//! Lists of objects on a real server: what is asked of it, and what becomes of lists when it fails between two pages.

mod common;
mod seen;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{ListAt, ListOptions, Scope, Storage, StorageError};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{Expected, Kv, Lease, RangeRequest, WriteOutcome};
use apiserver_storage_testing::SwitchTransformer;
use apiserver_storage_testing::fixture::{
    all, by_field, create, create_pod, following, key, list, names, page, pod, pods, revision, try_list, within,
};
use apiserver_storage_testing::proxy::Wire;
use futures::future::join_all;

use common::{Etcd, config, connect};
use seen::{Book, Seen};

fn at_revision(number: u64) -> ListOptions {
    ListOptions {
        at: ListAt::Exact(revision(number)),
        ..ListOptions::default()
    }
}

/// Stores pods with that many bytes in them, side by side.
async fn fill(store: &dyn Storage, count: usize, bytes: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(64) {
        let writes = chunk.iter().map(|number| async move {
            let name = format!("p{number:05}");
            let mut object = pod("ns", &name);
            object["spec"]["filler"] = "x".repeat(bytes).into();
            create(store, &key("ns", &name), &object).await;
        });
        join_all(writes).await;
    }
}

// covers: storage-etcd3/PAGE-02
#[tokio::test]
async fn a_list_of_one_key_is_one_read_that_counts_as_a_get() {
    let Some(etcd) = Etcd::start().await else { return };
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    let created = create_pod(&store, "ns", "a").await;
    create_pod(&store, "ns", "aa").await;
    seen.take();
    let one = Scope::Key(key("ns", "a"));
    assert_eq!(
        names(&list(&store, &one, ListOptions::default()).await.entries),
        ["ns/a"]
    );
    let at = created.revision();
    assert_eq!(list(&store, &one, at_revision(at.get())).await.entries.len(), 1);
    let none = Scope::Key(key("ns", "b"));
    assert!(list(&store, &none, ListOptions::default()).await.entries.is_empty());
    let asked = seen.take();
    assert_eq!(asked.gets, [None, Some(at), None]);
    assert!(asked.ranges.is_empty() && asked.nows == 0, "{asked:?}");
    assert_eq!(book.sum(&["etcd_requests_total", "operation=get", "resource=pods"]), 3);
    assert_eq!(book.sum(&["etcd_requests_total", "operation=list"]), 0);
}

// covers: storage-etcd3/PAGE-05, storage-etcd3/STREAM-06
#[tokio::test]
async fn a_minimum_that_is_not_reached_is_refused_before_anything_is_decoded() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let transformer = SwitchTransformer::new(Arc::new(Identity));
    let store = seen.store_with(pods(), Arc::new(transformer.clone()));
    for name in ["a", "b", "c"] {
        create_pod(&store, "ns", name).await;
    }
    transformer.take_reads();
    seen.take();
    let options = ListOptions {
        at: ListAt::NotOlderThan(revision(1000)),
        ..ListOptions::default()
    };
    let refused = try_list(&store, &all(), options).await;
    assert!(
        matches!(refused, Err(StorageError::TooLargeResourceVersion { current, .. }) if current == revision(4)),
        "{refused:?}"
    );
    assert_eq!((seen.take().ranges.len(), transformer.take_reads()), (1, 0));
    // A state that is named is not held against any minimum.
    let named = list(&store, &all(), at_revision(3)).await;
    assert_eq!((named.revision, named.entries.len()), (revision(3), 2));
}

// covers: storage-etcd3/PAGE-11, storage-etcd3/OPEN-04, storage-etcd3/PAGE-22
#[tokio::test]
async fn pages_begin_right_after_the_last_key_and_are_few() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    fill(&store, 1500, 10).await;
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert_eq!(listed.entries.len(), 1500);
    let mut sorted = names(&listed.entries);
    sorted.dedup();
    assert!(sorted.is_sorted() && sorted.len() == 1500);
    let ranges = seen.take().ranges;
    // The server counts all keys behind the start for each of them: the fewer the better.
    assert!(ranges.len() <= 3, "{}", ranges.len());
    assert_eq!(ranges[0].request.at, None);
    for pair in ranges.windows(2) {
        assert_eq!(pair[1].request.start, format!("{}\0", pair[0].last));
        assert_eq!(pair[1].request.at, Some(listed.revision));
    }
    // The weight of all of them is known now, also where a part is read for the first time.
    list(&store, &within("ns"), ListOptions::default()).await;
    let first = seen.take().ranges[0].keys;
    assert_eq!(first, 1500, "all of it at once");
}

// covers: storage-etcd3/PAGE-23, storage-etcd3/OPEN-05
#[tokio::test]
async fn pages_of_heavy_objects_are_small_in_keys() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    fill(&store, 130, 300_000).await;
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert_eq!(listed.entries.len(), 130);
    let ranges = seen.take().ranges;
    for again in [ranges, {
        list(&store, &all(), ListOptions::default()).await;
        seen.take().ranges
    }] {
        // 16 MiB, and one value that goes beyond it.
        assert!(again.len() >= 3, "{again:?}");
        assert!(again.iter().all(|range| range.bytes <= 17 << 20), "{again:?}");
    }
}

#[tokio::test]
async fn a_range_that_turns_heavy_comes_in_parts_that_fit() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let key = |number: usize| format!("/registry/pods/ns/p{number:05}");
    let weight = |number: usize| if number < 1_200 { 200 } else { 300_000 };
    let numbers: Vec<usize> = (0..1_230).collect();
    for chunk in numbers.chunks(64) {
        let writes = chunk.iter().map(|number| {
            let (kv, value) = (&kv, vec![b'x'; weight(*number)].into());
            async move { kv.put_if(&key(*number), value, Expected::Absent, Lease::None).await }
        });
        for written in join_all(writes).await {
            assert!(matches!(written.unwrap(), WriteOutcome::Applied(_)));
        }
    }
    // The first pages teach that values are light, and the last ones are not. Even one alone is more than the least bound.
    for bound in [1_000_000, 1_000] {
        let mut request = RangeRequest::prefix("/registry/pods/ns/");
        request.limit_bytes = NonZeroU64::new(bound);
        let mut found = Vec::new();
        loop {
            let page = kv.range(request.clone()).await.unwrap();
            let bytes: usize = page.pairs.iter().map(|pair| pair.value.len()).sum();
            let fits = bytes <= 2 * usize::try_from(bound).unwrap() || page.pairs.len() == 1;
            assert!(fits, "{bytes} bytes in {} values, bound {bound}", page.pairs.len());
            found.extend(page.pairs.iter().map(|pair| pair.key.to_string()));
            if !page.more {
                break;
            }
            request.start = format!("{}\0", page.pairs.last().unwrap().key);
        }
        assert_eq!(found, numbers.iter().map(|number| key(*number)).collect::<Vec<_>>());
    }
}

// covers: storage-etcd3/PAGE-12
#[tokio::test]
async fn no_keys_and_more_to_come_is_an_error_and_no_endless_loop() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    create_pod(&store, "ns", "a").await;
    seen.lie();
    let refused = try_list(&store, &all(), ListOptions::default()).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("no results were found, but"), "{text}");
    assert!(text.contains("more values remaining"), "{text}");
}

// covers: storage-etcd3/PAGE-18, storage-etcd3/PAGE-15
#[tokio::test]
async fn compaction_between_inner_pages_fails_a_list_that_came_without_a_token() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    fill(&store, 40, 10).await;
    let rare = ListOptions {
        predicate: by_field("metadata.name=p00039"),
        ..page(ListAt::MostRecent, 1)
    };
    let kv = Arc::clone(&seen.kv);
    seen.after(2, async move {
        let last = create_pod(&kv.store(pods()), "ns", "zz").await.revision();
        kv.compact(last).await.unwrap();
    });
    let error = try_list(&store, &all(), rare.clone()).await.unwrap_err();
    assert!(error.is_expired(), "{error:?}");
    assert_eq!(
        error.to_string(),
        "The resourceVersion for the provided list is too old."
    );
    // It costs the caller a second call, which then has the same answer.
    assert_eq!(list(&store, &all(), rare).await.entries.len(), 1);
}

// covers: storage-etcd3/OPEN-06, storage-etcd3/PAGE-16, storage-etcd3/PAGE-17
#[tokio::test]
async fn compaction_between_inner_pages_leads_back_to_where_the_request_began() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    fill(&store, 60, 10).await;
    let mut first = page(ListAt::MostRecent, 1);
    first.predicate = by_field("metadata.name!=p00059");
    let begun = list(&store, &all(), first).await;
    assert_eq!(names(&begun.entries), ["ns/p00000"]);
    // The match is on an inner page that compaction takes away.
    let rest = ListOptions {
        at: following(&begun.next),
        predicate: by_field("metadata.name=p00058"),
        ..page(ListAt::MostRecent, 1)
    };
    let kv = Arc::clone(&seen.kv);
    seen.after(1, async move {
        let last = create_pod(&kv.store(pods()), "ns", "zz").await.revision();
        kv.compact(last).await.unwrap();
    });
    let error = try_list(&store, &all(), rest).await.unwrap_err();
    let StorageError::Expired { token: Some(token), .. } = error else {
        panic!("{error:?}")
    };
    let again = ListOptions {
        at: ListAt::Continue(token),
        ..ListOptions::default()
    };
    let found = list(&store, &all(), again).await;
    assert_eq!(
        found.entries.len(),
        60,
        "none of those that were behind the token is missing"
    );
    assert_eq!(names(&found.entries)[0], "ns/p00001");
}

// covers: storage-etcd3/PAGE-19
#[tokio::test]
async fn other_failures_come_as_they_are() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut settings = etcd.config();
    settings.retry_deadline = Duration::from_millis(100);
    let seen = Seen::over(connect(settings).await);
    let store = seen.store(pods());
    fill(&store, 700, 10).await;
    let etcd = parking_lot::Mutex::new(etcd);
    seen.after(1, async move { etcd.lock().kill() });
    let error = try_list(&store, &all(), ListOptions::default()).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable { .. }), "{error:?}");
}

// covers: storage-etcd3/OPEN-07
#[tokio::test]
async fn a_list_goes_on_at_its_revision_when_the_connection_breaks_between_pages() {
    let Some(etcd) = Etcd::start().await else { return };
    let wire = Arc::new(Wire::to(etcd.port()).await);
    let seen = Seen::over(connect(config([wire.url()])).await);
    let store = seen.store(pods());
    fill(&store, 900, 10).await;
    let direct = etcd.connect().await;
    let cut = Arc::clone(&wire);
    seen.after(1, async move {
        cut.cut();
        common::create(&direct, "/registry/pods/ns/p00000a", "written meanwhile").await;
    });
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert_eq!(listed.entries.len(), 900);
    assert!(listed.entries.iter().all(|entry| entry.revision() <= listed.revision));
}

/// A server with 400 objects of 10 KB, and a wire to it; `None` where tests are to be skipped.
async fn four_megabytes() -> Option<(Etcd, Wire)> {
    let etcd = Etcd::start().await?;
    let wire = Wire::to(etcd.port()).await;
    let direct = Arc::new(etcd.connect().await);
    fill(&direct.store(pods()), 400, 10_000).await;
    Some((etcd, wire))
}

#[tokio::test]
async fn a_list_that_gets_on_is_not_given_up_however_often_the_connection_breaks() {
    let Some((_etcd, wire)) = four_megabytes().await else {
        return;
    };
    let mut config = config([wire.url()]);
    // Two attempts take as long, since there is a pause between them.
    config.retry_deadline = Duration::from_millis(20);
    let store = Arc::new(connect(config).await).store(pods());
    let before = list(&store, &all(), ListOptions::default()).await;
    let breaks = wire.breaks();
    wire.cut_after(400_000);
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert!(wire.breaks() - breaks >= 8);
    assert_eq!(names(&listed.entries), names(&before.entries));
}

#[tokio::test]
async fn a_list_goes_on_where_it_was_when_the_connection_breaks_within_an_answer() {
    let Some((_etcd, wire)) = four_megabytes().await else {
        return;
    };
    let store = Arc::new(connect(config([wire.url()])).await).store(pods());
    let before = list(&store, &all(), ListOptions::default()).await;
    // All of them, just as many as there are, and fewer: four megabytes, of which each connection brings one.
    for (limit, wanted, left) in [
        (None, 400, None),
        (NonZeroU64::new(400), 400, None),
        (NonZeroU64::new(300), 300, Some(100)),
    ] {
        let breaks = wire.breaks();
        wire.cut_after(1_000_000);
        let options = ListOptions {
            limit,
            ..ListOptions::default()
        };
        let listed = list(&store, &all(), options).await;
        wire.cut();
        assert!(wire.breaks() - breaks >= 2, "{limit:?}");
        assert_eq!(names(&listed.entries), names(&before.entries)[..wanted], "{limit:?}");
        assert_eq!(
            (listed.remaining, listed.next.is_some()),
            (left, left.is_some()),
            "{limit:?}"
        );
    }
}
