//! Compaction in the middle of a list.

mod common;

use apiserver_storage_api::{ListAt, ListOptions, Storage, StorageError};
use apiserver_storage_testing::fixture::*;
use futures::StreamExt;

use common::store;

// covers: storage-etcd3/PAGE-16, storage-etcd3/PAGE-17, storage-api/LIST-34
#[tokio::test]
async fn the_new_token_begins_where_the_request_began() {
    let (kv, store) = store();
    create_pods(&store, &["a", "b", "c", "d", "e", "f"]).await;
    let first = list(&store, &all(), page(ListAt::MostRecent, 1)).await;
    change(&store, &key("ns", "f"), label("x", "1")).await;
    // The second inner page of the call is read after the compaction; `b` was found on the first one.
    kv.before_range(|kv| kv.before_range(|kv| kv.compact_now(revision(8))));
    let options = ListOptions {
        predicate: by_field("metadata.name!=c"),
        ..page(following(&first.next), 2)
    };
    let token = match try_list(&store, &all(), options.clone()).await {
        Err(StorageError::Expired { token, .. }) => token,
        other => panic!("{other:?}"),
    };
    let listed = list(
        &store,
        &all(),
        ListOptions {
            at: following(&token),
            ..options
        },
    )
    .await;
    assert_eq!(names(&listed.entries), ["ns/b", "ns/d"], "nothing is skipped");
}

// covers: storage-etcd3/PAGE-15, storage-api/LIST-43
#[tokio::test]
async fn a_list_that_compaction_overtakes_ends_with_an_error() {
    let (kv, store) = store();
    for n in 0..600 {
        create_pod(&store, "ns", &format!("p{n:03}")).await;
    }
    let listing = store.list(&all(), ListOptions::default()).await.expect("a list");
    change(&store, &key("ns", "p000"), label("x", "1")).await;
    kv.compact_now(now(&store).await);
    let mut pages = listing.into_pages();
    let mut read = 0;
    loop {
        match pages.next().await {
            Some(Ok(page)) => {
                assert!(page.end.is_none());
                read += page.entries.len();
            }
            Some(Err(StorageError::Expired { token: None, .. })) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((1..600).contains(&read), "{read}: what was read before");
    assert!(pages.next().await.is_none(), "the error is the last item");
}

// covers: storage-etcd3/EWATCH-11, storage-etcd3/EWATCH-10
#[tokio::test]
async fn an_initial_state_that_compaction_overtakes_ends_with_an_error() {
    use apiserver_storage_api::{ReadAt, WatchItem, WatchStart};
    let (kv, store) = store();
    for n in 0..600 {
        create_pod(&store, "ns", &format!("p{n:03}")).await;
    }
    let mut watch = Watching::all(&store, WatchStart::InitialState(ReadAt::MostRecent)).await;
    change(&store, &key("ns", "p000"), label("x", "1")).await;
    kv.compact_now(now(&store).await);
    let mut read = 0;
    let error = loop {
        match watch.item().await {
            Some(Ok(WatchItem::Initial(_))) => read += 1,
            Some(Err(error)) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(read > 0, "what was read before");
    match error {
        StorageError::Expired { message, token: None } => {
            assert_eq!(message, "The resourceVersion for the provided watch is too old.");
        }
        other => panic!("{other:?}"),
    }
    assert!(watch.item().await.is_none(), "an error is the last item");
}
