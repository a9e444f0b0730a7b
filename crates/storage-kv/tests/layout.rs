//! Where objects lie, and what their values are bound to.

mod common;

use std::sync::Arc;

use apiserver_storage_api::{GetOptions, ListOptions, ResourcePrefix, Scope, Storage, WatchStart};
use apiserver_storage_kv::transform::{DataContext, Decrypted, Outcome, TransformError, Transformer};
use apiserver_storage_kv::{KvStore, KvStoreConfig};
use apiserver_storage_testing::ReferenceKv;
use apiserver_storage_testing::fixture::*;
use bytes::Bytes;
use parking_lot::Mutex;

use common::Spy;

/// Remembers what values are bound to.
#[derive(Debug, Clone, Default)]
struct Bound(Arc<Mutex<Vec<String>>>);

impl Bound {
    fn note(&self, ctx: &DataContext<'_>) {
        let bound = String::from_utf8_lossy(ctx.authenticated_data()).into_owned();
        self.0.lock().push(bound);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Transformer for Bound {
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        self.note(ctx);
        Outcome::Ready(Ok(Decrypted::new(data, false)))
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        self.note(ctx);
        Outcome::Ready(Ok(data))
    }
}

// covers: storage-etcd3/LAYOUT-04
#[tokio::test]
async fn values_are_bound_to_their_full_keys_by_every_verb() {
    let bound = Bound::default();
    let kv = Arc::new(ReferenceKv::new());
    let config = KvStoreConfig::new("/registry", Arc::new(bound.clone()));
    let store = KvStore::new(Arc::clone(&kv), pods(), config);
    let (a, b) = ("/registry/pods/ns/a", "/registry/pods/ns/b");
    create_pod(&store, "ns", "a").await;
    assert_eq!(bound.take(), [a], "create");
    create_pod(&store, "ns", "b").await;
    bound.take();
    store.get(&key("ns", "a"), GetOptions::default()).await.expect("stored");
    assert_eq!(bound.take(), [a], "get");
    let start = WatchStart::After(now(&store).await);
    change(&store, &key("ns", "a"), label("x", "1")).await;
    assert_eq!(bound.take(), [a, a], "update reads and writes");
    list(&store, &all(), ListOptions::default()).await;
    assert_eq!(bound.take(), [a, b], "list, by the keys of the answer");
    let mut watch = Watching::all(&store, start).await;
    watch.event().await;
    assert_eq!(bound.take(), [a, a], "watch, the value and the one before");
    delete(&store, &key("ns", "b")).await;
    assert_eq!(bound.take(), [b], "delete");
}

// covers: storage-etcd3/LAYOUT-03
#[tokio::test]
async fn a_full_key_is_the_prefix_and_the_key_and_a_range_ends_with_a_slash() {
    for prefix in ["/registry", "custom/prefix", ""] {
        let kv = Spy::new();
        let mut config = common::config();
        config.cluster_prefix = prefix.into();
        let store = KvStore::new(Arc::clone(&kv), pods(), config);
        let rooted = if prefix.is_empty() || prefix.starts_with('/') {
            prefix.to_owned()
        } else {
            format!("/{prefix}")
        };
        for text in ["/pods/a", "/pods/ns/a", "/pods/ns/a.b-c"] {
            assert_eq!(store.full_key(&raw_key(text)), format!("{rooted}{text}"));
        }
        for scope in [all(), within("ns"), Scope::all(pods().prefix())] {
            list(&store, &scope, ListOptions::default()).await;
        }
        let starts: Vec<_> = kv.take_ranges().into_iter().map(|request| request.start).collect();
        let want = ["/pods/", "/pods/ns/", "/pods/"].map(|scope| format!("{rooted}{scope}"));
        assert_eq!(starts, want);
    }
}

// covers: storage-etcd3/CFG-02
#[test]
fn a_store_cannot_be_made_of_what_is_no_resource_prefix() {
    // A store is made of a kind, and a kind of a prefix that was checked: nothing is left to fail after this.
    for (text, want) in [
        ("", Err("resourcePrefix cannot be empty")),
        ("/", Err("resourcePrefix cannot be /")),
        ("pods/", Err("resourcePrefix needs to start from /")),
        ("/pods", Ok("/pods/")),
        ("/pods/", Ok("/pods/")),
    ] {
        let made = ResourcePrefix::new(text);
        let store = made.map(|prefix| {
            let store = KvStore::new(Spy::new(), pods().with_prefix(prefix), common::config());
            store.resource().prefix().as_str().to_owned()
        });
        match (store, want) {
            (Ok(prefix), Ok(want)) => assert_eq!(prefix, want),
            (Err(error), Err(want)) => assert_eq!(error.to_string(), want),
            (other, want) => panic!("{text:?}: {other:?}, wanted {want:?}"),
        }
    }
}
