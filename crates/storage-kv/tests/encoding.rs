//! Stored forms: media types side by side, encryption, and what is not rewritten.

mod common;

use std::sync::Arc;

use apiserver_storage_api::{
    Encoded, JsonNormalizer, ListOptions, Malformed, MediaType, Normalized, Normalizer, Revision, SelectableField,
    Storage, UpdateOptions, WatchOptions, WatchStart, codec, finish,
};
use apiserver_storage_kv::KvStore;
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::{BindingTransformer, ReferenceKv, SwitchTransformer};

use common::{KeyService, config, full, sealed, store_with, stored};

// covers: storage-api/VER-13, storage-api/UPD-15, storage-api/GATE-08
#[tokio::test]
async fn values_of_both_media_types_live_side_by_side() {
    let (kv, json) = store_with(config());
    let cbor = {
        let config = config().with_media_type(MediaType::Cbor);
        KvStore::new(Arc::clone(&kv), pods(), config)
    };
    let a = create_pod(&json, "ns", "a").await;
    let b = create_pod(&cbor, "ns", "b").await;
    assert_eq!(MediaType::detect(&stored(&kv, &a)), MediaType::Json);
    assert_eq!(MediaType::detect(&stored(&kv, &b)), MediaType::Cbor);
    assert_eq!(
        states(&list(&json, &all(), ListOptions::default()).await.entries),
        states(&[a.clone(), b.clone()])
    );
    // Neither server rewrites what the other stored; the next change does.
    assert_eq!(change(&cbor, a.key(), nothing).await.revision(), a.revision());
    assert_eq!(change(&json, b.key(), nothing).await.revision(), b.revision());
    let changed = change(&cbor, a.key(), label("x", "1")).await;
    assert_eq!(MediaType::detect(&stored(&kv, &changed)), MediaType::Cbor);
}

// covers: storage-api/UPD-16
#[tokio::test]
async fn encryption_does_not_hide_that_nothing_changed() {
    let (kv, store) = sealed(BindingTransformer::default());
    let created = create_pod(&store, "ns", "a").await;
    let bytes = stored(&kv, &created);
    assert_eq!(
        change(&store, created.key(), nothing).await.revision(),
        created.revision()
    );
    assert_eq!(stored(&kv, &created), bytes);
    // Written again, the same plaintext has other bytes.
    kv.raw_delete(&full(created.key()));
    let again = create_pod(&store, "ns", "a").await;
    assert_ne!(stored(&kv, &again), bytes);
}

// covers: storage-api/WATCH-27
#[tokio::test]
async fn previous_states_are_not_decrypted_when_nobody_asks() {
    let transformer = SwitchTransformer::new(Arc::new(Identity));
    let (_, store) = sealed(transformer.clone());
    let created = create_pod(&store, "ns", "a").await;
    let start = WatchStart::After(created.revision());
    let bare = WatchOptions {
        previous: false,
        ..WatchOptions::from_start(start)
    };
    for (options, reads) in [(bare, 1), (WatchOptions::from_start(start), 2)] {
        let mut watch = Watching::with(&store, &all(), options).await;
        if reads == 1 {
            change(&store, created.key(), label("x", "1")).await;
        }
        transformer.take_reads();
        watch.event().await;
        assert_eq!(transformer.take_reads(), reads);
    }
    assert!(store.ready().is_ok());
}

// covers: storage-api/LIST-14, storage-api/GAP-10
#[tokio::test]
async fn a_key_service_is_asked_for_several_values_at_a_time_but_not_for_all() {
    let service = KeyService::default();
    let (_, store) = sealed(service.opening());
    let names: Vec<String> = (0..100).map(|n| format!("p{n:03}")).collect();
    for name in &names {
        create_pod(&store, "ns", name).await;
    }
    let listed = list(&store, &all(), ListOptions::default()).await;
    let keys: Vec<_> = listed.entries.iter().map(|entry| entry.key().clone()).collect();
    assert_eq!(keys, names.iter().map(|name| key("ns", name)).collect::<Vec<_>>());
    let most = service.most();
    assert!((2..=16).contains(&most), "{most} at a time");
}

/// Serves every version of the kind as `v1`.
#[derive(Debug)]
struct Converting(JsonNormalizer);

impl Normalizer for Converting {
    fn normalize(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        let media_type = MediaType::detect(stored);
        let mut value = codec::decode_value(stored, media_type)?;
        value["apiVersion"] = "v1".into();
        finish(value, revision, fields, media_type)
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<bytes::Bytes, Malformed> {
        self.0.encode(object, media_type)
    }

    fn generation(&self) -> u64 {
        0
    }
}

// covers: storage-api/UPD-15
#[tokio::test]
async fn a_value_stored_in_another_version_is_written_in_the_current_one() {
    let kv = Arc::new(ReferenceKv::new());
    let normalizer = Converting(JsonNormalizer::new(pods().gvk().clone()));
    let store = KvStore::new(Arc::clone(&kv), pods().with_normalizer(Arc::new(normalizer)), config());
    let old = r#"{"apiVersion":"v1beta1","kind":"Pod","metadata":{"name":"a"}}"#;
    let written = kv.raw_put("/registry/pods/ns/a", old);
    let suggestion = get(&store, &key("ns", "a")).await;
    // That is how stored versions are migrated: by an update that changes nothing, with or without a suggestion.
    let options = UpdateOptions {
        suggestion: Some(suggestion),
        ..UpdateOptions::default()
    };
    let updated = try_change(&store, &key("ns", "a"), options, nothing)
        .await
        .expect("written");
    assert_eq!(updated.revision(), written.next());
    assert!(stored(&kv, &updated).starts_with(br#"{"apiVersion":"v1","#));
    let kept = change(&store, &key("ns", "a"), nothing).await;
    assert_eq!(kept.revision(), updated.revision());
    kv.raw_put("/registry/pods/ns/a", old);
    let again = change(&store, &key("ns", "a"), nothing).await;
    assert!(again.revision() > kept.revision().next());
}
