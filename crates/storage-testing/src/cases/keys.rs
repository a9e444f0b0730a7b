//! Which keys belong together and which do not.

use apiserver_storage_api::{
    CreateOptions, DeleteOptions, EventKind, GetOptions, Key, ListOptions, NoCheck, ResourcePrefix, Scope,
    StorageError, UpdateOptions, WatchOptions, WatchStart,
};
use serde_json::json;

use crate::fixture::*;
use crate::harness::Harness;

// covers: storage-api/KEY-02, storage-api/KEY-09
/// A key of another kind is refused by every verb, before anything is done.
pub async fn a_key_of_another_resource_is_refused<H: Harness>(h: H) {
    let store = h.store();
    let foreign = ResourcePrefix::new("/secrets/").expect("a prefix");
    let key = Key::new(&foreign, "/secrets/ns/a").expect("a key");
    let before = now(&*store).await;
    let mut ran = false;
    let mut update = |_| {
        ran = true;
        async { Err(StorageError::callback("ran")) }
    };
    let errors = [
        store
            .create(&key, encoded(&pod("ns", "a")), CreateOptions::default())
            .await
            .err(),
        store.get(&key, GetOptions::default()).await.err(),
        store
            .guaranteed_update(&key, UpdateOptions::default(), &mut update)
            .await
            .err(),
        store.delete(&key, DeleteOptions::default(), &mut NoCheck).await.err(),
    ];
    for (at, error) in errors.into_iter().enumerate() {
        assert!(
            matches!(error, Some(StorageError::InvalidKey { .. })),
            "verb {at}: {error:?}"
        );
    }
    assert!(!ran, "no callback runs");
    assert_eq!(now(&*store).await, before);
}

// covers: storage-api/KEY-02, storage-api/KEY-09
/// A scope of another kind is refused. (A cache may show it as empty, which it is there.)
pub async fn a_scope_of_another_resource_is_refused<H: Harness>(h: H) {
    let store = h.store();
    let foreign = ResourcePrefix::new("/secrets/").expect("a prefix");
    let key = Key::new(&foreign, "/secrets/ns/a").expect("a key");
    for scope in [Scope::all(&foreign), Scope::Key(key)] {
        let listed = store.list(&scope, ListOptions::default()).await.map(|_| ());
        let watched = store.watch(&scope, WatchOptions::default()).await.map(|_| ());
        for result in [listed, watched] {
            assert!(
                matches!(result, Err(StorageError::InvalidKey { .. })),
                "{scope}: {result:?}"
            );
        }
    }
}

// covers: storage-api/KEY-10
/// The root of a kind is a key like any other.
pub async fn the_root_of_the_resource_can_hold_an_object<H: Harness>(h: H) {
    let store = h.store();
    let root = raw_key("/pods/");
    create(&*store, &root, &pod("ns", "root")).await;
    assert_eq!(get(&*store, &root).await.key(), &root);
    change(&*store, &root, label("x", "1")).await;
    delete(&*store, &root).await;
    assert!(list(&*store, &all(), ListOptions::default()).await.entries.is_empty());
}

// covers: storage-api/KEY-11, storage-api/KEY-12
/// Keys are exact bytes: a key, the same with a slash, and what is below it are different objects.
pub async fn keys_are_exact_and_independent<H: Harness>(h: H) {
    let store = h.store();
    let keys = ["/pods/ns", "/pods/ns/", "/pods/ns/a", "/pods//ns"].map(raw_key);
    for (at, key) in keys.iter().enumerate() {
        create(&*store, key, &pod("ns", &format!("n{at}"))).await;
    }
    for (at, key) in keys.iter().enumerate() {
        let entry = get(&*store, key).await;
        assert_eq!(entry.meta().expect("readable").name(), format!("n{at}"), "{key}");
    }
    delete(&*store, &keys[0]).await;
    assert_eq!(list(&*store, &all(), ListOptions::default()).await.entries.len(), 3);
}

// covers: storage-api/KEY-13, storage-api/LIST-20, storage-api/WATCH-14
/// A scope ends at its slash: names and namespaces that begin alike are apart.
pub async fn scopes_with_a_common_beginning_are_apart<H: Harness>(h: H) {
    let store = h.store();
    let mut watch = Watching::with(
        &*store,
        &within("ns"),
        WatchOptions::from_start(WatchStart::After(now(&*store).await)),
    )
    .await;
    create_pod(&*store, "ns-bad", "foo").await;
    create_pod(&*store, "ns", "foobar").await;
    create_pod(&*store, "ns", "foo").await;
    let listed = list(&*store, &within("ns"), ListOptions::default()).await;
    assert_eq!(names(&listed.entries), ["ns/foo", "ns/foobar"]);
    let one = list(&*store, &Scope::Key(key("ns", "foo")), ListOptions::default()).await;
    assert_eq!(names(&one.entries), ["ns/foo"]);
    watch.expect(EventKind::Added, &key("ns", "foobar")).await;
    watch.expect(EventKind::Added, &key("ns", "foo")).await;
}

// covers: storage-api/KEY-14
/// The store compares no names: an object may have another one than its key, or none.
pub async fn names_inside_objects_are_not_compared<H: Harness>(h: H) {
    let store = h.store();
    let nameless = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}});
    create(&*store, &key("ns", "a"), &nameless).await;
    create(&*store, &key("ns", "b"), &pod("elsewhere", "other")).await;
    assert_eq!(get(&*store, &key("ns", "a")).await.meta().expect("readable").name, None);
    assert_eq!(
        get(&*store, &key("ns", "b")).await.meta().expect("readable").name(),
        "other"
    );
}
