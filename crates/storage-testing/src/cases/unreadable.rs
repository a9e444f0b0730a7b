//! Values that cannot be decrypted or decoded: named, never served, never in the way of others.

use std::sync::Arc;

use apiserver_storage_api::{
    DeleteOptions, Entry, EventKind, GetOptions, ListAt, ListOptions, NoCheck, OnUnreadable, Preconditions, Storage,
    StorageError, UpdateOptions, WatchItem, WatchOptions, WatchStart,
};
use bytes::Bytes;
use futures::StreamExt;

use crate::fixture::*;
use crate::harness::Harness;
use crate::transformer::Faults;

const GARBAGE: Bytes = Bytes::from_static(b"this is no object");

fn unreadable<T: std::fmt::Debug>(result: Result<T, StorageError>) {
    match result {
        Err(StorageError::Unreadable { key, .. }) => assert!(key.ends_with("/pods/ns/bad"), "{key}"),
        other => panic!("wanted Unreadable, got {other:?}"),
    }
}

/// One good object and one that is garbage.
async fn with_garbage(h: &impl Harness) -> (Arc<dyn Storage>, apiserver_storage_api::Revision) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let revision = h.raw_put(&key("ns", "bad"), GARBAGE).await;
    (store, revision)
}

// covers: storage-api/GET-09, storage-api/GET-10, storage-api/UPD-30, storage-api/DEL-14, storage-api/LIST-42, storage-etcd3/CORR-09
/// What touches an unreadable value fails and names it; it stays as it is, and others work.
pub async fn an_unreadable_value_fails_what_touches_it<H: Harness>(h: H) {
    let (store, revision) = with_garbage(&h).await;
    let bad = key("ns", "bad");
    unreadable(store.get(&bad, GetOptions::default()).await);
    unreadable(try_change(&*store, &bad, UpdateOptions::default(), |_| panic!("must not run")).await);
    unreadable(store.delete(&bad, DeleteOptions::default(), &mut NoCheck).await);
    unreadable(try_list(&*store, &all(), ListOptions::default()).await);
    let selected = ListOptions {
        predicate: by_field("metadata.name=a"),
        ..ListOptions::default()
    };
    unreadable(try_list(&*store, &all(), selected).await);
    assert_eq!(h.raw_get(&bad).await, Some(GARBAGE));
    assert_eq!(now(&*store).await, revision);
    change(&*store, &key("ns", "a"), label("x", "1")).await;
    create_pod(&*store, "ns", "b").await;
}

// covers: storage-api/LIST-45
/// A list that asks for it gets unreadable values in their places, whatever it selects.
pub async fn a_list_can_include_unreadable_values<H: Harness>(h: H) {
    let (store, revision) = with_garbage(&h).await;
    create_pod(&*store, "ns", "c").await;
    let options = ListOptions {
        unreadable: OnUnreadable::Include,
        ..ListOptions::default()
    };
    let listed = list(&*store, &all(), options.clone()).await;
    assert_eq!(names(&listed.entries), ["ns/a", "ns/bad", "ns/c"]);
    let bad = &listed.entries[1];
    assert!(
        bad.unreadable_reason().is_some() && bad.revision() == revision,
        "{bad:?}"
    );
    unreadable(bad.json().map(|_| ()));
    let selected = ListOptions {
        predicate: by_field("metadata.name=c"),
        ..options
    };
    assert_eq!(
        names(&list(&*store, &all(), selected).await.entries),
        ["ns/bad", "ns/c"]
    );
}

// covers: storage-api/LIST-45, storage-api/GATE-02, storage-etcd3/CORR-03
/// A list tells what it can read from the names of what it cannot; all who name an unreadable object use the same name,
/// its full key.
pub async fn a_list_names_what_it_cannot_read<H: Harness>(h: H) {
    let (store, _) = with_garbage(&h).await;
    create_pod(&*store, "ns", "c").await;
    let options = ListOptions {
        unreadable: OnUnreadable::Include,
        ..ListOptions::default()
    };
    let listing = store.list(&all(), options).await.expect("a list");
    let (listed, unreadables) = listing.collect_readable().await.expect("a list");
    assert_eq!(names(&listed.entries), ["ns/a", "ns/c"]);
    assert!(!unreadables.is_truncated() && unreadables.failure().is_none());
    let start = WatchStart::InitialState(apiserver_storage_api::ReadAt::MostRecent);
    let (initial, _) = Watching::all(&*store, start).await.initial().await;
    let errors = [
        store.get(&key("ns", "bad"), GetOptions::default()).await.err(),
        try_list(&*store, &all(), ListOptions::default()).await.err(),
        initial[1].record().err(),
    ];
    let name = |error: &StorageError| match error {
        StorageError::Unreadable { key, .. } => key.clone(),
        other => panic!("wanted Unreadable, got {other:?}"),
    };
    let listed: Vec<_> = unreadables.errors().iter().map(name).collect();
    let [listed] = listed.as_slice() else {
        panic!("{listed:?}");
    };
    assert!(
        listed.ends_with("/pods/ns/bad") && !listed.starts_with("/pods/"),
        "{listed}"
    );
    for error in errors {
        let error = error.expect("unreadable");
        assert_eq!((&name(&error), error.code()), (listed, Some(7)));
    }
}

/// So many objects and garbage behind them, by its key; and how a list of all that ends: what came before the error, in
/// how many pages, and the error.
async fn cut_short(h: &impl Harness, objects: usize) -> (Vec<Entry>, usize, StorageError) {
    let store = h.store();
    for number in 0..objects {
        create_pod(&*store, "ns", &format!("a{number:03}")).await;
    }
    h.raw_put(&key("ns", "bad"), GARBAGE).await;
    let (mut entries, mut pages) = (Vec::new(), 0);
    let mut list = match store.list(&all(), ListOptions::default()).await {
        Ok(list) => list.into_pages(),
        Err(error) => return (entries, pages, error),
    };
    loop {
        match list.next().await.expect("an error ends it") {
            Ok(page) => {
                assert!(page.end.is_none(), "no end of a list that was cut short: {page:?}");
                entries.extend(page.entries);
                pages += 1;
            }
            Err(error) => {
                assert!(list.next().await.is_none(), "the error is the last item");
                return (entries, pages, error);
            }
        }
    }
}

// covers: storage-api/LIST-42, storage-api/LIST-43
/// A list that meets an unreadable value late names it in the stream, which has no end but that error.
pub async fn a_list_that_fails_on_its_way_names_the_value<H: Harness>(h: H) {
    let (entries, _, error) = cut_short(&h, 40).await;
    unreadable::<()>(Err(error));
    let all: Vec<String> = (0..40).map(|number| format!("ns/a{number:03}")).collect();
    assert_eq!(names(&entries), all[..entries.len()]);
}

// covers: storage-api/LIST-43
/// What is read in pages has shown whole pages by then.
pub async fn a_long_list_has_shown_pages_before_it_fails<H: Harness>(h: H) {
    // More than a first page has, as long as nothing is known of what values weigh.
    let (entries, pages, error) = cut_short(&h, 140).await;
    unreadable::<()>(Err(error));
    assert!(
        pages > 0 && entries.len() >= 30,
        "{pages} pages, {} entries",
        entries.len()
    );
}

// covers: storage-api/SEL-17, storage-api/SEL-03, storage-api/GAP-03
/// An object whose labels or selectable fields are of no use to a selector is unreadable, by key: it is not taken for one
/// that does not match.
pub async fn what_no_selector_can_look_at_is_not_left_out<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let odd: [&'static [u8]; 2] = [
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad","namespace":"ns","labels":{"x":{"y":1}}}}"#,
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad","namespace":"ns"},"spec":{"nodeName":["n1"]}}"#,
    ];
    for odd in odd {
        h.raw_put(&key("ns", "bad"), Bytes::from_static(odd)).await;
        for predicate in [
            by_label("x=1"),
            by_field("spec.nodeName=n1"),
            by_field("metadata.name=a"),
        ] {
            let selected = ListOptions {
                predicate,
                ..ListOptions::default()
            };
            unreadable(try_list(&*store, &all(), selected.clone()).await);
            let included = ListOptions {
                unreadable: OnUnreadable::Include,
                ..selected.clone()
            };
            let listed = list(&*store, &all(), included).await;
            assert_eq!(names(&listed.entries).last(), Some(&"ns/bad"), "{selected:?}");
        }
    }
}

// covers: storage-api/WATCH-32, storage-api/WATCH-33, storage-etcd3/CORR-08
/// A watch delivers unreadable values as such and goes on, also when one is deleted.
pub async fn a_watch_delivers_unreadable_values_and_goes_on<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    let revision = h.raw_put(&key("ns", "bad"), GARBAGE).await;
    let event = watch.expect(EventKind::Added, &key("ns", "bad")).await;
    assert_eq!(event.revision, revision);
    assert!(event.object.expect("an entry").unreadable_reason().is_some());
    let options = DeleteOptions {
        unreadable: true,
        ..DeleteOptions::default()
    };
    let deleted = store
        .delete(&key("ns", "bad"), options, &mut NoCheck)
        .await
        .expect("deleted");
    let event = watch.expect(EventKind::Deleted, &key("ns", "bad")).await;
    assert_eq!(event.revision, deleted.revision());
    assert!(event.object.is_none_or(|last| last.unreadable_reason().is_some()));
    create_pod(&*store, "ns", "c").await;
    watch.expect(EventKind::Added, &key("ns", "c")).await;
}

// covers: storage-api/WATCH-32
/// The initial state of a watch has unreadable values in their places.
pub async fn the_initial_state_has_unreadable_values<H: Harness>(h: H) {
    let (store, _) = with_garbage(&h).await;
    let start = WatchStart::InitialState(apiserver_storage_api::ReadAt::MostRecent);
    let (entries, _) = Watching::all(&*store, start).await.initial().await;
    assert_eq!(names(&entries), ["ns/a", "ns/bad"]);
}

// covers: storage-api/DEL-15, storage-api/DEL-17, storage-etcd3/CORR-09
/// Asked to, a delete removes an unreadable value; its check gets no object, a suggestion is of no use.
pub async fn an_unreadable_value_can_be_deleted_on_purpose<H: Harness>(h: H) {
    let (store, revision) = with_garbage(&h).await;
    let suggestion = get(&*store, &key("ns", "a")).await;
    let mut seen = Vec::new();
    let mut check = |current: Option<Entry>| {
        seen.push(current.is_none());
        async { Ok(()) }
    };
    let options = DeleteOptions {
        unreadable: true,
        suggestion: Some(suggestion),
        ..DeleteOptions::default()
    };
    let deleted = store
        .delete(&key("ns", "bad"), options, &mut check)
        .await
        .expect("deleted");
    assert_eq!(seen, [true]);
    assert!(
        deleted.unreadable_reason().is_some() && deleted.revision() == revision.next(),
        "{deleted:?}"
    );
    assert_eq!(h.raw_get(&key("ns", "bad")).await, None);
    list(&*store, &all(), ListOptions::default()).await;
}

// covers: storage-api/DEL-16, storage-api/DEL-17, storage-api/DEL-19, storage-api/PRE-06
/// A readable object is not deleted that way, nor is one whose preconditions nobody can check.
pub async fn a_readable_object_is_not_deleted_as_an_unreadable_one<H: Harness>(h: H) {
    let (store, revision) = with_garbage(&h).await;
    let suggestion = Some(get(&*store, &key("ns", "a")).await);
    for suggestion in [None, suggestion] {
        let options = DeleteOptions {
            unreadable: true,
            suggestion,
            ..DeleteOptions::default()
        };
        match store.delete(&key("ns", "a"), options, &mut NoCheck).await {
            Err(StorageError::InvalidObject { message, .. }) => assert_eq!(
                message,
                "unsafe deletion is not allowed because the object is decodable from storage"
            ),
            other => panic!("{other:?}"),
        }
    }
    let preconditions = Preconditions {
        uid: Some("x".into()),
        resource_version: None,
    };
    let options = DeleteOptions {
        unreadable: true,
        preconditions,
        ..DeleteOptions::default()
    };
    match store.delete(&key("ns", "bad"), options, &mut NoCheck).await {
        Err(StorageError::Internal { message, .. }) => {
            assert!(message.starts_with("can't enforce preconditions"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(now(&*store).await, revision);
}

// covers: storage-api/DEL-18
/// An unreadable value that becomes readable before it is deleted stays.
pub async fn a_value_that_becomes_readable_stays<H: Harness>(h: H) {
    let (store, _) = with_garbage(&h).await;
    let h = Arc::new(h);
    let healer = Arc::clone(&h);
    let mut check = |_| {
        let healer = Arc::clone(&healer);
        async move {
            let good = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"}}"#;
            healer.raw_put(&key("ns", "bad"), Bytes::from_static(good)).await;
            Ok(())
        }
    };
    let options = DeleteOptions {
        unreadable: true,
        ..DeleteOptions::default()
    };
    let kept = store.delete(&key("ns", "bad"), options, &mut check).await;
    assert!(matches!(kept, Err(StorageError::InvalidObject { .. })), "{kept:?}");
    assert_eq!(
        get(&*store, &key("ns", "bad")).await.meta().expect("readable").name(),
        "bad"
    );
}

// covers: storage-api/XFM-01
/// An encrypted value belongs to its key: a copy under another one is unreadable.
pub async fn a_value_copied_to_another_key_is_unreadable<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let stored = h.raw_get(&key("ns", "a")).await.expect("stored");
    h.raw_put(&key("ns", "bad"), stored.clone()).await;
    unreadable(store.get(&key("ns", "bad"), GetOptions::default()).await);
    // Back under its own key it is what it was.
    h.raw_put(&key("ns", "a"), stored).await;
    get(&*store, &key("ns", "a")).await;
}

// covers: storage-api/XFM-02, storage-api/XFM-05, storage-api/LIST-41
/// A value that no key opens is unreadable for every verb.
pub async fn what_does_not_decrypt_is_unreadable<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "bad").await;
    h.transformer().set(Faults {
        unreadable: true,
        ..Faults::default()
    });
    unreadable(store.get(&key("ns", "bad"), GetOptions::default()).await);
    unreadable(try_change(&*store, &key("ns", "bad"), UpdateOptions::default(), nothing).await);
    unreadable(
        store
            .delete(&key("ns", "bad"), DeleteOptions::default(), &mut NoCheck)
            .await,
    );
    unreadable(try_list(&*store, &all(), ListOptions::default()).await);
    let start = WatchStart::InitialState(apiserver_storage_api::ReadAt::MostRecent);
    let (entries, _) = Watching::all(&*store, start).await.initial().await;
    assert!(entries[0].unreadable_reason().is_some());
    // Switched back, it is readable again for every verb: nobody kept a transformer of his own.
    h.transformer().set(Faults::default());
    get(&*store, &key("ns", "bad")).await;
    assert_eq!(list_at(&*store, ListAt::MostRecent).await.entries.len(), 1);
    change(&*store, &key("ns", "bad"), label("x", "1")).await;
}

// covers: storage-api/XFM-04, storage-etcd3/CORR-01
/// A transformer that cannot answer now is an error that passes, never an unreadable object.
pub async fn what_cannot_be_decrypted_now_is_not_called_unreadable<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    h.transformer().set(Faults {
        unavailable: true,
        ..Faults::default()
    });
    let get_error = store
        .get(&key("ns", "a"), GetOptions::default())
        .await
        .expect_err("not now");
    let options = ListOptions {
        unreadable: OnUnreadable::Include,
        ..ListOptions::default()
    };
    let list_error = try_list(&*store, &all(), options).await.expect_err("not now");
    let delete_options = DeleteOptions {
        unreadable: true,
        ..DeleteOptions::default()
    };
    let delete_error = store
        .delete(&key("ns", "a"), delete_options, &mut NoCheck)
        .await
        .expect_err("not now");
    create_pod(&*store, "ns", "b").await;
    for error in [get_error, list_error, delete_error, watch.error().await] {
        assert!(error.is_retryable(), "{error:?}");
    }
    h.transformer().set(Faults::default());
    get(&*store, &key("ns", "a")).await;
}

// covers: storage-api/XFM-02, storage-api/GATE-03
/// A transformer that answers later changes nothing: order and content are the same.
pub async fn a_transformer_that_answers_later_keeps_the_order<H: Harness>(h: H) {
    let store = h.store();
    h.transformer().set(Faults {
        slow: true,
        ..Faults::default()
    });
    let mut watch = Watching::with(
        &*store,
        &all(),
        WatchOptions::from_start(WatchStart::After(now(&*store).await)),
    )
    .await;
    let names: Vec<String> = (0..20).map(|n| format!("p{n:02}")).collect();
    for name in &names {
        create_pod(&*store, "ns", name).await;
    }
    let listed = list_at(&*store, ListAt::MostRecent).await;
    assert_eq!(listed.entries.len(), names.len());
    for name in &names {
        watch.expect(EventKind::Added, &key("ns", name)).await;
    }
    drop(watch);
    let start = WatchStart::InitialState(apiserver_storage_api::ReadAt::MostRecent);
    let mut again = Watching::all(&*store, start).await;
    assert!(matches!(again.item().await, Some(Ok(WatchItem::Initial(_)))));
}
