//! A running server: storage, kinds and listeners put together, and taken apart again in order.

pub(crate) mod auth;
pub(crate) mod listener;
pub(crate) mod shutdown;

mod bootstrap;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use apiserver_storage_api::Forms;
use apiserver_storagebackend::{Factory, OpenError};

use crate::config::{Fault, Listen, ServerConfig, ShutdownConfig, StartError};
use crate::http::documents::Documents;
use crate::http::front::{Front, Inner, Limits};
use crate::http::under_way::UnderWay;
use crate::kinds::admission::NamespaceLifecycle;
use crate::kinds::catalog::Catalogs;
use crate::kinds::definitions::Definitions;
use crate::kinds::install;
use crate::server::auth::Tokens;
use crate::server::shutdown::Signals;

/// How long the start waits for a storage that cannot be reached, and for the kinds to be readable.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// An API server in this process. Dropping it without [`shutdown`](Server::shutdown) stops it without draining.
///
/// ```
/// use apiserver::{Server, ServerConfig, storage::backend::Config};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::start(ServerConfig::new(Config::memory())).await?;
/// println!("kubectl --server {} get namespaces", server.url());
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    insecure: Option<SocketAddr>,
    secure: Option<SocketAddr>,
    factory: Factory,
    signals: Signals,
    under_way: Arc<UnderWay>,
    stop: ShutdownConfig,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the storage, mounts all kinds, writes what has to exist, and listens. Ready when this returns.
    ///
    /// # Errors
    ///
    /// [`StartError::Config`] with everything that is wrong; storage and addresses that cannot be opened.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        let mut faults = config.faults();
        let tokens = config
            .token_auth_file
            .as_deref()
            .map(Tokens::read)
            .transpose()
            .unwrap_or_else(|message| {
                faults.push(Fault {
                    field: "--token-auth-file".into(),
                    message,
                });
                None
            });
        let tls = tls_config(&config, &mut faults);
        let factory = match Factory::open(config.storage.clone().with_clock(Arc::clone(&config.clock))).await {
            Ok(factory) if faults.is_empty() => factory,
            Ok(factory) => {
                factory.close().await;
                return Err(StartError::Config(faults));
            }
            Err(OpenError::Config(own)) => {
                faults.extend(own.into_iter().map(|fault| Fault {
                    field: format!("--{}", fault.field),
                    message: fault.message,
                }));
                return Err(StartError::Config(faults));
            }
            Err(error) => return Err(StartError::Storage(error.into())),
        };
        Self::assemble(config, factory, tokens, tls).await
    }

    async fn assemble(
        config: ServerConfig,
        factory: Factory,
        tokens: Option<Tokens>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, StartError> {
        let catalogs = Catalogs::default();
        install::builtin(&factory, &catalogs);
        let namespaces = resource(&catalogs, "", "v1", "namespaces")?;
        let definitions = Definitions {
            resource: resource(&catalogs, "apiextensions.k8s.io", "v1", "customresourcedefinitions")?,
            factory: factory.clone(),
            catalogs: catalogs.clone(),
            clock: Arc::clone(&config.clock),
        };
        let (signals, under_way) = (Signals::default(), Arc::<UnderWay>::default());
        let started = Arc::new(AtomicBool::new(false));
        let (insecure, secure) = bind(&config.listen).await?;
        let address =
            |listener: &Option<TcpListener>| listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let mut server = Self {
            insecure: address(&insecure),
            secure: address(&secure),
            factory: factory.clone(),
            signals: signals.clone(),
            under_way: Arc::clone(&under_way),
            stop: config.shutdown.clone(),
            tasks: Vec::new(),
        };
        let health = factory.clone();
        let public = server
            .secure
            .or(server.insecure)
            .map(|address| address.to_string())
            .unwrap_or_default();
        let front = Front::new(Inner {
            catalogs: catalogs.clone(),
            documents: Documents::new(public),
            tokens,
            clock: Arc::clone(&config.clock),
            admission: Arc::new(NamespaceLifecycle::new(Arc::clone(&namespaces))),
            storage_health: Arc::new(move || health.health()),
            started: Arc::clone(&started),
            metrics: crate::metrics::renderer(),
            signals: signals.clone(),
            under_way,
            limits: Limits::default(),
            forms: Arc::new(Forms::new(config.form_bytes)),
        });
        // Listening before everything is ready lets probes see why it is not.
        for (listener, tls) in [(insecure, None), (secure, tls)] {
            if let Some(listener) = listener {
                server.tasks.push(tokio::spawn(listener::serve(
                    listener,
                    tls,
                    front.clone(),
                    signals.clone(),
                )));
            }
        }
        let prepared = bootstrap::prepare(
            &config,
            &factory,
            &catalogs,
            namespaces,
            definitions,
            signals.draining,
            START_TIMEOUT,
        )
        .await;
        match prepared {
            Ok(task) => server.tasks.push(task),
            Err(error) => {
                // Nobody was told that it is there.
                server.stop = ShutdownConfig {
                    delay: Duration::ZERO,
                    requests: Duration::ZERO,
                    watches: Duration::ZERO,
                };
                server.shutdown().await;
                return Err(error);
            }
        }
        started.store(true, Ordering::Release);
        Ok(server)
    }

    /// Where plain HTTP is served.
    pub fn insecure_address(&self) -> Option<SocketAddr> {
        self.insecure
    }

    /// Where HTTPS is served.
    pub fn secure_address(&self) -> Option<SocketAddr> {
        self.secure
    }

    /// The URL for clients; that of plain HTTP where both are served.
    pub fn url(&self) -> String {
        match (self.insecure, self.secure) {
            (Some(address), _) => format!("http://{address}"),
            (None, Some(address)) => format!("https://{address}"),
            (None, None) => String::new(),
        }
    }

    /// Takes no more requests, waits for those that are under way, ends the watches, and closes the storage; each within
    /// its time ([`ServerConfig::shutdown`]), whatever clients and storage do.
    pub async fn shutdown(mut self) {
        let mut tasks = std::mem::take(&mut self.tasks);
        shutdown::stop(&self.signals, &self.under_way, &self.factory, &mut tasks, &self.stop).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signals.all();
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn resource(
    catalogs: &Catalogs,
    group: &str,
    version: &str,
    plural: &str,
) -> Result<Arc<dyn apiserver_registry::Resource>, StartError> {
    let catalog = catalogs.current();
    catalog
        .map()
        .get(group, version, plural, None)
        .map(|served| Arc::clone(&served.resource))
        .ok_or_else(|| StartError::Bootstrap {
            message: format!("{plural} are not served"),
        })
}

fn tls_config(config: &ServerConfig, faults: &mut Vec<Fault>) -> Option<Arc<rustls::ServerConfig>> {
    config.listen.secure_port?;
    let files = config.tls.as_ref()?;
    match tls::server_config(files.certificate.as_deref()?, files.key.as_deref()?) {
        Ok(tls) => Some(tls),
        Err(error) => {
            let field = match &error {
                tls::TlsError::Key { .. } => "--tls-private-key-file",
                _ => "--tls-cert-file",
            };
            faults.push(Fault {
                field: field.into(),
                message: error.to_string(),
            });
            None
        }
    }
}

async fn bind(listen: &Listen) -> Result<(Option<TcpListener>, Option<TcpListener>), StartError> {
    let mut listeners = [None, None];
    for (slot, port) in listeners.iter_mut().zip([listen.insecure_port, listen.secure_port]) {
        if let Some(port) = port {
            let address = SocketAddr::new(listen.address, port);
            let bound = TcpListener::bind(address).await;
            *slot = Some(bound.map_err(|source| StartError::Listen { address, source })?);
        }
    }
    let [insecure, secure] = listeners;
    Ok((insecure, secure))
}
