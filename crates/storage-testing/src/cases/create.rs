//! Creating objects.

use std::time::Duration;

use apiserver_storage_api::{CreateOptions, Encoded, EventKind, ListAt, ReadAt, StorageError, WatchStart};
use serde_json::{Value, json};

use crate::fixture::*;
use crate::harness::Harness;
use crate::transformer::Faults;

// covers: storage-api/CREATE-01, storage-api/CREATE-10, storage-api/VER-09, storage-api/STAT-06
/// A new object gets the next revision, and that revision is the counter's.
pub async fn a_new_object_is_stored_at_the_next_revision<H: Harness>(h: H) {
    let store = h.store();
    let before = now(&*store).await;
    let created = create_pod(&*store, "ns", "a").await;
    assert_eq!(created.revision(), before.next());
    assert_eq!(now(&*store).await, created.revision());
    carries_own_revision(&created);
    assert_eq!(states(&[created]), states(&[get(&*store, &key("ns", "a")).await]));
}

// covers: storage-api/CREATE-02, storage-api/ERR-04, storage-api/GLOB-02
/// An object that carries a revision is refused; one that carries something else in its place is not.
pub async fn an_object_with_a_revision_is_refused<H: Harness>(h: H) {
    let store = h.store();
    let before = now(&*store).await;
    let mut object = pod("ns", "a");
    object["metadata"]["resourceVersion"] = "7".into();
    let created = store
        .create(&key("ns", "a"), encoded(&object), CreateOptions::default())
        .await;
    assert!(
        matches!(created, Err(StorageError::ResourceVersionSetOnCreate)),
        "{created:?}"
    );
    assert_eq!(now(&*store).await, before);
    for harmless in ["", "0", "abc"] {
        object["metadata"]["resourceVersion"] = harmless.into();
        let key = key("ns", &format!("a{harmless}"));
        carries_own_revision(&create(&*store, &key, &object).await);
    }
}

// covers: storage-api/CREATE-03, storage-api/ERR-01, storage-api/ERR-02, storage-api/GLOB-02
/// A key that is taken stays as it is, and the counter does not move.
pub async fn a_key_that_is_taken_stays_as_it_is<H: Harness>(h: H) {
    let store = h.store();
    let first = create_pod(&*store, "ns", "a").await;
    let second = store
        .create(
            &key("ns", "a"),
            encoded(&pod_on("ns", "a", "n1")),
            CreateOptions::default(),
        )
        .await;
    match second {
        Err(StorageError::KeyExists { key }) => assert!(key.ends_with("/pods/ns/a"), "{key}"),
        other => panic!("wanted KeyExists, got {other:?}"),
    }
    assert_eq!(
        states(&[get(&*store, &key("ns", "a")).await]),
        states(std::slice::from_ref(&first))
    );
    assert_eq!(now(&*store).await, first.revision());
}

// covers: storage-api/VER-06, storage-api/VER-07, storage-api/CREATE-04
/// What is stored carries neither a revision nor a self link.
pub async fn stored_bytes_carry_no_revision<H: Harness>(h: H) {
    let store = h.store();
    let mut object = pod("ns", "a");
    object["metadata"]["selfLink"] = "/x".into();
    create(&*store, &key("ns", "a"), &object).await;
    change(&*store, &key("ns", "a"), |object| {
        object["metadata"]["selfLink"] = "/y".into();
        object["spec"]["nodeName"] = "n1".into();
    })
    .await;
    let entry = get(&*store, &key("ns", "a")).await;
    let served: Value = entry.decode().expect("readable");
    assert_eq!(served["metadata"].get("selfLink"), None);
    let stored = h.raw_get(&key("ns", "a")).await.expect("stored");
    let stored = String::from_utf8_lossy(&stored);
    assert!(
        !stored.contains("resourceVersion") && !stored.contains("selfLink"),
        "{stored}"
    );
}

// covers: storage-api/VER-12, storage-api/VER-13
/// Equal objects are stored as equal bytes, in Go's form, whatever order they came in.
pub async fn equal_objects_are_stored_as_equal_bytes<H: Harness>(h: H) {
    let store = h.store();
    let texts = [
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"b":"<&>","a":"1"}},"spec":{"z":1,"y":[true,null]}}"#,
        "{\n \"spec\": {\"y\": [true, null], \"z\": 1.0},\n \"metadata\": {\"labels\": {\"a\": \"1\", \"b\": \"<&>\"}},\n \
         \"apiVersion\": \"v1\", \"kind\": \"Pod\" }\n",
    ];
    let mut stored = Vec::new();
    for (at, text) in texts.into_iter().enumerate() {
        let key = key("ns", &format!("a{at}"));
        let created = store
            .create(&key, Encoded::from_json(text), CreateOptions::default())
            .await;
        created.unwrap_or_else(|error| panic!("{text}: {error}"));
        stored.push(h.raw_get(&key).await.expect("stored"));
    }
    assert_eq!(stored[0], stored[1]);
    assert!(String::from_utf8_lossy(&stored[0]).contains(r#""a":"1","b":"\u003c\u0026\u003e""#));
}

// covers: storage-api/CREATE-05, storage-api/WATCH-20, storage-api/GLOB-11
/// An object with a lifetime goes at its end, not before, as any deletion does.
pub async fn an_object_with_a_lifetime_expires<H: Harness>(h: H) {
    let store = h.store();
    let short = key("ns", "short");
    let options = CreateOptions {
        ttl: Some(Duration::from_secs(2)),
    };
    let created = store
        .create(&short, encoded(&pod("ns", "short")), options)
        .await
        .expect("created");
    create_pod(&*store, "ns", "long").await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    watch.expect(EventKind::Added, &key("ns", "long")).await;
    assert_eq!(get(&*store, &short).await.revision(), created.revision());
    h.advance(Duration::from_secs(2)).await;
    let gone = watch.expect(EventKind::Deleted, &short).await;
    assert!(gone.revision > created.revision());
    assert_eq!(gone.object.expect("the last state").revision(), gone.revision);
    let listed = list_at(&*store, ListAt::MostRecent).await;
    assert_eq!(names(&listed.entries), ["ns/long"]);
    let before = list_at(&*store, ListAt::Exact(created.revision())).await;
    assert_eq!(names(&before.entries), ["ns/short"]);
}

// covers: storage-api/CREATE-07, storage-api/UPD-33
/// What cannot be encrypted is not written.
pub async fn what_cannot_be_transformed_is_not_written<H: Harness>(h: H) {
    let store = h.store();
    let entry = create_pod(&*store, "ns", "a").await;
    h.transformer().set(Faults {
        unwritable: true,
        ..Faults::default()
    });
    let created = store
        .create(&key("ns", "b"), encoded(&pod("ns", "b")), CreateOptions::default())
        .await;
    assert!(matches!(created, Err(StorageError::Internal { .. })), "{created:?}");
    let updated = try_change(&*store, &key("ns", "a"), Default::default(), label("x", "1")).await;
    assert!(matches!(updated, Err(StorageError::Internal { .. })), "{updated:?}");
    assert_eq!(now(&*store).await, entry.revision());
}

// covers: storage-api/CREATE-08
/// What is no object of the kind is not written.
pub async fn what_is_no_object_of_the_kind_is_not_written<H: Harness>(h: H) {
    let store = h.store();
    let before = now(&*store).await;
    let wrong_kind = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
    let wrong_label = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": {}}}}).to_string();
    for text in ["", "{", "[]", "null", "{}", &wrong_kind, &wrong_label] {
        let value = Encoded::from_json(text.to_owned());
        let created = store.create(&key("ns", "a"), value, CreateOptions::default()).await;
        assert!(
            matches!(created, Err(StorageError::Codec { action: "encode", .. })),
            "{text:?}: {created:?}"
        );
    }
    assert_eq!(now(&*store).await, before);
}

// covers: storage-api/CREATE-11, storage-api/WATCH-21
/// A key that is used again holds a new object.
pub async fn a_deleted_key_can_be_created_again<H: Harness>(h: H) {
    let store = h.store();
    let key = key("ns", "a");
    let first = create_pod(&*store, "ns", "a").await;
    let mut watch = Watching::all(&*store, WatchStart::After(first.revision())).await;
    let deleted = delete(&*store, &key).await;
    let second = create_pod(&*store, "ns", "a").await;
    assert!(first.revision() < deleted.revision() && deleted.revision() < second.revision());
    assert_eq!(
        watch.expect(EventKind::Deleted, &key).await.revision,
        deleted.revision()
    );
    assert_eq!(watch.expect(EventKind::Added, &key).await.revision, second.revision());
}

// covers: storage-api/CREATE-03, storage-api/GLOB-01
/// Of many who create one key at the same time, one wins, and the counter moves once.
pub async fn of_many_creators_of_one_key_one_wins<H: Harness>(h: H) {
    let before = now(&*h.store()).await;
    let creators = (0..8).map(|at| {
        let store = h.store();
        tokio::spawn(async move {
            let object = pod_on("ns", "a", &format!("n{at}"));
            store
                .create(&key("ns", "a"), encoded(&object), CreateOptions::default())
                .await
        })
    });
    let (mut created, mut refused) = (Vec::new(), 0);
    for creator in creators.collect::<Vec<_>>() {
        match creator.await.expect("a creator ends well") {
            Ok(entry) => created.push(entry),
            Err(error) => {
                assert!(error.is_exists(), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((created.len(), refused), (1, 7));
    let stored = get(&*h.store(), &key("ns", "a")).await;
    assert_eq!(states(std::slice::from_ref(&stored)), states(&created));
    assert_eq!(
        (stored.revision(), now(&*h.store()).await),
        (before.next(), before.next())
    );
}

// covers: storage-api/SEL-05, storage-api/SEL-11
/// An entry carries what selectors use, wherever it comes from.
pub async fn entries_carry_what_selectors_use<H: Harness>(h: H) {
    let store = h.store();
    let mut object = pod_on("ns", "a", "n1");
    object["metadata"]["labels"] = json!({"b": "2", "a": ""});
    object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
    let created = create(&*store, &key("ns", "a"), &object).await;
    let mut watch = Watching::all(&*store, WatchStart::InitialState(ReadAt::MostRecent)).await;
    let listed = list_at(&*store, ListAt::MostRecent).await.entries;
    for entry in [created, get(&*store, &key("ns", "a")).await]
        .into_iter()
        .chain(listed)
        .chain(watch.initial().await.0)
    {
        let attributes = entry.attributes().expect("readable");
        assert_eq!(
            (&*attributes.name, &*attributes.namespace, &*attributes.uid),
            ("a", "ns", "uid-ns-a")
        );
        assert_eq!(attributes.labels.iter().collect::<Vec<_>>(), [("a", ""), ("b", "2")]);
        assert_eq!(attributes.field("spec.nodeName"), Some("n1"));
        assert_eq!(attributes.field("spec.other"), None);
        assert!(attributes.deleting);
    }
}
