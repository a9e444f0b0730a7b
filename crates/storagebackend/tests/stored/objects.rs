//! Every recorded object in every form in which it was stored: read, listed, watched, written back unchanged, changed
//! and changed back, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use apiserver_resources::convert::convert;
use apiserver_resources::types::Gvk;
use apiserver_resources::wire;
use apiserver_storage_api::{
    DeleteOptions, Entry, Event, EventKind, GetOptions, Key, ListOptions, NoCheck, ResourceInfo, Revision, Storage,
};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::Kv;
use apiserver_storagebackend::{Config, Factory};
use futures::future::join_all;
use serde_json::Value;

use crate::data::{self, Form, Object, by_resource, without_revision};
use crate::ground::{self, Ground, changes, everything, soon, write_back, write_changed};
use crate::kinds;

/// The forms in the order in which the real server wrote them, and how many objects have each.
const FORMS: [(&str, usize); 3] = [("json", 80), ("protobuf", 73), ("cbor", 4)];
/// Has an embedded document whose keys stand in the client's order, which an object that is decoded and encoded here,
/// in the test, loses.
const EMBEDDED: &str = "controllerrevision";
/// What the changed objects have.
const LABEL: &str = "stored.example.com/changed";

/// One object in one form behind its store.
struct Case<'a> {
    object: &'a Object,
    form: &'a Form,
    key: Key,
    /// Where the form was put.
    revision: Revision,
}

/// The objects of one kind in one form.
struct Kind<'a> {
    info: ResourceInfo,
    store: Arc<dyn Storage>,
    cases: Vec<Case<'a>>,
}

/// An object with the fields that its version writes; one of a custom kind as it is.
pub(crate) fn canonical(object: Value) -> Value {
    let gvk = Gvk::of(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    match wire::encode_served(gvk, &object) {
        Ok(json) => serde_json::from_slice(&json).unwrap(),
        Err(_) => object,
    }
}

/// What an entry shows at a revision, as the real server did.
#[track_caller]
fn expect_served(case: &Case<'_>, info: &ResourceInfo, entry: &Entry, revision: Revision) {
    let name = format!("{} in {}", case.object.name, case.form.name);
    assert_eq!(entry.revision(), revision, "{name}");
    let json = entry.json().unwrap_or_else(|error| panic!("{name}: {error}"));
    let served: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(served["metadata"]["resourceVersion"], revision.to_string(), "{name}");
    let served = without_revision(served);
    let (mut compared, own) = (0, info.gvk().api_version());
    for recorded in &case.object.served {
        let api_version = data::text(&recorded["apiVersion"]);
        let Some(want) = case.object.served_as(case.form, &api_version) else {
            continue;
        };
        let have = match (api_version == own, info.group().contains("example.com")) {
            (true, _) => served.clone(),
            // Versions of custom kinds differ in their names.
            (false, true) => {
                let mut other = served.clone();
                other["apiVersion"] = api_version.into();
                other
            }
            (false, false) => {
                let gvk = Gvk::of(&api_version, &info.gvk().kind);
                convert(served.clone(), gvk).unwrap_or_else(|error| panic!("{name} as {gvk}: {error}"))
            }
        };
        // A version leaves out other empty fields than the next.
        let (have, want) = (canonical(have), canonical(want));
        assert!(have == want, "{name}:\n have {have}\n want {want}");
        compared += 1;
    }
    assert!(compared > 0, "{name} was served in no version");
    // In the canonical order, too: what is served and what was stored are the same text but for the version.
    let text = String::from_utf8(json.to_vec()).unwrap();
    let version = format!("\"resourceVersion\":\"{revision}\"");
    let text = text
        .replace(&format!("{version},"), "")
        .replace(&format!(",{version}"), "");
    if case.form.name == "json" && !case.object.stored_differs {
        assert_eq!(format!("{text}\n").as_bytes(), case.form.value, "{name}");
    } else if !info.group().contains("example.com") && case.object.name != EMBEDDED {
        let gvk = Gvk::of(&own, &info.gvk().kind);
        let canonical = wire::encode_served(gvk, &served).unwrap();
        assert_eq!(text.as_bytes(), canonical, "{name}");
    }
}

/// Puts all objects that have a form into the backend, and opens their stores.
async fn prepare<'a, K: Kv>(
    ground: &Ground<K>,
    objects: &'a [Object],
    form: &str,
    stores: &mut BTreeMap<String, Arc<dyn Storage>>,
) -> Vec<Kind<'a>> {
    let mut kinds = Vec::new();
    for ((group, resource), own) in by_resource(objects, form) {
        let info = kinds::info(group, resource);
        let store = match stores.get(&info.group_resource()) {
            Some(store) => Arc::clone(store),
            None => ground.store(&info).await,
        };
        stores.insert(info.group_resource(), Arc::clone(&store));
        let mut cases = Vec::new();
        for object in own {
            let form = object.form(form).unwrap();
            let revision = ground.put(&object.key, form.value.clone(), form.ttl).await;
            let key = kinds::key(&info, &object.key);
            cases.push(Case {
                object,
                form,
                key,
                revision,
            });
        }
        kinds.push(Kind { info, store, cases });
    }
    kinds
}

/// Reads one by one, in a list and in a watch.
async fn reads(kind: &Kind<'_>, start: Revision) {
    let Kind { info, store, cases } = kind;
    let list = store
        .list(&everything(info), ListOptions::default())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let events = changes(store, &everything(info), start, cases.len()).await;
    for case in cases {
        let entry = store.get(&case.key, GetOptions::default()).await.unwrap();
        expect_served(case, info, &entry, case.revision);
        let listed = list.entries.iter().find(|entry| *entry.key() == case.key);
        assert_eq!(
            listed.unwrap().json().unwrap(),
            entry.json().unwrap(),
            "{}",
            case.object.name
        );
        let event = events.iter().find(|event| event.key == case.key).unwrap();
        let kind = if case.form.name == "json" {
            EventKind::Added
        } else {
            EventKind::Modified
        };
        assert_eq!(event.kind, kind, "{}", case.object.name);
        assert_eq!(
            event.object.as_ref().unwrap().json().unwrap(),
            entry.json().unwrap(),
            "{}",
            case.object.name
        );
    }
}

/// Writes back what was read, which writes nothing; then changes it there and back, which stores our own form.
async fn writes<K: Kv>(ground: &Ground<K>, kind: &Kind<'_>) {
    for case in &kind.cases {
        let name = format!("{} in {}", case.object.name, case.form.name);
        let same = write_back(&kind.store, &case.key).await.unwrap();
        assert_eq!(
            same.revision(),
            case.revision,
            "{name} was written although nothing changed"
        );
        let pair = ground.raw(&case.object.key).await.unwrap();
        assert_eq!(
            (pair.revision, &pair.value),
            (case.revision, &case.form.value),
            "{name}"
        );
        assert_eq!(pair.lease.is_some(), case.form.ttl.is_some(), "{name}");

        let changed = write_changed(&kind.store, &case.key, |object| {
            object["metadata"]["labels"][LABEL] = "1".into();
        });
        let changed = changed.await.unwrap();
        assert!(changed.revision() > case.revision, "{name}");
        let back = write_changed(&kind.store, &case.key, |object| {
            // Behind a cache the first state may be the one before the label.
            if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
                labels.remove(LABEL);
                if labels.is_empty() {
                    object["metadata"].as_object_mut().unwrap().remove("labels");
                }
            }
        });
        let back = back.await.unwrap();
        expect_rewritten(case, &kind.info, &back, ground).await;
    }
}

/// What our own form of an object is: the JSON that the real server stored.
async fn expect_rewritten<K: Kv>(case: &Case<'_>, info: &ResourceInfo, back: &Entry, ground: &Ground<K>) {
    let name = format!("{} in {}", case.object.name, case.form.name);
    let pair = ground.raw(&case.object.key).await.unwrap();
    assert_eq!(pair.revision, back.revision(), "{name}");
    assert_eq!(
        pair.lease.is_some(),
        case.form.ttl.is_some(),
        "{name}: lives on as it did"
    );
    let entry = Entry::read(info, case.key.clone(), pair.revision, &pair.value, false);
    assert_eq!(entry.json().unwrap(), back.json().unwrap(), "{name}");
    let recorded = case
        .object
        .put_unchanged
        .as_ref()
        .unwrap_or(&case.object.form("json").unwrap().value);
    if case.object.name == EMBEDDED || case.form.served.is_some() {
        let want = without_revision(case.object.served_as(case.form, &info.gvk().api_version()).unwrap());
        assert_eq!(without_revision(entry.decode::<Value>().unwrap()), want, "{name}");
    } else {
        assert_eq!(&pair.value, recorded, "{name}");
    }
}

/// Deletes everything; a watcher sees what was there.
async fn deletes<K: Kv>(ground: &Ground<K>, kind: &Kind<'_>) {
    let Kind { info, store, cases } = kind;
    let start = ground.now().await;
    let mut last = BTreeMap::new();
    for case in cases {
        let before: Value = store
            .get(&case.key, GetOptions::default())
            .await
            .unwrap()
            .decode()
            .unwrap();
        let gone = store
            .delete(&case.key, DeleteOptions::default(), &mut NoCheck)
            .await
            .unwrap();
        let object: Value = gone.decode().unwrap();
        assert_eq!(
            object["metadata"]["resourceVersion"],
            gone.revision().to_string(),
            "{}",
            case.object.name
        );
        assert_eq!(
            without_revision(object),
            without_revision(before),
            "{}",
            case.object.name
        );
        assert!(ground.raw(&case.object.key).await.is_none(), "{}", case.object.name);
        last.insert(case.key.to_string(), gone);
    }
    for Event {
        kind,
        key,
        revision,
        object,
        ..
    } in changes(store, &everything(info), start, cases.len()).await
    {
        let gone = &last[key.as_str()];
        assert_eq!((kind, revision), (EventKind::Deleted, gone.revision()), "{key}");
        assert_eq!(object.unwrap().json().unwrap(), gone.json().unwrap(), "{key}");
    }
}

async fn check<K: Kv>(ground: Ground<K>) {
    let objects = data::objects();
    let mut stores = BTreeMap::new();
    for (form, wanted) in FORMS {
        let start = ground.now().await;
        let kinds = prepare(&ground, &objects, form, &mut stores).await;
        // Side by side: etcd lets a watch that begins in the past wait a little.
        join_all(kinds.iter().map(|kind| reads(kind, start))).await;
        let count = kinds.iter().map(|kind| kind.cases.len()).sum::<usize>();
        for kind in &kinds {
            writes(&ground, kind).await;
        }
        println!("{form}: {count} objects of {} kinds", kinds.len());
        assert_eq!(count, wanted, "{form}");
    }
    let kinds = prepare(&ground, &objects, "json", &mut stores).await;
    join_all(kinds.iter().map(|kind| deletes(&ground, kind))).await;
}

// covers: storage-api/UPD-12, storage-api/VER-09, storage-api/VER-13, storage-etcd3/LAYOUT-01
#[tokio::test(flavor = "multi_thread")]
async fn objects_in_memory() {
    check(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_behind_the_cache() {
    check(ground::memory().await.cached()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_on_disk() {
    check(ground::disk().await).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn objects_on_etcd() {
    if let Some(ground) = ground::etcd().await {
        check(ground).await;
    }
}

/// The latest form of an object: what a cluster that changed its form holds.
fn latest(object: &Object) -> &Form {
    object.forms.last().unwrap()
}

/// Reads everything through the stores of a factory.
async fn check_factory(config: Config, objects: &[Object], revisions: &BTreeMap<&str, Revision>) {
    let factory = Factory::open(config).await.unwrap();
    let mut count = 0;
    for ((group, resource), own) in by_resource(objects, "json") {
        let info = kinds::info(group, resource);
        let store = factory.storage_for(&info);
        let list = soon("a list", store.list(&everything(&info), ListOptions::default()))
            .await
            .unwrap();
        assert_eq!(list.collect().await.unwrap().entries.len(), own.len(), "{resource}");
        for object in own {
            let (form, key) = (latest(object), kinds::key(&info, &object.key));
            let entry = store.get(&key, GetOptions::default()).await.unwrap();
            let revision = revisions[&*object.key];
            let case = Case {
                object,
                form,
                key,
                revision,
            };
            expect_served(&case, &info, &entry, revision);
            count += 1;
        }
    }
    println!("through the factory: {count} objects");
    assert_eq!(count, 80);
    factory.close().await;
}

async fn fill<'a, K: Kv>(ground: &Ground<K>, objects: &'a [Object]) -> BTreeMap<&'a str, Revision> {
    let mut revisions = BTreeMap::new();
    for object in objects {
        let form = latest(object);
        let revision = ground.put(&object.key, form.value.clone(), form.ttl).await;
        revisions.insert(&*object.key, revision);
    }
    revisions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_factory_on_a_directory_serves_what_was_stored() {
    let (objects, dir) = (data::objects(), tempfile::tempdir().unwrap());
    let kv = EmbeddedKv::open(EmbeddedConfig::directory(dir.path())).await.unwrap();
    let ground = Ground::new(kv, ());
    let revisions = fill(&ground, &objects).await;
    ground.kv.close().await;
    drop(ground);
    for cache in [false, true] {
        check_factory(
            Config::embedded(dir.path()).with_watch_cache(cache),
            &objects,
            &revisions,
        )
        .await;
    }
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_factory_on_etcd_serves_what_was_stored() {
    let Some(etcd) = crate::etcd::Etcd::start().await else {
        return;
    };
    let objects = data::objects();
    let ground = Ground::new(crate::etcd::connect(&etcd).await, ());
    let revisions = fill(&ground, &objects).await;
    for cache in [false, true] {
        check_factory(
            Config::etcd3([etcd.url()]).with_watch_cache(cache),
            &objects,
            &revisions,
        )
        .await;
    }
}
