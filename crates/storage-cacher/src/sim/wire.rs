//! The way from a simulated cache to the storage below, and everything that goes wrong on it.

use std::fmt;
use std::sync::Arc;

use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, List, ListOptions, NotReady, ResourceInfo,
    Result, Revision, Scope, Stats, Storage, Update, UpdateOptions, Watch, WatchItem, WatchOptions,
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};

use super::world::{World, pods, unreachable};

/// The way from the cache to the present store.
pub(super) struct Wire {
    pub(super) world: Arc<World>,
    info: ResourceInfo,
}

impl Wire {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self { world, info: pods() }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Wire {
    fn resource(&self) -> &ResourceInfo {
        &self.info
    }

    // The reference backend answers at once: nothing comes between a write and its record. The answer may be lost.
    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        self.world.may_fail().await?;
        let (generation, storage) = self.world.present();
        let entry = storage.create(key, value, options).await;
        if let Ok(entry) = &entry {
            self.world.wrote(generation, key, entry.revision(), Some(entry));
        }
        self.world.may_fail().await?;
        entry
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        self.world.may_fail().await?;
        let entry = self.world.present().1.get(key, options).await;
        self.world.may_fail().await?;
        entry
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        self.world.may_fail().await?;
        let list = self.world.present().1.list(scope, options).await?;
        self.world.may_fail().await?;
        let (revision, world) = (list.revision(), Arc::clone(&self.world));
        let pages = list.into_pages().then(move |page| {
            let world = Arc::clone(&world);
            async move {
                world.may_fail().await?;
                page
            }
        });
        // A list ends with its first error.
        let pages = pages.scan(false, |over, page| {
            let item = (!*over).then_some(page);
            *over |= matches!(item, Some(Err(_)));
            std::future::ready(item)
        });
        Ok(List::new(revision, pages.boxed()))
    }

    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        self.world.may_fail().await?;
        let (generation, storage) = self.world.present();
        let entry = storage.guaranteed_update(key, options, update).await;
        if let Ok(entry) = &entry {
            self.world.wrote(generation, key, entry.revision(), Some(entry));
        }
        self.world.may_fail().await?;
        entry
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        self.world.may_fail().await?;
        let (generation, storage) = self.world.present();
        let entry = storage.delete(key, options, check).await;
        if let Ok(entry) = &entry {
            self.world.wrote(generation, key, entry.revision(), None);
        }
        self.world.may_fail().await?;
        entry
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        self.world.may_fail().await?;
        let (generation, storage) = self.world.present();
        let watch = storage.watch(scope, options).await?;
        self.world.may_fail().await?;
        let state = (Arc::clone(&self.world), generation, Some(watch));
        let items = stream::unfold(state, |(world, generation, watch)| async move {
            let item = next_item(&world, generation, watch?).await;
            match item {
                Ok((item, watch)) => Some((Ok(item), (world, generation, Some(watch)))),
                Err(error) => Some((Err(error), (world, generation, None))),
            }
        });
        Ok(Watch::new(items))
    }

    async fn current_revision(&self) -> Result<Revision> {
        self.world.may_fail().await?;
        let revision = self.world.present().1.current_revision().await?;
        self.world.may_fail().await?;
        Ok(revision)
    }

    async fn request_progress(&self) -> Result<()> {
        self.world.may_fail().await?;
        if self.world.dice.percent(self.world.faults().deaf) {
            return Ok(());
        }
        self.world.present().1.request_progress().await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.world.present().1.compacted_revision()
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.world.present().1.ready()
    }

    async fn stats(&self) -> Result<Stats> {
        // Asked by a cache that has given up keeping everything.
        self.world.meet("uncached");
        self.world.present().1.stats().await
    }

    async fn store_id(&self) -> Result<Option<String>> {
        self.world.may_fail().await?;
        Ok(Some(format!("store-{}", self.world.generation())))
    }
}

async fn next_item(world: &World, generation: usize, mut watch: Watch) -> Result<(WatchItem, Watch)> {
    world.pause().await;
    if world.dice.percent(world.faults().breaks) || world.generation() != generation {
        return Err(unreachable());
    }
    let mut replaced = world.replaced.subscribe();
    let item = tokio::select! {
        biased;
        _ = replaced.wait_for(|present| *present != generation) => None,
        item = watch.next() => item,
    };
    let Some(item) = item else {
        // It takes a while until a dead connection is noticed.
        world.pause().await;
        return Err(unreachable());
    };
    let item = item?;
    world.pause().await;
    Ok((item, watch))
}
