//! Real etcd servers: started on free ports in a directory of their own, killed on drop.
//!
//! The program is `$ETCD`, else `etcd` in `PATH`. Where there is none a test says that it is skipped and ends; with
//! `APISERVER_REQUIRE_TOOLS` set it fails. What connects to a server is not in here: this crate knows no backend.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A server that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where etcd is; `None` (after saying so) where tests are to be skipped.
pub fn binary() -> Option<PathBuf> {
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
pub fn version(binary: &Path) -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let said = Command::new(binary).arg("--version").output().expect("etcd runs");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        line.expect("etcd says its version").trim().to_owned()
    })
}

/// Whether it is the oldest kind, which lacks a flag and reports no trustworthy progress.
pub fn is_3_4(binary: &Path) -> bool {
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
pub struct ServerTls {
    /// The server's certificate.
    pub cert: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// Clients must show a certificate signed by this one.
    pub client_ca: Option<PathBuf>,
}

/// One server.
#[derive(Debug)]
pub struct Etcd {
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
    pub async fn start() -> Option<Self> {
        Self::start_with(None, &[]).await
    }

    /// The same with TLS to clients and more flags.
    pub async fn start_with(tls: Option<ServerTls>, extra: &[&str]) -> Option<Self> {
        let binary = binary()?;
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

    /// Starts a cluster of three; `None` where tests are to be skipped.
    pub async fn start_three() -> Option<[Self; 3]> {
        let binary = binary()?;
        let mut members = ["one", "two", "three"].map(|name| Self::prepare(&binary, name, None));
        let cluster = members.each_ref().map(Self::peer_entry).join(",");
        for member in &mut members {
            member.cluster.clone_from(&cluster);
            member.run();
        }
        for member in &mut members {
            member.ready().await;
        }
        Some(members)
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
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    /// The port of that.
    pub fn port(&self) -> u16 {
        self.client
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Starts the process on the data it has.
    pub fn run(&mut self) {
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
            .args(["--initial-cluster", &self.cluster])
            .args(["--initial-cluster-token", &self.token])
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
    pub async fn ready(&mut self) {
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
    pub fn set_tls(&mut self, tls: ServerTls) {
        self.tls = Some(tls);
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it as if its machine hung: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("etcd was started");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "{signal}");
    }

    /// Kills it and starts it again on the same data and ports.
    pub async fn restart(&mut self) {
        self.kill();
        self.run();
        self.ready().await;
    }

    /// Kills it, throws its data away and starts it under the same name.
    pub async fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).expect("the data goes");
        self.run();
        self.ready().await;
    }

    /// The same with a token that gives the new cluster another id.
    pub async fn wipe_as(&mut self, token: &str) {
        self.token = token.to_owned();
        self.wipe().await;
    }

    /// The lifetime in seconds with which a lease was granted, asked for past any client of ours.
    pub fn granted(&self, lease: i64) -> u64 {
        let answer = self.post("/v3/lease/timetolive", &json!({ "ID": lease.to_string() }));
        // Zeros are left out, and a lease that nobody knows has a lifetime of -1.
        let granted = answer["grantedTTL"].as_str().and_then(|text| text.parse().ok());
        granted.unwrap_or_else(|| panic!("no such lease: {answer}"))
    }

    /// Calls a method over the JSON gateway of a server without TLS.
    fn post(&self, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.client)).expect("etcd listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (body, mut request) = (body.to_string(), String::new());
        let host = format!("127.0.0.1:{}", self.client);
        let length = body.len();
        write!(
            request,
            "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("text takes text");
        stream.write_all(request.as_bytes()).expect("etcd reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("etcd answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.contains(" 200 "), "{path}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
