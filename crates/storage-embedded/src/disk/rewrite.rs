//! Giving space back: the data file does not shrink by itself, so one that is mostly free is written anew.
//!
//! A thread copies the rows into a new file in the order of their revisions, in short turns, while the store goes on.
//! Rows never change, so what the copy lacks in the end is what was written since, and what it has too much is what
//! was forgotten since; the committer knows both, adds and removes them between two groups, and gives the new file the
//! old one's name. A crash before that leaves the old file, a crash after it the new one, each of them whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvResult};

use super::{COORDINATION, Disk, INDEX, Open, STORE, VALUES, fault};
use crate::error::Trouble;
use crate::group::Group;

/// Rows that one turn copies at most.
const ROWS_PER_TURN: usize = 1024;
/// Bytes after which a turn ends.
const BYTES_PER_TURN: usize = 8 << 20;

/// A rewrite under way.
pub(crate) struct Rewrite {
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<KvResult<Copied>>,
    /// What was forgotten since it began.
    forgotten: Vec<Revision>,
}

/// A new file with most of the rows.
struct Copied {
    database: Database,
    /// The first revision that was not copied.
    next: u64,
}

/// Some rows, as they are stored.
struct Rows {
    rows: Vec<(u64, Vec<u8>, Option<Vec<u8>>)>,
    /// The first revision behind them.
    next: u64,
    /// There may be more.
    full: bool,
}

impl Rewrite {
    /// Begins copying on a thread of its own. `None` where the data is not in a file that can be replaced.
    pub(crate) fn start(disk: &Arc<Disk>) -> KvResult<Option<Self>> {
        let Some(database) = disk.new_file()? else {
            return Ok(None);
        };
        let cancel = Arc::new(AtomicBool::new(false));
        let (cancelled, source) = (Arc::clone(&cancel), Arc::clone(disk));
        let thread = std::thread::Builder::new()
            .name("embedded-rewrite".to_owned())
            .spawn(move || copy(&source, database, &cancelled))
            .map_err(|error| KvError::from(Trouble::Thread(Box::new(error))))?;
        Ok(Some(Self {
            cancel,
            thread,
            forgotten: Vec::new(),
        }))
    }

    /// Notes what a committed group has forgotten.
    pub(crate) fn note(&mut self, group: &Group) {
        self.forgotten
            .extend(group.removals.iter().map(|removal| removal.revision));
    }

    /// Whether the copy is there, or failed.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Completes the new file and puts it in the old one's place. No group may be committed meanwhile.
    pub(crate) fn finish(self, disk: &Disk) -> KvResult<()> {
        let copied = self
            .thread
            .join()
            .unwrap_or_else(|_| Err(Trouble::Rewrite { reason: "it panicked" }.into()))?;
        let Copied { database, mut next } = copied;
        loop {
            let rows = disk.rows(next)?;
            next = rows.next;
            insert(&database, &rows)?;
            if !rows.full {
                break;
            }
        }
        disk.complete(&database, &self.forgotten)?;
        disk.replace(database)
    }

    /// Gives up, and waits for the thread.
    pub(crate) fn cancel(self, disk: &Disk) {
        self.cancel.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        disk.discard_new_file();
    }
}

fn copy(disk: &Disk, database: Database, cancelled: &AtomicBool) -> KvResult<Copied> {
    let mut next = 0;
    while !cancelled.load(Ordering::Relaxed) {
        let rows = disk.rows(next)?;
        next = rows.next;
        insert(&database, &rows)?;
        if !rows.full {
            return Ok(Copied { database, next });
        }
    }
    Err(KvError::Closed)
}

fn insert(database: &Database, rows: &Rows) -> KvResult<()> {
    if rows.rows.is_empty() {
        return Ok(());
    }
    let insert = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut index = transaction.open_table(INDEX)?;
            let mut values = transaction.open_table(VALUES)?;
            for (revision, index_row, value_row) in &rows.rows {
                index.insert(revision, index_row.as_slice())?;
                if let Some(row) = value_row {
                    values.insert(revision, row.as_slice())?;
                }
            }
        }
        Ok(transaction.commit()?)
    };
    insert().map_err(fault)
}

impl Disk {
    fn new_file(&self) -> KvResult<Option<Database>> {
        match &*self.open.read() {
            Some(open) => open.place.new_file(self.config.cache_bytes / 4),
            None => Err(KvError::Closed),
        }
    }

    /// Deletes what a rewrite left.
    pub(crate) fn discard_new_file(&self) {
        if let Some(open) = &*self.open.read() {
            open.place.discard_new_file();
        }
    }

    /// Rows from a revision on.
    fn rows(&self, from: u64) -> KvResult<Rows> {
        self.with(|database| {
            let read = || -> Result<Rows, redb::Error> {
                let transaction = database.begin_read()?;
                let index = transaction.open_table(INDEX)?;
                let values = transaction.open_table(VALUES)?;
                let mut rows = Rows {
                    rows: Vec::new(),
                    next: from,
                    full: false,
                };
                let mut bytes = 0;
                for row in index.range(from..)? {
                    let (revision, index_row) = row?;
                    let revision = revision.value();
                    let value_row = values.get(revision)?.map(|row| row.value().to_vec());
                    bytes += value_row.as_ref().map_or(0, Vec::len);
                    rows.rows.push((revision, index_row.value().to_vec(), value_row));
                    rows.next = revision + 1;
                    if rows.rows.len() >= ROWS_PER_TURN || bytes >= BYTES_PER_TURN {
                        rows.full = true;
                        break;
                    }
                }
                Ok(rows)
            };
            read().map_err(fault)
        })
    }

    /// Copies what is not rows, takes out what was forgotten, and makes sure that both files hold the same.
    fn complete(&self, new: &Database, forgotten: &[Revision]) -> KvResult<()> {
        let same = self.with(|old| {
            let complete = || -> Result<bool, redb::Error> {
                let old = old.begin_read()?;
                let transaction = new.begin_write()?;
                let same = {
                    let mut index = transaction.open_table(INDEX)?;
                    let mut values = transaction.open_table(VALUES)?;
                    for revision in forgotten {
                        index.remove(revision.get())?;
                        values.remove(revision.get())?;
                    }
                    for name in [STORE, COORDINATION] {
                        let mut table = transaction.open_table(name)?;
                        for row in old.open_table(name)?.iter()? {
                            let (key, row) = row?;
                            table.insert(key.value(), row.value())?;
                        }
                    }
                    index.len()? == old.open_table(INDEX)?.len()? && values.len()? == old.open_table(VALUES)?.len()?
                };
                transaction.commit()?;
                Ok(same)
            };
            complete().map_err(fault)
        })?;
        if same {
            Ok(())
        } else {
            Err(Trouble::Rewrite {
                reason: "the copy is not like the original",
            }
            .into())
        }
    }

    /// Puts the new file in the old one's place. When that fails after the old one was closed, the file stays closed.
    fn replace(&self, new: Database) -> KvResult<()> {
        // Closed first, so that it is opened without a repair, and can be renamed on every system.
        drop(new);
        let mut open = self.open.write();
        let Some(Open {
            database,
            place,
            format,
        }) = open.take()
        else {
            return Err(KvError::Closed);
        };
        drop(database);
        place.adopt_new_file()?;
        let database = place.reopen(self.config.cache_bytes)?;
        *open = Some(Open {
            database,
            place,
            format,
        });
        Ok(())
    }

    /// Bytes that the data takes; none where it cannot be rewritten anyway.
    pub(crate) fn file_bytes(&self) -> Option<u64> {
        self.open.read().as_ref()?.place.file_bytes()
    }

    /// Whether the file is open; it is not after a failure on the way to another one.
    pub(crate) fn is_open(&self) -> bool {
        self.open.read().is_some()
    }
}
