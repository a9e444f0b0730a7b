//! Sequences of writes with what every revision of them shows: which requests write, what lists and gets at each
//! revision answer, what a watch from each sees, and the same once history is compacted.

use std::sync::Arc;

use apiserver_registry::StorageVerb;
use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Encoded, Entry, EventKind, GetOptions, Key, NoCheck, Preconditions, ReadAt,
    ResourceInfo, Result, Storage, StorageError, UpdateOptions, Watch, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_kv::Kv;
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::data::{array, read, text, without_revision};
use crate::ground::{self, Ground, soon};
use crate::kinds;
use crate::play::{self, Points, Query, expect_error, is_refused_above, number};

/// What was checked.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    steps: usize,
    reads: usize,
    watches: usize,
    /// Refused, or answered, by layers above before any storage is asked.
    above: usize,
}

/// One recorded sequence in our store.
struct Sequence<'a, K> {
    ground: &'a Ground<K>,
    recorded: &'a Value,
    name: String,
    info: ResourceInfo,
    store: Arc<dyn Storage>,
    points: Points,
    /// Everything that happened, as a watch from the start showed it.
    history: &'a [Value],
    /// A cache answered.
    is_cached: bool,
}

/// The names of the collection of a list.
fn names(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry.key().as_str().rsplit('/').next().unwrap())
        .collect()
}

impl<'a, K: Kv> Sequence<'a, K> {
    async fn open(ground: &'a Ground<K>, recorded: &'a Value) -> Self {
        let info = kinds::info(&text(&recorded["group"]), &text(&recorded["resource"]));
        let (name, start) = (text(&recorded["name"]), &recorded["start"]);
        let whole = array(&recorded["watches"]).iter().find(|watch| watch["from"] == *start);
        let mut points = Points::default();
        let before = format!("/registry/before/{name}");
        points.note(number(start), ground.put(&before, "x".into(), None).await);
        Self {
            history: array(&whole.expect("a watch of everything")["events"]),
            store: ground.store(&info).await,
            is_cached: name == "cache",
            recorded,
            ground,
            points,
            info,
            name,
        }
    }

    fn key(&self, path: &str) -> Key {
        match play::place(&self.info, path) {
            (namespace, Some(name)) => self.info.object_key(namespace, name).unwrap(),
            other => panic!("{path} is no object: {other:?}"),
        }
    }

    /// The revision of a deletion within a step, which only a watch tells.
    fn deleted_at(&self, step: &Value, name: &str) -> u64 {
        let span = number(&step["etcd_revision"]["before"]) + 1..=number(&step["etcd_revision"]["after"]);
        let object = |event: &'a Value| &event["object"]["metadata"];
        let deleted = self.history.iter().filter(|event| event["type"] == "DELETED");
        let mut own = deleted
            .filter(|event| object(event)["name"] == name)
            .map(|event| number(&object(event)["resourceVersion"]))
            .filter(|revision| span.contains(revision));
        own.next().expect("a watch saw it")
    }

    /// Plays a request as the verb that the layers above would use.
    async fn step(&mut self, step: &'a Value) -> Outcome {
        let (request, path) = (&step["request"], text(&step["request"]["path"]));
        if is_refused_above(step) || path.contains("dryRun") {
            return Outcome::Above;
        }
        if !path.contains(&format!("/{}", self.info.resource())) {
            let revision = self.ground.put(&text(&step["key"]), "{}".into(), None).await;
            self.points.note(number(&step["after"]["mod_revision"]), revision);
            return Outcome::Above;
        }
        let name = play::place(&self.info, &path).1.map(str::to_owned);
        match (text(&request["method"]).as_str(), name) {
            ("GET", None) => {
                let list = play::list(&*self.store, &path, &self.points, None).await.unwrap();
                assert_eq!(
                    json!(names(&list.entries)),
                    step["body"]["item_names"],
                    "{}",
                    text(&step["name"])
                );
                assert_eq!(list.revision, self.ground.now().await, "{}", text(&step["name"]));
                Outcome::Read
            }
            ("GET", Some(_)) => {
                let entry = self.store.get(&self.key(&path), GetOptions::default()).await;
                Outcome::of(entry, StorageVerb::Get)
            }
            ("POST", _) => {
                let name = text(&request["body"]["metadata"]["name"]);
                let key = self.key(&format!("{path}/{name}"));
                let created = self.store.create(&key, content(step), CreateOptions::default()).await;
                Outcome::of(created, StorageVerb::Create)
            }
            ("PUT" | "PATCH", name) => {
                let written = self.update(step, &path).await;
                if let (Ok(gone), Some(name), true) = (&written, name, step["after"].is_null()) {
                    self.points.note(self.deleted_at(step, &name), gone.revision());
                }
                Outcome::of(written, StorageVerb::Update)
            }
            ("DELETE", Some(name)) => Outcome::of(self.delete(step, &path, &name).await, StorageVerb::Delete),
            ("DELETE", None) => self.delete_all(step, &path).await,
            other => panic!("no such request is recorded: {other:?}"),
        }
    }

    fn preconditions(&self, asked: &Value) -> Preconditions {
        let version = asked["resourceVersion"].as_str();
        Preconditions {
            uid: asked["uid"].as_str().map(str::to_owned),
            resource_version: version.map(|version| self.points.version(version)),
        }
    }

    async fn update(&self, step: &Value, path: &str) -> Result<Entry> {
        let good = step["status"] == 200 || step["status"] == 201;
        let options = UpdateOptions {
            preconditions: self.preconditions(&json!({
                "resourceVersion": step["request"]["body"]["metadata"]["resourceVersion"],
            })),
            create_if_missing: step["status"] == 201,
            ..UpdateOptions::default()
        };
        let removes = good && step["after"].is_null();
        let mut function = |_: Option<Entry>| async move {
            Ok(if removes {
                Change::Delete
            } else {
                Change::put(content(step))
            })
        };
        self.store
            .guaranteed_update(&self.key(path), options, &mut function)
            .await
    }

    async fn delete(&mut self, step: &Value, path: &str, name: &str) -> Result<Entry> {
        let key = self.key(path);
        if step["status"] == 200 && !step["after"].is_null() {
            // Finalizers hold it: it is marked.
            return self.update(step, path).await;
        }
        let preconditions = self.preconditions(&step["request"]["body"]["preconditions"]);
        let options = DeleteOptions {
            preconditions,
            ..DeleteOptions::default()
        };
        let gone = self.store.delete(&key, options, &mut NoCheck).await?;
        self.points.note(self.deleted_at(step, name), gone.revision());
        Ok(gone)
    }

    async fn delete_all(&mut self, step: &Value, path: &str) -> Outcome {
        let span = number(&step["etcd_revision"]["before"])..number(&step["etcd_revision"]["after"]);
        for event in self.history {
            let metadata = &event["object"]["metadata"];
            let revision = number(&metadata["resourceVersion"]);
            if event["type"] == "DELETED" && span.contains(&(revision - 1)) {
                let key = self.key(&format!("{path}/{}", text(&metadata["name"])));
                let gone = self
                    .store
                    .delete(&key, DeleteOptions::default(), &mut NoCheck)
                    .await
                    .unwrap();
                self.points.note(revision, gone.revision());
            }
        }
        Outcome::Read
    }

    /// Plays all requests; what is written there is written here, and nothing else.
    async fn steps(&mut self, counts: &mut Counts) {
        for step in array(&self.recorded["steps"]) {
            counts.steps += 1;
            let name = format!("{}, {}", self.name, text(&step["name"]));
            let key = step["key"].as_str().map(str::to_owned);
            let stored = async |key: &Option<String>| match key {
                Some(key) => self.ground.raw(key).await.map(|pair| pair.revision),
                None => None,
            };
            let before = stored(&key).await;
            let outcome = self.step(step).await;
            let after = match &key {
                Some(key) => self.ground.raw(key).await.map(|pair| pair.revision),
                None => None,
            };
            let is_foreign = key
                .as_ref()
                .is_some_and(|key| !key.contains(self.info.prefix().as_str()));
            if let Some(written) = step["written"].as_bool().filter(|_| !is_foreign) {
                assert_eq!(before != after, written, "{name}: was it written");
            }
            if let (Some(recorded), Some(after)) = (step["after"]["mod_revision"].as_u64(), after) {
                self.points.note(recorded, after);
            }
            match outcome {
                Outcome::Above => counts.above += 1,
                Outcome::Read => {}
                Outcome::Good(entry) => self.expect_entry(&name, step, &entry),
                // There it is an error that nobody gave a status, here a fault of the request.
                Outcome::Refused(error, _) if matches!(*error, StorageError::ResourceVersionSetOnCreate) => {
                    let message = step["body"]["message"].as_str().unwrap_or_default();
                    assert!(message.contains(&error.to_string()), "{name}: {error}");
                }
                Outcome::Refused(error, verb) => expect_error(&name, *error, verb, &self.info, step),
            }
        }
    }

    /// The object that a request answered, where it answered one.
    fn expect_entry(&self, name: &str, step: &Value, entry: &Entry) {
        assert!(
            step["status"] == 200 || step["status"] == 201,
            "{name}: answered {:?}",
            entry.revision()
        );
        let body = &step["body"];
        if body["kind"] == "Status" || step["after"].is_null() {
            return;
        }
        let object: Value = entry.decode().unwrap();
        let version = self.points.version(&text(&body["metadata"]["resourceVersion"]));
        assert_eq!(object["metadata"]["resourceVersion"], version, "{name}");
        assert_eq!(without_revision(object), without_revision(body.clone()), "{name}");
    }

    /// Reads at revisions, before or after compaction; side by side, because some wait for what never comes.
    async fn reads(&self, which: &str, counts: &mut Counts) {
        let all = array(&self.recorded[which]);
        let (above, reads): (Vec<_>, Vec<_>) = all.iter().partition(|read| is_refused_above(read));
        counts.reads += all.len();
        counts.above += above.len();
        join_all(reads.into_iter().map(|read| self.read(read))).await;
    }

    async fn read(&self, read: &Value) {
        let name = format!("{}, {}", self.name, text(&read["name"]));
        let path = text(&read["request"]["path"]);
        let (found, verb) = match play::place(&self.info, &path).1 {
            None => (self.list_at(&name, read, &path).await, StorageVerb::List),
            Some(_) => {
                let version = Query::of(&path).get("resourceVersion").unwrap_or_default().to_owned();
                let at = ReadAt::parse(&self.points.version(&version));
                let key = self.key(path.split('?').next().unwrap());
                let get = async { self.store.get(&key, GetOptions { at: at? }).await.map(drop) };
                (get.await, StorageVerb::Get)
            }
        };
        match found {
            Ok(()) => assert_eq!(read["status"], 200, "{name}"),
            // A cache there reads no version before it has to.
            Err(StorageError::BadRequest { .. }) if self.is_cached && read["status"] == 500 => {}
            // That server had the state in its cache.
            Err(error) if self.is_cached && error.is_expired() && read["status"] == 200 => {}
            Err(error) => expect_error(&name, error, verb, &self.info, read),
        }
    }

    async fn list_at(&self, name: &str, read: &Value, path: &str) -> Result<()> {
        let list = play::list(&*self.store, path, &self.points, None).await?;
        if read["status"] == 200 {
            assert_eq!(json!(names(&list.entries)), read["body"]["item_names"], "{name}");
            let recorded = number(&read["body"]["metadata"]["resourceVersion"]);
            assert_eq!(list.revision, self.points.at(recorded), "{name}");
        }
        Ok(())
    }

    /// Opens a recorded watch.
    async fn watch(&self, watch: &Value) -> Result<Watch> {
        let path = text(&watch["request"]["path"]);
        let query = Query::of(&path);
        let version = self.points.version(query.get("resourceVersion").unwrap_or_default());
        let initial = query.get("sendInitialEvents").map(|text| text == "true");
        let mut options = WatchOptions::from_start(WatchStart::parse(&version, initial)?);
        options.predicate = query.predicate();
        self.store.watch(&play::scope(&self.info, &path), options).await
    }

    /// Opens the recorded watches and sees what was recorded; what comes next is seen at the end.
    async fn watches(&self, which: &str, counts: &mut Counts) -> Vec<Running> {
        let recorded = array(&self.recorded[which]);
        counts.watches += recorded.len();
        // A watch from far ahead is refused after a while; that has tests of its own.
        let (ahead, recorded): (Vec<_>, Vec<_>) = recorded.iter().partition(|watch| watch["from"] == "1000000000");
        counts.above += ahead.len();
        let open = join_all(recorded.iter().map(|watch| self.watch(watch))).await;
        let mut running = Vec::new();
        for (watch, open) in recorded.into_iter().zip(open) {
            let name = format!("{}, {which}, {}", self.name, text(&watch["request"]["path"]));
            let events = array(&watch["events"]);
            match open {
                // A cache here may remember what a backend has forgotten, as the recorded one did.
                Ok(_) if self.ground.is_cached() && events.last().is_some_and(|last| last["type"] == "ERROR") => {}
                Ok(watch) => {
                    let mut watch = Running {
                        name,
                        watch,
                        seen: Vec::new(),
                    };
                    let want = self.shown(events);
                    watch.see(want.len()).await;
                    assert_eq!(watch.seen, want, "{}", watch.name);
                    running.push(watch);
                }
                Err(error) if self.is_cached && error.is_expired() => {}
                Err(error) => {
                    let last = events.last().unwrap_or(&Value::Null);
                    let status = if last["type"] == "ERROR" { &last["object"] } else { last };
                    let answer = json!({ "status": status["code"], "body": status });
                    expect_error(&name, error, StorageVerb::Watch, &self.info, &answer);
                }
            }
        }
        running
    }

    /// Recorded events with our revisions.
    fn shown(&self, events: &[Value]) -> Vec<String> {
        let plain = events.iter().filter(|event| event["type"] != "BOOKMARK");
        plain
            .map(|event| {
                let short = |field: &str| event.get(field).unwrap_or(&event["object"]["metadata"][field]);
                let revision = self.points.at(number(short("resourceVersion")));
                format!("{} {} {revision}", text(&event["type"]), text(short("name")))
            })
            .collect()
    }

    /// What happens next comes next, in every watch: nothing was left over.
    async fn go_on(&self, running: Vec<Running>) {
        // Matches every recorded selector.
        let path = text(&self.recorded["steps"][0]["request"]["path"]);
        let mut object = json!({ "apiVersion": self.info.gvk().api_version(), "kind": self.info.gvk().kind });
        object["metadata"] = json!({ "name": "b", "namespace": "ns", "labels": { "l": "1" } });
        let (key, value) = (self.key(&format!("{path}/b")), Encoded::of(&object).unwrap());
        let created = self.store.create(&key, value, CreateOptions::default()).await.unwrap();
        for mut watch in running {
            let before = watch.seen.len();
            watch.see(before + 1).await;
            assert_eq!(watch.seen[before..], [show("ADDED", &created)], "{}", watch.name);
        }
    }
}

/// A watch, and what it has shown.
struct Running {
    name: String,
    watch: Watch,
    seen: Vec<String>,
}

fn show(kind: &str, entry: &Entry) -> String {
    let name = entry.key().as_str().rsplit('/').next().unwrap();
    format!("{kind} {name} {}", entry.revision())
}

impl Running {
    /// Waits until it has shown so much.
    async fn see(&mut self, count: usize) {
        let Self { name, watch, seen } = self;
        while seen.len() < count {
            match soon(&format!("{name}: after {seen:?}"), watch.next()).await {
                Some(Ok(WatchItem::Initial(entries))) => {
                    seen.extend(entries.iter().map(|entry| show("ADDED", entry)));
                }
                Some(Ok(WatchItem::Batch(batch))) => seen.extend(batch.events.iter().map(|event| {
                    let kind = match event.kind {
                        EventKind::Added => "ADDED",
                        EventKind::Modified => "MODIFIED",
                        EventKind::Deleted => "DELETED",
                    };
                    let object = event.object.as_ref().unwrap();
                    assert_eq!(object.revision(), event.revision, "{name}");
                    show(kind, object)
                })),
                Some(Ok(_)) => {}
                other => panic!("{name}: after {seen:?}: {other:?}"),
            }
        }
    }
}

/// What became of a step.
enum Outcome {
    Good(Entry),
    Refused(Box<StorageError>, StorageVerb),
    /// Compared already.
    Read,
    /// Nothing that a storage is asked.
    Above,
}

impl Outcome {
    fn of(result: Result<Entry>, verb: StorageVerb) -> Self {
        match result {
            Ok(entry) => Self::Good(entry),
            Err(error) => Self::Refused(Box::new(error), verb),
        }
    }
}

/// What a request stores: the object that was answered, or the one that was sent in vain.
fn content(step: &Value) -> Encoded {
    let good = step["status"] == 200 || step["status"] == 201;
    let object = if good {
        without_revision(step["body"].clone())
    } else {
        step["request"]["body"].clone()
    };
    Encoded::of(&object).unwrap()
}

async fn check<K: Kv, F: Future<Output = Option<Ground<K>>>>(ground: impl Fn() -> F) {
    let file = read("storagebackend/tests/data/revisions.json");
    let mut counts = Counts::default();
    let sequences = array(&file["sequences"])
        .iter()
        .filter(|sequence| sequence.get("watches").is_some());
    for recorded in sequences {
        // On a backend of its own, because it is compacted at its end.
        let Some(ground) = ground().await else { return };
        let mut sequence = Sequence::open(&ground, recorded).await;
        sequence.steps(&mut counts).await;
        sequence.reads("reads", &mut counts).await;
        let mut running = sequence.watches("watches", &mut counts).await;
        let compacted = sequence.points.at(number(&recorded["compacted_at"]));
        ground.kv.compact(compacted).await.unwrap();
        sequence.reads("reads_after_compaction", &mut counts).await;
        running.extend(sequence.watches("watches_after_compaction", &mut counts).await);
        sequence.go_on(running).await;
    }
    println!("{counts:?}");
    let want = Counts {
        steps: 148,
        reads: 228,
        watches: 112,
        above: 30,
    };
    assert_eq!(counts, want);
}

// covers: storage-api/LIST-01, storage-api/LIST-02, storage-api/LIST-03, storage-api/LIST-04, storage-api/LIST-05
// covers: storage-api/LIST-06, storage-api/LIST-07, storage-api/LIST-08, storage-api/LIST-09, storage-api/LIST-10
// covers: storage-api/LIST-11, storage-api/LIST-23, storage-api/WATCH-01, storage-api/WATCH-02, storage-api/WATCH-06
#[tokio::test(flavor = "multi_thread")]
async fn revisions_in_memory() {
    check(|| async { Some(ground::memory().await) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_behind_the_cache() {
    check(|| async { Some(ground::memory().await.cached()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_on_disk() {
    check(|| async { Some(ground::disk().await) }).await;
}

#[cfg(feature = "etcd3")]
#[tokio::test(flavor = "multi_thread")]
async fn revisions_on_etcd() {
    check(ground::etcd).await;
}
