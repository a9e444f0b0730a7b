//! A storage that does what a test says, without a runtime: with a clock that the test moves, and an executor that runs
//! until nothing is left to do. What a cache does over it is the same every time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{Clock, ManualClock, SeededRng};
use apiserver_storage_api::{
    Batch, Check, ContinueToken, CreateOptions, DeleteOptions, Encoded, Entry, Event, EventKind, GetOptions, Key, List,
    ListAt, ListEnd, ListOptions, NotReady, ResourceInfo, Result, Revision, Scope, Stats, Storage, StorageError,
    Update, UpdateOptions, Watch, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::task::LocalSpawnExt;
use parking_lot::Mutex;

use super::{key, pods};

type Objects = BTreeMap<String, Entry>;

/// What the storage knows, and what it was asked.
#[derive(Default)]
pub struct Script {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    at: u64,
    objects: Objects,
    /// The first revision whose state can be told.
    oldest: u64,
    log: Vec<Batch>,
    watchers: Vec<UnboundedSender<Result<WatchItem>>>,
    compacted: Option<Revision>,
    held: bool,
    pending: Vec<WatchItem>,
    answers_progress: bool,
    knows_progress: bool,
    asked: Vec<String>,
    list_errors: Vec<StorageError>,
    watch_errors: Vec<StorageError>,
    now_errors: Vec<StorageError>,
    /// Whether questions for the revision are kept waiting, and those that are.
    holds_nows: bool,
    held_nows: Vec<oneshot::Sender<()>>,
    id: Option<String>,
    stats: Stats,
    padding: String,
    /// So many changes are told to nobody.
    lost: usize,
}

impl State {
    fn tell(&mut self, item: &WatchItem) {
        if self.lost > 0 && matches!(item, WatchItem::Batch(_)) {
            self.lost -= 1;
            return;
        }
        if self.held {
            self.pending.push(item.clone());
            return;
        }
        self.watchers
            .retain(|watcher| watcher.unbounded_send(Ok(item.clone())).is_ok());
    }

    /// The state of a revision.
    fn objects_at(&self, at: u64) -> Objects {
        let mut objects = self.objects.clone();
        for batch in self.log.iter().rev().take_while(|batch| batch.revision.get() > at) {
            for event in batch.events.iter() {
                match &event.previous {
                    Some(previous) => objects.insert(event.key.to_string(), previous.clone()),
                    None => objects.remove(event.key.as_str()),
                };
            }
        }
        objects
    }
}

pub fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

impl Script {
    /// A storage at revision 100 that holds nothing.
    pub fn new() -> Arc<Self> {
        let script = Self::default();
        {
            let mut state = script.state.lock();
            (state.at, state.oldest) = (100, 100);
            (state.answers_progress, state.knows_progress) = (true, true);
        }
        Arc::new(script)
    }

    /// Writes a pod at the next revision.
    pub fn put(&self, namespace: &str, name: &str, node: &str) -> Revision {
        self.write(vec![(key(namespace, name), Some(node.to_owned()))])
    }

    /// Removes a pod at the next revision.
    pub fn remove(&self, namespace: &str, name: &str) -> Revision {
        self.write(vec![(key(namespace, name), None)])
    }

    /// Several changes at one revision.
    pub fn write(&self, changes: Vec<(Key, Option<String>)>) -> Revision {
        let mut state = self.state.lock();
        state.at += 1;
        let at = revision(state.at);
        let mut objects = std::mem::take(&mut state.objects);
        let mut events = Vec::new();
        for (key, node) in changes {
            let (_, place) = key.as_str().split_once("/pods/").unwrap();
            let (namespace, name) = place.split_once('/').unwrap();
            let object = node.map(|node| {
                let mut json = serde_json::json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
                    "spec": {"nodeName": node},
                });
                if !state.padding.is_empty() {
                    json["spec"]["padding"] = state.padding.as_str().into();
                }
                let json = serde_json::to_vec(&json).unwrap();
                Entry::read(&pods(), key.clone(), at, &json, false)
            });
            let previous = match &object {
                Some(object) => objects.insert(key.to_string(), object.clone()),
                None => objects.remove(key.as_str()),
            };
            let kind = match (&previous, &object) {
                (_, None) => EventKind::Deleted,
                (None, _) => EventKind::Added,
                (Some(_), _) => EventKind::Modified,
            };
            let object = object.or_else(|| previous.as_ref().map(|previous| previous.at_revision(at)));
            events.push(Event {
                kind,
                key,
                revision: at,
                object,
                previous,
            });
        }
        let batch = Batch {
            revision: at,
            events: events.into(),
        };
        state.objects = objects;
        state.log.push(batch.clone());
        state.tell(&WatchItem::Batch(batch));
        at
    }

    /// Another kind was written: the revision rises.
    pub fn elsewhere(&self) -> Revision {
        let mut state = self.state.lock();
        state.at += 1;
        revision(state.at)
    }

    /// Tells the watches how far they are, unasked.
    pub fn progress(&self) {
        let mut state = self.state.lock();
        let item = WatchItem::Progress(revision(state.at));
        state.tell(&item);
    }

    /// Keeps what happens from the watches, until it is let go.
    pub fn hold(&self, held: bool) {
        let mut state = self.state.lock();
        state.held = held;
        if !held {
            for item in std::mem::take(&mut state.pending) {
                state.tell(&item);
            }
        }
    }

    /// Tells the watch that was opened last, and no other, what is kept from all of them.
    pub fn tell_latest(&self) {
        let state = self.state.lock();
        let latest = state.watchers.last().expect("a watch");
        for item in &state.pending {
            let _ = latest.unbounded_send(Ok(item.clone()));
        }
    }

    /// Whether requests for progress have an effect.
    pub fn answer_progress(&self, answer: bool) {
        self.state.lock().answers_progress = answer;
    }

    /// Whether there is trustworthy progress at all.
    pub fn know_progress(&self, know: bool) {
        self.state.lock().knows_progress = know;
    }

    /// Forgets history below a revision.
    pub fn compact(&self, at: Revision) {
        let mut state = self.state.lock();
        state.compacted = Some(at);
        state.log.retain(|batch| batch.revision >= at);
    }

    /// Becomes another store: at another revision, with nothing in it.
    pub fn reset(&self, id: &str, at: u64) {
        let mut state = self.state.lock();
        (state.at, state.oldest, state.id) = (at, at, Some(id.to_owned()));
        state.objects.clear();
        state.log.clear();
        state.compacted = Some(revision(at));
    }

    pub fn set_id(&self, id: &str) {
        self.state.lock().id = Some(id.to_owned());
    }

    /// Forgets all history, silently: for those who measure what others keep of it.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        (state.oldest, state.log) = (state.at, Vec::new());
    }

    /// So many changes are told to no watch.
    pub fn lose(&self, changes: usize) {
        self.state.lock().lost = changes;
    }

    /// Objects that are written from here on carry this.
    pub fn pad(&self, padding: &str) {
        self.state.lock().padding = padding.to_owned();
    }

    pub fn set_stats(&self, stats: Stats) {
        self.state.lock().stats = stats;
    }

    /// Ends all watches.
    pub fn end_watches(&self, error: impl Fn() -> Option<StorageError>) {
        for watcher in std::mem::take(&mut self.state.lock().watchers) {
            if let Some(error) = error() {
                let _ = watcher.unbounded_send(Err(error));
            }
        }
    }

    pub fn fail_lists(&self, errors: Vec<StorageError>) {
        self.state.lock().list_errors = errors;
    }

    pub fn fail_watches(&self, errors: Vec<StorageError>) {
        self.state.lock().watch_errors = errors;
    }

    pub fn fail_nows(&self, errors: Vec<StorageError>) {
        self.state.lock().now_errors = errors;
    }

    /// Keeps questions for the revision waiting, until they are let go. Their answer is that of when they came.
    pub fn hold_nows(&self, held: bool) {
        let mut state = self.state.lock();
        state.holds_nows = held;
        if !held {
            state.held_nows.clear();
        }
    }

    /// Watches that somebody still has.
    pub fn open_watches(&self) -> usize {
        let mut state = self.state.lock();
        state.watchers.retain(|watcher| !watcher.is_closed());
        state.watchers.len()
    }

    /// What was asked since the last look.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// How often something was asked since the last look.
    pub fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|asked| asked.starts_with(what)).count()
    }

    fn next_error(errors: &mut Vec<StorageError>) -> Result<()> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(errors.remove(0))
    }
}

#[async_trait::async_trait]
impl Storage for Script {
    fn resource(&self) -> &ResourceInfo {
        static PODS: std::sync::OnceLock<ResourceInfo> = std::sync::OnceLock::new();
        PODS.get_or_init(pods)
    }

    async fn create(&self, key: &Key, _: Encoded, _: CreateOptions) -> Result<Entry> {
        self.state.lock().asked.push(format!("create {key}"));
        Err(StorageError::internal("not in the script"))
    }

    async fn get(&self, key: &Key, _: GetOptions) -> Result<Entry> {
        let mut state = self.state.lock();
        state.asked.push(format!("get {key}"));
        let found = state.objects.get(key.as_str()).cloned();
        found.ok_or_else(|| StorageError::KeyNotFound { key: key.to_string() })
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        let mut state = self.state.lock();
        let limit = options.limit.map_or(String::new(), |limit| format!(" limit {limit}"));
        state.asked.push(format!("list {scope} {:?}{limit}", options.at));
        Self::next_error(&mut state.list_errors)?;
        let (at, start) = match &options.at {
            ListAt::Exact(at) => (at.get(), None),
            ListAt::Continue(token) => (token.revision().map_or(state.at, Revision::get), token.start_in(scope)),
            _ => (state.at, None),
        };
        if state.compacted.is_some_and(|compacted| at < compacted.get()) {
            return Err(StorageError::expired_list());
        }
        if at < state.oldest {
            return Err(StorageError::expired_list());
        }
        if at > state.at {
            return Err(StorageError::TooLargeResourceVersion {
                asked: revision(at),
                current: revision(state.at),
                retry_after: Duration::from_secs(1),
            });
        }
        let objects = state.objects_at(at);
        let found = objects.values().filter(|entry| scope.contains(entry.key()));
        let found = found.filter(|entry| start.as_deref().is_none_or(|start| entry.key().as_str() >= start));
        let mut entries: Vec<Entry> = found
            .filter(|entry| options.predicate.matches(entry.attributes().unwrap()))
            .cloned()
            .collect();
        let mut end = ListEnd::default();
        if let Some(limit) = options.limit.map(|limit| limit.get() as usize)
            && limit < entries.len()
            && let Scope::Under(prefix) = scope
        {
            end.remaining = Some((entries.len() - limit) as u64);
            entries.truncate(limit);
            let last = entries.last().unwrap().key().as_str();
            end.next = ContinueToken::after(revision(at), prefix, last);
        }
        Ok(List::complete(revision(at), entries, end))
    }

    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, _: &mut dyn Update) -> Result<Entry> {
        let hint = options.suggestion.map(|entry| entry.revision());
        self.state.lock().asked.push(format!("update {key} hint {hint:?}"));
        Err(StorageError::internal("not in the script"))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, _: &mut dyn Check) -> Result<Entry> {
        let hint = options.suggestion.map(|entry| entry.revision());
        self.state.lock().asked.push(format!("delete {key} hint {hint:?}"));
        Err(StorageError::internal("not in the script"))
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        let mut state = self.state.lock();
        let bare = if options.previous { "" } else { " bare" };
        state.asked.push(format!("watch {scope} {:?}{bare}", options.start));
        Self::next_error(&mut state.watch_errors)?;
        let (sender, receiver) = unbounded();
        let after = match options.start {
            WatchStart::After(after) => after,
            _ => revision(state.at),
        };
        if state.compacted.is_some_and(|compacted| after.next() < compacted) {
            return Err(StorageError::expired_watch());
        }
        if after.get() > state.at {
            return Err(StorageError::TooLargeResourceVersion {
                asked: after,
                current: revision(state.at),
                retry_after: Duration::from_secs(1),
            });
        }
        let held: Vec<Revision> = state.pending.iter().filter_map(batch_revision).collect();
        for batch in state.log.iter().filter(|batch| batch.revision > after) {
            // What is held back from the others is told to this one when they are told.
            if held.contains(&batch.revision) {
                continue;
            }
            let _ = sender.unbounded_send(Ok(WatchItem::Batch(batch.clone())));
        }
        state.watchers.push(sender);
        let (scope, predicate, progress) = (scope.clone(), options.predicate, options.progress);
        let items = receiver.filter_map(move |item| {
            let item = match item {
                Ok(WatchItem::Batch(batch)) => {
                    let seen = batch.events.iter().filter(|event| scope.contains(&event.key));
                    let events: Vec<Event> = seen.filter_map(|event| event.seen_by(&predicate)).collect();
                    let revision = batch.revision;
                    (!events.is_empty()).then(|| {
                        Ok(WatchItem::Batch(Batch {
                            revision,
                            events: events.into(),
                        }))
                    })
                }
                Ok(WatchItem::Progress(_)) if !progress => None,
                item => Some(item),
            };
            async { item }
        });
        Ok(Watch::new(items))
    }

    async fn current_revision(&self) -> Result<Revision> {
        let (at, let_go) = {
            let mut state = self.state.lock();
            state.asked.push("now".into());
            Self::next_error(&mut state.now_errors)?;
            let (held, let_go) = oneshot::channel();
            if state.holds_nows {
                state.held_nows.push(held);
            }
            (revision(state.at), let_go)
        };
        // Let go by a sender that is dropped.
        let _ = let_go.await;
        Ok(at)
    }

    async fn request_progress(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.asked.push("progress".into());
        if !state.knows_progress {
            return Err(StorageError::NotSupported {
                what: "progress".into(),
            });
        }
        if state.answers_progress {
            let item = WatchItem::Progress(revision(state.at));
            state.tell(&item);
        }
        Ok(())
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.state.lock().compacted
    }

    fn ready(&self) -> std::result::Result<(), NotReady> {
        Ok(())
    }

    async fn stats(&self) -> Result<Stats> {
        self.state.lock().asked.push("stats".into());
        Ok(self.state.lock().stats)
    }

    async fn store_id(&self) -> Result<Option<String>> {
        Ok(self.state.lock().id.clone())
    }
}

fn batch_revision(item: &WatchItem) -> Option<Revision> {
    match item {
        WatchItem::Batch(batch) => Some(batch.revision),
        _ => None,
    }
}

/// A cache over a script, with the executor and the clock that drive it.
pub struct Stage {
    pub script: Arc<Script>,
    pub cache: Arc<Cacher>,
    pub clock: ManualClock,
    pool: LocalPool,
}

impl Stage {
    /// A cache that has listed what the script holds.
    pub fn new(script: Arc<Script>, change: impl FnOnce(CacherConfig) -> CacherConfig) -> Self {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let config = CacherConfig::new(Arc::new(clock.clone()), Arc::new(SeededRng::new(7))).with_check_period(None);
        let (cache, feed) = Cacher::parts(Arc::clone(&script) as Arc<dyn Storage>, change(config));
        let pool = LocalPool::new();
        pool.spawner().spawn_local(feed).unwrap();
        let mut stage = Self {
            script,
            cache: Arc::new(cache),
            clock,
            pool,
        };
        stage.settle();
        stage
    }

    /// Runs whatever can run.
    pub fn settle(&mut self) {
        self.pool.run_until_stalled();
    }

    /// Lets time pass in small steps, and everything run that wants to.
    pub fn pass(&mut self, time: Duration) {
        let step = Duration::from_millis(10);
        let end = self.clock.monotonic() + time;
        while self.clock.monotonic() < end {
            self.clock.advance(step.min(end - self.clock.monotonic()));
            self.settle();
        }
    }

    /// Begins something that goes on while the stage settles.
    pub fn spawn<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> Running<T> {
        let handle = self.pool.spawner().spawn_local_with_handle(future).unwrap();
        self.settle();
        Running(handle)
    }

    /// Runs something to its end, without any time passing.
    #[track_caller]
    pub fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let mut running = self.spawn(future);
        running.outcome().expect("it ends without time passing")
    }

    pub fn list(&mut self, options: ListOptions) -> Result<apiserver_storage_api::Collected> {
        let cache = Arc::clone(&self.cache);
        self.run(async move { cache.list(&super::all(), options).await?.collect().await })
    }

    pub fn begin_list(&mut self, options: ListOptions) -> Running<Result<apiserver_storage_api::Collected>> {
        let cache = Arc::clone(&self.cache);
        self.spawn(async move { cache.list(&super::all(), options).await?.collect().await })
    }

    pub fn watch(&mut self, scope: Scope, options: WatchOptions) -> Result<Watch> {
        let cache = Arc::clone(&self.cache);
        self.run(async move { cache.watch(&scope, options).await })
    }

    /// What a watch has to say without any time passing.
    pub fn heard(&mut self, watch: &mut Watch) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            self.settle();
            let mut context = Context::from_waker(futures::task::noop_waker_ref());
            match watch.poll_next_unpin(&mut context) {
                Poll::Ready(Some(Ok(item))) => heard.extend(told(&item)),
                Poll::Ready(Some(Err(error))) => heard.push(format!("ERROR {error}")),
                Poll::Ready(None) => {
                    heard.push("END OF STREAM".into());
                    return heard;
                }
                Poll::Pending => return heard,
            }
        }
    }
}

/// Something under way.
pub struct Running<T: 'static>(futures::future::RemoteHandle<T>);

impl<T: 'static> Running<T> {
    /// What came of it, if it has ended.
    pub fn outcome(&mut self) -> Option<T> {
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        match pin!(&mut self.0).poll(&mut context) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }
}

fn told(item: &WatchItem) -> Vec<String> {
    match item {
        WatchItem::Batch(batch) => batch.events.iter().map(super::short).collect(),
        WatchItem::Initial(entries) => entries
            .iter()
            .map(|entry| format!("INITIAL {} {}", entry.attributes().unwrap().name, entry.revision()))
            .collect(),
        WatchItem::InitialEnd(revision) => vec![format!("END {revision}")],
        WatchItem::Progress(revision) => vec![format!("PROGRESS {revision}")],
        other => panic!("{other:?}"),
    }
}

/// The names in a list.
pub fn listed(list: &apiserver_storage_api::Collected) -> Vec<String> {
    let name = |entry: &Entry| entry.attributes().unwrap().name.to_string();
    list.entries.iter().map(name).collect()
}
