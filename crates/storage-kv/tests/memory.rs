//! What a long list holds in memory: its result, and 48 MiB for the page in hand in all its stages, which no list makes
//! larger.
//!
//! One test alone in its process, because the whole process is measured.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{FieldSelector, LabelSelector, ListOptions, Revision, Scope, SelectionPredicate, Storage};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvError, KvPair, KvResult, KvStore, KvStoreConfig, KvWatch, Lease, LeaseId, RangePage,
    RangeRequest, StoreId, WatchRequest, WriteOutcome,
};
use apiserver_storage_testing::fixture::pods;
use bytes::Bytes;
use futures::StreamExt;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const OBJECTS: usize = 18_000;
const OBJECT_BYTES: usize = 10_000;
/// One page: what is looked at, what was found in it, and what is on its way, together.
const BOUND: usize = 48 * 1024 * 1024;

/// A backend whose pairs are made when they are asked for, and forgotten at once. The values of an answer are slices of
/// one piece of memory, as those of an etcd are, and stay as long as one of them does.
#[derive(Debug)]
struct Generated;

fn pairs(range: std::ops::Range<usize>) -> Vec<KvPair> {
    // Exactly as large as it is said to be.
    let mut answer = Vec::with_capacity(range.len() * OBJECT_BYTES);
    for n in range.clone() {
        let head = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{n:06}","namespace":"ns"}},"spec":{{"filler":""#
        );
        let end = answer.len() + OBJECT_BYTES;
        answer.extend_from_slice(head.as_bytes());
        answer.resize(end - 4, b'x');
        answer.extend_from_slice(b"\"}}\n");
    }
    let mut answer = Bytes::from(answer);
    let pair = |n| KvPair {
        key: format!("/registry/pods/ns/p{n:06}").into(),
        value: answer.split_to(OBJECT_BYTES),
        revision: Revision::MIN,
        created: Revision::MIN,
        lease: None,
    };
    range.map(pair).collect()
}

fn not_here<T>() -> KvResult<T> {
    Err(KvError::NotSupported("a backend for lists"))
}

impl Kv for Generated {
    async fn now(&self) -> KvResult<Revision> {
        Ok(Revision::MIN)
    }

    async fn get(&self, _: &str, _: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        not_here()
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        // A key with a NUL behind it is the one after.
        let digits = request
            .start
            .rsplit_once('p')
            .and_then(|(_, number)| number.strip_suffix('\0'));
        let from = digits.map_or(0, |number| number.parse::<usize>().unwrap() + 1);
        let to = request
            .limit
            .map_or(OBJECTS, |limit| OBJECTS.min(from + limit.get() as usize));
        Ok(RangePage {
            pairs: pairs(from..to),
            more: to < OBJECTS,
            count: (OBJECTS - from) as u64,
            revision: Revision::MIN,
        })
    }

    async fn put_if(&self, _: &str, _: Bytes, _: Expected, _: Lease) -> KvResult<WriteOutcome> {
        not_here()
    }

    async fn delete_if(&self, _: &str, _: Revision) -> KvResult<WriteOutcome> {
        not_here()
    }

    async fn lease(&self, _: Duration) -> KvResult<LeaseId> {
        not_here()
    }

    async fn time_left(&self, _: LeaseId) -> KvResult<Option<Duration>> {
        not_here()
    }

    async fn watch(&self, _: WatchRequest) -> KvResult<KvWatch> {
        not_here()
    }

    async fn request_progress(&self) -> KvResult<()> {
        not_here()
    }

    async fn compact(&self, _: Revision) -> KvResult<()> {
        not_here()
    }

    fn compacted_revision(&self) -> Option<Revision> {
        None
    }

    async fn coordination_get(&self, _: &str) -> KvResult<Option<(Bytes, u64)>> {
        not_here()
    }

    async fn coordination_put(&self, _: &str, _: Bytes, _: u64) -> KvResult<bool> {
        not_here()
    }

    async fn store_id(&self) -> KvResult<StoreId> {
        not_here()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(false, true, 1 << 20)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What a list holds at most beyond what there was before, and beyond its result.
async fn peak<T>(read: impl Future<Output = T>) -> (T, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = read.await;
    let kept = MEMORY.current_usage() - before;
    (result, MEMORY.peak_usage() - before - kept)
}

// covers: storage-api/GAP-09, storage-etcd3/OPEN-03, storage-etcd3/PAGE-21, storage-api/LIST-13
#[tokio::test]
async fn a_long_list_holds_its_result_and_one_page() {
    let store = KvStore::new(
        Arc::new(Generated),
        pods(),
        KvStoreConfig::new("/registry", Arc::new(Identity)),
    );
    let all = Scope::all(pods().prefix());
    let list = |fields: &str| {
        let predicate = SelectionPredicate::new(LabelSelector::default(), FieldSelector::parse(fields).unwrap());
        let options = ListOptions {
            predicate,
            ..ListOptions::default()
        };
        store.list(&all, options)
    };
    // A reader who is through with each page before he takes the next.
    let streaming = async {
        let mut pages = list("").await.unwrap().into_pages();
        let (mut count, mut bytes) = (0, 0);
        while let Some(page) = pages.next().await {
            for entry in page.unwrap().entries {
                count += 1;
                bytes += entry.json().unwrap().len();
            }
        }
        (count, bytes)
    };
    let ((count, bytes), held) = peak(streaming).await;
    assert_eq!(count, OBJECTS);
    assert!(bytes > 3 * BOUND, "{bytes}: long enough to tell");
    assert!(held < BOUND, "page by page: {held} bytes");

    let (few, held) = peak(async { list("metadata.name=p001599").await.unwrap().collect().await.unwrap() }).await;
    assert_eq!(few.entries.len(), 1);
    assert!(held < BOUND, "of which one is selected: {held} bytes");

    let (whole, held) = peak(async { list("").await.unwrap().collect().await.unwrap() }).await;
    assert_eq!(whole.entries.len(), OBJECTS);
    assert!(held < BOUND, "in one piece, beyond the result: {held} bytes");
}
