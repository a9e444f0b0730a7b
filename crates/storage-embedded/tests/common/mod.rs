//! What the tests of the engine share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

#[cfg(feature = "durable")]
pub mod disk;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::Revision;
use apiserver_storage_api::time::{ManualClock, Rng, SeededRng};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{
    Expected, Kv, KvError, KvEvent, KvResult, KvWatch, KvWatchItem, Lease, WatchRequest, WriteOutcome,
};
use futures::StreamExt;

/// Longer than anything here takes; what does not happen by then does not happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A revision.
pub fn rev(value: u64) -> Revision {
    Revision::new(value).expect("not zero")
}

/// A clock that stands at a plausible time.
pub fn clock() -> ManualClock {
    ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000))
}

/// The configurations that every rule must hold for, with a directory to keep alive.
pub fn configs() -> Vec<(&'static str, EmbeddedConfig, Option<tempfile::TempDir>)> {
    #[cfg_attr(
        not(feature = "durable"),
        expect(unused_mut, reason = "there is only one without files")
    )]
    let mut configs = vec![("memory", EmbeddedConfig::memory(), None)];
    #[cfg(feature = "durable")]
    {
        let dir = tempfile::tempdir().expect("a temporary directory");
        configs.push(("durable", EmbeddedConfig::directory(dir.path()), Some(dir)));
        // Without recent records every read and watch goes to the disk.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = EmbeddedConfig::directory(dir.path()).with_recent_bytes(0);
        configs.push(("durable, nothing recent", config, Some(dir)));
        // A file that is rewritten whenever it seems half free.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = EmbeddedConfig::directory(dir.path()).with_rewrite_floor_bytes(0);
        configs.push(("durable, rewritten", config, Some(dir)));
    }
    configs
}

/// Opens a store.
pub async fn open(config: &EmbeddedConfig) -> Arc<EmbeddedKv> {
    Arc::new(EmbeddedKv::open(config.clone()).await.expect("store opens"))
}

/// The revision of a write that must have been applied.
#[track_caller]
pub fn applied(outcome: KvResult<WriteOutcome>) -> Revision {
    match outcome.expect("write succeeds") {
        WriteOutcome::Applied(revision) => revision,
        WriteOutcome::Mismatch { current, .. } => panic!("not applied: current={current:?}"),
    }
}

/// A value that the file has in far fewer bytes: a number with zeroes in front.
pub fn zeroes(n: usize, length: usize) -> String {
    format!("{n:0>length$}")
}

/// A value that cannot be written in fewer bytes.
pub fn noise(n: usize, length: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let rng = SeededRng::new(n as u64 + 1);
    let letter = || char::from(LETTERS[usize::try_from(rng.next_u64() % 64).expect("small")]);
    (0..length).map(|_| letter()).collect()
}

/// The one or the other.
pub fn mixed(n: usize, length: usize) -> String {
    if n.is_multiple_of(2) {
        zeroes(n, length)
    } else {
        noise(n, length)
    }
}

/// Creates a key.
pub async fn create(kv: &EmbeddedKv, key: &str, value: &str) -> Revision {
    applied(
        kv.put_if(key, value.to_owned().into(), Expected::Absent, Lease::None)
            .await,
    )
}

/// Replaces a key's value.
pub async fn replace(kv: &EmbeddedKv, key: &str, at: Revision, value: &str) -> Revision {
    applied(
        kv.put_if(key, value.to_owned().into(), Expected::At(at), Lease::Keep)
            .await,
    )
}

/// Deletes a key.
pub async fn delete(kv: &EmbeddedKv, key: &str, at: Revision) -> Revision {
    applied(kv.delete_if(key, at).await)
}

/// A key's value now or earlier.
pub async fn value(kv: &EmbeddedKv, key: &str, at: Option<Revision>) -> Option<String> {
    let (pair, _) = kv.get(key, at).await.expect("read succeeds");
    pair.map(|pair| String::from_utf8(pair.value.to_vec()).expect("text"))
}

/// Starts a watch of a prefix.
pub async fn watch(kv: &EmbeddedKv, prefix: &str, from: Option<Revision>) -> KvResult<KvWatch> {
    kv.watch(WatchRequest {
        key: prefix.to_owned(),
        prefix: true,
        from,
        previous: true,
    })
    .await
}

/// The next item of a watch.
pub async fn next(watch: &mut KvWatch) -> Option<KvResult<KvWatchItem>> {
    tokio::time::timeout(PATIENCE, watch.items.next())
        .await
        .expect("a watch item in time")
}

/// The next change of a watch.
pub async fn next_event(watch: &mut KvWatch) -> (Revision, KvEvent) {
    match next(watch).await.expect("watch goes on").expect("watch works") {
        KvWatchItem::Batch { revision, mut events } => {
            assert_eq!(events.len(), 1, "one event per revision");
            (revision, events.pop().expect("one"))
        }
        KvWatchItem::Progress(revision) => panic!("unexpected progress: revision={revision}"),
    }
}

/// The next changes, in short: revision, key, value, previous value.
pub type Seen = (Revision, String, Option<String>, Option<String>);

/// So many changes of a watch.
pub async fn see(watch: &mut KvWatch, count: usize) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(count);
    for _ in 0..count {
        let (revision, event) = next_event(watch).await;
        let text = |value: bytes::Bytes| String::from_utf8(value.to_vec()).expect("text");
        let current = event.current.map(|pair| text(pair.value));
        seen.push((
            revision,
            event.key.to_string(),
            current,
            event.previous.map(|pair| text(pair.value)),
        ));
    }
    seen
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("never happened: {what}");
    }
}

/// Whether a call failed because of compaction.
pub fn is_compacted<T>(result: &KvResult<T>) -> bool {
    matches!(result, Err(KvError::Compacted { .. }))
}
