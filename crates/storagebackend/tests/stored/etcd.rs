//! A real etcd in a directory of its own, killed on drop.
//!
//! The program is `$ETCD`, else `etcd` in `PATH`. Where there is none a test says that it is skipped and ends; with
//! `APISERVER_REQUIRE_TOOLS` set it fails.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::Kv as _;
use tempfile::TempDir;

use crate::ground::soon;

/// A running server.
pub(crate) struct Etcd {
    url: String,
    child: Child,
    _dir: TempDir,
}

fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("ETCD")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let found = named.filter(|path| path.is_file()).or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join("etcd"))
            .find(|file| file.is_file())
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

/// A port that nobody listens on, outside of those that outgoing connections take.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 997).unwrap_or_default() * 20;
    loop {
        let port = 10_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 22_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Etcd {
    /// Starts a cluster of one; `None` where tests are to be skipped.
    pub(crate) async fn start() -> Option<Self> {
        let (binary, dir) = (binary()?, tempfile::tempdir().unwrap());
        let [url, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let log = dir.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        let said = Command::new(&binary).arg("--version").output().unwrap();
        let is_3_4 = String::from_utf8_lossy(&said.stdout).contains("etcd Version: 3.4.");
        let mut command = Command::new(binary);
        if !is_3_4 {
            // A killed process loses nothing that the system has.
            command.arg("--unsafe-no-fsync");
        }
        let child = command
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args([
                "--name",
                "single",
                "--logger",
                "zap",
                "--initial-cluster",
                &format!("single={peer}"),
            ])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            // One server has nobody to lose an election to.
            .args(["--heartbeat-interval=10", "--election-timeout=100"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let etcd = Self { url, child, _dir: dir };
        let serves = async {
            while !std::fs::read_to_string(&log)
                .unwrap_or_default()
                .contains("serving client traffic")
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon("etcd serves", serves).await;
        Some(etcd)
    }

    /// Where it is found.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Sends a signal, as `kill` names it.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal}");
    }

    /// A connection that compacts nothing by itself.
    pub(crate) async fn connect(&self) -> EtcdKv {
        let mut config = EtcdConfig::new([self.url()]).with_compaction_interval(None);
        config.health_interval = Duration::from_millis(100);
        let kv = EtcdKv::connect(config).await.unwrap();
        let answers = async {
            while kv.health().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("etcd answers", answers).await;
        kv
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
