//! What stands in the data file: rows of this and of earlier formats, and what becomes of them.
#![cfg(all(feature = "durable", unix))]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use apiserver_storage_api::Revision;
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv, HistoryBounds};
use apiserver_storage_kv::{Kv, KvError, RangeRequest};
use common::*;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const INDEX: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("index");
const VALUES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("values");
const COORDINATION: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("coordination");
const STORE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("store");

type Rows = BTreeMap<u64, Vec<u8>>;

fn file(dir: &Path) -> Database {
    Database::create(dir.join("store.redb")).unwrap()
}

/// The format that a closed file says, and its rows as they are.
fn stored(dir: &Path) -> (u64, Rows, Rows) {
    let database = file(dir);
    let transaction = database.begin_read().unwrap();
    let format = transaction.open_table(STORE).unwrap().get("format").unwrap().unwrap();
    let format = u64::from_le_bytes(format.value().try_into().unwrap());
    let rows = |table: TableDefinition<'static, u64, &'static [u8]>| -> Rows {
        let table = transaction.open_table(table).unwrap();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        rows.map(|(revision, row)| (revision.value(), row.value().to_vec()))
            .collect()
    };
    (format, rows(INDEX), rows(VALUES))
}

/// Puts a row in the place of a value row.
fn set_value(dir: &Path, revision: Revision, row: &[u8]) {
    let transaction = file(dir).begin_write().unwrap();
    transaction
        .open_table(VALUES)
        .unwrap()
        .insert(revision.get(), row)
        .unwrap();
    transaction.commit().unwrap();
}

fn set_format(dir: &Path, format: u64) {
    let transaction = file(dir).begin_write().unwrap();
    transaction
        .open_table(STORE)
        .unwrap()
        .insert("format", format.to_le_bytes().as_slice())
        .unwrap();
    transaction.commit().unwrap();
}

/// A record as programs of format 1 wrote it, down to the byte.
struct Old {
    key: &'static str,
    value: Option<String>,
    created: u64,
    previous: u64,
}

impl Old {
    fn rows(&self, revision: u64) -> (Vec<u8>, Option<Vec<u8>>) {
        let sum = |parts: &[&[u8]]| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&revision.to_le_bytes());
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finalize().to_le_bytes()
        };
        let mut index = vec![u8::from(self.value.is_some())];
        index.extend(self.created.to_le_bytes());
        index.extend(self.previous.to_le_bytes());
        index.extend(0_i64.to_le_bytes());
        let bytes = self
            .value
            .as_ref()
            .map_or(0, |value| u32::try_from(value.len()).unwrap());
        index.extend(bytes.to_le_bytes());
        index.extend(self.key.as_bytes());
        index.extend(sum(&[&index]));
        let value = self.value.as_ref().map(|value| {
            let sum = sum(&[self.key.as_bytes(), value.as_bytes()]);
            [sum.as_slice(), value.as_bytes()].concat()
        });
        (index, value)
    }
}

/// The revision before the first write of an old file.
const FIRST: u64 = 1000;

/// A closed file of format 1; the records get the revisions from 1001 on.
fn write_old(dir: &Path, records: &[Old]) {
    let transaction = file(dir).begin_write().unwrap();
    {
        let mut store = transaction.open_table(STORE).unwrap();
        store.insert("format", 1_u64.to_le_bytes().as_slice()).unwrap();
        store.insert("store-id", [7_u8; 16].as_slice()).unwrap();
        store.insert("first-revision", FIRST.to_le_bytes().as_slice()).unwrap();
        transaction.open_table(COORDINATION).unwrap();
        let mut index = transaction.open_table(INDEX).unwrap();
        let mut values = transaction.open_table(VALUES).unwrap();
        for (revision, record) in (FIRST + 1..).zip(records) {
            let (index_row, value_row) = record.rows(revision);
            index.insert(revision, index_row.as_slice()).unwrap();
            if let Some(row) = value_row {
                values.insert(revision, row.as_slice()).unwrap();
            }
        }
    }
    transaction.commit().unwrap();
}

fn old_records() -> Vec<Old> {
    let record = |key, value: Option<String>, created, previous| Old {
        key,
        value,
        created,
        previous,
    };
    vec![
        record("/a", Some(zeroes(1, 9_000)), 1001, 0),
        record("/b", Some(noise(2, 5_000)), 1002, 0),
        record("/a", Some(zeroes(3, 9_000)), 1001, 1001),
        record("/b", None, 1002, 1002),
        record("/empty", Some(String::new()), 1005, 0),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_first_format_is_read_watched_and_written_further() {
    let dir = tempfile::tempdir().unwrap();
    let records = old_records();
    write_old(dir.path(), &records);
    let config = EmbeddedConfig::directory(dir.path()).with_recent_bytes(0);
    let kv = open(&config).await;
    assert_eq!(kv.now().await.unwrap(), rev(1005));
    assert_eq!(value(&kv, "/a", Some(rev(1001))).await, Some(zeroes(1, 9_000)));
    assert_eq!(value(&kv, "/b", Some(rev(1002))).await, Some(noise(2, 5_000)));
    let mut written: Vec<_> = vec![
        (rev(1001), "/a".to_owned(), Some(zeroes(1, 9_000)), None),
        (rev(1002), "/b".into(), Some(noise(2, 5_000)), None),
        (rev(1003), "/a".into(), Some(zeroes(3, 9_000)), Some(zeroes(1, 9_000))),
        (rev(1004), "/b".into(), None, Some(noise(2, 5_000))),
        (rev(1005), "/empty".into(), Some(String::new()), None),
    ];
    let seen = see(&mut watch(&kv, "/", Some(rev(1001))).await.unwrap(), 5).await;
    assert_eq!(seen, written);

    // Written further: the new row beside the old ones.
    let a = replace(&kv, "/a", rev(1003), &zeroes(6, 9_000)).await;
    let b = create(&kv, "/b", &noise(7, 5_000)).await;
    written.push((a, "/a".into(), Some(zeroes(6, 9_000)), Some(zeroes(3, 9_000))));
    written.push((b, "/b".into(), Some(noise(7, 5_000)), None));
    for reopened in [false, true] {
        let kv = if reopened { open(&config).await } else { Arc::clone(&kv) };
        let seen = see(&mut watch(&kv, "/", Some(rev(1001))).await.unwrap(), 7).await;
        assert!(seen == written, "reopened={reopened}");
        let page = kv.range(RangeRequest::prefix("/")).await.unwrap();
        let values: Vec<_> = page.pairs.iter().map(|pair| pair.value.to_vec()).collect();
        let expected = [zeroes(6, 9_000), noise(7, 5_000), String::new()].map(String::into_bytes);
        assert!(values == expected, "reopened={reopened}");
        kv.close().await;
    }
    let (format, index, values) = stored(dir.path());
    assert_eq!(format, 2, "an older program must not read it");
    for (revision, record) in (FIRST + 1..).zip(&records) {
        let rows = (index[&revision].clone(), values.get(&revision).cloned());
        assert!(rows == record.rows(revision), "revision {revision} is as it was");
    }
    assert!(values[&a.get()].len() < 200, "packed");
    assert_eq!(values[&b.get()].len(), 4 + 5_000, "not packed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_first_format_stays_one_until_a_row_needs_more() {
    let dir = tempfile::tempdir().unwrap();
    write_old(dir.path(), &old_records());
    let config = EmbeddedConfig::directory(dir.path());
    let kv = open(&config).await;
    let small = create(&kv, "/small", "1").await;
    let large = create(&kv, "/noise", &noise(1, 3_000)).await;
    kv.close().await;
    let (format, index, values) = stored(dir.path());
    assert_eq!(format, 1);
    for (key, value, revision) in [("/small", "1".to_owned(), small), ("/noise", noise(1, 3_000), large)] {
        let (value, created, previous) = (Some(value), revision.get(), 0);
        let old = Old {
            key,
            value,
            created,
            previous,
        };
        let rows = (index[&revision.get()].clone(), values.get(&revision.get()).cloned());
        assert!(rows == old.rows(revision.get()), "an older program knows {key}");
    }
    let kv = open(&config).await;
    create(&kv, "/large", &zeroes(1, 300)).await;
    kv.close().await;
    assert_eq!(stored(dir.path()).0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::directory(dir.path());
    open(&config).await.close().await;
    assert_eq!(stored(dir.path()).0, 2, "a new file has the newest format");
    for format in [0, 3, u64::MAX] {
        set_format(dir.path(), format);
        let Err(KvError::Fault(cause)) = EmbeddedKv::open(config.clone()).await else {
            panic!("opened format {format}")
        };
        let text = cause.to_string();
        assert!(text.contains(&format!("found={format} known=2")), "{text}");
    }
}

// covers: storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn damage_of_a_packed_value_is_named_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::directory(dir.path());
    let kv = open(&config).await;
    let a = create(&kv, "/a", &zeroes(1, 9_000)).await;
    let b = create(&kv, "/b", &zeroes(2, 9_000)).await;
    kv.close().await;
    let (_, _, values) = stored(dir.path());
    let whole = &values[&b.get()];
    let flipped = |at: usize| {
        let mut row = whole.clone();
        row[at] ^= 1;
        row
    };
    for (name, row) in [
        ("checksum", flipped(0)),
        ("first byte", flipped(4)),
        ("middle", flipped(whole.len() / 2)),
        ("last byte", flipped(whole.len() - 1)),
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("longer", [whole, b"x".as_slice()].concat()),
        ("empty", Vec::new()),
        ("of another key", values[&a.get()].clone()),
    ] {
        set_value(dir.path(), b, &row);
        let kv = open(&config).await;
        let named = |error: &KvError| {
            let KvError::Fault(cause) = error else {
                panic!("{name}: {error:?}")
            };
            let text = cause.to_string();
            assert!(text.contains(&format!("key=/b revision={b}")), "{name}: {text}");
        };
        assert_eq!(value(&kv, "/a", None).await, Some(zeroes(1, 9_000)), "{name}");
        named(&kv.get("/b", None).await.unwrap_err());
        named(&kv.range(RangeRequest::prefix("/")).await.unwrap_err());
        named(
            &next(&mut watch(&kv, "/", Some(a)).await.unwrap())
                .await
                .unwrap()
                .unwrap_err(),
        );
        kv.close().await;
    }
}

/// Makes the file large; the keys that did, to be deleted when something else stands behind them in the file. (What is
/// free at its end the storage engine cuts off by itself.)
async fn fill(kv: &EmbeddedKv) -> Vec<(Revision, String)> {
    let mut gone = Vec::new();
    for n in 0..200 {
        let key = format!("/gone/{n:03}");
        gone.push((create(kv, &key, &noise(n, 9_000)).await, key));
    }
    gone
}

/// Deletes keys, and writes another one over and over until the file is another one.
async fn free_until_rewritten(kv: &EmbeddedKv, dir: &Path, gone: Vec<(Revision, String)>) {
    let path = dir.join("store.redb");
    let file = || std::fs::metadata(&path).unwrap();
    // Held open: with the last name and the last handle gone, its number would be free for the next file.
    let held = std::fs::File::open(&path).unwrap();
    let full = held.metadata().unwrap();
    for (revision, key) in gone {
        delete(kv, &key, revision).await;
    }
    let mut last = create(kv, "/churn", "0").await;
    let mut round = 0;
    until("the file is rewritten", async || {
        round += 1;
        last = replace(kv, "/churn", last, &round.to_string()).await;
        file().ino() != full.ino()
    })
    .await;
    assert!(file().len() < full.len() / 2, "{} of {}", file().len(), full.len());
}

fn little_history() -> HistoryBounds {
    HistoryBounds::default().with_floor_bytes(0).with_live_ratio(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_takes_rows_of_both_formats_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["/old/0", "/old/1", "/old/2"];
    let old = keys.into_iter().zip(FIRST + 1..).map(|(key, revision)| Old {
        key,
        value: Some(zeroes(1, 9_000)),
        created: revision,
        previous: 0,
    });
    let old: Vec<Old> = old.collect();
    write_old(dir.path(), &old);
    let config = EmbeddedConfig::directory(dir.path())
        .with_history(little_history())
        .with_recent_bytes(0);
    let mut kept = Vec::new();
    let kv = open(&config).await;
    let gone = fill(&kv).await;
    for n in 0..20 {
        kept.push(create(&kv, &format!("/new/{n:02}"), &mixed(n, 9_000)).await);
    }
    kv.close().await;
    let (_, index, values) = stored(dir.path());
    let kv = open(&config.clone().with_rewrite_floor_bytes(1 << 20)).await;
    free_until_rewritten(&kv, dir.path(), gone).await;
    kv.close().await;

    let (format, index_after, values_after) = stored(dir.path());
    assert_eq!(format, 2);
    let revisions = (FIRST + 1..)
        .take(old.len())
        .chain(kept.iter().map(|revision| revision.get()));
    for revision in revisions {
        assert!(index_after[&revision] == index[&revision], "{revision}");
        assert!(values_after[&revision] == values[&revision], "{revision}");
    }
    let kv = open(&config).await;
    for n in 0..kept.len() {
        assert_eq!(value(&kv, &format!("/new/{n:02}"), None).await, Some(mixed(n, 9_000)));
    }
    for key in keys {
        assert_eq!(value(&kv, key, None).await, Some(zeroes(1, 9_000)));
    }
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_rewritten_for_what_its_rows_take_not_for_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::directory(dir.path())
        .with_history(little_history())
        .with_rewrite_floor_bytes(1 << 20);
    let kv = open(&config).await;
    let gone = fill(&kv).await;
    // As they are, these would be most of the file, and nothing to gain; in it, they are next to nothing.
    for n in 0..250 {
        create(&kv, &format!("/kept/{n:03}"), &zeroes(n, 9_000)).await;
    }
    free_until_rewritten(&kv, dir.path(), gone).await;
    for n in 0..250 {
        assert_eq!(value(&kv, &format!("/kept/{n:03}"), None).await, Some(zeroes(n, 9_000)));
    }
    kv.close().await;
}
