//! What the measurements stand on: a filled store, and a cache over it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use apiserver_storage_api::{CreateOptions, ListAt, ListOptions, ResourceInfo, Revision, Scope, Storage, StorageError};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::{Kv as _, KvStore, KvStoreConfig};
use apiserver_storage_transform::Identity;
use futures::StreamExt;
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::options::{Backend, Options};
use crate::pods;

/// Writers that fill the store.
const WRITERS: usize = 16;

/// An open store.
pub(crate) struct Ground {
    pub(crate) store: Arc<dyn Storage>,
    /// Where etcd is, if it is etcd.
    pub(crate) url: Option<String>,
    kv: Opened,
    _own: Own,
}

enum Opened {
    Etcd(Arc<EtcdKv>),
    Embedded(Arc<EmbeddedKv>),
}

/// What was made for this run only, and goes with it.
#[derive(Default)]
struct Own {
    etcd: Option<Etcd>,
    directory: Option<TempDir>,
}

impl Ground {
    /// Opens the store, and fills it if it is a new one.
    pub(crate) async fn open(options: &Options) -> Result<Self> {
        let ground = Self::open_as_it_is(options).await?;
        if ground.is_empty().await? {
            seed(&ground.store, options).await?;
        }
        Ok(ground)
    }

    /// Opens the store, however much is in it.
    pub(crate) async fn open_as_it_is(options: &Options) -> Result<Self> {
        let info = pods::kind()?;
        match options.backend {
            Backend::Etcd => Self::on_etcd(options, info).await,
            Backend::Embedded => Self::on_embedded(options, info).await,
        }
    }

    async fn on_etcd(options: &Options, info: ResourceInfo) -> Result<Self> {
        let mut own = Own::default();
        let url = match &options.etcd {
            Some(url) if url.contains("://") => url.clone(),
            Some(address) => format!("http://{address}"),
            None => own.etcd.insert(Etcd::start().await?).url().to_owned(),
        };
        let config = EtcdConfig::new([&url]).with_compaction_interval(None);
        let kv = Arc::new(EtcdKv::connect(config).await?);
        Ok(Self {
            store: Arc::new(kv.store(info)),
            url: Some(url),
            kv: Opened::Etcd(kv),
            _own: own,
        })
    }

    async fn on_embedded(options: &Options, info: ResourceInfo) -> Result<Self> {
        let mut own = Own::default();
        let directory: PathBuf = match &options.data {
            Some(directory) => directory.clone(),
            None => own.directory.insert(TempDir::new()?).path().join("data"),
        };
        let kv = Arc::new(EmbeddedKv::open(EmbeddedConfig::directory(directory)).await?);
        Ok(Self {
            store: Arc::new(kv.store(info)),
            url: None,
            kv: Opened::Embedded(kv),
            _own: own,
        })
    }

    /// A store in the same backend whose objects are no business of the cache.
    pub(crate) fn beside(&self) -> Arc<dyn Storage> {
        let info = self.store.resource().clone();
        let config = KvStoreConfig::new("/beside", Arc::new(Identity));
        match &self.kv {
            Opened::Etcd(kv) => Arc::new(KvStore::new(Arc::clone(kv), info, config)),
            Opened::Embedded(kv) => Arc::new(KvStore::new(Arc::clone(kv), info, config)),
        }
    }

    /// The scope of all pods.
    pub(crate) fn all(&self) -> Scope {
        Scope::all(self.store.resource().prefix())
    }

    async fn is_empty(&self) -> Result<bool> {
        let options = ListOptions {
            limit: std::num::NonZeroU64::new(1),
            ..ListOptions::default()
        };
        Ok(self
            .store
            .list(&self.all(), options)
            .await?
            .collect()
            .await?
            .entries
            .is_empty())
    }

    /// A ready cache as a server has it, but for what would disturb: no comparison with the store at some time.
    pub(crate) async fn cache(&self) -> Result<Arc<Cacher>> {
        Self::cache_over(Arc::clone(&self.store)).await
    }

    /// The same over another store.
    pub(crate) async fn cache_over(store: Arc<dyn Storage>) -> Result<Arc<Cacher>> {
        let config = CacherConfig::default().with_check_period(None);
        let cache = Arc::new(Cacher::new(store, config));
        cache.wait_ready().await?;
        Ok(cache)
    }

    /// Gives up the history of the backend before a revision.
    pub(crate) async fn compact(&self, revision: Revision) -> Result<()> {
        match &self.kv {
            Opened::Etcd(kv) => kv.compact(revision).await?,
            Opened::Embedded(kv) => kv.compact(revision).await?,
        }
        Ok(())
    }
}

/// Stores the pods; those that are there stay as they are.
pub(crate) async fn seed(store: &Arc<dyn Storage>, options: &Options) -> Result<()> {
    let writers = (0..WRITERS).map(|writer| {
        let (store, options) = (Arc::clone(store), options.clone());
        tokio::spawn(async move {
            for number in (writer..options.n).step_by(WRITERS) {
                let (key, value) = pods::pod(store.resource(), number, &options)?;
                match store.create(&key, value, CreateOptions::default()).await {
                    Ok(_) | Err(StorageError::KeyExists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            anyhow::Ok(())
        })
    });
    for writer in futures::future::try_join_all(writers).await? {
        writer?;
    }
    Ok(())
}

/// What is stored, as the cache has it: revision, keys in their order, and bytes of the objects.
pub(crate) struct Stored {
    pub(crate) revision: Revision,
    pub(crate) keys: Arc<[apiserver_storage_api::Key]>,
    pub(crate) bytes: usize,
}

impl Stored {
    pub(crate) async fn of(store: &dyn Storage) -> Result<Self> {
        let scope = Scope::all(store.resource().prefix());
        let options = ListOptions {
            at: ListAt::Any,
            ..ListOptions::default()
        };
        let list = store.list(&scope, options).await?;
        let revision = list.revision();
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let mut pages = list.into_pages();
        while let Some(page) = pages.next().await {
            let page = page?;
            for entry in &page.entries {
                keys.push(entry.key().clone());
                bytes += entry.json()?.len();
            }
            if page.end.is_some() {
                break;
            }
        }
        Ok(Self {
            revision,
            keys: keys.into(),
            bytes,
        })
    }
}
