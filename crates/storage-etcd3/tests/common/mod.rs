//! Real etcd servers for tests: started on free ports in a directory of their own, killed on drop.
//!
//! The program is `$ETCD`, else `etcd` in `PATH`. Where there is none a test says that it is skipped and ends; with
//! `APISERVER_REQUIRE_TOOLS` set it fails.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::future::Future;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use apiserver_storage_api::Revision;
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::{Expected, Kv, KvError, KvWatch, KvWatchItem, Lease, WriteOutcome};
use futures::StreamExt;
use tempfile::TempDir;

/// No wait of a test is longer; what it waits for comes within milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where etcd is; `None` (after saying so) where tests are to be skipped.
pub(crate) fn etcd_binary() -> Option<PathBuf> {
    let named = std::env::var_os("ETCD")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let found = named.filter(|path| path.is_file()).or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut files = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
        files.find(|file| file.is_file())
    });
    if found.is_none() {
        assert!(
            std::env::var_os("APISERVER_REQUIRE_TOOLS").is_none(),
            "no etcd: set ETCD to its path"
        );
        // Past the test runner's capture: a skipped test is seen in a plain run.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no etcd (set ETCD to its path, or add it to PATH)"
        );
    }
    found
}

/// What it is: `3.5.30`.
pub(crate) fn version(binary: &Path) -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let said = Command::new(binary).arg("--version").output().expect("etcd runs");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        line.expect("etcd says its version").trim().to_owned()
    })
}

/// Whether it is the oldest kind, which lacks a flag and reports no trustworthy progress.
pub(crate) fn is_3_4(binary: &Path) -> bool {
    version(binary).starts_with("3.4.")
}

/// A port that nobody listens on, outside of those that outgoing connections take.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 1009).unwrap_or_default() * 20;
    loop {
        let port = 10_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 22_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Certificates for TLS to clients.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Clients must show a certificate signed by this one.
    pub(crate) client_ca: Option<PathBuf>,
}

/// One server.
#[derive(Debug)]
pub(crate) struct Etcd {
    binary: PathBuf,
    name: String,
    client: u16,
    peer: u16,
    tls: Option<ServerTls>,
    cluster: String,
    token: String,
    extra: Vec<String>,
    dir: TempDir,
    child: Option<Child>,
}

impl Etcd {
    /// Starts a cluster of one; `None` where tests are to be skipped.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(None, &[]).await
    }

    /// The same with TLS to clients and more flags.
    pub(crate) async fn start_with(tls: Option<ServerTls>, extra: &[&str]) -> Option<Self> {
        let binary = etcd_binary()?;
        let mut etcd = Self::prepare(&binary, "single", tls);
        etcd.cluster = etcd.peer_entry();
        // One server has nobody to lose an election to.
        etcd.extra = ["--heartbeat-interval=10", "--election-timeout=100"]
            .map(str::to_owned)
            .to_vec();
        etcd.extra.extend(extra.iter().map(|&flag| flag.to_owned()));
        etcd.run();
        etcd.ready().await;
        Some(etcd)
    }

    fn prepare(binary: &Path, name: &str, tls: Option<ServerTls>) -> Self {
        Self {
            binary: binary.to_owned(),
            name: name.to_owned(),
            client: free_port(),
            peer: free_port(),
            tls,
            cluster: String::new(),
            token: "test".to_owned(),
            extra: Vec::new(),
            dir: TempDir::new().expect("a directory for etcd"),
            child: None,
        }
    }

    fn peer_entry(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer)
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    /// The port of that.
    pub(crate) fn port(&self) -> u16 {
        self.client
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Starts the process on the data it has.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "etcd runs already");
        let log = std::fs::File::create(self.log()).expect("a log for etcd");
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new(&self.binary);
        command
            .args(["--name", &self.name, "--log-level", "info", "--logger", "zap"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &self.cluster,
                "--initial-cluster-token",
                &self.token,
            ])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().expect("a second handle")))
            .stderr(Stdio::from(log));
        if !is_3_4(&self.binary) {
            // A killed process loses nothing that the system has.
            command.arg("--unsafe-no-fsync");
        }
        if let Some(tls) = &self.tls {
            command
                .arg("--cert-file")
                .arg(&tls.cert)
                .arg("--key-file")
                .arg(&tls.key);
            if let Some(ca) = &tls.client_ca {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            }
        }
        self.child = Some(command.spawn().expect("etcd starts"));
    }

    /// Waits until it takes requests.
    pub(crate) async fn ready(&mut self) {
        let start = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            if log.contains("serving client traffic") {
                return;
            }
            let child = self.child.as_mut().expect("etcd was started");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("etcd ended with {status}:\n{log}");
            }
            assert!(start.elapsed() < PATIENCE, "etcd is not ready:\n{log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has other certificates from the next start on.
    pub(crate) fn set_tls(&mut self, tls: ServerTls) {
        self.tls = Some(tls);
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it as if its machine hung: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("etcd was started");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "{signal}");
    }

    /// Kills it and starts it again on the same data and ports.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.run();
        self.ready().await;
    }

    /// Kills it, throws its data away and starts it under the same name.
    pub(crate) async fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).expect("the data goes");
        self.run();
        self.ready().await;
    }

    /// The same with a token that gives the new cluster another id.
    pub(crate) async fn wipe_as(&mut self, token: &str) {
        self.token = token.to_owned();
        self.wipe().await;
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

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
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
        let binary = etcd_binary()?;
        let mut members: Vec<Etcd> = ["one", "two", "three"]
            .map(|name| Etcd::prepare(&binary, name, None))
            .into();
        let cluster = members.iter().map(Etcd::peer_entry).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.cluster.clone_from(&cluster);
            member.run();
        }
        for member in &mut members {
            member.ready().await;
        }
        Some(Self { members })
    }

    /// A configuration with all servers, in order.
    pub(crate) fn config(&self) -> EtcdConfig {
        config(self.members.iter().map(Etcd::url))
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
