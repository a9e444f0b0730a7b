//! One server of the cluster: its connections, and what is known of its version.
//!
//! Reads and writes share one connection. Watches have others, because a watch that nobody reads holds back what it is
//! sent: each may hold [`STREAM_WINDOW`] bytes, and a connection carries no more watches than its own window has room
//! for, so that one slow reader never stops another.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use etcd_client::{Channel, Client, ConnectOptions, WatchClient};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::config::{Credentials, EtcdConfig, EtcdConfigError};
use crate::connect::{Connector, Lines};
use crate::metered::Method;
use crate::rpc::Rpc;
use crate::tls::Reach;
use crate::transport::{Keepalive, Transport, Windows};

/// Bytes that a watch may have on their way before its reader takes them: those of a hundred writes of large objects at
/// the same time. With less, an event waits until the server hears that others were taken.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Watches on one connection.
const WATCHES_PER_LINK: usize = 64;
const WATCH_WINDOW: u32 = STREAM_WINDOW * WATCHES_PER_LINK as u32;

/// For answers of many megabytes.
const WINDOWS: Windows = Windows {
    stream: 4 * 1024 * 1024,
    connection: 16 * 1024 * 1024,
};

/// One server.
pub(crate) struct Member {
    /// As it was given.
    pub(crate) server: String,
    reach: Reach,
    /// For watches, which the client makes.
    endpoint: Endpoint,
    connector: Connector,
    /// Its connections, of all kinds.
    pub(crate) lines: Arc<Lines>,
    credentials: Option<Credentials>,
    unary: Mutex<Arc<OnceCell<Arc<Rpc>>>>,
    /// Those that were replaced, while calls go on over them.
    replaced: Mutex<Vec<Weak<Rpc>>>,
    keepalive: Keepalive,
    links: Mutex<Vec<Weak<Link>>>,
    trust: AtomicU8,
    /// The server was away, and may have come back as another version.
    recheck: AtomicBool,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// A connection for watches. Whoever holds it has a watch on it.
pub(crate) struct Link {
    client: Client,
    watch: WatchClient,
    /// Something on it got no answer.
    dead: AtomicBool,
}

impl Link {
    /// For one watch.
    pub(crate) fn watch_client(&self) -> WatchClient {
        self.watch.clone()
    }

    /// No further watch is opened on this connection.
    pub(crate) fn give_up(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Logs in anew: on a watch a token that ended is no error that would do it.
    pub(crate) async fn log_in(&self) -> Result<(), etcd_client::Error> {
        self.client.refresh_token().await
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Whether progress reports of a server never run ahead of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trust {
    Unknown = 0,
    Yes = 1,
    No = 2,
}

impl Member {
    pub(crate) fn new(server: &str, config: &EtcdConfig, tls: &crate::tls::Tls) -> Result<Self, EtcdConfigError> {
        let reach = tls.reach(server)?;
        let lines = Arc::new(Lines::default());
        let endpoint = Endpoint::from(reach.dial.clone())
            .origin(reach.origin.clone())
            .connect_timeout(config.connect_timeout)
            .http2_keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WATCH_WINDOW);
        Ok(Self {
            server: server.to_owned(),
            endpoint,
            connector: Connector::new(reach.security.clone(), config.connect_timeout, Arc::clone(&lines)),
            reach,
            keepalive: Keepalive {
                interval: config.keepalive_interval,
                timeout: config.keepalive_timeout,
            },
            lines,
            credentials: config.credentials.clone(),
            unary: Mutex::default(),
            replaced: Mutex::default(),
            links: Mutex::new(Vec::new()),
            trust: AtomicU8::new(Trust::Unknown as u8),
            recheck: AtomicBool::new(true),
        })
    }

    /// The connection for reads and writes. Touches the network only to log in.
    pub(crate) async fn rpc(&self) -> Result<Arc<Rpc>, Status> {
        let unary = Arc::clone(&*self.unary.lock());
        unary.get_or_try_init(|| self.fresh_rpc()).await.cloned()
    }

    /// A new connection for reads and writes, which nobody else uses.
    pub(crate) async fn fresh_rpc(&self) -> Result<Arc<Rpc>, Status> {
        let transport = Transport::new(&self.reach, self.connector.clone(), WINDOWS, self.keepalive);
        Rpc::new(transport, self.credentials.as_ref()).await.map(Arc::new)
    }

    /// Calls that come later use this connection.
    pub(crate) fn adopt(&self, rpc: Arc<Rpc>) {
        let adopted = Arc::new(OnceCell::new_with(Some(rpc)));
        let replaced = std::mem::replace(&mut *self.unary.lock(), adopted);
        let mut all = self.replaced.lock();
        all.retain(|rpc| rpc.strong_count() > 0);
        all.extend(replaced.get().map(Arc::downgrade));
    }

    /// Asks something small over each connection, so that one that lives has something to say.
    pub(crate) fn ask_all(&self) -> JoinSet<()> {
        let mut asked = JoinSet::new();
        let current = self.unary.lock().get().cloned();
        let replaced: Vec<_> = self.replaced.lock().iter().filter_map(Weak::upgrade).collect();
        for rpc in current.into_iter().chain(replaced) {
            asked.spawn(async move {
                // Whatever it says, it says something.
                let _ = Method::Status.counted(rpc.status()).await;
            });
        }
        let links: Vec<_> = self.links.lock().iter().filter_map(Weak::upgrade).collect();
        for link in links {
            // Not the link itself: who holds that has a watch on it.
            let mut client = link.client.clone();
            asked.spawn(async move {
                let mut attempt = Method::Status.started();
                match client.status().await {
                    Ok(_) => attempt.ended(Code::Ok),
                    Err(error) => attempt.failed(&error),
                }
            });
        }
        asked
    }

    /// A connection with room for a watch.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, etcd_client::Error> {
        if let Some(link) = self.roomy_link() {
            return Ok(link);
        }
        let client = self.watch_client().await?;
        let link = Arc::new(Link {
            watch: client.watch_client().max_decoding_message_size(usize::MAX),
            client,
            dead: AtomicBool::new(false),
        });
        self.links.lock().push(Arc::downgrade(&link));
        Ok(link)
    }

    fn roomy_link(&self) -> Option<Arc<Link>> {
        let mut links = self.links.lock();
        links.retain(|link| link.strong_count() > 0);
        let mut roomy = links.iter().filter(|link| link.strong_count() < WATCHES_PER_LINK);
        roomy.find_map(|link| link.upgrade().filter(|link| !link.dead.load(Ordering::Relaxed)))
    }

    async fn watch_client(&self) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_require_leader(true);
        if let Some(Credentials { user, password }) = &self.credentials {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        let endpoint = self.endpoint.clone();
        let channel = endpoint.connect_with_connector_lazy(self.connector.clone());
        Client::from_channel(Channel::Tonic(channel), Some(options)).await
    }

    pub(crate) fn trust(&self) -> Trust {
        match self.trust.load(Ordering::Relaxed) {
            1 => Trust::Yes,
            2 => Trust::No,
            _ => Trust::Unknown,
        }
    }

    /// Whether the server is to be asked for its version: never asked, failed, or on a new connection.
    pub(crate) fn unchecked(&self) -> bool {
        if self.lines.take_made() {
            self.recheck();
        }
        self.recheck.load(Ordering::Relaxed)
    }

    /// The server failed; what was known stands until it answers again.
    pub(crate) fn recheck(&self) {
        self.recheck.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_trust(&self, trust: Trust) {
        self.trust.store(trust as u8, Ordering::Relaxed);
        self.recheck.store(false, Ordering::Relaxed);
    }
}

/// Progress can be trusted from 3.4.31, 3.5.13 and 3.6.0 on: before, it could overtake events, or stay away for ever
/// (`storage-etcd3/FEAT-02`, `storage-etcd3/FEAT-08`). What is not a version cannot.
pub(crate) fn trust_of(version: &str) -> Trust {
    let mut parts = version
        .trim_start_matches('v')
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.');
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    let trusted = match (number(), number(), number()) {
        (Some(3), Some(4), Some(patch)) => patch >= 31,
        (Some(3), Some(5), Some(patch)) => patch >= 13,
        (Some(3), Some(minor), Some(_)) => minor >= 6,
        (Some(major), Some(_), Some(_)) => major > 3,
        _ => false,
    };
    if trusted { Trust::Yes } else { Trust::No }
}

#[cfg(test)]
mod tests {
    use super::{Trust, trust_of};

    // covers: storage-etcd3/FEAT-02, storage-etcd3/FEAT-04
    #[test]
    fn progress_is_trusted_from_fixed_versions_on() {
        for (version, want) in [
            ("3.4.30", Trust::No),
            ("3.4.31", Trust::Yes),
            ("3.5.0", Trust::No),
            ("3.5.12", Trust::No),
            ("3.5.13", Trust::Yes),
            ("3.5.30", Trust::Yes),
            ("3.6.0", Trust::Yes),
            ("3.6.0-rc.1", Trust::Yes),
            ("3.3.99", Trust::No),
            ("4.0.0", Trust::Yes),
            ("", Trust::No),
            ("new", Trust::No),
            ("3.5", Trust::No),
        ] {
            assert_eq!(trust_of(version), want, "{version:?}");
        }
    }
}
