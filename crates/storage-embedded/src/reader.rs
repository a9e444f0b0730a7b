//! Reading records that are not in memory: on tokio's blocking threads, a few at once, in short turns.
//!
//! A turn is one short read transaction over a bounded number of records, so that a large list neither pins pages of
//! the file nor goes on after its caller has left.

use std::sync::Arc;

use bytes::Bytes;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::KvResult;

use crate::record::{Record, Version};
#[cfg(feature = "durable")]
use crate::{disk::Disk, error::Trouble};

/// A value that is wanted: its key and its version.
pub(crate) type Wanted = (Arc<str>, Version);

/// What a scan of history is after.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    pub(crate) key: Arc<str>,
    pub(crate) prefix: bool,
    pub(crate) from: Revision,
    pub(crate) to: Revision,
}

impl Scan {
    pub(crate) fn matches(&self, key: &str) -> bool {
        if self.prefix {
            key.starts_with(&*self.key)
        } else {
            *key == *self.key
        }
    }
}

/// A part of a scan.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) records: Vec<Arc<Record>>,
    /// Everything up to here was looked at.
    pub(crate) through: Option<Revision>,
}

/// The way to the disk, where there is one.
pub(crate) struct Reader {
    #[cfg(feature = "durable")]
    disk: Option<DiskReader>,
}

#[cfg(feature = "durable")]
struct DiskReader {
    disk: Arc<Disk>,
    turns: Arc<tokio::sync::Semaphore>,
    runtime: tokio::runtime::Handle,
}

impl Reader {
    /// Of a memory-only engine: finds nothing.
    pub(crate) fn none() -> Self {
        Self {
            #[cfg(feature = "durable")]
            disk: None,
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn disk(disk: Arc<Disk>, runtime: tokio::runtime::Handle) -> Self {
        const TURNS_AT_ONCE: usize = 8;
        let turns = Arc::new(tokio::sync::Semaphore::new(TURNS_AT_ONCE));
        Self {
            disk: Some(DiskReader { disk, turns, runtime }),
        }
    }

    /// Reads values; `None` in the place of each that is not there.
    pub(crate) async fn values(&self, wanted: Vec<Wanted>) -> KvResult<Vec<Option<Bytes>>> {
        #[cfg(feature = "durable")]
        if let Some(reader) = &self.disk {
            return reader.turn(move |disk| disk.values(&wanted)).await;
        }
        Ok(vec![None; wanted.len()])
    }

    /// Reads a part of history, one revision at least.
    pub(crate) async fn scan(&self, scan: Scan) -> KvResult<Scanned> {
        #[cfg(feature = "durable")]
        if let Some(reader) = &self.disk {
            return reader.turn(move |disk| disk.scan(&scan)).await;
        }
        Ok(Scanned {
            records: Vec::new(),
            through: Some(scan.to),
        })
    }

    /// Reads one value on this very thread, which must be allowed to wait for a disk.
    pub(crate) fn value_blocking(&self, wanted: Wanted) -> KvResult<Option<Bytes>> {
        #[cfg(feature = "durable")]
        if let Some(reader) = &self.disk {
            return Ok(reader.disk.values(&[wanted])?.pop().flatten());
        }
        drop(wanted);
        Ok(None)
    }
}

#[cfg(feature = "durable")]
impl DiskReader {
    async fn turn<T, F>(&self, read: F) -> KvResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Disk) -> KvResult<T> + Send + 'static,
    {
        // The semaphore is never closed; were it, the read would go on without a turn, which harms nobody.
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let disk = Arc::clone(&self.disk);
        let done = self.runtime.spawn_blocking(move || {
            let _turn = turn;
            read(&disk)
        });
        done.await
            .unwrap_or_else(|ended| Err(Trouble::Reader(Box::new(ended)).into()))
    }
}
