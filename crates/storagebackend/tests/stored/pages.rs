//! Lists in pages: what is on each, where the next begins, what tokens mean that somebody else made, and what becomes of
//! one whose revision is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use apiserver_registry::StorageVerb;
use apiserver_storage_api::{
    Collected, ContinueToken, CreateOptions, DeleteOptions, Encoded, Key, NoCheck, ResourceInfo, Storage, StorageError,
};
use apiserver_storage_kv::{Kv, RangeRequest};
use serde_json::{Value, json};

use crate::data::{array, read, text, without_revision};
use crate::ground::{self, Ground};
use crate::kinds;
use crate::play::{self, Points, expect_error, is_refused_above, number};

/// One recorded server with its objects in our store.
struct Setup<'a> {
    recorded: &'a Value,
    info: ResourceInfo,
    store: Arc<dyn Storage>,
    points: Points,
    /// Whether ours has a cache in front.
    cached_here: bool,
    /// Pages of the cache have tokens that begin with a slash, which means the same.
    is_cached: bool,
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    walks: usize,
    pages: usize,
    tokens: usize,
    /// Refused by validation before any storage is asked.
    above: usize,
}

impl<'a> Setup<'a> {
    async fn create<K: Kv>(ground: &Ground<K>, recorded: &'a Value) -> Self {
        let info = kinds::info(&text(&recorded["group"]), &text(&recorded["resource"]));
        let mut setup = Self {
            store: ground.store(&info).await,
            points: Points::default(),
            cached_here: ground.is_cached(),
            is_cached: text(&recorded["name"]) != "no-cache",
            recorded,
            info,
        };
        // What that server had there by itself.
        let all = recorded["walks"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|walk| array(&walk["pages"]));
        let items: BTreeSet<String> = all
            .filter_map(|page| page["items"].as_array())
            .flatten()
            .map(text)
            .collect();
        for name in items.iter().filter(|name| name.starts_with("kube-system/")) {
            let (namespace, name) = name.split_once('/').unwrap();
            let revision = setup.post(namespace, &json!({ "metadata": { "name": name } })).await;
            setup.points.note(1, revision);
        }
        for created in array(&recorded["created"]) {
            let request = &created["request"];
            let revision = setup.request(request).await;
            setup.points.note(number(&created["resourceVersion"]), revision);
        }
        let mut range = RangeRequest::prefix(&text(&recorded["prefix"]));
        range.keys_only = true;
        let keys = ground.kv.range(range).await.unwrap().pairs;
        let keys = keys
            .iter()
            .map(|pair| &*pair.key)
            .filter(|key| !key.contains("/kube-system/"));
        let keys: Vec<_> = keys.collect();
        assert_eq!(json!(keys), recorded["keys_in_order"], "{}", text(&recorded["name"]));
        setup
    }

    fn key(&self, namespace: &str, name: &str) -> Key {
        self.info.object_key(Some(namespace), name).unwrap()
    }

    async fn post(&self, namespace: &str, body: &Value) -> apiserver_storage_api::Revision {
        let mut object = without_revision(body.clone());
        object["apiVersion"] = self.info.gvk().api_version().into();
        object["kind"] = self.info.gvk().kind.clone().into();
        object["metadata"]["namespace"] = namespace.into();
        let key = self.key(namespace, object["metadata"]["name"].as_str().unwrap());
        let value = Encoded::of(&object).unwrap();
        self.store
            .create(&key, value, CreateOptions::default())
            .await
            .unwrap()
            .revision()
    }

    /// Plays a recorded write.
    async fn request(&self, request: &Value) -> apiserver_storage_api::Revision {
        let path = text(&request["path"]);
        match (play::place(&self.info, &path), text(&request["method"]).as_str()) {
            ((Some(namespace), None), "POST") => self.post(namespace, &request["body"]).await,
            ((Some(namespace), Some(name)), "DELETE") => {
                let key = self.key(namespace, name);
                let gone = self.store.delete(&key, DeleteOptions::default(), &mut NoCheck).await;
                gone.unwrap().revision()
            }
            other => panic!("no such write is recorded: {other:?}"),
        }
    }

    /// A page as it was recorded: items, what remains, at which revision, and where the next one begins.
    fn expect_page(&self, name: &str, have: &Collected, body: &Page) {
        let items: Vec<_> = have
            .entries
            .iter()
            .map(|entry| entry.key().as_str().strip_prefix(self.info.prefix().as_str()).unwrap())
            .map(|key| {
                if body.bare {
                    key.rsplit('/').next().unwrap()
                } else {
                    key
                }
            })
            .collect();
        assert_eq!(items, body.items, "{name}");
        assert_eq!(have.remaining, body.remaining, "{name}");
        assert_eq!(have.revision, self.points.at(body.revision), "{name}");
        let want = body.next.as_deref().map(|token| self.normal(&self.points.token(token)));
        let next = have.next.as_ref().map(|token| self.normal(&token.encode()));
        assert_eq!(next, want, "{name}");
    }

    /// The next page begins with the key with which the recorded one began.
    fn expect_next(&self, name: &str, path: &str, next: Option<&ContinueToken>, walk: &Value, page: &Value) {
        let scope = play::scope(&self.info, path);
        assert_eq!(walk["range"]["start"], format!("/registry{}", scope.as_str()), "{name}");
        let have = next.map(|token| format!("/registry{}", token.start_in(&scope).unwrap()));
        // In tokens of its cache each start has a slash in front, and the recorded key has it too.
        let want = page["next_key_hex"]
            .as_str()
            .map(|hex| play::unhex(hex).replace("//", "/"));
        assert_eq!(have, want, "{name}");
    }

    /// A token without a slash in front of its start.
    fn normal(&self, token: &str) -> String {
        let decoded = ContinueToken::decode(token).unwrap();
        let start = decoded.start_in(&play::scope(&self.info, &format!("/{}", self.info.resource())));
        match self.is_cached {
            true => format!("{:?} {:?}", decoded.revision(), start),
            false => token.to_owned(),
        }
    }

    async fn walk(&mut self, walk: &Value, counts: &mut Counts) {
        let name = format!("{}, {}", text(&self.recorded["name"]), text(&walk["name"]));
        let mut token: Option<String> = None;
        for (at, page) in array(&walk["pages"]).iter().enumerate() {
            counts.pages += 1;
            let (name, path) = (format!("{name}, page {at}"), text(&page["request"]["path"]));
            if is_refused_above(page) {
                counts.above += 1;
                continue;
            }
            if path.contains("resourceVersion=0") && self.is_cached != self.cached_here {
                // A cache may answer that with everything it has, whatever the limit.
                continue;
            }
            match play::list(&*self.store, &path, &self.points, token.as_deref()).await {
                Ok(have) => {
                    assert_eq!(page["status"], 200, "{name}");
                    self.expect_page(&name, &have, &Page::of_walk(page));
                    self.expect_next(&name, &path, have.next.as_ref(), walk, page);
                    token = have.next.map(|token| token.encode());
                }
                Err(error) => {
                    let mut answer = json!({ "status": page["status"] });
                    answer["body"] = page["body"].clone();
                    expect_error(&name, error, StorageVerb::List, &self.info, &answer);
                }
            }
            for then in page["then"].as_array().into_iter().flatten() {
                let revision = self.request(&then["request"]).await;
                let recorded = match then["body"]["metadata"]["resourceVersion"].as_str() {
                    Some(version) => version.parse().unwrap(),
                    // A deletion says no revision; it is the next one.
                    None => self.points.last().0 + 1,
                };
                self.points.note(recorded, revision);
            }
        }
        counts.walks += 1;
    }

    async fn token(&self, recorded: &Value, counts: &mut Counts) {
        let name = format!("{}, token {}", text(&self.recorded["name"]), text(&recorded["name"]));
        counts.tokens += 1;
        if is_refused_above(recorded) {
            counts.above += 1;
            return;
        }
        let path = text(&recorded["request"]["path"]);
        if path.contains("resourceVersion=0") && self.is_cached {
            // That server's cache forgets the limit then, also behind a token; ours does not.
            return;
        }
        match play::list(&*self.store, &path, &self.points, None).await {
            Ok(have) => {
                assert_eq!(recorded["status"], 200, "{name}");
                self.expect_page(&name, &have, &Page::of_list(&recorded["body"]));
            }
            Err(error) => expect_error(&name, error, StorageVerb::List, &self.info, recorded),
        }
    }
}

/// What a page is to be.
struct Page {
    items: Vec<String>,
    /// Items are names without namespaces.
    bare: bool,
    remaining: Option<u64>,
    revision: u64,
    next: Option<String>,
}

impl Page {
    fn of_walk(page: &Value) -> Self {
        Self {
            items: array(&page["items"]).iter().map(text).collect(),
            bare: false,
            remaining: page["remainingItemCount"].as_u64(),
            revision: number(&page["resourceVersion"]),
            next: page["continue"]
                .as_str()
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
        }
    }

    fn of_list(body: &Value) -> Self {
        let metadata = &body["metadata"];
        Self {
            items: array(&body["item_names"]).iter().map(text).collect(),
            bare: true,
            remaining: metadata["remainingItemCount"].as_u64(),
            revision: number(&metadata["resourceVersion"]),
            next: metadata["continue"]
                .as_str()
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
        }
    }
}

/// A token whose revision is gone, and the one that comes back for it.
async fn after_compaction<K: Kv>(ground: &Ground<K>, setup: &Setup<'_>) {
    ground.kv.compact(ground.now().await).await.unwrap();
    for recorded in array(&setup.recorded["after_compaction"]) {
        let name = format!("{}, after compaction", text(&setup.recorded["name"]));
        let path = text(&recorded["request"]["path"]);
        match play::list(&*setup.store, &path, &setup.points, None).await {
            Ok(have) => {
                assert_eq!(recorded["status"], 200, "{name}: {path}");
                setup.expect_page(&name, &have, &Page::of_list(&recorded["body"]));
            }
            Err(StorageError::Expired { message, token }) => {
                if setup.is_cached && recorded["status"] == 200 {
                    // That server still had the state in its cache. A store without one, or with a younger one, has not.
                    continue;
                }
                let body = &recorded["body"];
                assert_eq!(recorded["status"], 410, "{name}: {path}");
                assert_eq!(message, text(&body["message"]), "{name}");
                let token = token.map(|token| token.encode()).unwrap_or_default();
                assert_eq!(
                    token,
                    body["metadata"]["continue"].as_str().unwrap_or_default(),
                    "{name}"
                );
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

async fn check_setup<K: Kv>(ground: Ground<K>, recorded: &Value, counts: &mut Counts) {
    let mut setup = Setup::create(&ground, recorded).await;
    for walk in array(&recorded["walks"]) {
        setup.walk(walk, counts).await;
    }
    for token in array(&recorded["tokens"]) {
        setup.token(token, counts).await;
    }
    after_compaction(&ground, &setup).await;
}

/// Each setup on a backend of its own, because each is compacted at its end.
async fn check<K: Kv, F: Future<Output = Option<Ground<K>>>>(ground: impl Fn() -> F) {
    let file = read("storagebackend/tests/data/pages.json");
    let mut counts = Counts::default();
    for setup in array(&file["setups"]) {
        let Some(ground) = ground().await else { return };
        check_setup(ground, setup, &mut counts).await;
    }
    println!("{counts:?}");
    let want = Counts {
        walks: 72,
        pages: 254,
        tokens: 126,
        above: 12,
    };
    assert_eq!(counts, want);
}

// covers: storage-api/LIST-24, storage-api/LIST-25, storage-api/LIST-26, storage-api/LIST-27, storage-api/LIST-28
// covers: storage-api/LIST-29, storage-api/LIST-30, storage-api/LIST-33, storage-api/LIST-34, storage-api/LIST-36
// covers: storage-api/CONT-01, storage-api/CONT-03, storage-api/CONT-04, storage-api/CONT-05, storage-api/CONT-06
// covers: storage-api/CONT-07, storage-api/CONT-08, storage-api/CONT-20, storage-api/CONT-21
#[tokio::test(flavor = "multi_thread")]
async fn pages_in_memory() {
    check(|| async { Some(ground::memory().await) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_behind_the_cache() {
    check(|| async { Some(ground::memory().await.cached()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_on_disk() {
    check(|| async { Some(ground::disk().await) }).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn pages_on_etcd() {
    check(ground::etcd).await;
}
