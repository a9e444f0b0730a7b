//! Stored forms: media types side by side, encryption, and what is not rewritten.

mod common;

use apiserver_storage_api::{ListOptions, MediaType, Storage, WatchOptions, WatchStart};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::{BindingTransformer, SwitchTransformer};
use std::sync::Arc;

use common::{config, full, sealed, store_with, stored};

// covers: storage-api/VER-13, storage-api/UPD-15
#[tokio::test]
async fn values_of_both_media_types_live_side_by_side() {
    let (kv, json) = store_with(config());
    let cbor = {
        let config = config().with_media_type(MediaType::Cbor);
        apiserver_storage_kv::KvStore::new(Arc::clone(&kv), pods(), config)
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
