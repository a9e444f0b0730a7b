//! Stored forms: media types side by side, encryption, and what is not rewritten.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver_storage_api::{ListOptions, MediaType, Storage, WatchOptions, WatchStart};
use apiserver_storage_kv::transform::{DataContext, Decrypted, Identity, Outcome, TransformError, Transformer};
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::{BindingTransformer, SwitchTransformer};

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

/// A key service that takes its time, and counts who waits for it.
#[derive(Debug, Clone, Default)]
struct KeyService(Arc<(AtomicUsize, AtomicUsize)>);

impl Transformer for KeyService {
    fn transform_from_storage<'a>(
        &'a self,
        data: bytes::Bytes,
        _: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        Outcome::Pending(Box::pin(async move {
            let (waiting, most) = &*self.0;
            most.fetch_max(waiting.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            // The later ones answer first.
            for _ in 0..100_usize.saturating_sub(waiting.load(Ordering::Relaxed)) {
                tokio::task::yield_now().await;
            }
            waiting.fetch_sub(1, Ordering::Relaxed);
            Ok(Decrypted::new(data, false))
        }))
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: bytes::Bytes,
        _: &DataContext<'a>,
    ) -> Outcome<'a, Result<bytes::Bytes, TransformError>> {
        Outcome::Ready(Ok(data))
    }
}

// covers: storage-api/LIST-14
#[tokio::test]
async fn a_key_service_is_asked_for_several_values_at_a_time_but_not_for_all() {
    let service = KeyService::default();
    let (_, store) = sealed(service.clone());
    let names: Vec<String> = (0..100).map(|n| format!("p{n:03}")).collect();
    for name in &names {
        create_pod(&store, "ns", name).await;
    }
    let listed = list(&store, &all(), ListOptions::default()).await;
    let keys: Vec<_> = listed.entries.iter().map(|entry| entry.key().clone()).collect();
    assert_eq!(keys, names.iter().map(|name| key("ns", name)).collect::<Vec<_>>());
    let most = service.0.1.load(Ordering::Relaxed);
    assert!((2..=16).contains(&most), "{most} at a time");
}
