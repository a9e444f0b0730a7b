//! What all handles of a store share: the visible state, the recent records, the disk, and whether it still runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvResult, StoreId};

use crate::group::{Coordination, Group};
use crate::index::KeyIndex;
use crate::log::RecordLog;
use crate::reader::Reader;
use crate::writer::Writer;

/// What readers see. Changes only after the commit that made it so.
#[derive(Clone)]
pub(crate) struct Visible {
    pub(crate) index: KeyIndex,
    pub(crate) head: Revision,
    /// The lowest revision that can be read.
    pub(crate) compacted: Revision,
}

/// What wakes watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(crate) head: Revision,
    /// How often progress was asked for.
    pub(crate) progress: u64,
    pub(crate) ended: bool,
}

/// Whether the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Status {
    Running,
    Closed,
    /// A write failed in a way that leaves open what the disk has.
    #[cfg(feature = "durable")]
    Stopped(Arc<str>),
}

pub(crate) struct Engine {
    visible: RwLock<Visible>,
    coordination: RwLock<imbl::OrdMap<Arc<str>, Coordination>>,
    pub(crate) log: RwLock<RecordLog>,
    pub(crate) reader: Reader,
    pub(crate) store_id: StoreId,
    signal: watch::Sender<Signal>,
    /// Wakes the timer when something is due earlier than it sleeps.
    pub(crate) timer: Notify,
    status: Mutex<Status>,
    /// The last write found no space.
    full: AtomicBool,
}

impl Engine {
    pub(crate) fn new(writer: &Writer, log: RecordLog, reader: Reader, store_id: StoreId) -> Self {
        let visible = Visible {
            index: writer.index.clone(),
            head: writer.head,
            compacted: writer.compacted,
        };
        let signal = Signal {
            head: visible.head,
            progress: 0,
            ended: false,
        };
        let coordination = writer
            .coordination
            .iter()
            .map(|(key, state)| (Arc::clone(key), state.clone()))
            .collect();
        Self {
            visible: RwLock::new(visible),
            coordination: RwLock::new(coordination),
            log: RwLock::new(log),
            reader,
            store_id,
            signal: watch::Sender::new(signal),
            timer: Notify::new(),
            status: Mutex::new(Status::Running),
            full: AtomicBool::new(false),
        }
    }

    /// The visible state, for as long as the caller likes.
    pub(crate) fn visible(&self) -> Visible {
        self.visible.read().clone()
    }

    pub(crate) fn head(&self) -> Revision {
        self.visible.read().head
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.visible.read().compacted
    }

    pub(crate) fn coordination(&self, key: &str) -> Option<Coordination> {
        self.coordination.read().get(key).cloned()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }

    pub(crate) fn ask_progress(&self) {
        self.signal.send_modify(|signal| signal.progress += 1);
    }

    /// Shows a committed group. The only place where readers and watches learn of writes.
    pub(crate) fn publish(&self, writer: &Writer, group: &Group) {
        {
            // Records come before the revision that makes them visible, and go after the one that hides them.
            let mut log = self.log.write();
            group.records.iter().for_each(|record| log.push(record));
            group.removals.iter().for_each(|removal| log.remove(removal.revision));
        }
        if !group.coordination.is_empty() {
            let mut coordination = self.coordination.write();
            for (key, state) in &group.coordination {
                coordination.insert(Arc::clone(key), state.clone());
            }
        }
        let before = {
            let mut visible = self.visible.write();
            let next = Visible {
                index: writer.index.clone(),
                head: writer.head,
                compacted: writer.compacted,
            };
            std::mem::replace(&mut *visible, next)
        };
        if writer.head > before.head {
            self.signal.send_modify(|signal| signal.head = writer.head);
        }
        let (live, history) = writer.bytes();
        metrics::gauge!("apiserver_storage_embedded_live_bytes").set(live as f64);
        metrics::gauge!("apiserver_storage_embedded_history_bytes").set(history as f64);
    }

    /// Fails when the engine no longer runs.
    pub(crate) fn check(&self) -> KvResult<()> {
        match &*self.status.lock() {
            Status::Running => Ok(()),
            Status::Closed => Err(KvError::Closed),
            #[cfg(feature = "durable")]
            Status::Stopped(reason) => Err(crate::error::Trouble::Stopped {
                reason: Arc::clone(reason),
            }
            .into()),
        }
    }

    /// Why the engine does not take requests, if so.
    pub(crate) fn health(&self) -> Result<(), String> {
        match &*self.status.lock() {
            Status::Running if self.full.load(Ordering::Relaxed) => Err("no space left: writes are refused".to_owned()),
            Status::Running => Ok(()),
            Status::Closed => Err("closed".to_owned()),
            #[cfg(feature = "durable")]
            Status::Stopped(reason) => Err(format!("stopped after a failed write: {reason}")),
        }
    }

    /// Notes whether the last write found space.
    #[cfg(feature = "durable")]
    pub(crate) fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) != full {
            tracing::warn!(full, "space for the embedded storage");
        }
    }

    /// Ends the engine in an orderly way; watches end.
    pub(crate) fn close(&self) {
        self.end(Status::Closed);
    }

    /// Ends the engine for good: it is not known what the disk has.
    #[cfg(feature = "durable")]
    pub(crate) fn stop(&self, reason: &str) {
        tracing::error!(reason, "embedded storage stopped after a failed write");
        self.end(Status::Stopped(Arc::from(reason)));
    }

    fn end(&self, status: Status) {
        {
            let mut current = self.status.lock();
            if *current != Status::Running {
                return;
            }
            *current = status;
        }
        self.signal.send_modify(|signal| signal.ended = true);
        self.timer.notify_one();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let visible = self.visible();
        f.debug_struct("Engine")
            .field("head", &visible.head)
            .field("compacted", &visible.compacted)
            .field("status", &*self.status.lock())
            .finish_non_exhaustive()
    }
}
