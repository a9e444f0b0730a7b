//! From URLs and files to endpoints: which server is reached with TLS, who is believed, and who this client says it is.
//!
//! The files are read again for each connection, so that certificates can be replaced under a running process. Files
//! that are broken, or do not belong together because only some of them are replaced yet, change nothing: what was read
//! before is used on, and a log line says so.

#[cfg(feature = "tls")]
use std::sync::Arc;

use http::uri::Uri;
use tokio::net::TcpStream;

use apiserver_storage_api::BoxError;

use crate::config::{EtcdConfig, EtcdConfigError};
use crate::connect::{Stream, buffered};

#[cfg(feature = "tls")]
use files::Files;

/// What all servers have in common.
#[derive(Clone)]
pub(crate) struct Tls {
    wanted: bool,
    #[cfg(feature = "tls")]
    files: Option<Arc<Files>>,
}

/// How connections to one server are secured.
#[derive(Clone)]
pub(crate) enum Security {
    /// Not at all.
    Plain,
    /// By TLS, for this name.
    #[cfg(feature = "tls")]
    Tls(Arc<Files>, tokio_rustls::rustls::pki_types::ServerName<'static>),
}

/// How a server is reached.
pub(crate) struct Reach {
    /// Where connections go. Says nothing of TLS, which is this crate's and nobody else's.
    pub(crate) dial: Uri,
    /// What the server is called in requests.
    pub(crate) origin: Uri,
    pub(crate) security: Security,
}

impl Tls {
    /// Reads the files. Blocks for as long as that takes.
    pub(crate) fn read(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        let wanted = config.wants_tls();
        if config.cert_file.is_some() != config.key_file.is_some() {
            return Err(EtcdConfigError::HalfIdentity);
        }
        Ok(Self {
            wanted,
            #[cfg(feature = "tls")]
            files: Files::read(config)?.map(Arc::new),
        })
    }

    /// How to reach a server.
    pub(crate) fn reach(&self, server: &str) -> Result<Reach, EtcdConfigError> {
        let unusable = |source: BoxError| EtcdConfigError::Server {
            server: server.to_owned(),
            source,
        };
        let scheme = if self.wanted { "https" } else { "http" };
        let url = if server.contains("://") {
            server.to_owned()
        } else {
            format!("{scheme}://{server}")
        };
        let uri: Uri = url.parse().map_err(|error| unusable(Box::new(error)))?;
        match (uri.scheme_str(), self.wanted) {
            (Some("http"), false) => Ok(Reach {
                dial: uri.clone(),
                origin: uri,
                security: Security::Plain,
            }),
            (Some("http"), true) => Err(EtcdConfigError::PlainServer {
                server: server.to_owned(),
            }),
            (Some("https"), _) => self.secured(uri, server),
            (scheme, _) => {
                let text = format!("scheme {} is neither http nor https", scheme.unwrap_or("(none)"));
                Err(unusable(text.into()))
            }
        }
    }

    #[cfg(feature = "tls")]
    fn secured(&self, uri: Uri, server: &str) -> Result<Reach, EtcdConfigError> {
        use tokio_rustls::rustls::pki_types::ServerName;

        let unusable = |source: BoxError| EtcdConfigError::Server {
            server: server.to_owned(),
            source,
        };
        let Some(files) = &self.files else {
            return Err(EtcdConfigError::NoCa {
                server: server.to_owned(),
            });
        };
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').unwrap_or(host);
        let host = host.strip_suffix(']').unwrap_or(host).to_owned();
        let name = ServerName::try_from(host).map_err(|error| unusable(error.into()))?;
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        if uri.port().is_none() {
            let authority = format!("{}:443", uri.host().unwrap_or_default());
            parts.authority = Some(authority.parse().map_err(|error| unusable(Box::new(error)))?);
        }
        Ok(Reach {
            dial: Uri::from_parts(parts).map_err(|error| unusable(error.into()))?,
            origin: uri,
            security: Security::Tls(Arc::clone(files), name),
        })
    }

    #[cfg(not(feature = "tls"))]
    fn secured(&self, _uri: Uri, _server: &str) -> Result<Reach, EtcdConfigError> {
        Err(EtcdConfigError::TlsNotBuilt)
    }
}

impl Security {
    /// Secures a stream, if it is to be.
    pub(crate) async fn wrap(&self, stream: TcpStream) -> Result<Stream, BoxError> {
        let stream = buffered(stream);
        match self {
            Self::Plain => Ok(Stream::Plain(stream)),
            #[cfg(feature = "tls")]
            Self::Tls(files, name) => {
                let files = Arc::clone(files);
                let config = tokio::task::spawn_blocking(move || files.refreshed()).await?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let stream = connector.connect(name.clone(), stream).await?;
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err("the server does not speak HTTP/2 over TLS".into());
                }
                Ok(Stream::Secured(Box::new(stream)))
            }
        }
    }
}

#[cfg(feature = "tls")]
mod files {
    //! The files of a client: who signed the servers, and its own certificate and key.

    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

    use apiserver_storage_api::BoxError;

    use crate::config::{EtcdConfig, EtcdConfigError};

    /// Where the files are, and what they said when they were last in order.
    pub(crate) struct Files {
        ca: PathBuf,
        identity: Option<(PathBuf, PathBuf)>,
        last: Mutex<Last>,
    }

    struct Last {
        content: Content,
        config: Arc<ClientConfig>,
        /// What was complained about, so that it is not with each connection.
        complaint: Option<String>,
    }

    #[derive(PartialEq, Eq)]
    struct Content {
        ca: Vec<u8>,
        identity: Option<(Vec<u8>, Vec<u8>)>,
    }

    impl Files {
        /// Reads the files, if there is a CA: no server is believed without one.
        pub(super) fn read(config: &EtcdConfig) -> Result<Option<Self>, EtcdConfigError> {
            let Some(ca) = config.ca_file.clone() else {
                return Ok(None);
            };
            let identity = config.cert_file.clone().zip(config.key_file.clone());
            let content = Content::read(&ca, identity.as_ref())?;
            let built = content.build(&ca, identity.as_ref())?;
            let last = Mutex::new(Last {
                content,
                config: built,
                complaint: None,
            });
            Ok(Some(Self { ca, identity, last }))
        }

        /// What the files say now; what they last said as long as they are not in order. Blocks.
        pub(super) fn refreshed(&self) -> Arc<ClientConfig> {
            let content = Content::read(&self.ca, self.identity.as_ref());
            let mut last = self.last.lock();
            let fresh = content.and_then(|content| {
                if content == last.content {
                    return Ok(None);
                }
                let config = content.build(&self.ca, self.identity.as_ref())?;
                Ok(Some((content, config)))
            });
            match fresh {
                Ok(None) => last.complaint = None,
                Ok(Some((content, config))) => {
                    tracing::info!(ca_file = %self.ca.display(), "etcd TLS files changed: new connections use them");
                    *last = Last {
                        content,
                        config,
                        complaint: None,
                    };
                }
                Err(error) => {
                    let complaint = complaint(&error);
                    if last.complaint.as_ref() != Some(&complaint) {
                        tracing::warn!(
                            error = complaint,
                            "etcd TLS files not usable: using what they were before"
                        );
                        last.complaint = Some(complaint);
                    }
                }
            }
            Arc::clone(&last.config)
        }
    }

    /// Files and causes; nothing of what is in them.
    fn complaint(error: &EtcdConfigError) -> String {
        match error {
            EtcdConfigError::File { source, .. } => format!("{error}: {source}"),
            other => other.to_string(),
        }
    }

    fn broken(file: &Path, source: impl Into<BoxError>) -> EtcdConfigError {
        EtcdConfigError::File {
            file: file.to_owned(),
            source: source.into(),
        }
    }

    impl Content {
        fn read(ca: &Path, identity: Option<&(PathBuf, PathBuf)>) -> Result<Self, EtcdConfigError> {
            let content = |file: &Path| std::fs::read(file).map_err(|error| broken(file, error));
            let identity = identity.map(|(cert, key)| Ok((content(cert)?, content(key)?)));
            Ok(Self {
                ca: content(ca)?,
                identity: identity.transpose()?,
            })
        }

        fn build(
            &self,
            ca: &Path,
            identity: Option<&(PathBuf, PathBuf)>,
        ) -> Result<Arc<ClientConfig>, EtcdConfigError> {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca, &self.ca)?);
            if roots.is_empty() {
                return Err(broken(ca, "no certificate in it can sign others"));
            }
            let provider = Arc::new(crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let builder = builder
                .map_err(|error| broken(ca, error))?
                .with_root_certificates(roots);
            let mut config = match (identity, &self.identity) {
                (Some((cert_file, key_file)), Some((cert, key))) => {
                    let chain = certificates(cert_file, cert)?;
                    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| broken(key_file, said(&error)))?;
                    // Says so when the key is not that of the certificate.
                    let config = builder.with_client_auth_cert(chain, key);
                    config.map_err(|error| broken(cert_file, error))?
                }
                _ => builder.with_no_client_auth(),
            };
            config.alpn_protocols.push(b"h2".to_vec());
            Ok(Arc::new(config))
        }
    }

    fn certificates(file: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, EtcdConfigError> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
        let parsed = parsed.map_err(|error| broken(file, said(&error)))?;
        if parsed.is_empty() {
            return Err(broken(file, "no certificate in PEM form"));
        }
        Ok(parsed)
    }

    /// In words of its own: the parser's repeat parts of what it read.
    fn said(error: &tokio_rustls::rustls::pki_types::pem::Error) -> &'static str {
        use tokio_rustls::rustls::pki_types::pem::Error;
        match error {
            Error::NoItemsFound => "not in PEM form, or nothing of the right kind in it",
            Error::MissingSectionEnd { .. } => "ends in the middle of a section",
            _ => "not in PEM form",
        }
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertificateParams, KeyPair};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    use super::{EtcdConfig, Files, Security, Tls};

    /// Counts what is logged as a warning.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn files_are_read_again_and_each_thing_wrong_with_them_is_said_once() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let write = |name: &str, content: &str| std::fs::write(path(name), content).expect("written");
        let certificate = || {
            let key = KeyPair::generate().expect("a key");
            let cert = CertificateParams::default().self_signed(&key).expect("a certificate");
            (cert.pem(), key.serialize_pem())
        };
        let (cert, key) = certificate();
        write("ca", &cert);
        write("cert", &cert);
        write("key", &key);
        let config = EtcdConfig::new(["https://127.0.0.1:1"]).with_ca_file(path("ca"));
        let files = Files::read(&config.with_client_cert(path("cert"), path("key")));
        let files = files.expect("sound").expect("there is a CA");
        let warnings = Warnings::default();
        tracing::subscriber::with_default(warnings.clone(), || {
            let first = files.refreshed();
            assert!(Arc::ptr_eq(&first, &files.refreshed()), "unchanged, not made again");
            let (other, other_key) = certificate();
            write("cert", &other);
            for _ in 0..3 {
                assert!(
                    Arc::ptr_eq(&first, &files.refreshed()),
                    "without its key it is not used"
                );
            }
            assert_eq!(warnings.0.load(Ordering::SeqCst), 1, "said once");
            write("key", &other_key[..other_key.len() / 2]);
            assert!(Arc::ptr_eq(&first, &files.refreshed()), "half a key");
            assert_eq!(warnings.0.load(Ordering::SeqCst), 2);
            write("key", &other_key);
            let second = files.refreshed();
            assert!(!Arc::ptr_eq(&first, &second), "both are there");
            std::fs::remove_file(path("ca")).expect("removed");
            assert!(Arc::ptr_eq(&second, &files.refreshed()));
            assert_eq!(warnings.0.load(Ordering::SeqCst), 3);
            write("ca", &cert);
            assert!(Arc::ptr_eq(&second, &files.refreshed()), "as it was");
            std::fs::remove_file(path("ca")).expect("removed");
            files.refreshed();
            assert_eq!(
                warnings.0.load(Ordering::SeqCst),
                4,
                "said again, because it was well in between"
            );
        });
    }

    #[test]
    fn a_server_is_named_and_dialled_as_its_url_says() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let key = KeyPair::generate().expect("a key");
        let cert = CertificateParams::default().self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca"), cert.pem()).expect("written");
        let config = EtcdConfig::new(["https://127.0.0.1:1"]).with_ca_file(dir.path().join("ca"));
        let tls = Tls::read(&config).expect("sound");
        for (server, dialled, named) in [
            ("https://etcd.example:2379", "http://etcd.example:2379/", "etcd.example"),
            ("etcd.example:2379", "http://etcd.example:2379/", "etcd.example"),
            ("https://etcd.example", "http://etcd.example:443/", "etcd.example"),
            ("https://10.0.0.1:2379", "http://10.0.0.1:2379/", "10.0.0.1"),
            ("https://[::1]:2379", "http://[::1]:2379/", "::1"),
            ("https://[::1]", "http://[::1]:443/", "::1"),
        ] {
            let reach = tls.reach(server).expect("sound");
            assert_eq!(reach.dial.to_string(), dialled, "{server}");
            let Security::Tls(_, name) = reach.security else {
                panic!("{server}: not secured")
            };
            assert_eq!(name.to_str(), named, "{server}");
        }
    }
}
