//! The engine as a backend.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use apiserver_storage_api::time::Rng;
use apiserver_storage_api::{ResourceInfo, Revision};
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvError, KvPair, KvResult, KvStoreConfig, KvWatch, Lease, LeaseId, RangePage,
    RangeRequest, StoreId, WatchRequest, WriteOutcome,
};
use apiserver_storage_transform::Identity;

use crate::EmbeddedStore;
use crate::config::{EmbeddedConfig, Location};
use crate::core::{Answer, Core};
use crate::engine::Engine;
use crate::error::Trouble;
use crate::identity::{first_revision, store_id};
use crate::lease::{lease, time_left, wall_millis};
use crate::log::RecordLog;
use crate::reader::Reader;
use crate::timer;
use crate::watch;
use crate::writer::{Op, Writer};

/// Bytes of the longest key.
const MAX_KEY_BYTES: usize = 64 << 10;

/// A revisioned store in this process. Shared as `Arc<EmbeddedKv>`; dropping the last handle ends its thread and task,
/// and [`close`](Self::close) does so and waits.
pub struct EmbeddedKv {
    core: Arc<Core>,
    rng: Arc<dyn Rng>,
    max_value_bytes: usize,
    timer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedKv {
    /// Opens a store, or makes it. Must be called within a tokio runtime with its timer on, which then runs the store's
    /// timer and its reads from the disk.
    ///
    /// # Errors
    ///
    /// [`KvError::Fault`] when the directory cannot be used, is in use by another process (both name it), or when its
    /// data is damaged or of another format, and outside of a runtime. [`KvError::NoSpace`] when the disk is full.
    pub async fn open(config: EmbeddedConfig) -> KvResult<Self> {
        let runtime = Handle::try_current().map_err(|error| KvError::from(Trouble::Runtime(Box::new(error))))?;
        let max_value_bytes = config.max_value_bytes.min(u32::MAX as usize);
        let rng = Arc::clone(&config.rng);
        let core = match config.location {
            Location::Memory => open_memory(&config),
            #[cfg(feature = "durable")]
            _ => open_durable(config, &runtime).await?,
        };
        let core = Arc::new(core);
        let task = timer::run(Arc::downgrade(&core), Arc::clone(&core.engine), Arc::clone(&core.clock));
        let timer = Mutex::new(Some(runtime.spawn(task)));
        Ok(Self {
            core,
            rng,
            max_value_bytes,
            timer,
        })
    }

    /// The store of one resource in here, under `/registry`, as JSON and not encrypted. Where that is to be otherwise:
    /// [`EmbeddedStore::new`].
    pub fn store(self: &Arc<Self>, resource: ResourceInfo) -> EmbeddedStore {
        let config = KvStoreConfig::new("/registry", Arc::new(Identity))
            .with_clock(Arc::clone(&self.core.clock))
            .with_rng(Arc::clone(&self.rng));
        EmbeddedStore::new(Arc::clone(self), resource, config)
    }

    /// Finishes the writes that were accepted, ends all watches with [`KvError::Closed`] and closes the file. Further
    /// calls fail with [`KvError::Closed`].
    pub async fn close(&self) {
        self.core.close().await;
        let timer = self.timer.lock().take();
        if let Some(timer) = timer {
            // It ends by itself; that it was cancelled or panicked changes nothing for who waits.
            let _ = timer.await;
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.core.engine
    }

    fn check_size(&self, key: &str, value: &Bytes) -> KvResult<()> {
        for (size, limit) in [(key.len(), MAX_KEY_BYTES), (value.len(), self.max_value_bytes)] {
            if size > limit {
                return Err(KvError::TooLarge { size, limit });
            }
        }
        Ok(())
    }

    async fn write(&self, op: Op) -> KvResult<WriteOutcome> {
        match self.core.apply(op).await? {
            Answer::Write(outcome) => Ok(outcome),
            _ => Err(Trouble::Answer.into()),
        }
    }
}

fn open_memory(config: &EmbeddedConfig) -> Core {
    let first = config
        .first_revision
        .unwrap_or_else(|| first_revision(config.clock.now()));
    let writer = Writer::new(first, config.history.clone());
    let mut id = config.rng.next_u64().to_le_bytes().to_vec();
    id.extend_from_slice(&config.rng.next_u64().to_le_bytes());
    let log = RecordLog::new(Revision::MIN, None);
    let engine = Arc::new(Engine::new(&writer, log, Reader::none(), store_id(&id)));
    Core::in_memory(engine, Arc::clone(&config.clock), writer)
}

#[cfg(feature = "durable")]
async fn open_durable(config: EmbeddedConfig, runtime: &Handle) -> KvResult<Core> {
    use crate::committer::Committer;
    use crate::disk::{Birth, Disk, Loaded};
    use crate::upkeep::Upkeep;

    let recent_bytes = config.recent_bytes;
    let upkeep = Upkeep::new(config.rewrite_floor_bytes);
    let clock = Arc::clone(&config.clock);
    let opened = runtime.spawn_blocking(move || {
        let first = config
            .first_revision
            .unwrap_or_else(|| first_revision(config.clock.now()));
        let rng = Arc::clone(&config.rng);
        Disk::open(config, &Birth { first, rng: &*rng })
    });
    let opened = opened
        .await
        .unwrap_or_else(|ended| Err(Trouble::Reader(Box::new(ended)).into()));
    let (disk, Loaded { writer, store_id, .. }) = opened?;
    let disk = Arc::new(disk);
    let log = RecordLog::new(writer.head.next(), Some(recent_bytes));
    let reader = Reader::disk(Arc::clone(&disk), runtime.clone());
    let engine = Arc::new(Engine::new(&writer, log, reader, store_id));
    let committer = Committer::start(
        Arc::clone(&engine),
        disk,
        writer,
        Arc::clone(&clock),
        upkeep,
        runtime.clone(),
    )?;
    Ok(Core::durable(engine, clock, committer))
}

impl Kv for EmbeddedKv {
    async fn now(&self) -> KvResult<Revision> {
        self.engine().check()?;
        Ok(self.engine().head())
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        self.engine().get(key, at).await
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        self.engine().range(&request).await
    }

    async fn put_if(&self, key: &str, value: Bytes, expected: Expected, lease: Lease) -> KvResult<WriteOutcome> {
        self.check_size(key, &value)?;
        self.write(Op::Put {
            key: key.to_owned(),
            value,
            packed: None,
            expected,
            lease,
        })
        .await
    }

    async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        self.write(Op::Delete {
            key: key.to_owned(),
            expected,
        })
        .await
    }

    async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        self.engine().check()?;
        Ok(lease(wall_millis(self.core.clock.now()), ttl))
    }

    async fn time_left(&self, lease: LeaseId) -> KvResult<Option<Duration>> {
        self.engine().check()?;
        Ok(time_left(wall_millis(self.core.clock.now()), lease))
    }

    async fn watch(&self, request: WatchRequest) -> KvResult<KvWatch> {
        watch::watch(self.engine(), request)
    }

    async fn request_progress(&self) -> KvResult<()> {
        self.engine().check()?;
        self.engine().ask_progress();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> KvResult<()> {
        match self.core.apply(Op::Compact { revision }).await? {
            Answer::Compacted => Ok(()),
            _ => Err(Trouble::Answer.into()),
        }
    }

    fn compacted_revision(&self) -> Option<Revision> {
        Some(self.engine().compacted())
    }

    async fn coordination_get(&self, key: &str) -> KvResult<Option<(Bytes, u64)>> {
        self.engine().check()?;
        Ok(self
            .engine()
            .coordination(key)
            .map(|state| (state.value, state.version)))
    }

    async fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> KvResult<bool> {
        self.check_size(key, &value)?;
        match self
            .core
            .apply(Op::CoordinationPut {
                key: key.to_owned(),
                value,
                version,
            })
            .await?
        {
            Answer::Coordinated(written) => Ok(written),
            _ => Err(Trouble::Answer.into()),
        }
    }

    async fn store_id(&self) -> KvResult<StoreId> {
        Ok(self.engine().store_id.clone())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, true, self.max_value_bytes)
    }

    fn health(&self) -> Result<(), String> {
        self.engine().health()
    }
}

impl fmt::Debug for EmbeddedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedKv")
            .field("engine", &self.core.engine)
            .finish_non_exhaustive()
    }
}
