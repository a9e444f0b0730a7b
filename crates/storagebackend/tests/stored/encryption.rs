//! Encrypted values, as a real cluster held them while its keys and providers changed: under every configuration that
//! reads them they are read, fresh or stale as recorded. What a provider wrote that this build has not is unreadable, by
//! key, and is never touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use apiserver_registry::{StorageVerb, from_storage_error};
use apiserver_resources::convert::convert;
use apiserver_resources::types::Gvk;
use apiserver_storage_api::{
    Entry, EventKind, GetOptions, Key, ListOptions, OnUnreadable, ResourceInfo, Storage, StorageError,
    UnreadableReason, Watch,
};
use apiserver_storage_kv::Kv;
use apiserver_storage_transform::{
    BuildError, ConfigError, ConfigOptions, DataContext, EncryptionConfiguration, Key as ProviderKey,
    KeysConfiguration, ProviderConfiguration, Secret, Transformer, Transformers,
};
use bytes::Bytes;
use serde_json::Value;

use crate::data::{array, bytes, read, text, without_revision};
use crate::ground::{self, Ground, everything, next_change, watch_from_now, write_back};
use crate::kinds;
use crate::objects::canonical;

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// The transformers of a recorded configuration.
///
/// One that names a provider which this build has not is refused as a whole. Then a provider that reads none of the
/// recorded values takes the place of each such one: the others keep theirs, and so what is fresh and what is stale.
pub(crate) fn transformers(text: Option<&str>) -> Transformers {
    let Some(text) = text else {
        return Transformers::identity();
    };
    let options = ConfigOptions::default().with_kms_v1(true);
    let path = Path::new("recorded.yaml");
    let mut config = EncryptionConfiguration::parse(path, text.as_bytes()).unwrap();
    match Transformers::new(&config, &options) {
        Ok(transformers) => return transformers,
        Err(ConfigError::Build(BuildError::Unsupported { .. })) => {}
        Err(error) => panic!("{error}: {text}"),
    }
    let providers = config.resources.iter_mut().flat_map(|entry| &mut entry.providers);
    for (at, provider) in providers.enumerate() {
        if provider.aescbc.is_some() || provider.secretbox.is_some() || provider.kms.is_some() {
            let key = ProviderKey {
                name: format!("stand-in-{at}"),
                secret: Secret::new("c3RhbmQtaW4gZm9yIG9uZQ=="),
            };
            *provider = ProviderConfiguration::default();
            provider.aesgcm = Some(KeysConfiguration { keys: vec![key] });
        }
    }
    Transformers::new(&config, &options).unwrap()
}

/// Whether this build can open what was stored. The recordings name all providers; other prefixes are damage.
fn is_supported(value: &[u8]) -> bool {
    !value.starts_with(ENCRYPTED) || value.starts_with(b"k8s:enc:aesgcm:v1:")
}

/// The part of a stored value that says who wrote it: `k8s:enc:aesgcm:v1:key:`.
fn writer(value: &[u8]) -> &[u8] {
    if !value.starts_with(ENCRYPTED) {
        return b"";
    }
    let colons = value.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let end = colons.map(|(at, _)| at + 1).nth(4);
    &value[..end.unwrap_or(0)]
}

/// What was checked of a file.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    configurations: usize,
    values: usize,
    fresh: usize,
    stale: usize,
    unreadable: usize,
}

/// One recorded read: a value under a configuration.
struct Case<'a> {
    name: String,
    /// As etcd has it.
    full_key: String,
    key: Key,
    info: &'a ResourceInfo,
    store: &'a Arc<dyn Storage>,
    transformer: &'a Arc<dyn Transformer>,
    plain: Bytes,
    /// What was served.
    object: &'a Value,
    value: Bytes,
    is_stale: bool,
    /// Whether it is watched too.
    watched: bool,
    /// What the real server wrote under this configuration, where that is recorded.
    rewritten: Option<Bytes>,
}

impl Case<'_> {
    async fn watch(&self) -> Option<Watch> {
        match self.watched {
            true => Some(watch_from_now(self.store, &everything(self.info)).await),
            false => None,
        }
    }

    /// The value is served as its plain form would be; written back it stays what it is, unless it is stale.
    async fn readable<K: Kv>(&self, ground: &Ground<K>) {
        let Self { name, key, store, .. } = self;
        let watch = self.watch().await;
        let revision = ground.put(&self.full_key, self.value.clone(), None).await;
        let want = Entry::read(self.info, key.clone(), revision, &self.plain, self.is_stale);
        let want = want.json().unwrap();

        let entry = store.get(key, GetOptions::default()).await;
        let entry = entry.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(entry.json().unwrap(), want, "{name}");
        // In the version of the recorded path; a version leaves out other empty fields than the next.
        let (served, object) = (
            without_revision(entry.decode().unwrap()),
            without_revision(self.object.clone()),
        );
        let gvk = Gvk::of(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let served = match served["apiVersion"] == object["apiVersion"] {
            true => served,
            false => convert(served, gvk).unwrap(),
        };
        assert_eq!(canonical(served), canonical(object.clone()), "{name}");
        assert_eq!(
            entry.record().unwrap().origin().stale,
            self.is_stale,
            "{name}: is it stale"
        );
        let list = store
            .list(&everything(self.info), ListOptions::default())
            .await
            .unwrap();
        let list = list.collect().await.unwrap();
        assert_eq!(list.entries.len(), 1, "{name}");
        assert_eq!(list.entries[0].json().unwrap(), want, "{name}");
        let same = write_back(store, key).await.unwrap();
        let pair = ground.raw(&self.full_key).await.unwrap();
        assert_eq!(same.revision(), pair.revision, "{name}");
        assert_eq!(pair.revision > revision, self.is_stale, "{name}: is it written anew");
        if let Some(mut watch) = watch {
            let event = next_change(&mut watch).await;
            assert_eq!(event.object.unwrap().json().unwrap(), want, "{name}");
            if self.is_stale {
                let event = next_change(&mut watch).await;
                assert_eq!(
                    (event.kind, event.revision),
                    (EventKind::Modified, pair.revision),
                    "{name}"
                );
            }
        }
        if self.is_stale {
            self.expect_rewritten(&pair.value).await;
        } else {
            assert_eq!(pair.value, self.value, "{name}");
        }
    }

    /// A stale value was written anew, by who writes now.
    async fn expect_rewritten(&self, value: &Bytes) {
        let name = &self.name;
        let context = DataContext::new(&self.full_key);
        let opened = self
            .transformer
            .transform_from_storage(value.clone(), &context)
            .await
            .unwrap();
        assert!(!opened.stale, "{name}");
        if self.plain.starts_with(b"{") {
            assert_eq!(opened.bytes, self.plain, "{name}");
        } else {
            assert!(opened.bytes.starts_with(b"{"), "{name}: not in our own form");
        }
        if let Some(rewritten) = self.rewritten.as_ref().filter(|value| is_supported(value)) {
            let have = String::from_utf8_lossy(writer(value));
            assert_eq!(have, String::from_utf8_lossy(writer(rewritten)), "{name}");
        }
    }

    /// Nobody can read the value: that is said, by key, and nobody writes over it.
    async fn unreadable<K: Kv>(&self, ground: &Ground<K>) {
        let Self { name, key, store, .. } = self;
        let watch = self.watch().await;
        let revision = ground.put(&self.full_key, self.value.clone(), None).await;
        let refused = |error: StorageError, verb: StorageVerb| {
            let names_it = matches!(&error, StorageError::Unreadable { key, reason: UnreadableReason::Transform(_), .. }
                if key.ends_with(self.key.as_str()));
            assert!(names_it, "{name}: {error}");
            assert_eq!(from_storage_error(error, verb, self.info, "x").code(), 500, "{name}");
        };
        refused(
            store.get(key, GetOptions::default()).await.unwrap_err(),
            StorageVerb::Get,
        );
        refused(write_back(store, key).await.unwrap_err(), StorageVerb::Update);
        let list = async |unreadable| {
            let options = ListOptions {
                unreadable,
                ..ListOptions::default()
            };
            store.list(&everything(self.info), options).await?.collect().await
        };
        refused(list(OnUnreadable::Fail).await.unwrap_err(), StorageVerb::List);
        let all = list(OnUnreadable::Include).await.unwrap().entries;
        assert!(
            all.len() == 1 && all[0].unreadable_reason().is_some(),
            "{name}: {all:?}"
        );
        if let Some(mut watch) = watch {
            let event = next_change(&mut watch).await;
            assert_eq!(event.revision, revision, "{name}");
            assert!(event.object.unwrap().unreadable_reason().is_some(), "{name}");
        }
        let pair = ground.raw(&self.full_key).await.unwrap();
        assert_eq!((pair.revision, pair.value), (revision, self.value.clone()), "{name}");
    }
}

/// Every read that a file has recorded under one configuration.
async fn check_configuration<K: Kv>(ground: &Ground<K>, file: &Value, configuration: &str, counts: &mut Counts) {
    let recorded = &file["configurations"][configuration];
    let transformers = transformers(recorded["encryption_config"].as_str());
    let (mut stores, mut count) = (BTreeMap::new(), 0);
    for case in array(&file["cases"]) {
        let (group, resource) = (text(&case["group"]), text(&case["resource"]));
        let info = kinds::info(&group, &resource);
        let transformer = transformers.for_resource(info.group(), info.resource());
        let store = ground.store_with(&info, Arc::clone(&transformer)).await;
        let (info, store, transformer) = &*stores.entry((group, resource)).or_insert((info, store, transformer));
        let stored = array(&case["stored"]);
        let rewritten = stored.iter().find(|stored| stored["configuration"] == configuration);
        for read in array(&case["reads"])
            .iter()
            .filter(|read| read["configuration"] == configuration)
        {
            let full_key = text(&case["key"]);
            let at = usize::try_from(read["stored"].as_u64().unwrap()).unwrap();
            let value = bytes(&stored[at]["value"]);
            let case = Case {
                name: format!("{} under {configuration}, value {at}", text(&case["name"])),
                key: kinds::key(info, &full_key),
                plain: bytes(&case["plain"]),
                object: &case["object"],
                is_stale: text(&read["outcome"]) == "stale",
                watched: count == 0 || !ground.slow_watches,
                rewritten: rewritten.map(|stored| bytes(&stored["value"])),
                full_key,
                info,
                store,
                transformer,
                value,
            };
            if is_supported(&case.value) {
                case.readable(ground).await;
                *(if case.is_stale {
                    &mut counts.stale
                } else {
                    &mut counts.fresh
                }) += 1;
            } else {
                case.unreadable(ground).await;
                counts.unreadable += 1;
            }
            ground.remove(&case.full_key).await;
            count += 1;
        }
    }
}

/// What the real server's own objects were encrypted with, of which it wrote only leases under each configuration.
async fn check_other_keys(file: &Value) {
    let info = kinds::info("coordination.k8s.io", "leases");
    let (mut writers, prefix) = (Vec::new(), "/registry/leases");
    for (configuration, prefixes) in file["other_keys"].as_object().unwrap() {
        let recorded = &file["configurations"][configuration];
        let transformers = transformers(recorded["encryption_config"].as_str());
        let transformer = transformers.for_resource(info.group(), info.resource());
        let (key, value) = (format!("{prefix}/a"), Bytes::from_static(b"{}"));
        let sealed = transformer
            .transform_to_storage(value, &DataContext::new(&key))
            .await
            .unwrap();
        let own = match writer(&sealed) {
            b"" => "plain".to_owned(),
            writer => String::from_utf8(writer.to_vec()).unwrap(),
        };
        assert_eq!(
            prefixes[prefix][&own], 1,
            "{configuration}: {own}: {}",
            prefixes[prefix]
        );
        writers.push(own);
        // What is no object of any kind is never encrypted.
        for other in ["ranges/servicenodeports", "masterleases", "peerserverleases"] {
            assert_eq!(
                prefixes[format!("/registry/{other}")]["plain"],
                1,
                "{configuration}: {other}"
            );
        }
    }
    assert_eq!(writers, ["k8s:enc:aesgcm:v1:gcm-2:", "plain"]);
}

async fn check<K: Kv>(ground: Ground<K>) {
    let mut all = Counts::default();
    for name in ["encryption-json", "encryption-protobuf", "encryption-wildcards"] {
        let file = read(&format!("storagebackend/tests/data/{name}.json"));
        let mut counts = Counts::default();
        for configuration in file["configurations"].as_object().unwrap().keys() {
            check_configuration(&ground, &file, configuration, &mut counts).await;
            counts.configurations += 1;
        }
        counts.values = array(&file["cases"])
            .iter()
            .map(|case| array(&case["stored"]).len())
            .sum();
        if file.get("other_keys").is_some() {
            check_other_keys(&file).await;
        }
        println!("{name}: {counts:?}");
        all.configurations += counts.configurations;
        all.values += counts.values;
        all.fresh += counts.fresh;
        all.stale += counts.stale;
        all.unreadable += counts.unreadable;
    }
    // 237 reads together: those of AES-GCM and plain values, and those of what other providers wrote.
    let want = Counts {
        configurations: 21,
        values: 123,
        fresh: 53,
        stale: 45,
        unreadable: 139,
    };
    assert_eq!(all, want);
}

// covers: storage-api/UPD-12, storage-api/UPD-14, storage-etcd3/LAYOUT-04
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_values_in_memory() {
    check(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_values_behind_the_cache() {
    check(ground::memory().await.cached()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_values_on_disk() {
    check(ground::disk().await).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_values_on_etcd() {
    if let Some(ground) = ground::etcd().await {
        check(ground).await;
    }
}
