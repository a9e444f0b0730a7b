//! The data file: records by revision, in one transaction per group.
//!
//! Tables: `index` (revision to index row, enough to build the key index at opening without reading a value), `values`
//! (revision to value row), `coordination` (key to version and value), `store` (format, identity, first and lowest
//! readable revision). A commit is one fsync.

mod backend;
mod place;
mod rewrite;
mod rows;
mod slab;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use apiserver_storage_api::Revision;
use apiserver_storage_api::time::Rng;
use apiserver_storage_kv::{KvError, KvResult, StoreId};

use self::place::Place;
pub(crate) use self::rewrite::Rewrite;
use self::slab::Slabs;
use crate::config::EmbeddedConfig;
use crate::error::Trouble;
use crate::group::{Coordination, Group};
use crate::reader::{Scan, Scanned, Wanted};
use crate::record::{Record, Version};
use crate::watch::{BYTES_PER_PART, EVENTS_PER_PART, RECORDS_PER_PART};
use crate::writer::Writer;

type Rows = TableDefinition<'static, u64, &'static [u8]>;
type Named = TableDefinition<'static, &'static str, &'static [u8]>;

const INDEX: Rows = TableDefinition::new("index");
const VALUES: Rows = TableDefinition::new("values");
const COORDINATION: Named = TableDefinition::new("coordination");
const STORE: Named = TableDefinition::new("store");

const FORMAT_FIELD: &str = "format";
const STORE_ID_FIELD: &str = "store-id";
const FIRST_FIELD: &str = "first-revision";
const COMPACTED_FIELD: &str = "compacted-revision";

/// The format that this code writes.
const FORMAT: u64 = 2;
/// The oldest that it reads. A file of it becomes one of the newest when the first row is written that an older program
/// would not understand; until then that one can have it back.
const OLDEST_FORMAT: u64 = 1;

/// What a new store is made with.
pub(crate) struct Birth<'a> {
    pub(crate) first: Revision,
    pub(crate) rng: &'a dyn Rng,
}

/// What stands in a data file beside values.
pub(crate) struct Loaded {
    pub(crate) writer: Writer,
    pub(crate) store_id: StoreId,
    format: u64,
}

/// An open data file.
pub(crate) struct Disk {
    /// Absent once closed. Held for reading during every use, so that closing waits for them.
    open: RwLock<Option<Open>>,
    config: EmbeddedConfig,
    slabs: Slabs,
}

struct Open {
    // Dropped in this order: the lock on the place goes when the file is closed.
    database: Database,
    place: Place,
    /// The format that the file says.
    format: AtomicU64,
}

impl Disk {
    /// Opens the file, or makes it, and reads what stands in it. Waits for the disk.
    pub(crate) fn open(config: EmbeddedConfig, birth: &Birth<'_>) -> KvResult<(Self, Loaded)> {
        let place = Place::claim(&config.location)?;
        let database = place.open(config.cache_bytes, |database| create(database, birth))?;
        let loaded = load(&database, &config)?;
        let format = AtomicU64::new(loaded.format);
        let open = RwLock::new(Some(Open {
            database,
            place,
            format,
        }));
        let slabs = Slabs::default();
        Ok((Self { open, config, slabs }, loaded))
    }

    /// Opens the file anew after a commit that failed, to find out what it has. When that fails the file stays closed.
    pub(crate) fn reopen(&self) -> KvResult<Loaded> {
        let mut open = self.open.write();
        let Some(Open { database, place, .. }) = open.take() else {
            return Err(KvError::Closed);
        };
        // A handle that has seen an error writes nothing more: this closes the file as a crash would.
        drop(database);
        let database = place.reopen(self.config.cache_bytes)?;
        let loaded = load(&database, &self.config)?;
        let format = AtomicU64::new(loaded.format);
        *open = Some(Open {
            database,
            place,
            format,
        });
        Ok(loaded)
    }

    /// Writes a group and returns when it is safe.
    pub(crate) fn commit(&self, group: &Group) -> KvResult<()> {
        let open = self.open.read();
        let Open { database, format, .. } = open.as_ref().ok_or(KvError::Closed)?;
        let mut transaction = database.begin_write().map_err(fault)?;
        transaction.set_quick_repair(self.config.quick_repair);
        write_records(&transaction, group).map_err(fault)?;
        write_names(&transaction, group).map_err(fault)?;
        let raised = !group.packed.is_empty() && format.load(Ordering::Relaxed) < FORMAT;
        if raised {
            write_format(&transaction).map_err(fault)?;
        }
        transaction.commit().map_err(fault)?;
        if raised {
            format.store(FORMAT, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads values; `None` in the place of each that is not there. Several lie in one piece, which the last of them
    /// keeps: they are for those who look at them and let them go.
    pub(crate) fn values(&self, wanted: &[Wanted]) -> KvResult<Vec<Option<Bytes>>> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(fault)?;
            let values = transaction.open_table(VALUES).map_err(fault)?;
            if let [(key, version)] = wanted {
                return Ok(vec![read_value(&values, key, version)?]);
            }
            let mut slab = self
                .slabs
                .take(wanted.iter().map(|(_, version)| version.bytes as usize).sum());
            let mut places = Vec::with_capacity(wanted.len());
            for (key, version) in wanted {
                let row = values.get(version.revision.get()).map_err(fault)?;
                let place = row.map(|row| {
                    let (place, room) = slab.room(version.bytes as usize);
                    rows::decode_value(version, key, row.value(), room)?;
                    KvResult::Ok(place)
                });
                places.push(place.transpose()?);
            }
            let all = slab.share();
            Ok(places.into_iter().map(|place| place.map(|at| all.slice(at))).collect())
        })
    }

    /// Reads a part of history.
    pub(crate) fn scan(&self, scan: &Scan) -> KvResult<Scanned> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(fault)?;
            let index = transaction.open_table(INDEX).map_err(fault)?;
            let values = transaction.open_table(VALUES).map_err(fault)?;
            let mut scanned = Scanned {
                records: Vec::new(),
                through: Some(scan.to),
            };
            let mut bytes = 0;
            for (looked_at, row) in index.range(range_of(scan)).map_err(fault)?.enumerate() {
                let (revision, row) = row.map_err(fault)?;
                let revision = revision_of(revision.value())?;
                let row = rows::decode_index(revision, row.value())?;
                if scan.matches(&row.key) {
                    let record = read_record(&values, row)?;
                    bytes += record.cost();
                    scanned.records.push(Arc::new(record));
                }
                let full = scanned.records.len() >= EVENTS_PER_PART || bytes >= BYTES_PER_PART;
                if full || looked_at + 1 >= RECORDS_PER_PART {
                    scanned.through = Some(revision);
                    break;
                }
            }
            Ok(scanned)
        })
    }

    /// Waits for those who read, then closes the file in an orderly way.
    pub(crate) fn close(&self) {
        let open = self.open.write().take();
        drop(open);
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> KvResult<T>) -> KvResult<T> {
        match &*self.open.read() {
            Some(open) => work(&open.database),
            None => Err(KvError::Closed),
        }
    }
}

fn range_of(scan: &Scan) -> RangeInclusive<u64> {
    scan.from.get()..=scan.to.get()
}

fn revision_of(value: u64) -> KvResult<Revision> {
    Revision::new(value).ok_or_else(|| Trouble::Field { field: "revision" }.into())
}

/// A storage error in the terms of a backend.
pub(crate) fn fault(error: impl Into<redb::Error>) -> KvError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error.into() {
        redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => {
            KvError::NoSpace(Box::new(error))
        }
        redb::Error::DatabaseClosed => KvError::Closed,
        error => KvError::Fault(Box::new(error)),
    }
}

fn write_records(transaction: &WriteTransaction, group: &Group) -> Result<(), redb::Error> {
    if group.records.is_empty() && group.removals.is_empty() {
        return Ok(());
    }
    let mut index = transaction.open_table(INDEX)?;
    let mut values = transaction.open_table(VALUES)?;
    let mut row = Vec::new();
    for record in &group.records {
        rows::encode_index(record, &mut row);
        index.insert(record.revision.get(), row.as_slice())?;
        if let Some(value) = &record.value {
            let stored = group.packed.get(&record.revision).unwrap_or(value);
            rows::encode_value(record.revision, &record.key, stored, &mut row);
            values.insert(record.revision.get(), row.as_slice())?;
        }
    }
    for removal in &group.removals {
        index.remove(removal.revision.get())?;
        // A deletion has no value row.
        values.remove(removal.revision.get())?;
    }
    Ok(())
}

fn write_names(transaction: &WriteTransaction, group: &Group) -> Result<(), redb::Error> {
    if let Some(compacted) = group.compacted {
        let mut store = transaction.open_table(STORE)?;
        store.insert(COMPACTED_FIELD, compacted.get().to_le_bytes().as_slice())?;
    }
    if !group.coordination.is_empty() {
        let mut table = transaction.open_table(COORDINATION)?;
        for (key, state) in &group.coordination {
            let mut row = state.version.to_le_bytes().to_vec();
            row.extend_from_slice(&state.value);
            table.insert(&**key, row.as_slice())?;
        }
    }
    Ok(())
}

fn write_format(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut store = transaction.open_table(STORE)?;
    store.insert(FORMAT_FIELD, FORMAT.to_le_bytes().as_slice())?;
    Ok(())
}

/// Makes the tables of a new store. Does nothing where they are.
fn create(database: &Database, birth: &Birth<'_>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut store = transaction.open_table(STORE)?;
        if store.get(FORMAT_FIELD)?.is_none() {
            let mut id = [0; 16];
            let (low, high) = id.split_at_mut(8);
            low.copy_from_slice(&birth.rng.next_u64().to_le_bytes());
            high.copy_from_slice(&birth.rng.next_u64().to_le_bytes());
            store.insert(FORMAT_FIELD, FORMAT.to_le_bytes().as_slice())?;
            store.insert(STORE_ID_FIELD, id.as_slice())?;
            store.insert(FIRST_FIELD, birth.first.get().to_le_bytes().as_slice())?;
        }
        transaction.open_table(INDEX)?;
        transaction.open_table(VALUES)?;
        transaction.open_table(COORDINATION)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads everything but values.
fn load(database: &Database, config: &EmbeddedConfig) -> KvResult<Loaded> {
    let transaction = database.begin_read().map_err(fault)?;
    let store = transaction.open_table(STORE).map_err(fault)?;
    let format = number(&store, FORMAT_FIELD)?.ok_or(Trouble::Field { field: FORMAT_FIELD })?;
    if !(OLDEST_FORMAT..=FORMAT).contains(&format) {
        return Err(Trouble::Format {
            found: format,
            known: FORMAT,
        }
        .into());
    }
    let first = number(&store, FIRST_FIELD)?.ok_or(Trouble::Field { field: FIRST_FIELD })?;
    let mut writer = Writer::new(revision_of(first)?, config.history.clone());
    if let Some(compacted) = number(&store, COMPACTED_FIELD)? {
        writer.compacted = revision_of(compacted)?;
        writer.head = writer.compacted;
    }
    let index = transaction.open_table(INDEX).map_err(fault)?;
    let mut found = 0;
    for row in index.iter().map_err(fault)? {
        let (revision, row) = row.map_err(fault)?;
        let row = rows::decode_index(revision_of(revision.value())?, row.value())?;
        writer.learn(&row.key, row.version);
        found += 1;
    }
    let noted = index.len().map_err(fault)?;
    if found != noted {
        return Err(Trouble::Lost { found, noted }.into());
    }
    // Rows can end below the point of compaction only while the file is damaged; the counter never goes back.
    writer.head = writer.head.max(writer.compacted);
    for row in transaction
        .open_table(COORDINATION)
        .map_err(fault)?
        .iter()
        .map_err(fault)?
    {
        let (key, row) = row.map_err(fault)?;
        let damaged = || Trouble::damaged(key.value(), Revision::MIN, "coordination row is too short");
        let (version, value) = row.value().split_first_chunk::<8>().ok_or_else(damaged)?;
        let state = Coordination {
            version: u64::from_le_bytes(*version),
            value: Bytes::copy_from_slice(value),
        };
        writer.coordination.insert(Arc::from(key.value()), state);
    }
    let id = store
        .get(STORE_ID_FIELD)
        .map_err(fault)?
        .ok_or(Trouble::Field { field: STORE_ID_FIELD })?;
    Ok(Loaded {
        writer,
        store_id: crate::identity::store_id(id.value()),
        format,
    })
}

fn number(store: &impl ReadableTable<&'static str, &'static [u8]>, field: &'static str) -> KvResult<Option<u64>> {
    let Some(row) = store.get(field).map_err(fault)? else {
        return Ok(None);
    };
    let bytes: [u8; 8] = row.value().try_into().map_err(|_| Trouble::Field { field })?;
    Ok(Some(u64::from_le_bytes(bytes)))
}

fn read_value(
    values: &impl ReadableTable<u64, &'static [u8]>,
    key: &str,
    version: &Version,
) -> KvResult<Option<Bytes>> {
    let Some(row) = values.get(version.revision.get()).map_err(fault)? else {
        return Ok(None);
    };
    let mut value = vec![0; version.bytes as usize];
    rows::decode_value(version, key, row.value(), &mut value)?;
    Ok(Some(Bytes::from(value)))
}

fn read_record(values: &impl ReadableTable<u64, &'static [u8]>, row: rows::IndexRow) -> KvResult<Record> {
    let version = row.version;
    let value = if version.live {
        let value = read_value(values, &row.key, &version)?;
        Some(value.ok_or_else(|| Trouble::damaged(&row.key, version.revision, "value is missing"))?)
    } else {
        None
    };
    Ok(Record {
        revision: version.revision,
        key: row.key,
        value,
        created: version.created,
        previous: row.previous,
        lease: version.lease,
        packed: version.packed,
    })
}
