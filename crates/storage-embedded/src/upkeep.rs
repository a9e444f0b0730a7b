//! When the data file is written anew to give space back.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_kv::KvResult;

use crate::disk::{Disk, Rewrite};
use crate::group::Group;

/// How long nothing is tried after a rewrite failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(600);

/// The committer's side of rewriting.
pub(crate) struct Upkeep {
    rewrite: Option<Rewrite>,
    floor_bytes: u64,
    /// Bytes of the file, and those it should need, at the last rewrite: one that did not help is not tried again
    /// before something has changed.
    rewritten_bytes: u64,
    rewritten_footprint: u64,
    not_before: Duration,
}

impl Upkeep {
    pub(crate) fn new(floor_bytes: u64) -> Self {
        Self {
            rewrite: None,
            floor_bytes,
            rewritten_bytes: 0,
            rewritten_footprint: 0,
            not_before: Duration::ZERO,
        }
    }

    /// Tells a rewrite under way what a group has forgotten.
    pub(crate) fn note(&mut self, group: &Group) {
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.note(group);
        }
    }

    /// Begins or completes a rewrite. Called between two groups. Fails only when there is no data file any more.
    pub(crate) fn tend(&mut self, disk: &Arc<Disk>, footprint: u64, now: Duration) -> KvResult<()> {
        let done = match self.rewrite.take() {
            Some(rewrite) if rewrite.is_finished() => self.finish(rewrite, disk, footprint),
            Some(rewrite) => {
                self.rewrite = Some(rewrite);
                Ok(())
            }
            None if now >= self.not_before && self.is_due(disk, footprint) => self.start(disk, footprint),
            None => Ok(()),
        };
        let Err(error) = done else { return Ok(()) };
        if !disk.is_open() {
            return Err(error);
        }
        tracing::warn!(error = &error as &dyn std::error::Error, "data file was not rewritten");
        disk.discard_new_file();
        self.not_before = now + PAUSE_AFTER_FAILURE;
        Ok(())
    }

    fn is_due(&self, disk: &Disk, footprint: u64) -> bool {
        let changed = |bytes: u64| bytes / 2 >= self.rewritten_bytes || footprint <= self.rewritten_footprint / 2;
        disk.file_bytes()
            .is_some_and(|bytes| bytes >= self.floor_bytes && footprint < bytes / 2 && changed(bytes))
    }

    fn start(&mut self, disk: &Arc<Disk>, footprint: u64) -> KvResult<()> {
        tracing::info!(bytes = disk.file_bytes(), footprint, "rewriting the data file");
        self.rewrite = Rewrite::start(disk)?;
        Ok(())
    }

    fn finish(&mut self, rewrite: Rewrite, disk: &Disk, footprint: u64) -> KvResult<()> {
        rewrite.finish(disk)?;
        self.rewritten_bytes = disk.file_bytes().unwrap_or(0);
        self.rewritten_footprint = footprint;
        tracing::info!(bytes = self.rewritten_bytes, "data file rewritten");
        metrics::counter!("apiserver_storage_embedded_rewrites_total").increment(1);
        Ok(())
    }

    /// Gives up a rewrite under way.
    pub(crate) fn cancel(&mut self, disk: &Disk) {
        if let Some(rewrite) = self.rewrite.take() {
            rewrite.cancel(disk);
        }
    }
}
