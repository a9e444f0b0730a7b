//! The command line, under Kubernetes' own flag names, and its translation into a [`ServerConfig`].

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Listen, ServerConfig, ShutdownConfig, StartError, TlsFiles};
use crate::http::query::go_duration;
use crate::server::Server;
use crate::storage::api::Index;
use crate::storage::backend::{
    CachesConfig, Config as StorageConfig, EtcdConfig, watch_cache_indexes, watch_cache_size,
};

/// A Kubernetes-style API server. Without arguments it serves http://127.0.0.1:8080 on the embedded store in
/// ./apiserver-data.
#[derive(Debug, Parser)]
#[command(name = "apiserver", version)]
pub(crate) struct Cli {
    /// Where the embedded store keeps its data.
    #[arg(long, value_name = "DIR", default_value = "apiserver-data")]
    data_dir: PathBuf,
    /// embedded, memory or etcd3. etcd3 is implied by --etcd-servers.
    #[arg(long, value_name = "BACKEND")]
    storage_backend: Option<String>,
    /// Addresses of the etcd servers, joined by commas.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// What all keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    etcd_prefix: String,
    /// Certificate authority for etcd.
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, value_name = "FILE")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd.
    #[arg(long, value_name = "FILE")]
    etcd_keyfile: Option<PathBuf>,
    /// User and password for an etcd that has users: the first line is user:password.
    #[arg(long, value_name = "FILE")]
    etcd_credentials_file: Option<PathBuf>,
    /// Pause between compactions of etcd's history, and its age then; 0 switches them off.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, allow_hyphen_values = true)]
    etcd_compaction_interval: Duration,
    /// Revisions of etcd's history that are kept where there are more before the interval is over; 0 keeps all until then.
    #[arg(long, value_name = "REVISIONS", default_value_t = 0)]
    etcd_compaction_budget: u64,
    /// How long etcd may take to answer a health check; 0 means the default.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration, allow_hyphen_values = true)]
    etcd_healthcheck_timeout: Duration,
    /// Pause between measurements of etcd's database; 0 switches them off.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, allow_hyphen_values = true)]
    etcd_db_metric_poll_interval: Duration,
    /// Pause between counts of the objects of each resource, on any backend; 0 switches them off.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, allow_hyphen_values = true)]
    etcd_count_metric_poll_period: Duration,
    /// Objects whose lifetimes differ by less share a lease in etcd.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, allow_hyphen_values = true)]
    lease_reuse_duration_seconds: Duration,
    /// How new objects are stored: application/json or application/cbor.
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    storage_media_type: String,
    /// Serve reads and watches from memory.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    watch_cache: bool,
    /// Changes that the memory keeps of each resource, whatever their age; 0 serves only those of --watch-cache-sizes
    /// from memory.
    #[arg(long, value_name = "CHANGES", default_value_t = 100)]
    default_watch_cache_size: usize,
    /// The same for single resources, joined by commas: pods#1000,deployments.apps#0. 0 serves a resource from the
    /// backend.
    #[arg(long, value_name = "RESOURCE#CHANGES", value_delimiter = ',', value_parser = watch_cache_size)]
    watch_cache_sizes: Vec<(String, usize)>,
    /// Memory for the history of single resources, and its age, joined by commas: pods#256Mi/5m,secrets#16Mi.
    #[arg(long, value_name = "RESOURCE#BYTES[/AGE]", value_delimiter = ',', value_parser = history)]
    watch_cache_history: Vec<History>,
    /// Memory for the history of all resources together.
    #[arg(long, value_name = "BYTES", default_value = "512Mi", value_parser = bytes)]
    watch_cache_total_history: usize,
    /// Memory for other forms of objects, made once for all clients: compressed, in another version, as a row of a table; 0
    /// makes them anew for each.
    #[arg(long, value_name = "BYTES", default_value = "128Mi", value_parser = bytes)]
    derived_form_bytes: usize,
    /// Memory for the objects of single resources: with more they are served from the backend. Joined by commas.
    #[arg(long, value_name = "RESOURCE#BYTES", value_delimiter = ',', value_parser = live_bytes)]
    watch_cache_live_bytes: Vec<(String, usize)>,
    /// Fields and labels by which objects are found fast, joined by commas: pods#spec.nodeName;l:app.
    #[arg(long, value_name = "RESOURCE#INDEX[;INDEX]", value_delimiter = ',', value_parser = watch_cache_indexes)]
    watch_cache_indexes: Vec<(String, Vec<Index>)>,
    /// An EncryptionConfiguration file.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// The address to listen on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind_address: IpAddr,
    /// The port for plain HTTP, on loopback only; 0 switches it off.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    insecure_port: u16,
    /// The port for HTTPS; 0 switches it off.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    secure_port: u16,
    /// Certificate of the server, with intermediates.
    #[arg(long, value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,
    /// Key of the server's certificate.
    #[arg(long, value_name = "FILE")]
    tls_private_key_file: Option<PathBuf>,
    /// Bearer tokens: lines of token,user,uid[,"group1,group2"].
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// CustomResourceDefinition manifests, in a file or a directory.
    #[arg(long, value_name = "FILE|DIR")]
    custom_resource_definitions: Option<PathBuf>,
    /// So long the server goes on as before when it is to stop, but for /readyz.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, allow_hyphen_values = true)]
    shutdown_delay_duration: Duration,
    /// So long the ends of watches are spread when the server stops.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, allow_hyphen_values = true)]
    shutdown_watch_termination_grace_period: Duration,
    /// Log more: 0 warnings, 1 the default, up to 4.
    #[arg(short, long = "v", value_name = "LEVEL", default_value_t = 1)]
    verbosity: u8,
}

impl Cli {
    /// How much to log.
    pub(crate) fn log_filter(&self) -> &'static str {
        match self.verbosity {
            0 => "warn",
            1 => "info,apiserver=info",
            2 => "info,apiserver=debug,apiserver_storagebackend=debug",
            3 => "debug,h2=info,hyper=info,hyper_util=info,tower=info",
            _ => "trace,h2=info,hyper=info,hyper_util=info,tower=info",
        }
    }

    /// The configuration that these flags ask for. Checked when the server starts.
    pub(crate) fn into_config(self) -> ServerConfig {
        let caches = self.caches();
        let storage = StorageConfig::default()
            .with_backend(self.storage_backend)
            .with_data_dir(self.data_dir)
            .with_etcd(EtcdConfig {
                servers: self.etcd_servers,
                ca_file: self.etcd_cafile,
                cert_file: self.etcd_certfile,
                key_file: self.etcd_keyfile,
                credentials: None,
                credentials_file: self.etcd_credentials_file,
                compaction_interval: self.etcd_compaction_interval,
                compaction_budget: NonZeroU64::new(self.etcd_compaction_budget),
                healthcheck_timeout: self.etcd_healthcheck_timeout,
                lease_reuse: self.lease_reuse_duration_seconds,
                db_metric_poll_interval: self.etcd_db_metric_poll_interval,
            })
            .with_count_metric_poll_period(self.etcd_count_metric_poll_period)
            .with_prefix(self.etcd_prefix)
            .with_media_type(self.storage_media_type)
            .with_watch_cache(self.watch_cache)
            .with_caches(caches)
            .with_encryption_config(self.encryption_provider_config);
        let mut config = ServerConfig::new(storage);
        config.listen = Listen {
            address: self.bind_address,
            insecure_port: (self.insecure_port != 0).then_some(self.insecure_port),
            secure_port: (self.secure_port != 0).then_some(self.secure_port),
        };
        config.tls = match (self.tls_cert_file, self.tls_private_key_file) {
            (None, None) => None,
            (certificate, key) => Some(TlsFiles { certificate, key }),
        };
        config.token_auth_file = self.token_auth_file;
        config.custom_resource_definitions = self.custom_resource_definitions;
        config.form_bytes = self.derived_form_bytes;
        config.shutdown = ShutdownConfig {
            delay: self.shutdown_delay_duration,
            watches: self.shutdown_watch_termination_grace_period,
            ..ShutdownConfig::default()
        };
        config
    }

    /// What is said of a resource twice holds as it was said last.
    fn caches(&self) -> CachesConfig {
        let mut caches = CachesConfig::default();
        caches.default_size = self.default_watch_cache_size;
        caches.total_history_bytes = self.watch_cache_total_history;
        for (resource, size) in &self.watch_cache_sizes {
            caches.rule(resource).size = Some(*size);
        }
        for (resource, bytes, time) in &self.watch_cache_history {
            let rule = caches.rule(resource);
            (rule.history_bytes, rule.history_time) = (Some(*bytes), *time);
        }
        for (resource, bytes) in &self.watch_cache_live_bytes {
            caches.rule(resource).live_bytes = Some(*bytes);
        }
        for (resource, indexes) in &self.watch_cache_indexes {
            caches.rule(resource).indexes.clone_from(indexes);
        }
        caches
    }
}

/// A duration as Go writes it. What is too long is found with the configuration.
fn duration(text: &str) -> Result<Duration, &'static str> {
    not_negative(text)?;
    go_duration(text).ok_or("no duration; write it like 30s, 5m or 1h30m")
}

/// Whole seconds.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    not_negative(text)?;
    let seconds = text.parse().map_err(|_| "no number of seconds")?;
    Ok(Duration::from_secs(seconds))
}

/// A number of bytes: `64Mi`, `1G`, `1000`.
fn bytes(text: &str) -> Result<usize, &'static str> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: usize = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("no number of bytes; write it like 64Mi, 1G or 1000"),
    };
    let number = number.parse::<usize>().ok();
    number
        .and_then(|number| number.checked_mul(scale))
        .ok_or("no number of bytes; write it like 64Mi, 1G or 1000")
}

/// Bytes and age of the history of a resource.
type History = (String, usize, Option<Duration>);

fn history(entry: &str) -> Result<History, &'static str> {
    let (resource, value) = entry.split_once('#').ok_or("write it like pods#256Mi/5m")?;
    let (size, age) = match value.split_once('/') {
        Some((size, age)) => (size, Some(duration(age)?)),
        None => (value, None),
    };
    Ok((resource.to_owned(), bytes(size)?, age))
}

fn live_bytes(entry: &str) -> Result<(String, usize), &'static str> {
    let (resource, value) = entry.split_once('#').ok_or("write it like pods#256Mi")?;
    Ok((resource.to_owned(), bytes(value)?))
}

fn not_negative(text: &str) -> Result<(), &'static str> {
    if text.starts_with('-') {
        return Err("must not be negative");
    }
    Ok(())
}

/// Runs the program: reads the command line, serves until SIGTERM or SIGINT, drains, and exits 0. A second signal ends it
/// at once.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(cli.log_filter()));
    // Somebody may have set a subscriber in a process that embeds this; theirs stays then.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(cli.into_config()));
    // Nothing is waited for that did not end in its time.
    runtime.shutdown_background();
    code
}

async fn serve(config: ServerConfig) -> ExitCode {
    // Before anything else, so that a signal during the start is not lost.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: cannot wait for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = tokio::select! {
        started = Server::start(config) => started,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before it was ready");
            return ExitCode::SUCCESS;
        }
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => {
            report(&error);
            return ExitCode::FAILURE;
        }
    };
    println!("apiserver is ready: {}", server.url());
    let signal = signals.next().await;
    tracing::info!(signal, "shutting down");
    tokio::select! {
        () = server.shutdown() => ExitCode::SUCCESS,
        signal = signals.next() => {
            tracing::warn!(signal, "ended at once, what was under way is cut");
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong, one line each.
fn report(error: &StartError) {
    if let StartError::Config(faults) = error {
        for fault in faults {
            eprintln!("error: {fault}");
        }
        return;
    }
    eprintln!("error: {}", apiserver_storage_api::chain(error));
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(flags: &[&str]) -> Result<ServerConfig, clap::Error> {
        let arguments = ["apiserver"].iter().chain(flags);
        Cli::try_parse_from(arguments).map(Cli::into_config)
    }

    // covers: storagebackend/B-FLG-14, storagebackend/B-FLG-15, storagebackend/B-FLG-16, storagebackend/B-FLG-17
    // covers: storagebackend/B-FLG-19
    #[test]
    fn times_of_the_storage_have_upstreams_flags_and_defaults() {
        let storage = parse(&[]).unwrap().storage;
        assert_eq!(storage.etcd, EtcdConfig::default());
        assert_eq!(storage.count_metric_poll_period, Duration::from_secs(60));

        let storage = parse(&[
            "--etcd-compaction-interval=0",
            "--etcd-healthcheck-timeout=1500ms",
            "--etcd-db-metric-poll-interval",
            "1h30m",
            "--etcd-count-metric-poll-period=0s",
            "--lease-reuse-duration-seconds=7",
            "--etcd-compaction-budget=1000000",
            "--etcd-credentials-file=/etc/etcd-user",
        ])
        .unwrap()
        .storage;
        assert_eq!(storage.etcd.compaction_budget, NonZeroU64::new(1_000_000));
        assert_eq!(
            storage.etcd.credentials_file.as_deref(),
            Some("/etc/etcd-user".as_ref())
        );
        assert_eq!(storage.etcd.compaction_interval, Duration::ZERO);
        assert_eq!(storage.etcd.healthcheck_timeout, Duration::from_millis(1500));
        assert_eq!(storage.etcd.db_metric_poll_interval, Duration::from_secs(5400));
        assert_eq!(storage.etcd.lease_reuse, Duration::from_secs(7));
        assert_eq!(storage.count_metric_poll_period, Duration::ZERO);
    }

    #[test]
    fn times_that_are_none_are_refused_by_flag() {
        for (flag, values) in [
            ("--etcd-compaction-interval", ["-5m", "5", "often", ""]),
            ("--etcd-healthcheck-timeout", ["-1ns", "2 s", "2d", "1e300h"]),
            ("--etcd-db-metric-poll-interval", ["-0.5s", "s", "NaN", "infs"]),
            ("--etcd-count-metric-poll-period", ["-1m", "1m-1s", ".", "+"]),
            (
                "--lease-reuse-duration-seconds",
                ["-1", "60s", "1.5", "99999999999999999999"],
            ),
        ] {
            for value in values {
                for arguments in [vec![format!("{flag}={value}")], vec![flag.into(), value.into()]] {
                    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                    let error = parse(&arguments).expect_err(value);
                    let text = error.to_string();
                    assert!(text.contains(flag), "{value:?}: {text}");
                    let kinds = [ErrorKind::ValueValidation, ErrorKind::InvalidValue];
                    assert!(kinds.contains(&error.kind()), "{value:?}: {text}");
                    assert_eq!(value.starts_with('-'), text.contains("must not be negative"), "{text}");
                }
            }
        }
    }

    #[test]
    fn other_forms_of_objects_may_be_given_more_memory_or_none() {
        assert_eq!(parse(&[]).unwrap().form_bytes, 128 << 20);
        assert_eq!(parse(&["--derived-form-bytes=0"]).unwrap().form_bytes, 0);
        assert_eq!(parse(&["--derived-form-bytes", "1Gi"]).unwrap().form_bytes, 1 << 30);
    }

    // covers: storagebackend/B-FLG-09, storagebackend/B-FLG-10, storagebackend/B-WCS-04
    #[test]
    fn caches_are_told_of_by_resource_and_what_is_said_last_holds() {
        let storage = parse(&[]).unwrap().storage;
        assert!(storage.watch_cache);
        assert_eq!(storage.caches, CachesConfig::default());

        let storage = parse(&[
            "--watch-cache=false",
            "--default-watch-cache-size=7",
            "--watch-cache-sizes=pods#0,deployments.apps#5,pods#9",
            "--watch-cache-sizes=secrets#0",
            "--watch-cache-history=pods#64Ki/5m,configmaps#1G",
            "--watch-cache-total-history=1Gi",
            "--watch-cache-live-bytes=events#12",
            "--watch-cache-indexes=pods#spec.nodeName;l:app",
        ])
        .unwrap()
        .storage;
        assert!(!storage.watch_cache);
        let mut want = CachesConfig::default();
        want.default_size = 7;
        want.total_history_bytes = 1 << 30;
        want.rule("deployments.apps").size = Some(5);
        want.rule("secrets").size = Some(0);
        let pods = want.rule("pods");
        (pods.size, pods.history_bytes) = (Some(9), Some(64 << 10));
        pods.history_time = Some(Duration::from_secs(300));
        pods.indexes = vec![Index::Field("spec.nodeName".into()), Index::Label("app".into())];
        want.rule("configmaps").history_bytes = Some(1_000_000_000);
        want.rule("events").live_bytes = Some(12);
        assert_eq!(storage.caches, want);
    }

    // covers: storagebackend/B-WCS-01, storagebackend/B-WCS-02
    #[test]
    fn what_is_said_of_caches_and_makes_no_sense_is_refused_by_flag() {
        for (flag, value, text) in [
            ("--watch-cache-sizes", "pods", "invalid value of watch cache size: pods"),
            (
                "--watch-cache-sizes",
                "a#1,pods#x",
                "invalid size of watch cache size: pods#x",
            ),
            (
                "--watch-cache-sizes",
                "pods#-1",
                "watch cache size cannot be negative: pods#-1",
            ),
            ("--default-watch-cache-size", "-1", "-1"),
            ("--watch-cache-history", "pods", "write it like"),
            ("--watch-cache-history", "pods#1Ti", "no number of bytes"),
            ("--watch-cache-history", "pods#1Mi/5", "no duration"),
            ("--watch-cache-history", "pods#1Mi/-5m", "must not be negative"),
            (
                "--watch-cache-total-history",
                "99999999999999999999",
                "no number of bytes",
            ),
            (
                "--watch-cache-total-history",
                "18446744073709551615Gi",
                "no number of bytes",
            ),
            ("--watch-cache-live-bytes", "pods", "write it like"),
            ("--watch-cache-indexes", "pods#", "an index is"),
        ] {
            let error = parse(&[&format!("{flag}={value}")]).expect_err(value).to_string();
            assert!(error.contains(flag) && error.contains(text), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn a_server_that_is_to_stop_has_upstreams_flags() {
        assert_eq!(parse(&[]).unwrap().shutdown, ShutdownConfig::default());
        let flags = [
            "--shutdown-delay-duration=5s",
            "--shutdown-watch-termination-grace-period=1m",
        ];
        let shutdown = parse(&flags).unwrap().shutdown;
        assert_eq!(
            (shutdown.delay, shutdown.watches),
            (Duration::from_secs(5), Duration::from_secs(60))
        );
        assert!(parse(&["--shutdown-delay-duration=-5s"]).is_err());
    }
}
