//! How a record is written: an index row without the value, and a value row. Both end up under the record's revision.
//!
//! Index row: flags (1 byte, 1 = live), created, previous, lease (8 bytes each, zero for none), bytes of the value (4),
//! key, checksum (4). Value row: checksum (4), value. Numbers are little-endian. The checksums are CRC-32 and cover the
//! revision, that of a value its key too, so that a row that is whole but in the wrong place is noticed.

use std::sync::Arc;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvResult, LeaseId};

use crate::error::Trouble;
use crate::record::{Record, Version};

const LIVE: u8 = 1;
const FIXED: usize = 1 + 8 + 8 + 8 + 4;
const CHECKSUM: usize = 4;

/// An index row that was read back.
#[derive(Debug)]
pub(crate) struct IndexRow {
    pub(crate) key: Arc<str>,
    pub(crate) version: Version,
    pub(crate) previous: Option<Revision>,
}

/// Writes the index row of a record into `row`, which is emptied first.
pub(crate) fn encode_index(record: &Record, row: &mut Vec<u8>) {
    let version = record.version();
    row.clear();
    row.push(if version.live { LIVE } else { 0 });
    row.extend_from_slice(&version.created.get().to_le_bytes());
    row.extend_from_slice(&record.previous.map_or(0, Revision::get).to_le_bytes());
    row.extend_from_slice(&version.lease.map_or(0, |lease| lease.0).to_le_bytes());
    row.extend_from_slice(&version.bytes.to_le_bytes());
    row.extend_from_slice(record.key.as_bytes());
    let sum = checksum(record.revision, &[row]);
    row.extend_from_slice(&sum.to_le_bytes());
}

/// Reads an index row.
pub(crate) fn decode_index(revision: Revision, row: &[u8]) -> KvResult<IndexRow> {
    let damaged = |reason| Trouble::damaged("(not readable)", revision, reason);
    let (body, sum) = row
        .split_last_chunk::<CHECKSUM>()
        .ok_or_else(|| damaged("index row is too short"))?;
    if checksum(revision, &[body]) != u32::from_le_bytes(*sum) {
        return Err(damaged("checksum of the index row does not match"));
    }
    let (fixed, key) = body
        .split_first_chunk::<FIXED>()
        .ok_or_else(|| damaged("index row is too short"))?;
    let key = std::str::from_utf8(key).map_err(|_| damaged("key is not text"))?;
    let mut fields = Fields(fixed);
    let live = fields.take::<1>() == [LIVE];
    let created = Revision::new(u64::from_le_bytes(fields.take()));
    let previous = Revision::new(u64::from_le_bytes(fields.take()));
    let lease = i64::from_le_bytes(fields.take());
    let bytes = u32::from_le_bytes(fields.take());
    let version = Version {
        revision,
        created: created.ok_or_else(|| Trouble::damaged(key, revision, "creation revision is zero"))?,
        lease: (lease != 0).then_some(LeaseId(lease)),
        bytes,
        live,
    };
    Ok(IndexRow {
        key: Arc::from(key),
        version,
        previous,
    })
}

/// Writes the value row of a record into `row`, which is emptied first.
pub(crate) fn encode_value(revision: Revision, key: &str, value: &[u8], row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&checksum(revision, &[key.as_bytes(), value]).to_le_bytes());
    row.extend_from_slice(value);
}

/// Reads a value row.
pub(crate) fn decode_value<'r>(revision: Revision, key: &str, row: &'r [u8]) -> KvResult<&'r [u8]> {
    match row.split_first_chunk::<CHECKSUM>() {
        None => Err(Trouble::damaged(key, revision, "value row is too short")),
        Some((sum, value)) if checksum(revision, &[key.as_bytes(), value]) == u32::from_le_bytes(*sum) => Ok(value),
        Some(_) => Err(Trouble::damaged(key, revision, "checksum of the value does not match")),
    }
}

fn checksum(revision: Revision, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&revision.get().to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Takes fixed-size fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next field; zeroes behind the end, which the fixed size of the row rules out.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(value: Option<&'static [u8]>) -> Record {
        let revision = |value| Revision::new(value).expect("not zero");
        Record {
            revision: revision(9),
            key: Arc::from("/registry/pods/a"),
            value: value.map(Bytes::from_static),
            created: revision(3),
            previous: Some(revision(5)),
            lease: value.map(|_| LeaseId(77)),
        }
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        for record in [record(Some(b"value")), record(Some(b"")), record(None)] {
            let mut row = Vec::new();
            encode_index(&record, &mut row);
            let read = decode_index(record.revision, &row).unwrap();
            assert_eq!(
                (&read.key, read.version, read.previous),
                (&record.key, record.version(), record.previous)
            );
        }
    }

    #[test]
    fn a_changed_bit_is_damage_not_a_panic() {
        let record = record(Some(b"value"));
        let (mut index, mut value) = (Vec::new(), Vec::new());
        encode_index(&record, &mut index);
        encode_value(record.revision, &record.key, b"value", &mut value);
        for at in 0..index.len() {
            index[at] ^= 4;
            assert!(decode_index(record.revision, &index).is_err(), "index row, byte {at}");
            index[at] ^= 4;
            assert!(
                decode_index(record.revision, &index[..at]).is_err(),
                "index row, cut at {at}"
            );
        }
        for at in 0..value.len() {
            value[at] ^= 4;
            assert!(
                decode_value(record.revision, &record.key, &value).is_err(),
                "value row, byte {at}"
            );
            value[at] ^= 4;
            assert!(
                decode_value(record.revision, &record.key, &value[..at]).is_err(),
                "value row, cut at {at}"
            );
        }
        assert!(
            decode_value(record.revision, "/registry/pods/b", &value).is_err(),
            "another key"
        );
        assert!(
            decode_value(record.revision.next(), &record.key, &value).is_err(),
            "another revision"
        );
    }
}
