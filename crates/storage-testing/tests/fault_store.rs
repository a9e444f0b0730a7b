//! The wrapper that loses answers: the write lands, and the caller is told that nobody knows.

use std::sync::Arc;

use apiserver_storage_api::{CreateOptions, DeleteOptions, NoCheck, Storage, StorageError, UpdateOptions};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{KvStore, KvStoreConfig};
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::{FaultStore, ReferenceKv};

fn store(every: u64) -> FaultStore {
    let config = KvStoreConfig::new("/registry", Arc::new(Identity));
    FaultStore::new(
        Arc::new(KvStore::new(Arc::new(ReferenceKv::new()), pods(), config)),
        every,
    )
}

fn lost<T>(result: Result<T, StorageError>) -> bool {
    matches!(result, Err(StorageError::OutcomeUnknown { .. }))
}

#[tokio::test]
async fn writes_land_though_their_answers_get_lost() {
    let store = store(1);
    let a = key("ns", "a");
    assert!(lost(
        store
            .create(&a, encoded(&pod("ns", "a")), CreateOptions::default())
            .await
    ));
    let created = get(&store, &a).await;
    assert!(lost(
        try_change(&store, &a, UpdateOptions::default(), label("x", "1")).await
    ));
    assert_eq!(get(&store, &a).await.revision(), created.revision().next());
    assert!(lost(store.delete(&a, DeleteOptions::default(), &mut NoCheck).await));
    assert!(
        store
            .get(&a, Default::default())
            .await
            .is_err_and(|error| error.is_not_found())
    );
    // What fails by itself is no write, and its error is not hidden.
    assert!(
        store
            .delete(&a, DeleteOptions::default(), &mut NoCheck)
            .await
            .is_err_and(|error| error.is_not_found())
    );
}

#[tokio::test]
async fn only_every_nth_answer_gets_lost() {
    let store = store(3);
    let mut results = Vec::new();
    for n in 0..7 {
        let key = key("ns", &format!("p{n}"));
        results.push(lost(
            store
                .create(&key, encoded(&pod("ns", "a")), CreateOptions::default())
                .await,
        ));
    }
    assert_eq!(results, [false, false, true, false, false, true, false]);
    assert_eq!(list(&store, &all(), Default::default()).await.entries.len(), 7);
}
