//! What a connection to a cluster needs to know, and why it cannot be made.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::BoxError;
use apiserver_storage_api::time::{Clock, OsRng, Rng, SystemClock};

/// How to reach an etcd cluster, and how to behave towards it.
///
/// Start with [`EtcdConfig::new`] and change what differs; the defaults are those of a Kubernetes API server.
#[derive(Clone)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// Client URLs of the members: `http://10.0.0.1:2379`. Without a scheme: `https` when a TLS file is given.
    pub servers: Vec<String>,
    /// PEM file with the certificates that signed the servers' ones.
    pub ca_file: Option<PathBuf>,
    /// PEM file with this client's certificate. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// User and password where the cluster has authentication switched on.
    pub credentials: Option<Credentials>,
    /// How long a connection may take to come up: 20 s.
    pub connect_timeout: Duration,
    /// Pause between keepalive pings: 30 s.
    pub keepalive_interval: Duration,
    /// A connection whose ping is not answered for so long is broken: 10 s.
    pub keepalive_timeout: Duration,
    /// A call without an answer for so long has failed: 60 s. Not less than the longest list takes.
    pub request_timeout: Duration,
    /// How long a call looks for a member that takes it before it fails: 5 s.
    pub retry_deadline: Duration,
    /// How long a broken watch tries to go on elsewhere before it fails: 60 s.
    pub resume_deadline: Duration,
    /// How long a member may take to accept a watch, making a connection included: 20 s.
    pub watch_open_timeout: Duration,
    /// A watch that was silent for so long is asked whether it lives: 10 s.
    pub watch_probe_interval: Duration,
    /// The key that is read to see whether the cluster answers; nobody writes it: `/registry/health`.
    pub probe_key: String,
    /// How long that read may take: 2 s.
    pub health_timeout: Duration,
    /// Pause between such reads: 2 s.
    pub health_interval: Duration,
    /// Every so often history older than that is compacted, once per cluster however many servers there are: 5 min.
    /// Absent: never by this process.
    pub compaction_interval: Option<Duration>,
    /// Where there is more history than so many revisions, what exceeds that is compacted without waiting for the
    /// interval: unlimited. A reader that is further behind than the budget is told that its place is gone.
    pub compaction_budget: Option<NonZeroU64>,
    /// Pause between measurements of the database, `apiserver_storage_size_bytes`: 30 s. Zero: never.
    pub size_interval: Duration,
    /// What this cluster is called in that metric: `etcd-0`.
    pub cluster_name: String,
    /// Keys whose lifetimes differ by less than this (and less than 5 %) share a lease: 60 s.
    pub lease_reuse: Duration,
    /// At most so many keys share a lease, because etcd deletes them all at once: 1,000.
    pub lease_max_keys: u32,
    /// The servers' `--max-request-bytes`: 1.5 MiB. Larger writes are refused without sending them.
    pub max_request_bytes: usize,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub rng: Arc<dyn Rng>,
}

impl EtcdConfig {
    /// The defaults, for these servers.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            credentials: None,
            connect_timeout: Duration::from_secs(20),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            retry_deadline: Duration::from_secs(5),
            resume_deadline: Duration::from_secs(60),
            watch_open_timeout: Duration::from_secs(20),
            watch_probe_interval: Duration::from_secs(10),
            probe_key: "/registry/health".to_owned(),
            health_timeout: Duration::from_secs(2),
            health_interval: Duration::from_secs(2),
            compaction_interval: Some(Duration::from_secs(300)),
            compaction_budget: None,
            size_interval: Duration::from_secs(30),
            cluster_name: "etcd-0".to_owned(),
            lease_reuse: Duration::from_secs(60),
            lease_max_keys: 1000,
            max_request_bytes: 1_572_864,
            clock: SystemClock::shared(),
            rng: Arc::new(OsRng),
        }
    }

    /// The servers' certificates are signed by what is in this file.
    #[must_use]
    pub fn with_ca_file(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(ca.into());
        self
    }

    /// This client shows a certificate of its own.
    #[must_use]
    pub fn with_client_cert(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.cert_file = Some(cert.into());
        self.key_file = Some(key.into());
        self
    }

    /// The cluster has authentication switched on.
    #[must_use]
    pub fn with_credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials {
            user: user.into(),
            password: password.into(),
        });
        self
    }

    /// History is compacted this often; never, if absent.
    #[must_use]
    pub fn with_compaction_interval(mut self, interval: Option<Duration>) -> Self {
        self.compaction_interval = interval;
        self
    }

    /// Not more revisions of history than this are kept; as many as the interval brings, if absent.
    #[must_use]
    pub fn with_compaction_budget(mut self, revisions: Option<NonZeroU64>) -> Self {
        self.compaction_budget = revisions;
        self
    }

    /// The cluster is called so in metrics.
    #[must_use]
    pub fn with_cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = name.into();
        self
    }

    /// Time comes from here.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Jitter comes from here.
    #[must_use]
    pub fn with_rng(mut self, rng: Arc<dyn Rng>) -> Self {
        self.rng = rng;
        self
    }

    /// Whether TLS is asked for: by any of the files.
    pub(crate) fn wants_tls(&self) -> bool {
        self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some()
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("servers", &self.servers)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("credentials", &self.credentials)
            .field("compaction_interval", &self.compaction_interval)
            .finish_non_exhaustive()
    }
}

/// A user of the cluster and its password, which no log shows.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot be used. That no server answers is not one of these: see `Kv::health`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdConfigError {
    /// There is no server.
    #[error("no etcd server given")]
    NoServers,
    /// A server's URL cannot be used.
    #[error("etcd server not usable: server={server}")]
    Server {
        /// The server, as it was given.
        server: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// A TLS file cannot be read or used.
    #[error("TLS file not usable: file={}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// A client certificate without its key, or a key without its certificate.
    #[error("a client certificate needs both a certificate and a key")]
    HalfIdentity,
    /// TLS to servers whose signer is not known.
    #[error("TLS needs a CA file: server={server}")]
    NoCa {
        /// The server.
        server: String,
    },
    /// A server is to be reached without TLS although a TLS file is given.
    #[error("TLS files given for a server without TLS: server={server}")]
    PlainServer {
        /// The server.
        server: String,
    },
    /// TLS was left out when this program was built.
    #[error("built without TLS: enable the feature `tls` of apiserver-storage-etcd3")]
    TlsNotBuilt,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::EtcdConfig;

    // deviates: storage-etcd3/CFG-05: one read in the background serves health and readiness, so there is one timeout;
    // kinds are counted when somebody asks, and a watch is never preceded by a list of its own.
    // covers: storage-etcd3/CFG-05
    #[test]
    fn defaults_are_those_of_a_kubernetes_api_server() {
        let config = EtcdConfig::new(["http://127.0.0.1:2379"]);
        let seconds = Duration::from_secs;
        assert_eq!(config.compaction_interval, Some(seconds(300)));
        assert_eq!(config.compaction_budget, None);
        assert_eq!((config.lease_reuse, config.lease_max_keys), (seconds(60), 1000));
        assert_eq!(config.health_timeout, seconds(2));
        assert_eq!(config.size_interval, seconds(30));
        assert_eq!(config.connect_timeout, seconds(20));
        assert_eq!(
            (config.keepalive_interval, config.keepalive_timeout),
            (seconds(30), seconds(10))
        );
        assert_eq!(config.max_request_bytes, 3 << 19);
        assert_eq!(config.probe_key, "/registry/health");
        assert_eq!(config.cluster_name, "etcd-0");
    }
}
