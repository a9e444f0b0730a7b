//! Connections to real etcd servers, and what tests do with them.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver_storage_api::Revision;
use apiserver_storage_api::time::Clock;
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::{Expected, Kv, KvError, KvWatch, KvWatchItem, Lease, WriteOutcome};
#[allow(unused_imports, reason = "each file of tests uses a part of it")]
pub(crate) use apiserver_storage_testing::etcd::{ServerTls, binary as etcd_binary, version};
use apiserver_storage_testing::{StandingClock, etcd};
use futures::StreamExt;

/// No wait of a test is longer; what it waits for comes within milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One server, and how to connect to it.
#[derive(Debug)]
pub(crate) struct Etcd(etcd::Etcd);

impl Etcd {
    /// Starts a cluster of one; `None` where tests are to be skipped.
    pub(crate) async fn start() -> Option<Self> {
        etcd::Etcd::start().await.map(Self)
    }

    /// The same with TLS to clients and more flags.
    pub(crate) async fn start_with(tls: Option<ServerTls>, extra: &[&str]) -> Option<Self> {
        etcd::Etcd::start_with(tls, extra).await.map(Self)
    }

    /// A configuration for tests: no background compaction.
    pub(crate) fn config(&self) -> EtcdConfig {
        config([self.url()])
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> EtcdKv {
        connect(self.config()).await
    }
}

impl Deref for Etcd {
    type Target = etcd::Etcd;

    fn deref(&self) -> &etcd::Etcd {
        &self.0
    }
}

impl DerefMut for Etcd {
    fn deref_mut(&mut self) -> &mut etcd::Etcd {
        &mut self.0
    }
}

/// A configuration without background compaction, in which nothing ends because the clock is moved.
pub(crate) fn still(etcd: &Etcd, clock: &Arc<StandingClock>) -> EtcdConfig {
    let mut config = etcd.config().with_clock(Arc::clone(clock) as Arc<dyn Clock>);
    let never = Duration::from_secs(1_000_000);
    config.health_interval = never;
    config.health_timeout = never;
    config.request_timeout = never;
    config.watch_open_timeout = never;
    config.watch_probe_interval = never;
    config.size_interval = Duration::ZERO;
    config
}

/// A configuration for tests: no background compaction, quick health.
pub(crate) fn config(servers: impl IntoIterator<Item = String>) -> EtcdConfig {
    let mut config = EtcdConfig::new(servers).with_compaction_interval(None);
    config.health_interval = Duration::from_millis(100);
    config
}

/// Connects to servers that answer.
pub(crate) async fn connect(config: EtcdConfig) -> EtcdKv {
    let kv = EtcdKv::connect(config).await.expect("a sound configuration");
    healthy(&kv).await;
    kv
}

/// Whether what these servers report of their progress can be believed.
pub(crate) fn reports_progress() -> bool {
    let Some(binary) = etcd_binary() else {
        return false;
    };
    let numbers: Vec<u32> = version(&binary)
        .split('.')
        .map_while(|number| number.parse().ok())
        .collect();
    match numbers[..] {
        [3, 4, patch] => patch >= 31,
        [3, 5, patch] => patch >= 13,
        [major, minor, ..] => (major, minor) >= (3, 6),
        _ => false,
    }
}

/// The same, once a connection believes it: that takes a moment.
pub(crate) async fn has_progress(kv: &EtcdKv) -> bool {
    if !reports_progress() {
        return false;
    }
    until(|| kv.capabilities().progress, "the versions of the servers are known").await;
    true
}

/// Waits until the backend is healthy.
pub(crate) async fn healthy(kv: &EtcdKv) {
    until(|| kv.health().is_ok(), "the cluster answers").await;
}

/// Three servers.
#[derive(Debug)]
pub(crate) struct Three {
    pub(crate) members: Vec<Etcd>,
}

impl Three {
    /// Starts a cluster of three; `None` where tests are to be skipped.
    pub(crate) async fn start() -> Option<Self> {
        let members = etcd::Etcd::start_three().await?;
        Some(Self {
            members: members.map(Etcd).into(),
        })
    }

    /// A configuration with all servers, in order.
    pub(crate) fn config(&self) -> EtcdConfig {
        config(self.members.iter().map(|member| member.url()))
    }
}

/// Waits until something holds.
pub(crate) async fn until(holds: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("comes in time")
}

/// A revision by its number.
pub(crate) fn revision(number: u64) -> Revision {
    Revision::new(number).expect("not zero")
}

/// Stores a new key.
pub(crate) async fn create(kv: &EtcdKv, key: &str, value: &str) -> Revision {
    let outcome = kv
        .put_if(key, value.to_owned().into(), Expected::Absent, Lease::None)
        .await;
    applied(outcome.expect("the write is answered"))
}

/// Stores a new value over that of a revision.
pub(crate) async fn update(kv: &EtcdKv, key: &str, value: &str, expected: Revision) -> Revision {
    let outcome = kv
        .put_if(key, value.to_owned().into(), Expected::At(expected), Lease::Keep)
        .await;
    applied(outcome.expect("the write is answered"))
}

/// The same through failures: what may have been applied is repeated until it is known. The expected revision makes
/// that safe, because the new value is like no other.
pub(crate) async fn settled_update(kv: &EtcdKv, key: &str, value: &str, expected: Revision) -> Revision {
    let start = Instant::now();
    loop {
        let outcome = kv
            .put_if(key, value.to_owned().into(), Expected::At(expected), Lease::Keep)
            .await;
        match outcome {
            Ok(WriteOutcome::Applied(revision)) => return revision,
            Ok(WriteOutcome::Mismatch { current, .. }) => {
                let current = current.expect("still there");
                assert_eq!(current.value, value, "somebody else wrote");
                return current.revision;
            }
            Err(KvError::OutcomeUnknown(_) | KvError::Unreachable(_)) => {}
            Err(error) => panic!("not answered: {error:?}"),
        }
        assert!(start.elapsed() < PATIENCE, "no member takes the write");
    }
}

/// Deletes the value of a revision.
pub(crate) async fn delete(kv: &EtcdKv, key: &str, expected: Revision) -> Revision {
    applied(kv.delete_if(key, expected).await.expect("the write is answered"))
}

/// The revision of a write that took effect.
#[track_caller]
pub(crate) fn applied(outcome: WriteOutcome) -> Revision {
    match outcome {
        WriteOutcome::Applied(revision) => revision,
        WriteOutcome::Mismatch { current, .. } => panic!("not applied: current={current:?}"),
    }
}

/// The next batch of a watch: its revision, and its keys with their new values (`-` for a deletion).
pub(crate) async fn batch(watch: &mut KvWatch) -> (Revision, Vec<String>) {
    loop {
        match soon(watch.items.next()).await {
            Some(Ok(KvWatchItem::Batch { revision, events })) => {
                let shown = events.iter().map(|event| {
                    let value = event
                        .current
                        .as_ref()
                        .map_or("-".into(), |pair| String::from_utf8_lossy(&pair.value));
                    format!("{}={value}", event.key)
                });
                return (revision, shown.collect());
            }
            Some(Ok(KvWatchItem::Progress(_))) => {}
            other => panic!("no batch: {other:?}"),
        }
    }
}

/// The next report of progress.
pub(crate) async fn progress(watch: &mut KvWatch) -> Revision {
    match soon(watch.items.next()).await {
        Some(Ok(KvWatchItem::Progress(revision))) => revision,
        other => panic!("no progress: {other:?}"),
    }
}

/// The error that a watch ends with.
pub(crate) async fn end(watch: &mut KvWatch) -> KvError {
    loop {
        match soon(watch.items.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(soon(watch.items.next()).await.is_none(), "an error is the last item");
                return error;
            }
            None => panic!("the watch ended without an error"),
        }
    }
}
