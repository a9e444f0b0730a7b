//! The kinds and objects of the suite, and the few steps that every case is made of.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use futures::StreamExt;
use serde_json::{Value, json};

use apiserver_storage_api::{
    Change, Check, Collected, ContinueToken, CreateOptions, DeleteOptions, Encoded, Entry, Event, EventKind,
    FieldSelector, GetOptions, Key, KeyPrefix, LabelSelector, ListAt, ListOptions, NoCheck, ResourceInfo,
    ResourceScope, Result, Revision, Scope, SelectionPredicate, Storage, StorageError, UpdateOptions, Watch, WatchItem,
    WatchOptions, WatchStart,
};

/// The kind under test: namespaced, with one selectable field.
pub fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced).with_selectable_field("spec.nodeName")
}

/// The other kind on the same backend.
pub fn config_maps() -> ResourceInfo {
    ResourceInfo::new("", "v1", "configmaps", "ConfigMap", ResourceScope::Namespaced)
}

/// A pod with a uid.
pub fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{namespace}-{name}")},
        "spec": {},
    })
}

/// A pod on a node.
pub fn pod_on(namespace: &str, name: &str, node: &str) -> Value {
    let mut pod = pod(namespace, name);
    pod["spec"]["nodeName"] = node.into();
    pod
}

/// A config map.
pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "ns"}})
}

/// The key of a pod.
#[track_caller]
pub fn key(namespace: &str, name: &str) -> Key {
    raw_key(&format!("/pods/{namespace}/{name}"))
}

/// A key of the pods, as it stands.
#[track_caller]
pub fn raw_key(key: &str) -> Key {
    pods().key(key).expect("a key of the pods")
}

/// The key of a config map.
#[track_caller]
pub fn config_map_key(name: &str) -> Key {
    config_maps()
        .object_key(Some("ns"), name)
        .expect("a key of the config maps")
}

/// All pods.
pub fn all() -> Scope {
    Scope::all(pods().prefix())
}

/// The pods of a namespace.
#[track_caller]
pub fn within(namespace: &str) -> Scope {
    pods().list_scope(Some(namespace)).expect("a namespace")
}

/// The prefix that lists of all pods page over.
#[track_caller]
pub fn all_prefix() -> KeyPrefix {
    KeyPrefix::new(pods().prefix(), "/pods/").expect("the prefix of the pods")
}

/// The input form of an object.
#[track_caller]
pub fn encoded(object: &Value) -> Encoded {
    Encoded::of(object).expect("JSON encodes")
}

/// Revision `n`.
#[track_caller]
pub fn revision(n: u64) -> Revision {
    Revision::new(n).expect("not zero")
}

/// A limit of `n`.
#[track_caller]
pub fn limit(n: u64) -> Option<NonZeroU64> {
    Some(NonZeroU64::new(n).expect("not zero"))
}

/// Selects by fields.
#[track_caller]
pub fn by_field(selector: &str) -> SelectionPredicate {
    SelectionPredicate::new(
        LabelSelector::default(),
        FieldSelector::parse(selector).expect("a field selector"),
    )
}

/// Selects by labels.
#[track_caller]
pub fn by_label(selector: &str) -> SelectionPredicate {
    SelectionPredicate::new(
        LabelSelector::parse(selector).expect("a label selector"),
        FieldSelector::default(),
    )
}

/// Creates an object under a key.
pub async fn create(store: &dyn Storage, key: &Key, object: &Value) -> Entry {
    let created = store.create(key, encoded(object), CreateOptions::default()).await;
    created.unwrap_or_else(|error| panic!("create {key}: {error}"))
}

/// Creates a pod.
pub async fn create_pod(store: &dyn Storage, namespace: &str, name: &str) -> Entry {
    create(store, &key(namespace, name), &pod(namespace, name)).await
}

/// Creates the pods of these names in namespace `ns`.
pub async fn create_pods(store: &dyn Storage, names: &[&str]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for name in names {
        entries.push(create_pod(store, "ns", name).await);
    }
    entries
}

/// Changes an object.
pub async fn change(store: &dyn Storage, key: &Key, edit: impl Fn(&mut Value) + Send + Sync) -> Entry {
    let changed = try_change(store, key, UpdateOptions::default(), edit).await;
    changed.unwrap_or_else(|error| panic!("update {key}: {error}"))
}

/// Changes an object, or not.
pub async fn try_change(
    store: &dyn Storage,
    key: &Key,
    options: UpdateOptions,
    edit: impl Fn(&mut Value) + Send + Sync,
) -> Result<Entry> {
    let mut update = |current: Option<Entry>| {
        let edited = edited(current.as_ref(), &edit);
        async move { edited }
    };
    store.guaranteed_update(key, options, &mut update).await
}

/// What an edit makes of an object.
pub fn edited(current: Option<&Entry>, edit: impl Fn(&mut Value)) -> Result<Change> {
    let mut object = match current {
        Some(entry) => entry.decode::<Value>()?,
        None => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}}),
    };
    edit(&mut object);
    Ok(Change::put(Encoded::of(&object)?))
}

/// Gives an object a label.
pub fn label(name: &'static str, value: &str) -> impl Fn(&mut Value) + Send + Sync {
    let value = value.to_owned();
    move |object| object["metadata"]["labels"][name] = value.as_str().into()
}

/// Puts a pod on a node.
pub fn node(name: &str) -> impl Fn(&mut Value) + Send + Sync {
    let name = name.to_owned();
    move |object| object["spec"]["nodeName"] = name.as_str().into()
}

/// Changes nothing.
pub fn nothing(_: &mut Value) {}

/// The label that [`label`] sets.
pub fn label_of<'a>(entry: &'a Entry, name: &str) -> Option<&'a str> {
    entry.attributes().and_then(|attributes| attributes.labels.get(name))
}

/// Reads the latest state.
pub async fn get(store: &dyn Storage, key: &Key) -> Entry {
    let got = store.get(key, GetOptions::default()).await;
    got.unwrap_or_else(|error| panic!("get {key}: {error}"))
}

/// Deletes an object.
pub async fn delete(store: &dyn Storage, key: &Key) -> Entry {
    let deleted = store.delete(key, DeleteOptions::default(), &mut NoCheck).await;
    deleted.unwrap_or_else(|error| panic!("delete {key}: {error}"))
}

/// Deletes with options and a check.
pub async fn try_delete(
    store: &dyn Storage,
    key: &Key,
    options: DeleteOptions,
    check: &mut dyn Check,
) -> Result<Entry> {
    store.delete(key, options, check).await
}

/// Lists in one piece.
pub async fn list(store: &dyn Storage, scope: &Scope, options: ListOptions) -> Collected {
    let listed = try_list(store, scope, options).await;
    listed.unwrap_or_else(|error| panic!("list {scope}: {error}"))
}

/// Lists in one piece, or not.
pub async fn try_list(store: &dyn Storage, scope: &Scope, options: ListOptions) -> Result<Collected> {
    store.list(scope, options).await?.collect().await
}

/// Lists all pods in a state.
pub async fn list_at(store: &dyn Storage, at: ListAt) -> Collected {
    list(
        store,
        &all(),
        ListOptions {
            at,
            ..ListOptions::default()
        },
    )
    .await
}

/// One page of all pods.
pub fn page(at: ListAt, size: u64) -> ListOptions {
    ListOptions {
        at,
        limit: limit(size),
        ..ListOptions::default()
    }
}

/// The list that a token leads to.
#[track_caller]
pub fn following(token: &Option<ContinueToken>) -> ListAt {
    ListAt::Continue(token.clone().expect("there is a next page"))
}

/// The keys of entries below `/pods/`.
pub fn names(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry.key().as_str().trim_start_matches("/pods/"))
        .collect()
}

/// The parts of entries that tell one state of a list from another.
pub fn states(entries: &[Entry]) -> Vec<(String, Revision, Vec<u8>)> {
    let state = |entry: &Entry| {
        let json = entry.json().map(|json| json.to_vec()).unwrap_or_default();
        (entry.key().to_string(), entry.revision(), json)
    };
    entries.iter().map(state).collect()
}

/// The counter of the backend.
pub async fn now(store: &dyn Storage) -> Revision {
    store
        .current_revision()
        .await
        .unwrap_or_else(|error| panic!("current revision: {error}"))
}

/// Checks that an entry's JSON carries the revision that the entry says.
#[track_caller]
pub fn carries_own_revision(entry: &Entry) {
    let object: Value = entry.decode().expect("readable");
    assert_eq!(
        object["metadata"]["resourceVersion"],
        entry.revision().to_string(),
        "{entry:?}"
    );
}

/// A watch that is read event by event.
#[derive(Debug)]
pub struct Watching {
    watch: Watch,
    pending: VecDeque<Event>,
    last: Option<Revision>,
}

impl Watching {
    /// Watches all pods from a start.
    pub async fn all(store: &dyn Storage, start: WatchStart) -> Self {
        Self::with(store, &all(), WatchOptions::from_start(start)).await
    }

    /// Watches what is selected.
    pub async fn selected(store: &dyn Storage, start: WatchStart, predicate: SelectionPredicate) -> Self {
        Self::with(
            store,
            &all(),
            WatchOptions {
                predicate,
                ..WatchOptions::from_start(start)
            },
        )
        .await
    }

    /// Watches a scope.
    pub async fn with(store: &dyn Storage, scope: &Scope, options: WatchOptions) -> Self {
        let watch = store.watch(scope, options).await;
        let watch = watch.unwrap_or_else(|error| panic!("watch {scope}: {error}"));
        Self {
            watch,
            pending: VecDeque::new(),
            last: None,
        }
    }

    /// The next item of the stream.
    pub async fn item(&mut self) -> Option<Result<WatchItem>> {
        assert!(self.pending.is_empty(), "events were left unread: {:?}", self.pending);
        self.watch.next().await
    }

    /// The initial state, up to its end.
    pub async fn initial(&mut self) -> (Vec<Entry>, Revision) {
        let mut all = Vec::new();
        loop {
            match self.item().await {
                Some(Ok(WatchItem::Initial(entries))) => all.extend(entries),
                Some(Ok(WatchItem::InitialEnd(revision))) => {
                    self.last = Some(revision);
                    return (all, revision);
                }
                other => panic!("wanted initial entries, got {other:?}"),
            }
        }
    }

    /// The next event. Revisions of batches must rise.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            match self.watch.next().await {
                Some(Ok(WatchItem::Batch(batch))) => {
                    assert!(
                        self.last.is_none_or(|last| batch.revision > last),
                        "{batch:?} after {:?}",
                        self.last
                    );
                    assert!(
                        batch.events.iter().all(|event| event.revision == batch.revision),
                        "{batch:?}"
                    );
                    self.last = Some(batch.revision);
                    self.pending.extend(batch.events.iter().cloned());
                }
                Some(Ok(WatchItem::Progress(revision))) => {
                    assert!(
                        self.last.is_none_or(|last| revision >= last),
                        "progress went back to {revision}"
                    );
                    self.last = Some(revision);
                }
                other => panic!("wanted an event, got {other:?}"),
            }
        }
    }

    /// The next event, which must be of this kind and for this key.
    pub async fn expect(&mut self, kind: EventKind, key: &Key) -> Event {
        let event = self.event().await;
        assert_eq!((event.kind, &event.key), (kind, key), "{event:?}");
        event
    }

    /// The error that must come next, and the end after it.
    pub async fn error(&mut self) -> StorageError {
        match self.item().await {
            Some(Err(error)) => {
                assert!(self.item().await.is_none(), "an error is the last item");
                error
            }
            other => panic!("wanted an error, got {other:?}"),
        }
    }
}
