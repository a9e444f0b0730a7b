//! What a server writes by itself on an empty etcd: its own objects, and keys that are no object of any kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{EventKind, GetOptions, Key, ListOptions, ResourceInfo, Revision, Storage};
use apiserver_storage_kv::{Kv, RangeRequest};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::Value;

use crate::data::{array, bytes, read, text};
use crate::ground::{self, Ground, changes, everything, write_back};
use crate::kinds;

/// One recorded key.
struct Stored {
    full_key: String,
    value: Bytes,
    ttl: Option<Duration>,
    /// Where an API shows it: group, resource, namespace and name.
    place: Option<(String, String, Option<String>, String)>,
}

impl Stored {
    fn of(recorded: &Value) -> Self {
        let ttl = recorded["lease"]["granted_ttl_seconds"].as_u64();
        Self {
            full_key: text(&recorded["key"]),
            value: bytes(&recorded["value"]),
            ttl: ttl.map(Duration::from_secs),
            place: recorded["path"].as_str().map(place),
        }
    }
}

/// The parts of a path: `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME`.
fn place(path: &str) -> (String, String, Option<String>, String) {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let (group, rest) = match parts[..] {
        ["api", _, ref rest @ ..] => ("", rest),
        ["apis", group, _, ref rest @ ..] => (group, rest),
        _ => panic!("{path} is no path of an API"),
    };
    let (namespace, resource, name) = match *rest {
        ["namespaces", namespace, resource, name] => (Some(namespace.to_owned()), resource, name),
        [resource, name] => (None, resource, name),
        _ => panic!("{path} is no path of an object"),
    };
    (group.to_owned(), resource.to_owned(), namespace, name.to_owned())
}

/// The objects of one kind.
struct Kind<'a> {
    info: ResourceInfo,
    store: Arc<dyn Storage>,
    objects: Vec<(Key, Revision, &'a Stored)>,
}

/// Every object is where the real server has it, says what is stored there, and is not written for nothing.
async fn check_kind<K: Kv>(ground: &Ground<K>, kind: &Kind<'_>, start: Revision) {
    let Kind { info, store, objects } = kind;
    let list = store.list(&everything(info), ListOptions::default()).await.unwrap();
    let list = list.collect().await.unwrap();
    let keys: Vec<_> = list.entries.iter().map(|entry| entry.key()).collect();
    let mut want: Vec<_> = objects.iter().map(|(key, ..)| key).collect();
    want.sort();
    assert_eq!(keys, want, "{}", info.group_resource());
    let events = changes(store, &everything(info), start, objects.len()).await;
    for (event, (key, revision, stored)) in events.iter().zip(objects) {
        assert_eq!(
            (event.kind, &event.key, event.revision),
            (EventKind::Added, key, *revision)
        );
        let entry = store.get(key, GetOptions::default()).await.unwrap();
        assert_eq!(entry.revision(), *revision, "{key}");
        let json = entry.json().unwrap_or_else(|error| panic!("{key}: {error}"));
        let shown = String::from_utf8(json.to_vec()).unwrap();
        let version = format!("\"resourceVersion\":\"{revision}\",");
        assert!(shown.contains(&version), "{key}: {shown}");
        assert_eq!(format!("{}\n", shown.replace(&version, "")), stored.value, "{key}");
        assert_eq!(event.object.as_ref().unwrap().json().unwrap(), json, "{key}");
        let listed = list.entries.iter().find(|entry| entry.key() == key).unwrap();
        assert_eq!(listed.json().unwrap(), json, "{key}");
        let same = write_back(store, key).await.unwrap();
        assert_eq!(same.revision(), *revision, "{key} was written although nothing changed");
        let pair = ground.raw(&stored.full_key).await.unwrap();
        assert_eq!((pair.revision, &pair.value), (*revision, &stored.value), "{key}");
    }
}

async fn check<K: Kv>(ground: Ground<K>) {
    let file = read("resources/tests/data/system-json.json");
    let all: Vec<_> = array(&file["keys"]).iter().map(Stored::of).collect();
    let start = ground.now().await;
    let (mut kinds, mut others) = (BTreeMap::new(), Vec::new());
    for stored in &all {
        let revision = ground.put(&stored.full_key, stored.value.clone(), stored.ttl).await;
        let Some((group, resource, namespace, name)) = &stored.place else {
            others.push((stored, ground.raw(&stored.full_key).await.unwrap()));
            continue;
        };
        let kind = kinds
            .entry((group, resource))
            .or_insert_with(|| (kinds::info(group, resource), Vec::new()));
        let key = kind.0.object_key(namespace.as_deref(), name).unwrap();
        assert_eq!(
            key,
            kinds::key(&kind.0, &stored.full_key),
            "where the real server has it"
        );
        kind.1.push((key, revision, stored));
    }
    let before = ground.now().await;
    let opened = kinds.into_values().map(async |(info, objects)| {
        let store = ground.store(&info).await;
        Kind { info, store, objects }
    });
    let opened = join_all(opened).await;
    // Side by side: etcd lets a watch that begins in the past wait a little.
    join_all(opened.iter().map(|kind| check_kind(&ground, kind, start))).await;
    assert_eq!(ground.now().await, before, "reading writes nothing");

    // What is no object stays what it is, and is in nobody's list.
    let objects: usize = opened.iter().map(|kind| kind.objects.len()).sum();
    assert_eq!((opened.len(), objects, others.len()), (14, 184, 3));
    for (stored, pair) in &others {
        assert_eq!(pair.value, stored.value, "{}", stored.full_key);
        assert_eq!(pair.lease.is_some(), stored.ttl.is_some(), "{}", stored.full_key);
        assert_eq!(ground.raw(&stored.full_key).await.as_ref(), Some(pair));
    }
    let leases: Vec<_> = others.iter().filter_map(|(_, pair)| pair.lease).collect();
    // There a short life is never shared. Where a lease costs nothing it may be.
    let [one, other] = leases[..] else { panic!("{leases:?}") };
    assert!(one != other || !ground.slow_watches, "15 s are not shared: {one:?}");
    let everything = ground.kv.range(RangeRequest::prefix("/registry/")).await.unwrap();
    assert_eq!(everything.count, 187);
}

// covers: storage-etcd3/LAYOUT-01, storage-api/UPD-12
#[tokio::test(flavor = "multi_thread")]
async fn system_objects_in_memory() {
    check(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_objects_behind_the_cache() {
    check(ground::memory().await.cached()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_objects_on_disk() {
    check(ground::disk().await).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn system_objects_on_etcd() {
    if let Some(ground) = ground::etcd().await {
        check(ground).await;
    }
}
