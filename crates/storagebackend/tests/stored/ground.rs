//! A backend with nothing in it: where recorded values are put past the stores, and read through them.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apiserver_storage_api::time::{Clock as _, ManualClock, OsRng, SystemClock};
use apiserver_storage_api::{
    Change, Encoded, Entry, Event, Key, ResourceInfo, Revision, Scope, Storage, StorageError, UpdateOptions, Watch,
    WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{Expected, Kv, KvPair, KvStore, KvStoreConfig, Lease, LeaseId, WriteOutcome};
use apiserver_storage_transform::{Identity, Transformer};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;

/// No wait is longer; what is waited for comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a cache waits for a revision that it has not seen.
const PATIENCE_OF_READS: Duration = Duration::from_millis(1500);

/// A backend, and how stores on it are made.
pub(crate) struct Ground<K> {
    pub(crate) kv: Arc<K>,
    cached: bool,
    /// A new watch waits a tenth of a second for its first change, as etcd's do.
    pub(crate) slow_watches: bool,
    /// Keys really go with their leases when the clock is moved.
    pub(crate) expires: bool,
    /// The clock that the backend lives by. It stands, so that the same lifetime ends at the same time however slow the
    /// machine is. That of a usual [`etcd`] is another one.
    pub(crate) clock: ManualClock,
    /// How long a lease lasts that was granted at this moment of the clock.
    lifetime: Lifetime,
    /// What must live as long: a directory, a server.
    _keep: Box<dyn Any + Send + Sync>,
}

type Lifetime = Box<dyn Fn(LeaseId) -> Duration + Send + Sync>;

/// A store in memory.
pub(crate) async fn memory() -> Ground<EmbeddedKv> {
    embedded(EmbeddedConfig::memory(), ()).await
}

/// A store in a directory.
pub(crate) async fn disk() -> Ground<EmbeddedKv> {
    let dir = tempfile::tempdir().unwrap();
    embedded(EmbeddedConfig::directory(dir.path()), dir).await
}

/// Revisions like those of a young cluster, so that what is far ahead there is so here.
async fn embedded(config: EmbeddedConfig, keep: impl Any + Send + Sync) -> Ground<EmbeddedKv> {
    let clock = ManualClock::new(SystemTime::now());
    let config = config.with_first_revision(Revision::MIN);
    let kv = EmbeddedKv::open(config.with_clock(Arc::new(clock.clone())))
        .await
        .unwrap();
    let mut ground = Ground::new(kv, keep);
    ground.clock = clock.clone();
    ground.expires = true;
    ground.lifetime = Box::new(move |LeaseId(end)| {
        // A lease is called by its end, in milliseconds since 1970.
        let end = UNIX_EPOCH + Duration::from_millis(end.try_into().unwrap());
        end.duration_since(clock.now()).unwrap()
    });
    ground
}

/// A real etcd; `None` where tests are to be skipped.
#[cfg(feature = "etcd3")]
pub(crate) async fn etcd() -> Option<Ground<apiserver_storage_etcd3::EtcdKv>> {
    let etcd = crate::etcd::Etcd::start().await?;
    let kv = crate::etcd::connect(&etcd).await;
    let mut ground = Ground::new(kv, etcd);
    ground.slow_watches = true;
    Some(ground)
}

/// A real etcd behind a backend whose clock stands; `None` where tests are to be skipped. The server has its own time:
/// nothing expires.
#[cfg(feature = "etcd3")]
pub(crate) async fn etcd_still() -> Option<Ground<apiserver_storage_etcd3::EtcdKv>> {
    let etcd = Arc::new(crate::etcd::Etcd::start().await?);
    let clock = ManualClock::new(SystemTime::now());
    let kv = crate::etcd::connect_still(&etcd, Arc::new(clock.clone()), None).await;
    let mut ground = Ground::new(kv, Arc::clone(&etcd));
    ground.slow_watches = true;
    ground.clock = clock;
    ground.lifetime = Box::new(move |LeaseId(id)| Duration::from_secs(etcd.granted(id)));
    Some(ground)
}

impl<K: Kv> Ground<K> {
    pub(crate) fn new(kv: K, keep: impl Any + Send + Sync) -> Self {
        Self {
            kv: Arc::new(kv),
            cached: false,
            slow_watches: false,
            expires: false,
            clock: ManualClock::new(SystemTime::now()),
            lifetime: Box::new(|lease| panic!("nobody knows how long {lease:?} lasts")),
            _keep: Box::new(keep),
        }
    }

    /// The same with the cache in front of each store.
    pub(crate) fn cached(mut self) -> Self {
        self.cached = true;
        self
    }

    pub(crate) fn is_cached(&self) -> bool {
        self.cached
    }

    /// The store of a kind.
    pub(crate) async fn store(&self, info: &ResourceInfo) -> Arc<dyn Storage> {
        self.store_with(info, Arc::new(Identity)).await
    }

    /// The store of a kind with a transformer.
    pub(crate) async fn store_with(&self, info: &ResourceInfo, transformer: Arc<dyn Transformer>) -> Arc<dyn Storage> {
        let config = KvStoreConfig::new("/registry", transformer);
        let direct = Arc::new(KvStore::new(Arc::clone(&self.kv), info.clone(), config));
        if !self.cached {
            return direct;
        }
        // Reads of what is far ahead are not to take longer than they must.
        let config =
            CacherConfig::new(SystemClock::shared(), Arc::new(OsRng)).with_freshness_timeout(PATIENCE_OF_READS);
        let cache = Cacher::new(direct, config);
        soon("the cache is ready", cache.wait_ready()).await.unwrap();
        Arc::new(cache)
    }

    /// Puts a value where a store would, in place of what is there.
    pub(crate) async fn put(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Revision {
        let (old, _) = self.kv.get(key, None).await.unwrap();
        let expected = old.map_or(Expected::Absent, |pair| Expected::At(pair.revision));
        let lease = match ttl {
            Some(ttl) => Lease::Id(self.kv.lease(ttl).await.unwrap()),
            None => Lease::None,
        };
        match self.kv.put_if(key, value, expected, lease).await.unwrap() {
            WriteOutcome::Applied(revision) => revision,
            WriteOutcome::Mismatch { .. } => panic!("{key}: nobody else writes"),
        }
    }

    /// Takes away what is there.
    pub(crate) async fn remove(&self, key: &str) {
        if let Some(pair) = self.raw(key).await {
            let outcome = self.kv.delete_if(key, pair.revision).await.unwrap();
            assert!(matches!(outcome, WriteOutcome::Applied(_)), "{key}: nobody else writes");
        }
    }

    /// What is stored.
    pub(crate) async fn raw(&self, key: &str) -> Option<KvPair> {
        self.kv.get(key, None).await.unwrap().0
    }

    /// How long a lease lasts that was granted at this moment of the clock.
    pub(crate) fn lifetime(&self, lease: LeaseId) -> Duration {
        (self.lifetime)(lease)
    }

    /// The latest revision.
    pub(crate) async fn now(&self) -> Revision {
        self.kv.now().await.unwrap()
    }
}

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// All objects of a kind.
pub(crate) fn everything(info: &ResourceInfo) -> Scope {
    Scope::all(info.prefix())
}

/// Writes what a function makes of the current object.
pub(crate) async fn update(
    store: &Arc<dyn Storage>,
    key: &Key,
    change: impl Fn(&Entry) -> Result<Encoded, StorageError> + Send + Sync,
) -> Result<Entry, StorageError> {
    let mut function = |current: Option<Entry>| {
        let put = current.ok_or(StorageError::Closed).and_then(|entry| change(&entry));
        async move { put.map(Change::put) }
    };
    store
        .guaranteed_update(key, UpdateOptions::default(), &mut function)
        .await
}

/// Writes the current object as it is served: what a client does that sends back what it got.
pub(crate) async fn write_back(store: &Arc<dyn Storage>, key: &Key) -> Result<Entry, StorageError> {
    update(store, key, |entry| {
        entry.json().map(|json| Encoded::from_json(json.clone()))
    })
    .await
}

/// Writes the current object with a change.
pub(crate) async fn write_changed(
    store: &Arc<dyn Storage>,
    key: &Key,
    change: impl Fn(&mut Value) + Send + Sync,
) -> Result<Entry, StorageError> {
    update(store, key, |entry| {
        let mut object = entry.decode()?;
        change(&mut object);
        Encoded::of::<Value>(&object)
    })
    .await
}

/// The next so many changes of a scope after a revision.
pub(crate) async fn changes(store: &Arc<dyn Storage>, scope: &Scope, after: Revision, count: usize) -> Vec<Event> {
    let options = WatchOptions::from_start(WatchStart::After(after));
    let mut watch = soon("a watch", store.watch(scope, options)).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        match soon(&format!("{count} changes of {}", scope.as_str()), watch.next()).await {
            Some(Ok(WatchItem::Batch(batch))) => events.extend(batch.events.iter().cloned()),
            Some(Ok(WatchItem::Progress(_))) => {}
            other => panic!("{}: no change: {other:?}", scope.as_str()),
        }
    }
    events
}

/// A watch of what happens after this call.
pub(crate) async fn watch_from_now(store: &Arc<dyn Storage>, scope: &Scope) -> Watch {
    let now = store.current_revision().await.unwrap();
    let options = WatchOptions::from_start(WatchStart::After(now));
    soon("a watch", store.watch(scope, options)).await.unwrap()
}

/// The next change that a watch shows, which is alone at its revision.
pub(crate) async fn next_change(watch: &mut Watch) -> Event {
    loop {
        match soon("a change", watch.next()).await {
            Some(Ok(WatchItem::Batch(batch))) => match &*batch.events {
                [event] => return event.clone(),
                events => panic!("not one change: {events:?}"),
            },
            Some(Ok(WatchItem::Progress(_))) => {}
            other => panic!("no change: {other:?}"),
        }
    }
}
