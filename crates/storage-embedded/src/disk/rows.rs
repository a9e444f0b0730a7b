//! How a record is written: an index row without the value, and a value row. Both end up under the record's revision.
//!
//! Index row: flags (1 byte, 1 = live, 2 = packed), created, previous, lease (8 bytes each, zero for none), bytes of the
//! value (4), of a packed one its bytes in the value row (4), key, checksum (4). Value row: checksum (4), the value as it
//! is or packed. Numbers are little-endian. The checksums are CRC-32 and cover the revision, that of a value its key too,
//! so that a row that is whole but in the wrong place is noticed; what is restored from a packed value was checked
//! before, and room is made for as many bytes as the index row says and no more.
//!
//! Packed values came with format 2; all else is as it was in format 1.

use std::sync::Arc;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvResult, LeaseId};

use crate::error::Trouble;
use crate::pack::unpack;
use crate::record::{Record, Version};

const LIVE: u8 = 1;
const PACKED: u8 = 2;
const FIXED: usize = 1 + 8 + 8 + 8 + 4;
const PACKED_BYTES: usize = 4;
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
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    row.push(flag(version.live, LIVE) | flag(version.packed > 0, PACKED));
    row.extend_from_slice(&version.created.get().to_le_bytes());
    row.extend_from_slice(&record.previous.map_or(0, Revision::get).to_le_bytes());
    row.extend_from_slice(&version.lease.map_or(0, |lease| lease.0).to_le_bytes());
    row.extend_from_slice(&version.bytes.to_le_bytes());
    if version.packed > 0 {
        row.extend_from_slice(&version.packed.to_le_bytes());
    }
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
    let mut fields = Fields(fixed);
    let [flags] = fields.take::<1>();
    let (packed, key) = match flags {
        0 | LIVE => (0, key),
        _ if flags == LIVE | PACKED => match key.split_first_chunk::<PACKED_BYTES>() {
            Some((packed, key)) => (u32::from_le_bytes(*packed), key),
            None => return Err(damaged("index row is too short")),
        },
        _ => return Err(damaged("flags are not known")),
    };
    let key = std::str::from_utf8(key).map_err(|_| damaged("key is not text"))?;
    let created = Revision::new(u64::from_le_bytes(fields.take()));
    let previous = Revision::new(u64::from_le_bytes(fields.take()));
    let lease = i64::from_le_bytes(fields.take());
    let bytes = u32::from_le_bytes(fields.take());
    let version = Version {
        revision,
        created: created.ok_or_else(|| Trouble::damaged(key, revision, "creation revision is zero"))?,
        lease: (lease != 0).then_some(LeaseId(lease)),
        bytes,
        packed,
        live: flags & LIVE != 0,
    };
    Ok(IndexRow {
        key: Arc::from(key),
        version,
        previous,
    })
}

/// Writes the value row of a record into `row`, which is emptied first. `stored` is the value as the row is to have it.
pub(crate) fn encode_value(revision: Revision, key: &str, stored: &[u8], row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&checksum(revision, &[key.as_bytes(), stored]).to_le_bytes());
    row.extend_from_slice(stored);
}

/// Reads a value row into `value`, which has the length that the version says.
pub(crate) fn decode_value(version: &Version, key: &str, row: &[u8], value: &mut [u8]) -> KvResult<()> {
    let damaged = |reason| Trouble::damaged(key, version.revision, reason);
    let (sum, stored) = row
        .split_first_chunk::<CHECKSUM>()
        .ok_or_else(|| damaged("value row is too short"))?;
    if checksum(version.revision, &[key.as_bytes(), stored]) != u32::from_le_bytes(*sum) {
        return Err(damaged("checksum of the value does not match"));
    }
    if stored.len() as u64 != u64::from(version.stored()) {
        return Err(damaged("value row has another length than the index says"));
    }
    if version.packed == 0 {
        value.copy_from_slice(stored);
    } else if !unpack(stored, value) {
        return Err(damaged("value cannot be restored"));
    }
    Ok(())
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
    use crate::pack::pack;
    use crate::record::size;

    fn record(value: Option<&'static [u8]>, packed: Option<&[u8]>) -> Record {
        let revision = |value| Revision::new(value).expect("not zero");
        Record {
            revision: revision(9),
            key: Arc::from("/registry/pods/a"),
            value: value.map(Bytes::from_static),
            created: revision(3),
            previous: Some(revision(5)),
            lease: value.map(|_| LeaseId(77)),
            packed: packed.map_or(0, size),
        }
    }

    const LONG: &[u8] = &[b'a'; 600];

    fn packed() -> Bytes {
        pack(LONG).expect("it repeats itself")
    }

    /// Reads the value row of a record whose index row says what `version` says.
    fn value_of(version: &Version, key: &str, row: &[u8]) -> KvResult<Vec<u8>> {
        let mut value = vec![0; version.bytes as usize];
        decode_value(version, key, row, &mut value)?;
        Ok(value)
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        let packed = packed();
        for (value, packed) in [
            (Some(b"value".as_slice()), None),
            (Some(b"".as_slice()), None),
            (Some(LONG), None),
            (Some(LONG), Some(&*packed)),
            (None, None),
        ] {
            let record = record(value, packed);
            let (mut index, mut row) = (Vec::new(), Vec::new());
            encode_index(&record, &mut index);
            let read = decode_index(record.revision, &index).unwrap();
            assert_eq!(
                (&read.key, read.version, read.previous),
                (&record.key, record.version(), record.previous)
            );
            let Some(value) = value else { continue };
            encode_value(record.revision, &record.key, packed.unwrap_or(value), &mut row);
            assert!(value_of(&read.version, &read.key, &row).unwrap() == value);
        }
    }

    #[test]
    fn a_changed_bit_is_damage_not_a_panic() {
        let packed = packed();
        for (plain, packed) in [(b"value".as_slice(), None), (LONG, Some(&*packed))] {
            let record = record(Some(plain), packed);
            let version = record.version();
            let (mut index, mut value) = (Vec::new(), Vec::new());
            encode_index(&record, &mut index);
            encode_value(record.revision, &record.key, packed.unwrap_or(plain), &mut value);
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
                for bit in 0..8 {
                    value[at] ^= 1 << bit;
                    let damaged = value_of(&version, &record.key, &value).unwrap_err();
                    let text = std::error::Error::source(&damaged).map_or(String::new(), ToString::to_string);
                    assert!(text.contains("key=/registry/pods/a revision=9"), "byte {at}: {text}");
                    value[at] ^= 1 << bit;
                }
                assert!(
                    value_of(&version, &record.key, &value[..at]).is_err(),
                    "value row, cut at {at}"
                );
            }
            assert!(value_of(&version, "/registry/pods/b", &value).is_err(), "another key");
            let later = Version {
                revision: version.revision.next(),
                ..version
            };
            assert!(value_of(&later, &record.key, &value).is_err(), "another revision");
        }
    }

    #[test]
    fn rows_that_are_whole_but_do_not_fit_each_other_are_damage() {
        let packed = packed();
        let version = record(Some(LONG), Some(&packed)).version();
        let plain = record(Some(LONG), None).version();
        let other = pack(&[b'b'; 700]).expect("it repeats itself");
        let nonsense = [0xff; 64];
        for (name, version, stored) in [
            (
                "longer than the index says",
                version,
                [&packed, b"x".as_slice()].concat(),
            ),
            ("plain although the index says packed", version, LONG.to_vec()),
            ("packed although the index says plain", plain, packed.to_vec()),
            ("plain and shorter", plain, LONG[1..].to_vec()),
            ("no packed value", Version { packed: 64, ..version }, nonsense.to_vec()),
            (
                "packed value of another length",
                Version {
                    packed: size(&other),
                    ..version
                },
                other.to_vec(),
            ),
            (
                "a value that is shorter than the packed one",
                Version { bytes: 599, ..version },
                packed.to_vec(),
            ),
            ("no bytes at all", Version { bytes: 0, ..version }, packed.to_vec()),
            (
                "a value that is longer than the packed one",
                Version { bytes: 601, ..version },
                packed.to_vec(),
            ),
        ] {
            let mut row = Vec::new();
            encode_value(version.revision, "/registry/pods/a", &stored, &mut row);
            assert!(value_of(&version, "/registry/pods/a", &row).is_err(), "{name}");
        }
    }

    #[test]
    fn flags_that_are_not_known_are_damage() {
        for (flags, known) in [
            (0, true),
            (1, true),
            (2, false),
            (3, true),
            (4, false),
            (5, false),
            (255, false),
        ] {
            let packed = packed();
            let record = record(Some(LONG), (flags & PACKED != 0).then_some(&*packed));
            let mut row = Vec::new();
            encode_index(&record, &mut row);
            row[0] = flags;
            row.truncate(row.len() - CHECKSUM);
            let sum = checksum(record.revision, &[&row]);
            row.extend_from_slice(&sum.to_le_bytes());
            assert_eq!(decode_index(record.revision, &row).is_ok(), known, "{flags}");
        }
    }
}
