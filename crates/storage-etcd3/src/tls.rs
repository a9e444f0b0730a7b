//! From URLs and files to endpoints: which server is reached with TLS, and who is believed.

use tonic::transport::Endpoint;

use crate::config::{EtcdConfig, EtcdConfigError};

/// What all servers have in common.
#[derive(Clone)]
pub(crate) struct Tls {
    wanted: bool,
    #[cfg(feature = "tls")]
    settings: Option<tonic::transport::ClientTlsConfig>,
}

impl Tls {
    /// Reads the files. Blocks for as long as that takes: done once, at start.
    pub(crate) fn read(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        let wanted = config.wants_tls();
        if config.cert_file.is_some() != config.key_file.is_some() {
            return Err(EtcdConfigError::HalfIdentity);
        }
        Ok(Self {
            wanted,
            #[cfg(feature = "tls")]
            settings: settings(config)?,
        })
    }

    /// The endpoint of a server.
    pub(crate) fn endpoint(&self, server: &str) -> Result<Endpoint, EtcdConfigError> {
        let scheme = if self.wanted { "https" } else { "http" };
        let url = if server.contains("://") {
            server.to_owned()
        } else {
            format!("{scheme}://{server}")
        };
        let endpoint = Endpoint::from_shared(url).map_err(|error| EtcdConfigError::Server {
            server: server.to_owned(),
            source: error.into(),
        })?;
        match (endpoint.uri().scheme_str(), self.wanted) {
            (Some("http"), false) => Ok(endpoint),
            (Some("http"), true) => Err(EtcdConfigError::PlainServer {
                server: server.to_owned(),
            }),
            (Some("https"), _) => self.secured(endpoint, server),
            (scheme, _) => Err(EtcdConfigError::Server {
                server: server.to_owned(),
                source: format!("scheme {} is neither http nor https", scheme.unwrap_or("(none)")).into(),
            }),
        }
    }

    #[cfg(feature = "tls")]
    fn secured(&self, endpoint: Endpoint, server: &str) -> Result<Endpoint, EtcdConfigError> {
        let Some(settings) = &self.settings else {
            return Err(EtcdConfigError::NoCa {
                server: server.to_owned(),
            });
        };
        endpoint
            .tls_config(settings.clone())
            .map_err(|error| EtcdConfigError::Server {
                server: server.to_owned(),
                source: error.into(),
            })
    }

    #[cfg(not(feature = "tls"))]
    fn secured(&self, _endpoint: Endpoint, _server: &str) -> Result<Endpoint, EtcdConfigError> {
        Err(EtcdConfigError::TlsNotBuilt)
    }
}

/// Settings where there is a CA: no server is believed without one.
#[cfg(feature = "tls")]
fn settings(config: &EtcdConfig) -> Result<Option<tonic::transport::ClientTlsConfig>, EtcdConfigError> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};

    let Some(ca) = &config.ca_file else {
        return Ok(None);
    };
    let mut settings = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(ca)?));
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        settings = settings.identity(Identity::from_pem(pem(cert)?, pem(key)?));
    }
    Ok(Some(settings))
}

#[cfg(feature = "tls")]
fn pem(file: &std::path::Path) -> Result<Vec<u8>, EtcdConfigError> {
    let broken = |source| EtcdConfigError::File {
        file: file.to_owned(),
        source,
    };
    let content = std::fs::read(file).map_err(|error| broken(error.into()))?;
    if content.starts_with(b"-----BEGIN ") || content.windows(12).any(|part| part == b"\n-----BEGIN ") {
        Ok(content)
    } else {
        Err(broken("not in PEM form".into()))
    }
}
