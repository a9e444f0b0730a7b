//! Events that live for a time: what takes a lease and for how long, what keeps it, what moves on to another one, and
//! when an event goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apiserver_resources::convert::convert;
use apiserver_resources::types::Gvk;
use apiserver_storage_api::time::Time;
use apiserver_storage_api::{
    Change, CreateOptions, Encoded, Entry, EventKind, ListOptions, ResourceInfo, Storage, Ttl, UpdateOptions,
};
use apiserver_storage_kv::{Kv, LeaseId};
use serde_json::Value;

use crate::data::{self, array, read, text, without_revision};
use crate::ground::{self, Ground, everything, next_change, watch_from_now};
use crate::kinds;

/// The recorded `--event-ttl`.
const TTL: Duration = Duration::from_secs(90);

/// What the recorded servers asked for where a lease of so many seconds was granted.
const ASKED: [(u64, u64); 3] = [(15, 15), (90, 94), (3600, 3660)];

/// The events of a sequence.
struct Events<'a, K> {
    ground: &'a Ground<K>,
    info: ResourceInfo,
    store: Arc<dyn Storage>,
    /// Which of our leases is a recorded one.
    leases: BTreeMap<String, LeaseId>,
    /// When the last step was, in seconds.
    at: i64,
}

impl<K: Kv> Events<'_, K> {
    /// Lets the time pass that lay between a step and the one before.
    fn pass(&mut self, body: &Value) {
        let times = array(&body["metadata"]["managedFields"]).iter();
        let at = times
            .map(|own| text(&own["time"]).parse::<Time>().unwrap().unix())
            .max()
            .unwrap();
        let passed = at.saturating_sub(std::mem::replace(&mut self.at, at));
        self.ground
            .clock
            .advance(Duration::from_secs(passed.try_into().unwrap()));
        if !self.ground.expires {
            // A lease is shared a moment after it was granted, not in the very same one.
            self.ground.clock.advance(Duration::from_millis(1));
        }
    }

    /// Writes what a step answered, as the layers above would.
    async fn write(&mut self, step: &Value) {
        let (name, full_key) = (text(&step["name"]), text(&step["key"]));
        let (key, before) = (kinds::key(&self.info, &full_key), self.ground.raw(&full_key).await);
        self.pass(&step["body"]);
        // One recorded patch came through the newer API of events.
        let body = without_revision(step["body"].clone());
        let value = Encoded::of(&convert(body, Gvk::new("", "v1", "Event")).unwrap()).unwrap();
        if step["before"].is_null() {
            let options = CreateOptions { ttl: Some(TTL) };
            self.store.create(&key, value, options).await.unwrap();
        } else {
            let ttl = Ttl::After(TTL);
            let mut function = |_: Option<Entry>| {
                let value = value.clone();
                async move { Ok(Change::Put { value, ttl }) }
            };
            let written = self
                .store
                .guaranteed_update(&key, UpdateOptions::default(), &mut function);
            written.await.unwrap();
        }
        let after = self.ground.raw(&full_key).await.unwrap();
        let lease = after.lease.unwrap_or_else(|| panic!("{name}: lives for ever"));
        let written = before.as_ref().is_none_or(|before| before.revision != after.revision);
        assert_eq!(step["written"], written, "{name}");
        if let (Some(before), false) = (before, written) {
            assert_eq!(before.lease, Some(lease), "{name}: a change of nothing moved its end");
        }
        let recorded = &step["after"]["lease"];
        let granted = recorded["granted_ttl_seconds"].as_u64().unwrap();
        expect_lifetime(self.ground, lease, TTL, granted, &name);
        // There each API has leases of its own; here they are those of the backend.
        if !text(&step["request"]["path"]).starts_with("/apis/events.k8s.io/") {
            let own = *self.leases.entry(text(&recorded["id"])).or_insert(lease);
            assert_eq!(own, lease, "{name}: shares another lease");
        }
        let different: BTreeSet<_> = self.leases.values().collect();
        assert_eq!(different.len(), self.leases.len(), "{name}: {:?}", self.leases);
        assert!(different.contains(&lease), "{name}: {lease:?} of {:?}", self.leases);
    }

    async fn names(&self) -> Vec<String> {
        let all = everything(&self.info);
        let list = self.store.list(&all, ListOptions::default()).await.unwrap();
        let list = list.collect().await.unwrap();
        let name = |entry: &Entry| entry.key().as_str().rsplit('/').next().unwrap().to_owned();
        list.entries.iter().map(name).collect()
    }

    /// Each event goes with its lease: not a moment before its time, and soon after.
    async fn expire(&self, mut passed: u64) {
        let mut watch = watch_from_now(&self.store, &everything(&self.info)).await;
        let (all, mut seen) = (["e1", "e2", "e3", "e4"], 0);
        // The first one was never moved on; the others were, after six seconds.
        for (until, gone) in [(89, 0), (95, 1), (95, 1), (101, 4)] {
            self.ground.clock.advance(Duration::from_secs(until - passed));
            passed = until;
            for _ in std::mem::replace(&mut seen, gone)..gone {
                assert_eq!(next_change(&mut watch).await.kind, EventKind::Deleted, "at {until} s");
            }
            assert_eq!(self.names().await, all[gone..], "at {until} s");
        }
    }
}

/// A lease lasts as long as was asked for, and not longer than the one that the recorded server got for it.
#[track_caller]
fn expect_lifetime<K: Kv>(ground: &Ground<K>, lease: LeaseId, asked: Duration, granted: u64, name: &str) {
    let lifetime = ground.lifetime(lease);
    assert!(
        asked <= lifetime && lifetime.as_secs() <= granted,
        "{name}: {lifetime:?}"
    );
    // The embedded store counts from other moments, to the millisecond. On etcd it is the same to the second.
    if !ground.expires {
        assert_eq!(lifetime.as_secs(), granted, "{name}");
    }
}

/// Events that live for a time: which are to expire, which changes keep them so, and when they go.
async fn check<K: Kv>(ground: Ground<K>) {
    let file = read("storagebackend/tests/data/revisions.json");
    let mut sequences = array(&file["sequences"]).iter();
    let recorded = sequences
        .find(|sequence| sequence["name"] == "events-with-ttl")
        .unwrap();
    let steps = array(&recorded["steps"]);
    let (info, first) = (
        kinds::info("", "events"),
        &steps[0]["body"]["metadata"]["creationTimestamp"],
    );
    let mut events = Events {
        store: ground.store(&info).await,
        ground: &ground,
        leases: BTreeMap::new(),
        at: text(first).parse::<Time>().unwrap().unix(),
        info,
    };
    let (began, mut written) = (events.at, 0);
    for step in steps {
        if step.get("key").is_some() {
            events.write(step).await;
            written += 1;
        } else {
            let names: Value = events.names().await.into();
            assert_eq!(names, step["body"]["item_names"], "{}", text(&step["name"]));
        }
    }
    assert_eq!((steps.len(), written, events.leases.len()), (9, 8, 2));
    if ground.expires {
        events.expire(u64::try_from(events.at - began).unwrap()).await;
    }
}

/// Every recorded lifetime.
async fn check_lifetimes<K: Kv>(ground: Ground<K>) {
    let mut recorded = BTreeSet::new();
    for file in [
        "storagebackend/tests/data/revisions.json",
        "storagebackend/tests/data/encryption-wildcards.json",
        "resources/tests/data/objects-events.json",
        "resources/tests/data/system-json.json",
    ] {
        data::every(&read(file), "granted_ttl_seconds", &mut |granted| {
            recorded.extend(granted.as_u64());
        });
    }
    assert_eq!(recorded, ASKED.map(|(_, granted)| granted).into());
    for (asked, granted) in ASKED {
        let asked = Duration::from_secs(asked);
        let lease = ground.kv.lease(asked).await.unwrap();
        expect_lifetime(&ground, lease, asked, granted, &format!("{asked:?}"));
    }
}

/// To write an event back as it is, with the lifetime that all events have, moves its end only once that is worth a write.
async fn check_unchanged<K: Kv>(ground: Ground<K>) {
    let objects = data::objects();
    let event = objects.iter().find(|object| object.name == "event-core").unwrap();
    let info = kinds::info("", "events");
    let (store, key, hour) = (
        ground.store(&info).await,
        kinds::key(&info, &event.key),
        Duration::from_secs(3600),
    );
    let value = Encoded::of(&without_revision(event.served[0].clone())).unwrap();
    let options = CreateOptions { ttl: Some(hour) };
    store.create(&key, value.clone(), options).await.unwrap();
    let created = ground.raw(&event.key).await.unwrap();
    let mut function = |_: Option<Entry>| {
        let (value, ttl) = (value.clone(), Ttl::After(hour));
        async move { Ok(Change::Put { value, ttl }) }
    };
    // Leases of an hour are shared by what is written within a minute.
    for (passes, written) in [(0, false), (60, false), (61, true), (0, false)] {
        ground.clock.advance(Duration::from_secs(passes));
        let before = ground.raw(&event.key).await.unwrap();
        let update = store.guaranteed_update(&key, UpdateOptions::default(), &mut function);
        let entry = update.await.unwrap();
        let after = ground.raw(&event.key).await.unwrap();
        assert_eq!(entry.revision(), after.revision, "after {passes} s");
        assert_eq!(before.revision != after.revision, written, "after {passes} s");
        if written {
            assert!(after.lease != created.lease, "its end was moved");
            expect_lifetime(&ground, after.lease.unwrap(), hour, 3660, "written anew");
        } else {
            assert_eq!(before, after, "after {passes} s");
        }
    }
}

// covers: storage-api/CREATE-05, storage-api/UPD-27, storage-api/UPD-29
#[tokio::test(flavor = "multi_thread")]
async fn events_in_memory() {
    check(ground::memory().await).await;
    check_lifetimes(ground::memory().await).await;
    check_unchanged(ground::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_on_disk() {
    check(ground::disk().await).await;
    check_lifetimes(ground::disk().await).await;
    check_unchanged(ground::disk().await).await;
}

// covers: storage-etcd3/LEASE-01
#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn events_on_etcd() {
    let Some(ground) = ground::etcd_still().await else {
        return;
    };
    check_lifetimes(ground).await;
    if let Some(ground) = ground::etcd_still().await {
        check(ground).await;
    }
    if let Some(ground) = ground::etcd_still().await {
        check_unchanged(ground).await;
    }
}
