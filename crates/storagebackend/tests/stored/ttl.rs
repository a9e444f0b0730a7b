//! Events that live for a time: what takes a lease, what keeps it, and what moves on to another one.

use std::time::Duration;

use apiserver_resources::convert::convert;
use apiserver_resources::types::Gvk;
use apiserver_storage_api::{Change, CreateOptions, Encoded, Entry, Ttl, UpdateOptions};
use apiserver_storage_kv::Kv;

use crate::data::{array, read, text, without_revision};
use crate::ground::{self, Ground};
use crate::kinds;

/// Events that live for a time: which are to expire, and which changes keep them so.
async fn check<K: Kv>(ground: Ground<K>) {
    let file = read("storagebackend/tests/data/revisions.json");
    let mut sequences = array(&file["sequences"]).iter();
    let recorded = sequences
        .find(|sequence| sequence["name"] == "events-with-ttl")
        .unwrap();
    let (info, mut steps) = (kinds::info("", "events"), 0);
    let store = ground.store(&info).await;
    let ttl = Duration::from_secs(90);
    for step in array(&recorded["steps"])
        .iter()
        .filter(|step| step.get("key").is_some())
    {
        let name = text(&step["name"]);
        let full_key = text(&step["key"]);
        let key = kinds::key(&info, &full_key);
        let before = ground.raw(&full_key).await;
        // One recorded patch came through the newer API of events.
        let body = without_revision(step["body"].clone());
        let body = convert(body, Gvk::new("", "v1", "Event"));
        let value = Encoded::of(&body.unwrap()).unwrap();
        if step["before"].is_null() {
            let options = CreateOptions { ttl: Some(ttl) };
            store.create(&key, value, options).await.unwrap();
        } else {
            let mut function = |_: Option<Entry>| {
                let value = value.clone();
                async move {
                    Ok(Change::Put {
                        value,
                        ttl: Ttl::After(ttl),
                    })
                }
            };
            store
                .guaranteed_update(&key, UpdateOptions::default(), &mut function)
                .await
                .unwrap();
        }
        let after = ground.raw(&full_key).await.unwrap();
        assert!(after.lease.is_some(), "{name}: lives for ever");
        let written = before.as_ref().is_none_or(|before| before.revision != after.revision);
        assert_eq!(step["written"], written, "{name}");
        if !written {
            assert_eq!(
                before.unwrap().lease,
                after.lease,
                "{name}: a change of nothing moved its end"
            );
        }
        steps += 1;
    }
    assert_eq!(steps, 8);
}

// covers: storage-api/UPD-29
#[tokio::test(flavor = "multi_thread")]
async fn events_in_memory() {
    check(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_on_disk() {
    check(ground::disk().await).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn events_on_etcd() {
    if let Some(ground) = ground::etcd().await {
        check(ground).await;
    }
}
