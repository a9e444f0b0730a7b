//! Values that nobody can read, and values that are odd: what lies between two good neighbours answers every verb as a
//! real server did, is named by its key, and stands in nobody else's way.

use std::sync::Arc;

use apiserver_registry::{ApiError, StorageVerb, from_storage_error};
use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Encoded, Entry, EventKind, GetOptions, Key, LabelSelector, ListAt,
    ListOptions, NoCheck, ResourceInfo, SelectionPredicate, Storage, StorageError, Watch,
};
use apiserver_storage_kv::{Kv, KvPair};
use apiserver_storage_testing::damaged::Damaged;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::data::{array, bytes, read, text, without_revision};
use crate::encryption::transformers;
use crate::ground::{self, Ground, everything, next_change, update, watch_from_now, write_back, write_changed};
use crate::kinds;

/// The damaged values of one recorded server.
struct Setup<'a> {
    name: String,
    kind: String,
    info: ResourceInfo,
    store: Arc<dyn Storage>,
    /// As etcd has it.
    full_key: String,
    key: Key,
    neighbours: Vec<(String, Bytes)>,
    cases: &'a [Value],
    /// Whether this server could delete what it could not read.
    deletes_unsafely: bool,
}

impl<'a> Setup<'a> {
    async fn open<K: Kv>(ground: &Ground<K>, recorded: &'a Value) -> Self {
        let info = kinds::info(&text(&recorded["group"]), &text(&recorded["resource"]));
        let transformers = transformers(recorded["encryption_config"].as_str());
        let transformer = transformers.for_resource(info.group(), info.resource());
        let (name, full_key) = (text(&recorded["name"]), text(&recorded["key"]));
        let neighbours = recorded["neighbours"].as_object().unwrap().iter();
        Self {
            kind: text(&recorded["kind"]),
            store: ground.store_with(&info, transformer).await,
            key: kinds::key(&info, &full_key),
            neighbours: neighbours.map(|(key, value)| (key.clone(), bytes(value))).collect(),
            cases: array(&recorded["cases"]),
            deletes_unsafely: name.ends_with("unsafe-delete"),
            full_key,
            info,
            name,
        }
    }
}

/// One damaged value.
struct Case<'a> {
    setup: &'a Setup<'a>,
    name: String,
    damaged: Damaged<'a>,
}

impl<'a> Case<'a> {
    fn new(setup: &'a Setup<'a>, recorded: &'a Value) -> Self {
        let mut damaged = Damaged::new(&setup.kind, recorded);
        // What another server cannot decrypt need not be looked at any closer.
        let decrypts = recorded["answers"]["get"]["body"]["message"]
            .as_str()
            .is_none_or(|text| !text.contains("transform"));
        damaged.otherwise = damaged.otherwise.filter(|_| decrypts);
        Self {
            name: format!("{}, {}", setup.name, text(&recorded["name"])),
            setup,
            damaged,
        }
    }

    /// Whether this is the object after it was written back: selfLink is never written.
    fn is_written_back(&self, have: &Value) -> bool {
        self.damaged.object().is_none_or(|mut want| {
            let metadata = want["metadata"].as_object_mut();
            metadata.and_then(|metadata| metadata.remove("selfLink"));
            want == *have
        })
    }

    /// What is stored after the value was written back as it was served: what was there, or what the real server wrote.
    fn expect_stored(&self, before: &KvPair, after: &KvPair) {
        let name = &self.name;
        if before.revision == after.revision {
            assert_eq!(before, after, "{name}");
            return;
        }
        // White space and order alone are no reason to write here, so fewer values are written, and no other ones.
        let recorded = self.damaged.answer("update_unchanged");
        // Where there is none, or layers above the storage refused it there, it tells nothing.
        let Some(recorded) = recorded.filter(|answer| answer["status"] == 200) else {
            return;
        };
        assert_eq!(recorded["written"], true, "{name}: was written");
        let value = bytes(&recorded["value_after"]);
        if value.starts_with(b"{") {
            assert_eq!(after.value, value, "{name}");
        }
    }

    /// An error that says which value cannot be read, with the status that the real server gave.
    #[track_caller]
    fn refused(&self, error: StorageError, verb: StorageVerb, request: &str) {
        let named = matches!(&error, StorageError::Unreadable { key, .. } if key.ends_with(self.setup.key.as_str()));
        assert!(named, "{}: {request}: {error}", self.name);
        let error = self.status(error, verb);
        assert_eq!(error.code(), 500, "{}: {request}", self.name);
        if let Some(answer) = self.damaged.answer(request).filter(|answer| answer["status"] == 500) {
            // Some of that server's errors have no reason, because nobody gave them one.
            if let (Some(reason), true) = (answer["body"]["reason"].as_str(), self.setup.deletes_unsafely) {
                assert_eq!(error.reason(), reason, "{}: {request}", self.name);
            }
        }
    }

    fn status(&self, error: StorageError, verb: StorageVerb) -> ApiError {
        from_storage_error(error, verb, &self.setup.info, "victim")
    }
}

/// Reads the value, alone and among its neighbours.
async fn reads(case: &Case<'_>) {
    let Setup { store, key, info, .. } = case.setup;
    let name = &case.name;
    match store.get(key, GetOptions::default()).await {
        Ok(entry) => {
            assert!(case.damaged.is_readable(), "{name}: it was read");
            let served = without_revision(entry.decode().unwrap());
            assert!(
                case.damaged.object().is_none_or(|want| want == served),
                "{name}: {served}"
            );
        }
        Err(error) => {
            assert!(!case.damaged.is_readable(), "{name}: {error}");
            case.refused(error, StorageVerb::Get, "get");
        }
    }
    let list = async |options: ListOptions| store.list(&everything(info), options).await?.collect().await;
    let names = |entries: &[Entry]| -> Vec<String> {
        entries
            .iter()
            .map(|entry| entry.key().as_str().rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    let none_such = LabelSelector::parse("none=such").unwrap();
    let selected = SelectionPredicate::new(none_such, Default::default());
    for (request, options, wanted) in [
        ("list", ListOptions::default(), 3),
        (
            "list_at_0",
            ListOptions {
                at: ListAt::Any,
                ..ListOptions::default()
            },
            3,
        ),
        (
            "list_selected",
            ListOptions {
                predicate: selected,
                ..ListOptions::default()
            },
            0,
        ),
    ] {
        match list(options).await {
            Ok(all) => {
                assert!(case.damaged.is_readable(), "{name}: {request} has it");
                assert_eq!(
                    all.entries.len(),
                    wanted,
                    "{name}: {request}: {:?}",
                    names(&all.entries)
                );
            }
            Err(error) => {
                assert!(!case.damaged.is_readable(), "{name}: {request}: {error}");
                case.refused(error, StorageVerb::List, request);
            }
        }
    }
    let page = ListOptions {
        limit: std::num::NonZeroU64::new(1),
        ..ListOptions::default()
    };
    let page = list(page)
        .await
        .unwrap_or_else(|error| panic!("{name}: the page before: {error}"));
    assert_eq!(
        (names(&page.entries), page.remaining),
        (vec!["aaa".to_owned()], Some(2)),
        "{name}"
    );
    for (neighbour, _) in &case.setup.neighbours {
        let key = kinds::key(info, neighbour);
        store
            .get(&key, GetOptions::default())
            .await
            .unwrap_or_else(|error| panic!("{name}: {neighbour}: {error}"));
    }
}

/// Writes over the value, which no verb but an unsafe deletion may do, and deletes it.
async fn writes<K: Kv>(ground: &Ground<K>, case: &Case<'_>) {
    let Setup {
        store,
        key,
        info,
        full_key,
        ..
    } = case.setup;
    let (name, before) = (&case.name, ground.raw(full_key).await.unwrap());
    let mut object = json!({ "apiVersion": info.gvk().api_version(), "kind": case.setup.kind });
    object["metadata"] = json!({ "name": "victim", "namespace": "ns" });
    let encoded = || Encoded::of(&object).unwrap();
    let error = store
        .create(key, encoded(), CreateOptions::default())
        .await
        .unwrap_err();
    let error = case.status(error, StorageVerb::Create);
    assert_eq!((error.code(), error.reason()), (409, "AlreadyExists"), "{name}");

    let unsafely = DeleteOptions {
        unreadable: true,
        ..DeleteOptions::default()
    };
    if case.damaged.is_readable() {
        let written = write_back(store, key)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let have = without_revision(written.decode().unwrap());
        assert!(case.is_written_back(&have), "{name}: {have}");
        case.expect_stored(&before, &ground.raw(full_key).await.unwrap());
        let refused = store.delete(key, unsafely, &mut NoCheck).await.unwrap_err();
        assert!(
            matches!(refused, StorageError::InvalidObject { .. }),
            "{name}: {refused}"
        );
        let gone = store.delete(key, DeleteOptions::default(), &mut NoCheck).await.unwrap();
        assert!(gone.unreadable_reason().is_none(), "{name}");
    } else {
        let put = update(store, key, |_| Ok(encoded())).await.unwrap_err();
        case.refused(put, StorageVerb::Update, "update");
        let patch = write_changed(store, key, |object| {
            object["metadata"]["labels"]["patched"] = "yes".into()
        });
        case.refused(patch.await.unwrap_err(), StorageVerb::Update, "patch");
        let mut remove = |_: Option<Entry>| async { Ok(Change::Delete) };
        let removed = store
            .guaranteed_update(key, Default::default(), &mut remove)
            .await
            .unwrap_err();
        case.refused(removed, StorageVerb::Update, "delete");
        let delete = store
            .delete(key, DeleteOptions::default(), &mut NoCheck)
            .await
            .unwrap_err();
        case.refused(delete, StorageVerb::Delete, "delete");
        let pair = ground.raw(full_key).await.unwrap();
        assert_eq!(
            (pair.revision, pair.value),
            (before.revision, before.value),
            "{name}: it was touched"
        );
        let gone = store.delete(key, unsafely, &mut NoCheck).await.unwrap();
        assert!(gone.unreadable_reason().is_some(), "{name}");
    }
    let gone = store.get(key, GetOptions::default()).await.unwrap_err();
    assert!(
        gone.is_not_found() && ground.raw(full_key).await.is_none(),
        "{name}: {gone}"
    );
}

/// What a watcher saw: the value as it came and as it went, readable or not, and never something else.
async fn watched(case: &Case<'_>, watch: &mut Watch) {
    let name = &case.name;
    let mut kinds = Vec::new();
    loop {
        let event = next_change(watch).await;
        if event.key != case.setup.key {
            continue;
        }
        let object = event.object.unwrap();
        assert_eq!(object.revision(), event.revision, "{name}");
        assert_eq!(
            object.unreadable_reason().is_none(),
            case.damaged.is_readable(),
            "{name}: {:?}",
            event.kind
        );
        if let (Ok(_), Some(want)) = (object.record(), case.damaged.object()) {
            let served: Value = object.decode().unwrap();
            assert_eq!(
                served["metadata"]["resourceVersion"],
                event.revision.to_string(),
                "{name}"
            );
            let served = without_revision(served);
            assert!(
                served == want || !kinds.is_empty() && case.is_written_back(&served),
                "{name}: {served}"
            );
        }
        kinds.push(event.kind);
        if event.kind == EventKind::Deleted {
            break;
        }
    }
    assert_eq!(kinds.first(), Some(&EventKind::Added), "{name}: {kinds:?}");
}

async fn check_setup<K: Kv>(ground: &Ground<K>, recorded: &Value) -> (usize, usize) {
    let setup = Setup::open(ground, recorded).await;
    let (mut readable, mut unreadable) = (0, 0);
    let mut watch = watch_from_now(&setup.store, &everything(&setup.info)).await;
    for recorded in setup.cases {
        let case = Case::new(&setup, recorded);
        for (key, value) in &setup.neighbours {
            ground.put(key, value.clone(), None).await;
        }
        ground.put(&setup.full_key, bytes(&recorded["value"]), None).await;
        reads(&case).await;
        writes(ground, &case).await;
        watched(&case, &mut watch).await;
        *(if case.damaged.is_readable() {
            &mut readable
        } else {
            &mut unreadable
        }) += 1;
    }
    for (key, _) in &setup.neighbours {
        ground.remove(key).await;
    }
    println!(
        "{}: {readable} readable values, {unreadable} unreadable ones",
        setup.name
    );
    (readable, unreadable)
}

async fn check<K: Kv>(ground: Ground<K>) {
    let file = read("apiserver/tests/data/stored/errors.json");
    let (mut readable, mut unreadable) = (0, 0);
    for setup in array(&file["setups"]) {
        let counts = check_setup(&ground, setup).await;
        readable += counts.0;
        unreadable += counts.1;
    }
    assert_eq!((readable, unreadable), (51, 140));
}

// covers: storage-api/GET-10, storage-api/DEL-14, storage-api/DEL-15, storage-api/DEL-16, storage-api/KEY-14
// covers: storage-etcd3/CORR-09
#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_in_memory() {
    check(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_behind_the_cache() {
    check(ground::memory().await.cached()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_on_disk() {
    check(ground::disk().await).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_on_etcd() {
    if let Some(ground) = ground::etcd().await {
        check(ground).await;
    }
}
