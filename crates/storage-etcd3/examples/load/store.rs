//! The store: [`Etcd3Store`], as an API server uses it.

use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiserver_storage_etcd3::api::{
    Change, CreateOptions, Encoded, Entry, GetOptions, Key, ListAt, ListOptions, ResourceInfo, ResourceScope, Revision,
    Scope, Storage, UpdateOptions, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_etcd3::{Etcd3Store, EtcdConfig, EtcdKv};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::target::{Listed, Name, Target, number_of};

/// The store of one resource.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    store: Arc<Etcd3Store>,
    /// Held for its connections.
    _kv: Arc<EtcdKv>,
}

/// Pods with the field that schedulers select by.
pub(crate) fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced).with_selectable_field("spec.nodeName")
}

impl Store {
    /// Connects. Objects are kept where Kubernetes keeps its pods.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let config = EtcdConfig::new([url]).with_compaction_interval(None);
        let kv = Arc::new(EtcdKv::connect(config).await?);
        Ok(Self {
            store: Arc::new(kv.store(pods())),
            _kv: kv,
        })
    }

    fn key(&self, name: &Name) -> Result<Key> {
        let (namespace, name) = name.split_once('/').context("a name with its namespace")?;
        Ok(self.store.resource().object_key(Some(namespace), name)?)
    }

    async fn put(&self, name: &Name, value: Vec<u8>, suggestion: Option<Entry>) -> Result<Entry> {
        let key = self.key(name)?;
        let options = UpdateOptions {
            suggestion,
            ..UpdateOptions::default()
        };
        let value = Encoded::from_json(value);
        let mut update = |_| {
            let change = Ok(Change::put(value.clone()));
            async { change }
        };
        Ok(self.store.guaranteed_update(&key, options, &mut update).await?)
    }
}

impl Target for Store {
    const NAME: &'static str = "store";
    type Seen = Entry;

    async fn create(&self, name: &Name, value: Vec<u8>) -> Result<()> {
        let key = self.key(name)?;
        let value = Encoded::from_json(value);
        self.store.create(&key, value, CreateOptions::default()).await?;
        Ok(())
    }

    async fn get(&self, name: &Name) -> Result<Entry> {
        Ok(self.store.get(&self.key(name)?, GetOptions::default()).await?)
    }

    async fn update(&self, name: &Name, value: Vec<u8>, seen: &Entry) -> Result<Entry> {
        self.put(name, value, Some(seen.clone())).await
    }

    async fn read_and_update(&self, name: &Name, value: Vec<u8>) -> Result<()> {
        self.put(name, value, None).await.map(drop)
    }

    async fn list(&self, namespace: &str, page: Option<u64>) -> Result<Listed> {
        let scope = self.store.resource().list_scope(Some(namespace))?;
        let mut options = ListOptions {
            limit: page.and_then(NonZeroU64::new),
            ..ListOptions::default()
        };
        let mut total = Listed::default();
        loop {
            let list = self.store.list(&scope, options.clone()).await?.collect().await?;
            total.objects += list.entries.len();
            for entry in &list.entries {
                total.bytes += entry.json()?.len();
            }
            match list.next {
                Some(token) => options.at = ListAt::Continue(token),
                None => return Ok(total),
            }
        }
    }

    async fn now(&self) -> Result<u64> {
        Ok(self.store.current_revision().await?.get())
    }

    async fn watch(&self, after: u64) -> Result<BoxStream<'static, Result<Vec<usize>>>> {
        let start = WatchStart::After(Revision::new(after).context("a revision is not zero")?);
        // As a cache watches: it knows previous values itself.
        let options = WatchOptions {
            previous: false,
            ..WatchOptions::from_start(start)
        };
        let scope = Scope::all(self.store.resource().prefix());
        let watch = self.store.watch(&scope, options).await?;
        let numbers = watch.map(|item| {
            Ok(match item? {
                WatchItem::Batch(batch) => {
                    let events = batch.events.iter();
                    events.map(|event| number_of(event.key.as_str().as_bytes())).collect()
                }
                _ => Vec::new(),
            })
        });
        Ok(numbers.boxed())
    }
}
