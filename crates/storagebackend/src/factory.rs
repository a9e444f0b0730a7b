//! From a configuration to a store for every resource: one backend, one connection pool, one encryption set.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;

use apiserver_storage_api::{MediaType, ResourceInfo, Storage, chain};
use apiserver_storage_cacher::{Cacher, CacherConfig, HistoryBudget};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{Kv, KvStore, KvStoreConfig};
use apiserver_storage_transform::{ConfigOptions, Transformers};

use crate::config::{self, BackendKind, Checked, Config, Fault};
use crate::counts::Counts;

/// Why a storage cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration is wrong; all faults are listed.
    #[error("invalid storage configuration: {}", list(.0))]
    Config(Vec<Fault>),
    /// The backend does not open.
    #[error("cannot open the {backend} storage")]
    Backend {
        /// Which one.
        backend: &'static str,
        /// The cause.
        #[source]
        source: apiserver_storage_api::BoxError,
    },
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}

/// Makes the stores of all resources. Cloning shares everything.
#[derive(Clone)]
pub struct Factory(Arc<Inner>);

struct Inner {
    backend: Backend,
    checked: Checked,
    config: Config,
    transformers: Transformers,
    history: HistoryBudget,
    open: Arc<Open>,
    caches: Mutex<Vec<Weak<Cacher>>>,
    counts: Counts,
}

/// Open stores by resource. A store closes when the last user drops it; asked for again, it opens again.
pub(crate) type Open = Mutex<HashMap<String, Weak<dyn Storage>>>;

enum Backend {
    Embedded(Arc<EmbeddedKv>),
    #[cfg(feature = "etcd3")]
    Etcd3(Arc<apiserver_storage_etcd3::EtcdKv>),
}

impl Factory {
    /// Checks the configuration and opens the backend. An embedded store is recovered before this returns; an etcd
    /// cluster need not be reachable yet.
    ///
    /// # Errors
    ///
    /// [`OpenError::Config`] with everything that is wrong; [`OpenError::Backend`].
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let (checked, mut faults) = config.check();
        let transformers = match &config.encryption_config {
            None => Some(Transformers::identity()),
            Some(path) => match Transformers::load(path, &ConfigOptions::default()) {
                Ok(transformers) => Some(transformers),
                Err(error) => {
                    faults.push(Fault::new("encryption-provider-config", chain(&error)));
                    None
                }
            },
        };
        let Some(transformers) = transformers.filter(|_| faults.is_empty()) else {
            return Err(OpenError::Config(faults));
        };
        let backend = open_backend(&config, &checked).await?;
        let open = Arc::new(Open::default());
        let counts = Counts::start(&config, &open);
        let inner = Inner {
            backend,
            checked,
            transformers,
            history: HistoryBudget::new(config.caches.total_history_bytes),
            config,
            open,
            caches: Mutex::default(),
            counts,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The store of a resource: the one that is open, or a new one. Shared while anybody holds it.
    ///
    /// A kind whose schema changed (another normalizer generation) gets a new store.
    pub fn storage_for(&self, info: &ResourceInfo) -> Arc<dyn Storage> {
        let mut open = self.0.open.lock();
        open.retain(|_, store| store.strong_count() > 0);
        let name = info.group_resource();
        if let Some(store) = open.get(&name).and_then(Weak::upgrade)
            && store.resource().normalizer().generation() == info.normalizer().generation()
        {
            return store;
        }
        let store = self.make(info);
        open.insert(name, Arc::downgrade(&store));
        store
    }

    fn make(&self, info: &ResourceInfo) -> Arc<dyn Storage> {
        let config = &self.0.config;
        let rule = config.watch_cache.then(|| config.caches.of(info)).flatten();
        let Some(rule) = rule else {
            return self.direct(info);
        };
        let told = CacherConfig::new(Arc::clone(&config.clock), Arc::clone(&config.rng))
            .with_history_budget(self.0.history.clone());
        let cache = Arc::new(Cacher::new(self.direct(&rule.indexed(info)), rule.apply(told)));
        let mut caches = self.0.caches.lock();
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(Arc::downgrade(&cache));
        cache
    }

    /// A store without a cache.
    fn direct(&self, info: &ResourceInfo) -> Arc<dyn Storage> {
        match &self.0.backend {
            Backend::Embedded(kv) => self.store_on(kv, info),
            #[cfg(feature = "etcd3")]
            Backend::Etcd3(kv) => self.store_on(kv, info),
        }
    }

    fn store_on<K: Kv>(&self, kv: &Arc<K>, info: &ResourceInfo) -> Arc<dyn Storage> {
        let Inner {
            checked,
            config,
            transformers,
            ..
        } = &*self.0;
        let transformer = transformers.for_resource(info.group(), info.resource());
        let store_config = KvStoreConfig::new(checked.prefix.clone(), transformer)
            .with_media_type(self.media_type(info))
            .with_clock(Arc::clone(&config.clock))
            .with_rng(Arc::clone(&config.rng));
        Arc::new(KvStore::new(Arc::clone(kv), info.clone(), store_config))
    }

    fn media_type(&self, info: &ResourceInfo) -> MediaType {
        match self.0.config.media_type_overrides.get(&info.group_resource()) {
            // Checked when the factory was opened.
            Some(text) => config::media_type_override(info.resource(), text, &mut Vec::new()),
            None => self.0.checked.media_type,
        }
    }

    /// Whether the backend can be reached: the last known state, without waiting.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn health(&self) -> Result<(), String> {
        match &self.0.backend {
            Backend::Embedded(kv) => kv.health(),
            #[cfg(feature = "etcd3")]
            Backend::Etcd3(kv) => kv.health(),
        }
    }

    /// Waits until the backend answers a read.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub async fn reachable(&self) -> Result<(), apiserver_storage_api::BoxError> {
        let now = match &self.0.backend {
            Backend::Embedded(kv) => kv.now().await,
            #[cfg(feature = "etcd3")]
            Backend::Etcd3(kv) => kv.now().await,
        };
        now.map(drop).map_err(Into::into)
    }

    /// Ends the watches that caches serve: each is told what its cache has for it, and where that is if it asked for
    /// progress, and ends without an error, so that its client goes on elsewhere where it was. Returns when all of them
    /// have been read to their end and dropped, after `grace` at the latest.
    ///
    /// Reads and writes go on working: what the caches served is read from the backend from now on.
    pub async fn end_watches(&self, grace: Duration) {
        join_all(self.caches().iter().map(|cache| cache.shut_down(grace))).await;
    }

    /// Ends the watches ([`end_watches`](Self::end_watches)), then closes everything ([`close`](Self::close)).
    pub async fn shut_down(&self, grace: Duration) {
        self.end_watches(grace).await;
        self.close().await;
    }

    /// Ends in order, whatever it is for: the counting, the caches, and, once what is under way is finished, the
    /// backend. Stores that are still held fail from then on. Waits for no answer of an etcd. Again: nothing more
    /// happens.
    pub async fn close(&self) {
        self.0.counts.end().await;
        join_all(self.caches().iter().map(|cache| cache.close())).await;
        match &self.0.backend {
            Backend::Embedded(kv) => kv.close().await,
            #[cfg(feature = "etcd3")]
            Backend::Etcd3(kv) => kv.close().await,
        }
    }

    /// The caches that somebody uses.
    fn caches(&self) -> Vec<Arc<Cacher>> {
        self.0.caches.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

async fn open_backend(config: &Config, checked: &Checked) -> Result<Backend, OpenError> {
    let embedded = match checked.backend {
        BackendKind::Memory => EmbeddedConfig::memory(),
        BackendKind::Embedded => EmbeddedConfig::directory(&config.data_dir),
        #[cfg(feature = "etcd3")]
        BackendKind::Etcd3 => {
            let kv = apiserver_storage_etcd3::EtcdKv::connect(etcd_config(config, checked))
                .await
                .map_err(|error| OpenError::Backend {
                    backend: "etcd3",
                    source: error.into(),
                })?;
            return Ok(Backend::Etcd3(Arc::new(kv)));
        }
        // Refused when the configuration was checked.
        #[cfg(not(feature = "etcd3"))]
        BackendKind::Etcd3 => return Err(OpenError::Config(Vec::new())),
    };
    let embedded = embedded
        .with_clock(Arc::clone(&config.clock))
        .with_rng(Arc::clone(&config.rng));
    let kv = EmbeddedKv::open(embedded).await.map_err(|error| OpenError::Backend {
        backend: "embedded",
        source: error.into(),
    })?;
    Ok(Backend::Embedded(Arc::new(kv)))
}

#[cfg(feature = "etcd3")]
fn etcd_config(config: &Config, checked: &Checked) -> apiserver_storage_etcd3::EtcdConfig {
    let ours = &config.etcd;
    let mut etcd = apiserver_storage_etcd3::EtcdConfig::new(ours.servers.clone())
        .with_clock(Arc::clone(&config.clock))
        .with_rng(Arc::clone(&config.rng));
    etcd.ca_file.clone_from(&ours.ca_file);
    etcd.cert_file.clone_from(&ours.cert_file);
    etcd.key_file.clone_from(&ours.key_file);
    etcd.probe_key = format!("{}/health", checked.prefix);
    etcd.compaction_interval = Some(ours.compaction_interval).filter(|interval| !interval.is_zero());
    etcd.compaction_budget = ours.compaction_budget;
    etcd.health_timeout = ours.health_timeout();
    etcd.lease_reuse = ours.lease_reuse;
    etcd.size_interval = ours.db_metric_poll_interval;
    match &checked.credentials {
        Some(login) => etcd.with_credentials(&login.user, &login.password),
        None => etcd,
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory")
            .field("backend", &self.0.checked.backend)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "etcd3"))]
mod tests {
    use std::time::Duration;

    use crate::EtcdConfig;

    use super::*;

    fn made(change: impl FnOnce(&mut EtcdConfig)) -> apiserver_storage_etcd3::EtcdConfig {
        let mut config = Config::etcd3(["http://127.0.0.1:2379"]).with_prefix("p".into());
        change(&mut config.etcd);
        etcd_config(&config, &config.check().0)
    }

    // covers: storagebackend/B-CFG-06, storagebackend/B-FLG-14, storagebackend/B-FLG-16, storagebackend/B-FLG-17
    // covers: storagebackend/B-FLG-19
    #[test]
    fn the_times_of_a_cluster_reach_the_backend() {
        let seconds = Duration::from_secs;
        let etcd = made(|etcd| {
            etcd.compaction_interval = seconds(1);
            etcd.healthcheck_timeout = seconds(3);
            etcd.lease_reuse = seconds(4);
            etcd.db_metric_poll_interval = seconds(5);
        });
        assert_eq!(etcd.compaction_interval, Some(seconds(1)));
        assert_eq!((etcd.health_timeout, etcd.lease_reuse), (seconds(3), seconds(4)));
        assert_eq!((etcd.size_interval, etcd.probe_key.as_str()), (seconds(5), "/p/health"));
        assert_eq!(etcd.compaction_budget, None);
        let etcd = made(|etcd| etcd.compaction_budget = std::num::NonZeroU64::new(6));
        assert_eq!(etcd.compaction_budget.map(std::num::NonZeroU64::get), Some(6));
        // Zero is off, but for the timeout.
        let etcd = made(|etcd| {
            etcd.compaction_interval = Duration::ZERO;
            etcd.healthcheck_timeout = Duration::ZERO;
        });
        assert_eq!((etcd.compaction_interval, etcd.health_timeout), (None, seconds(2)));
        // Both crates have the same defaults.
        let (ours, backend) = (made(|_| {}), apiserver_storage_etcd3::EtcdConfig::new(["x"]));
        assert_eq!(ours.compaction_interval, backend.compaction_interval);
        assert_eq!(ours.health_timeout, backend.health_timeout);
        assert_eq!(
            (ours.lease_reuse, ours.size_interval),
            (backend.lease_reuse, backend.size_interval)
        );
    }
}
