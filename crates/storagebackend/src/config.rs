//! What a storage is opened with, and what is wrong with it: everything at once, by field.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::MediaType;
use apiserver_storage_api::time::{Clock, OsRng, Rng, SystemClock};

use crate::caches::CachesConfig;
use crate::credentials::EtcdCredentials;

/// One configuration for all resources of a process. Names and rules are those of Kubernetes' `--etcd-*` and
/// `--storage-*` flags.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// `embedded`, `memory` or `etcd3`; absent: `etcd3` where servers are given, else `embedded`.
    pub backend: Option<String>,
    /// Where the embedded store keeps its data.
    pub data_dir: PathBuf,
    /// The etcd cluster.
    pub etcd: EtcdConfig,
    /// What all keys begin with.
    pub prefix: String,
    /// How new objects are stored: `application/json` or `application/cbor`.
    pub media_type: String,
    /// Serve reads and watches from memory, as `caches` says for each resource. Off: none is.
    pub watch_cache: bool,
    /// How much the caches keep, and which resources have none.
    pub caches: CachesConfig,
    /// An `EncryptionConfiguration` file.
    pub encryption_config: Option<PathBuf>,
    /// Per resource: how new objects are stored, where that differs.
    pub media_type_overrides: BTreeMap<String, String>,
    /// Pause between counts of the objects of each resource, `apiserver_resource_objects`, on whatever backend. Zero: never.
    pub count_metric_poll_period: Duration,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub rng: Arc<dyn Rng>,
}

/// An etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Addresses of the members: `http://127.0.0.1:2379`.
    pub servers: Vec<String>,
    /// The certificate authority, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// The client certificate, in PEM form.
    pub cert_file: Option<PathBuf>,
    /// Its key, in PEM form.
    pub key_file: Option<PathBuf>,
    /// User and password where the cluster has authentication switched on.
    pub credentials: Option<EtcdCredentials>,
    /// The same in a file, whose first line is `user:password`. Read once, when the storage is opened.
    pub credentials_file: Option<PathBuf>,
    /// Every so often history older than that is compacted, once per cluster: 5 min. Zero: never by this process.
    pub compaction_interval: Duration,
    /// Where a burst of writes leaves more revisions than so many, what exceeds them is compacted without waiting for the
    /// interval; absent: never.
    pub compaction_budget: Option<NonZeroU64>,
    /// How long a read may take by which health is told: 2 s. Zero: the default.
    pub healthcheck_timeout: Duration,
    /// Objects whose lifetimes differ by less than this (and less than 5 %) share a lease: 60 s.
    pub lease_reuse: Duration,
    /// Pause between measurements of the database, `apiserver_storage_size_bytes`: 30 s. Zero: never.
    pub db_metric_poll_interval: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            credentials: None,
            credentials_file: None,
            compaction_interval: Duration::from_secs(300),
            compaction_budget: None,
            healthcheck_timeout: HEALTHCHECK_TIMEOUT,
            lease_reuse: Duration::from_secs(60),
            db_metric_poll_interval: Duration::from_secs(30),
        }
    }
}

const CREDENTIALS: &str = "etcd-credentials-file";

const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest that Go's durations, and with them Kubernetes' flags, can say: 292 years.
const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

impl EtcdConfig {
    /// The files, by their flags.
    fn files(&self) -> [(&'static str, Option<&PathBuf>); 3] {
        [
            ("etcd-cafile", self.ca_file.as_ref()),
            ("etcd-certfile", self.cert_file.as_ref()),
            ("etcd-keyfile", self.key_file.as_ref()),
        ]
    }

    /// What has no effect but on a cluster, beside times: by flag.
    fn others(&self) -> [(&'static str, bool); 2] {
        [
            (
                CREDENTIALS,
                self.credentials.is_some() || self.credentials_file.is_some(),
            ),
            ("etcd-compaction-budget", self.compaction_budget.is_some()),
        ]
    }

    /// Who this is to the cluster.
    fn login(&self, faults: &mut Vec<Fault>) -> Option<EtcdCredentials> {
        match (&self.credentials, &self.credentials_file) {
            (Some(_), Some(_)) => {
                faults.push(Fault::new(CREDENTIALS, "user and password are given twice"));
                None
            }
            (given, None) => given.clone(),
            (None, Some(file)) => EtcdCredentials::read(file)
                .map_err(|error| faults.push(Fault::new(CREDENTIALS, error)))
                .ok(),
        }
    }

    /// The times, by their flags.
    fn times(&self) -> [(&'static str, Duration); 4] {
        [
            ("etcd-compaction-interval", self.compaction_interval),
            ("etcd-healthcheck-timeout", self.healthcheck_timeout),
            ("lease-reuse-duration-seconds", self.lease_reuse),
            ("etcd-db-metric-poll-interval", self.db_metric_poll_interval),
        ]
    }

    /// How long the read may take: what is configured, or the default.
    #[cfg(feature = "etcd3")]
    pub(crate) fn health_timeout(&self) -> Duration {
        if self.healthcheck_timeout.is_zero() {
            return HEALTHCHECK_TIMEOUT;
        }
        self.healthcheck_timeout
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            data_dir: "apiserver-data".into(),
            etcd: EtcdConfig::default(),
            prefix: "/registry".into(),
            media_type: "application/json".into(),
            watch_cache: true,
            caches: CachesConfig::default(),
            encryption_config: None,
            media_type_overrides: BTreeMap::new(),
            count_metric_poll_period: Duration::from_secs(60),
            clock: SystemClock::shared(),
            rng: Arc::new(OsRng),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $field:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, value: $type) -> Self {
            self.$field = value;
            self
        }
    )*};
}

impl Config {
    /// A store in memory, for tests.
    pub fn memory() -> Self {
        Self {
            backend: Some("memory".into()),
            ..Self::default()
        }
    }

    /// An embedded store in a directory.
    pub fn embedded(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            backend: Some("embedded".into()),
            data_dir: data_dir.into(),
            ..Self::default()
        }
    }

    /// A store on an etcd cluster.
    pub fn etcd3<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        let etcd = EtcdConfig {
            servers: servers.into_iter().map(Into::into).collect(),
            ..EtcdConfig::default()
        };
        Self {
            backend: Some("etcd3".into()),
            etcd,
            ..Self::default()
        }
    }

    setters! {
        /// Sets the backend by name.
        with_backend: backend: Option<String>,
        /// Sets where the embedded store keeps its data.
        with_data_dir: data_dir: PathBuf,
        /// Sets the etcd cluster.
        with_etcd: etcd: EtcdConfig,
        /// Sets what all keys begin with.
        with_prefix: prefix: String,
        /// Sets how new objects are stored.
        with_media_type: media_type: String,
        /// Sets whether reads and watches are served from memory.
        with_watch_cache: watch_cache: bool,
        /// Sets how much the caches keep, and which resources have none.
        with_caches: caches: CachesConfig,
        /// Sets the encryption configuration.
        with_encryption_config: encryption_config: Option<PathBuf>,
        /// Sets the pause between counts of objects.
        with_count_metric_poll_period: count_metric_poll_period: Duration,
        /// Sets where time comes from.
        with_clock: clock: Arc<dyn Clock>,
        /// Sets where jitter comes from.
        with_rng: rng: Arc<dyn Rng>,
    }

    /// Checks everything that can be checked without opening anything.
    pub(crate) fn check(&self) -> (Checked, Vec<Fault>) {
        let mut faults = Vec::new();
        let backend = self.check_backend(&mut faults);
        let media_type = media_type("storage-media-type", &self.media_type, &mut faults);
        for (resource, text) in &self.media_type_overrides {
            media_type_override(resource, text, &mut faults);
        }
        self.caches.check(&mut faults);
        let prefix = self.prefix.trim_end_matches('/');
        let prefix = if prefix.starts_with('/') {
            prefix.to_owned()
        } else {
            format!("/{prefix}")
        };
        if prefix.len() < 2 || prefix.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
            faults.push(Fault::new(
                "etcd-prefix",
                format!("{:?} is no prefix for keys", self.prefix),
            ));
        }
        bounded(
            [("etcd-count-metric-poll-period", self.count_metric_poll_period)],
            &mut faults,
        );
        let credentials = match backend {
            BackendKind::Etcd3 => self.etcd.login(&mut faults),
            BackendKind::Embedded | BackendKind::Memory => None,
        };
        (
            Checked {
                backend,
                credentials,
                media_type,
                prefix,
            },
            faults,
        )
    }

    fn check_backend(&self, faults: &mut Vec<Fault>) -> BackendKind {
        let servers = !self.etcd.servers.is_empty();
        let backend = match self.backend.as_deref() {
            None if servers => BackendKind::Etcd3,
            None | Some("embedded") => BackendKind::Embedded,
            Some("memory") => BackendKind::Memory,
            Some("etcd3") => BackendKind::Etcd3,
            Some("etcd2") => {
                let text = "etcd2 is no longer a supported storage backend";
                faults.push(Fault::new("storage-backend", text));
                return BackendKind::Memory;
            }
            Some(other) => {
                faults.push(Fault::new(
                    "storage-backend",
                    format!("unknown storage type: {other} (known: embedded, memory, etcd3)"),
                ));
                return BackendKind::Memory;
            }
        };
        match backend {
            BackendKind::Etcd3 => {
                self.check_etcd(faults);
                return backend;
            }
            _ if servers => {
                let text = "etcd servers are given, but the storage backend is another one";
                faults.push(Fault::new("etcd-servers", text));
            }
            BackendKind::Embedded if self.data_dir.as_os_str().is_empty() => {
                faults.push(Fault::new("data-dir", "required for the embedded store"));
            }
            _ => {}
        }
        // What has no effect is said, not swallowed.
        let mut unused: Vec<_> = self
            .etcd
            .files()
            .into_iter()
            .filter(|(_, file)| file.is_some())
            .map(|(field, _)| field)
            .collect();
        let others = self.etcd.others().into_iter();
        unused.extend(others.filter(|(_, given)| *given).map(|(field, _)| field));
        let times = self.etcd.times().into_iter().zip(EtcdConfig::default().times());
        unused.extend(
            times
                .filter(|(time, default)| time != default)
                .map(|((field, _), _)| field),
        );
        faults.extend(
            unused
                .into_iter()
                .map(|field| Fault::new(field, "only for the etcd3 backend")),
        );
        backend
    }

    fn check_etcd(&self, faults: &mut Vec<Fault>) {
        if !cfg!(feature = "etcd3") {
            let text = "this binary has no etcd backend: build it with `--features etcd3` (cargo xtask sets up protoc)";
            faults.push(Fault::new("etcd-servers", text));
            return;
        }
        let EtcdConfig {
            servers,
            ca_file,
            cert_file,
            key_file,
            ..
        } = &self.etcd;
        bounded(self.etcd.times(), faults);
        if servers.is_empty() {
            faults.push(Fault::new("etcd-servers", "required for the etcd3 backend"));
        }
        let mut tls = ca_file.is_some() || cert_file.is_some() || key_file.is_some();
        for server in servers {
            let address = server
                .strip_prefix("https://")
                .or_else(|| server.strip_prefix("http://"))
                .unwrap_or(server);
            tls |= server.starts_with("https://");
            if address.is_empty() || address.contains("://") || address.contains(char::is_whitespace) {
                faults.push(Fault::new("etcd-servers", format!("{server:?} is no address")));
            }
        }
        if tls && !cfg!(feature = "etcd3-tls") {
            let text = "this binary has no TLS for etcd: build it with `--features etcd3-tls`";
            faults.push(Fault::new("etcd-servers", text));
        }
        match (cert_file, key_file) {
            (Some(_), None) => faults.push(Fault::new("etcd-keyfile", "required with etcd-certfile")),
            (None, Some(_)) => faults.push(Fault::new("etcd-certfile", "required with etcd-keyfile")),
            _ => {}
        }
        for (field, file) in self.etcd.files() {
            if let Some(file) = file
                && let Err(error) = std::fs::File::open(file)
            {
                faults.push(Fault::new(field, format!("cannot read {}: {error}", file.display())));
            }
        }
    }
}

/// What a configuration comes down to.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) backend: BackendKind,
    /// Who this is to an etcd cluster.
    #[cfg_attr(not(feature = "etcd3"), allow(dead_code, reason = "there is no cluster then"))]
    pub(crate) credentials: Option<EtcdCredentials>,
    pub(crate) media_type: MediaType,
    pub(crate) prefix: String,
}

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Embedded,
    Memory,
    Etcd3,
}

fn bounded(times: impl IntoIterator<Item = (&'static str, Duration)>, faults: &mut Vec<Fault>) {
    for (field, time) in times {
        if time > LONGEST {
            faults.push(Fault::new(field, format!("{} s is too long", time.as_secs())));
        }
    }
}

fn media_type(field: &str, text: &str, faults: &mut Vec<Fault>) -> MediaType {
    match text {
        "application/json" => MediaType::Json,
        "application/cbor" => MediaType::Cbor,
        "application/vnd.kubernetes.protobuf" => {
            let text = "protobuf values are read, not written: use application/json or application/cbor";
            faults.push(Fault::new(field, text));
            MediaType::Json
        }
        other => {
            let text = format!("unknown media type {other:?}: use application/json or application/cbor");
            faults.push(Fault::new(field, text));
            MediaType::Json
        }
    }
}

/// The media type of one resource, by its entry in the overrides.
pub(crate) fn media_type_override(resource: &str, text: &str, faults: &mut Vec<Fault>) -> MediaType {
    media_type(&format!("storage-media-type[{resource}]"), text, faults)
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The field, under the name of its flag.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(config: Config, want: &[&str]) {
        let faults: Vec<_> = config.check().1.iter().map(Fault::to_string).collect();
        assert_eq!(faults, want);
    }

    // covers: storagebackend/B-TYP-02, storagebackend/B-TYP-03, storagebackend/B-TYP-04
    #[test]
    fn all_faults_are_told_at_once_by_field() {
        check(Config::default(), &[]);
        check(
            Config::default().with_backend(Some("etcd2".into())),
            &["storage-backend: etcd2 is no longer a supported storage backend"],
        );
        check(
            Config::default().with_backend(Some("x".into())),
            &["storage-backend: unknown storage type: x (known: embedded, memory, etcd3)"],
        );
        check(
            Config::memory()
                .with_media_type("text/plain".into())
                .with_prefix("/".into()),
            &[
                "storage-media-type: unknown media type \"text/plain\": use application/json or application/cbor",
                "etcd-prefix: \"/\" is no prefix for keys",
            ],
        );
    }

    // covers: storagebackend/B-TYP-01, storagebackend/B-TYP-05
    #[test]
    fn servers_imply_etcd() {
        let etcd = EtcdConfig {
            servers: vec!["http://127.0.0.1:2379".into()],
            ..EtcdConfig::default()
        };
        let (checked, faults) = Config::default().with_etcd(etcd).check();
        if cfg!(feature = "etcd3") {
            assert_eq!((checked.backend, faults), (BackendKind::Etcd3, vec![]));
        } else {
            let faults: Vec<_> = faults.iter().map(Fault::to_string).collect();
            assert!(
                faults.iter().any(|fault| fault.contains("--features etcd3")),
                "{faults:?}"
            );
        }
        assert_eq!(Config::default().check().0.backend, BackendKind::Embedded);
    }

    // covers: storagebackend/B-CFG-02
    #[test]
    fn prefixes_of_any_form_mean_the_same() {
        for prefix in ["registry", "/registry", "/registry/"] {
            assert_eq!(
                Config::memory().with_prefix(prefix.into()).check().0.prefix,
                "/registry"
            );
        }
    }

    // covers: storagebackend/B-TLS-03, storagebackend/B-TLS-04, storagebackend/B-CLI-05
    #[test]
    fn etcd_needs_servers_and_pairs_of_files_that_can_be_read() {
        if !cfg!(feature = "etcd3-tls") {
            return;
        }
        check(
            Config::etcd3::<String>([]),
            &["etcd-servers: required for the etcd3 backend"],
        );
        let etcd = EtcdConfig {
            servers: vec!["https://127.0.0.1:2379".into()],
            cert_file: Some("/nonexistent/client.crt".into()),
            ..EtcdConfig::default()
        };
        let faults: Vec<_> = Config::default()
            .with_etcd(etcd)
            .check()
            .1
            .iter()
            .map(|fault| fault.field.clone())
            .collect();
        assert_eq!(faults, ["etcd-keyfile", "etcd-certfile"]);
    }

    #[test]
    fn a_user_of_etcd_is_given_once_and_its_password_is_not_shown() {
        if !cfg!(feature = "etcd3") {
            return;
        }
        let credentials = EtcdCredentials {
            user: "api".into(),
            password: "topsecret".into(),
        };
        let mut config = Config::etcd3(["http://127.0.0.1:2379"]);
        config.etcd.credentials = Some(credentials.clone());
        let (checked, faults) = config.check();
        assert_eq!((checked.credentials.as_ref(), faults), (Some(&credentials), vec![]));
        let shown = format!("{config:?} {checked:?}");
        assert!(shown.contains("api") && !shown.contains("secret"), "{shown}");

        config.etcd.credentials_file = Some("/nonexistent/user".into());
        check(
            config.clone(),
            &["etcd-credentials-file: user and password are given twice"],
        );
        config.etcd.credentials = None;
        let faults: Vec<_> = config.check().1.iter().map(Fault::to_string).collect();
        let [fault] = &faults[..] else { panic!("{faults:?}") };
        assert!(
            fault.starts_with("etcd-credentials-file: cannot read /nonexistent/user: "),
            "{fault}"
        );
    }

    // covers: storagebackend/B-CFG-06, storagebackend/B-FLG-14, storagebackend/B-FLG-15, storagebackend/B-NEW-10
    // covers: storagebackend/B-OPT-07
    #[test]
    fn times_have_defaults_and_those_without_meaning_or_effect_are_faults() {
        let seconds = Duration::from_secs;
        let etcd = EtcdConfig::default();
        let times = etcd.times().map(|(_, time)| time);
        assert_eq!(times, [seconds(300), seconds(2), seconds(60), seconds(30)]);
        assert_eq!(Config::default().count_metric_poll_period, seconds(60));

        let etcd = EtcdConfig {
            ca_file: Some("/nonexistent/ca.crt".into()),
            credentials_file: Some("/nonexistent/user".into()),
            compaction_interval: Duration::ZERO,
            compaction_budget: NonZeroU64::new(1000),
            lease_reuse: seconds(59),
            ..etcd
        };
        check(
            Config::memory()
                .with_etcd(etcd)
                .with_count_metric_poll_period(seconds(10_000_000_000)),
            &[
                "etcd-cafile: only for the etcd3 backend",
                "etcd-credentials-file: only for the etcd3 backend",
                "etcd-compaction-budget: only for the etcd3 backend",
                "etcd-compaction-interval: only for the etcd3 backend",
                "lease-reuse-duration-seconds: only for the etcd3 backend",
                "etcd-count-metric-poll-period: 10000000000 s is too long",
            ],
        );
        if cfg!(feature = "etcd3") {
            let mut config = Config::etcd3(["http://127.0.0.1:2379"]);
            config.etcd.healthcheck_timeout = LONGEST;
            config.etcd.db_metric_poll_interval = Duration::ZERO;
            check(config.clone(), &[]);
            config.etcd.healthcheck_timeout += Duration::from_nanos(1);
            check(config, &["etcd-healthcheck-timeout: 9223372036 s is too long"]);
        }
    }
}
