//! What a server is started with, and what is wrong with it: everything at once, by flag.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::{Clock, SystemClock};

use crate::storage::backend::Config as StorageConfig;

/// What a server is started with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where objects are kept.
    pub storage: StorageConfig,
    /// Where to listen.
    pub listen: Listen,
    /// The files of the secure port.
    pub tls: Option<TlsFiles>,
    /// Bearer tokens that are known. Without a file nobody is asked who they are.
    pub token_auth_file: Option<PathBuf>,
    /// A file or a directory of CustomResourceDefinition manifests.
    pub custom_resource_definitions: Option<PathBuf>,
    /// Bytes for other forms of objects (compressed, in another version), which are made once and shared by all clients.
    /// Default 128 MiB.
    pub form_bytes: usize,
    /// How the server stops.
    pub shutdown: ShutdownConfig,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: IpAddr,
    /// The port for plain HTTP, on loopback only. Port 0 takes a free one.
    pub insecure_port: Option<u16>,
    /// The port for HTTPS. Port 0 takes a free one.
    pub secure_port: Option<u16>,
}

/// How a server stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// So long everything works as before, but for `/readyz`, so that load balancers notice. Default 0.
    pub delay: Duration,
    /// How long requests that are under way may take to finish. Default 60 s.
    pub requests: Duration,
    /// So long the ends of watches are spread, so that their clients do not come back all at once; at least 200 end in a
    /// second. Default 0: all end at once.
    pub watches: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            requests: Duration::from_secs(60),
            watches: Duration::ZERO,
        }
    }
}

/// The files of the secure port.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate in PEM form, with intermediates.
    pub certificate: Option<PathBuf>,
    /// Its key in PEM form.
    pub key: Option<PathBuf>,
}

impl ServerConfig {
    /// A server over this storage that listens on a free port of the loopback interface.
    pub fn new(storage: StorageConfig) -> Self {
        Self {
            storage,
            listen: Listen {
                address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                insecure_port: Some(0),
                secure_port: None,
            },
            tls: None,
            token_auth_file: None,
            custom_resource_definitions: None,
            form_bytes: 128 << 20,
            shutdown: ShutdownConfig::default(),
            clock: SystemClock::shared(),
        }
    }

    /// Everything that is wrong with the listening side.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |flag: &str, message: &str| {
            faults.push(Fault {
                field: flag.to_owned(),
                message: message.to_owned(),
            });
        };
        let Listen {
            address,
            insecure_port,
            secure_port,
        } = &self.listen;
        if insecure_port.is_none() && secure_port.is_none() {
            fault(
                "--insecure-port",
                "nothing to listen on: both --insecure-port and --secure-port are 0",
            );
        }
        if !address.is_loopback() {
            if insecure_port.is_some() {
                fault(
                    "--bind-address",
                    "plain HTTP is for loopback addresses only: set --insecure-port=0 and use --secure-port with \
                     --tls-cert-file, --tls-private-key-file and --token-auth-file",
                );
            }
            if secure_port.is_some() && self.token_auth_file.is_none() {
                fault(
                    "--token-auth-file",
                    "listening on an address other than loopback needs authentication: give --token-auth-file",
                );
            }
        }
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        let key = self.tls.as_ref().and_then(|tls| tls.key.as_ref());
        if secure_port.is_some() {
            if certificate.is_none() {
                fault("--tls-cert-file", "required with --secure-port");
            }
            if key.is_none() {
                fault("--tls-private-key-file", "required with --secure-port");
            }
        } else if self.tls.is_some() {
            fault(
                "--secure-port",
                "required with --tls-cert-file and --tls-private-key-file",
            );
        }
        faults
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The flag or field.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong; all faults are listed.
    #[error("invalid configuration: {}", list(.0))]
    Config(Vec<Fault>),
    /// The storage cannot be opened.
    #[error("cannot open the storage")]
    Storage(#[source] apiserver_storage_api::BoxError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The objects that a server needs cannot be written.
    #[error("cannot prepare the server: {message}")]
    Bootstrap {
        /// What failed.
        message: String,
    },
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_doors_are_refused_and_all_faults_are_told() {
        let check = |change: fn(&mut ServerConfig), want: &[&str]| {
            let mut config = ServerConfig::new(StorageConfig::default());
            change(&mut config);
            let fields: Vec<_> = config.faults().into_iter().map(|fault| fault.field).collect();
            assert_eq!(fields, want);
        };
        check(|_| {}, &[]);
        check(|config| config.listen.insecure_port = None, &["--insecure-port"]);
        check(
            |config| config.listen.address = Ipv4Addr::UNSPECIFIED.into(),
            &["--bind-address"],
        );
        check(
            |config| {
                config.listen.address = Ipv4Addr::UNSPECIFIED.into();
                config.listen.secure_port = Some(6443);
            },
            &[
                "--bind-address",
                "--token-auth-file",
                "--tls-cert-file",
                "--tls-private-key-file",
            ],
        );
        check(
            |config| {
                config.tls = Some(TlsFiles {
                    certificate: None,
                    key: None,
                })
            },
            &["--secure-port"],
        );
    }
}
