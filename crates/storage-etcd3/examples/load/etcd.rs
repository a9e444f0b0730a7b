//! An etcd of one member for a measurement: in memory where the system has a place for that, without fsync where it can.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

const START: Duration = Duration::from_secs(30);

/// A running etcd; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Etcd {
    child: Child,
    url: String,
    _data: TempDir,
}

impl Etcd {
    /// Starts `$ETCD`, or the `etcd` in `PATH`, on free ports and waits until it takes requests.
    pub(crate) async fn start() -> Result<Self> {
        let binary = std::env::var_os("ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from);
        let data = match Path::new("/dev/shm") {
            memory if memory.is_dir() => TempDir::new_in(memory)?,
            _ => TempDir::new()?,
        };
        let (client, peer) = (free_url()?, free_url()?);
        let log = data.path().join("log");
        let mut command = Command::new(&binary);
        command
            .args(["--name", "bench", "--log-level", "info", "--logger", "zap"])
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--initial-cluster")
            .arg(format!("bench={peer}"))
            .arg(format!("--quota-backend-bytes={}", 8_u64 << 30))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?);
        if version(&binary)? >= (3, 5) {
            command.arg("--unsafe-no-fsync");
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut etcd = Self {
            child,
            url: client,
            _data: data,
        };
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("serving client traffic") || said.contains("serving insecure client requests") {
                return Ok(etcd);
            }
            if let Some(status) = etcd.child.try_wait()? {
                bail!("etcd ended with {status}:\n{said}");
            }
            ensure!(start.elapsed() < START, "etcd does not get ready:\n{said}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `etcd Version: 3.5.30` as its first two numbers.
fn version(binary: &Path) -> Result<(u32, u32)> {
    let said = Command::new(binary)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {} (set ETCD to the path of etcd)", binary.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let numbers = said.split("etcd Version: ").nth(1).and_then(|rest| {
        let mut parts = rest.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    numbers.with_context(|| format!("not the version of an etcd: {said:?}"))
}

fn free_url() -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    Ok(format!("http://{}", listener.local_addr()?))
}
