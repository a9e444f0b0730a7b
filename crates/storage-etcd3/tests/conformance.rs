//! The conformance suite over a real etcd, with values as they are and with encrypted ones. Each case has a cluster of
//! its own: of one server, or of three where `APISERVER_ETCD_MEMBERS` says so.

// concerns: storage-etcd3/BED-02: tests that need a later revision write another key, as upstream's do.
// concerns: storage-etcd3/BED-03: tests compact by the backend's own call, which takes no revision of its own.
// concerns: storage-etcd3/BED-04: values are sealed and counted by a transformer with switches.
// concerns: storage-etcd3/BED-05: progress is asked for in tests, so nothing has to wait for the server's interval.
// concerns: storage-etcd3/BED-06: the tests' servers run without fsync where they can; no figure comes from them.
// concerns: storage-etcd3/BED-07: what must come is waited for up to half a minute; that nothing comes is shown by what
// comes after it, and not by waiting.

mod common;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_etcd3::api::Storage;
use apiserver_storage_kv::Kv;
use apiserver_storage_kv::transform::{ConfigOptions, Transformer, Transformers};
use apiserver_storage_testing::{Ability, Backend, Front, Fronted, Harness, OverKv, cases};
use async_trait::async_trait;

use common::{Etcd, Three};

/// How many servers a cluster has.
const MEMBERS: &str = "APISERVER_ETCD_MEMBERS";

/// The servers of a case.
struct Servers(Vec<Etcd>);

impl Servers {
    /// Starts as many as are asked for; `None` where tests are to be skipped.
    async fn start() -> Option<Self> {
        let members = match std::env::var(MEMBERS).as_deref() {
            Err(_) | Ok("" | "1") => vec![Etcd::start().await?],
            Ok("3") => Three::start().await?.members,
            Ok(other) => panic!("{MEMBERS} is 1 or 3, not {other:?}"),
        };
        Some(Self(members))
    }

    /// A connection to all of them.
    async fn connect(&self) -> EtcdKv {
        common::connect(common::config(self.0.iter().map(|etcd| etcd.url()))).await
    }

    /// Kills all of them, and starts them again on the same data.
    async fn restart(&mut self) {
        self.0.iter_mut().for_each(|etcd| etcd.kill());
        self.0.iter_mut().for_each(|etcd| etcd.run());
        for member in &mut self.0 {
            member.ready().await;
        }
    }
}

/// Why no case of this file can run here. Asked once, before the first of them, and for all.
fn no_etcd() -> Option<String> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| common::etcd_binary().is_some());
    (!found).then(|| "no etcd".to_owned())
}

/// A cluster for each case.
struct Plain {
    kv: Arc<EtcdKv>,
    servers: Servers,
}

impl Plain {
    async fn running() -> Self {
        let servers = Servers::start().await.expect("there was an etcd before");
        let kv = Arc::new(servers.connect().await);
        Self { kv, servers }
    }

    async fn crash(&mut self) {
        self.servers.restart().await;
        // A read goes to the new process; the next write is not the one to find the old connection dead.
        common::until(|| self.kv.health().is_ok(), "the cluster answers").await;
        let answers = async { while self.kv.coordination_get("any").await.is_err() {} };
        common::soon(answers).await;
    }
}

#[async_trait]
impl Backend for Plain {
    type Kv = EtcdKv;

    // Progress depends on the server's version: see below.
    const ABILITIES: &'static [Ability] = &[
        Ability::Direct,
        Ability::Compact,
        Ability::Raw,
        Ability::Plain,
        Ability::Transform,
        Ability::Expiry,
        Ability::Restart,
    ];

    fn missing() -> Option<String> {
        no_etcd()
    }

    async fn start() -> Self {
        Self::running().await
    }

    fn kv(&self) -> Arc<EtcdKv> {
        Arc::clone(&self.kv)
    }

    /// The server's time cannot be moved; what ends by then is ended now, in the way in which the server itself does it
    /// when the time is over. (That it does, and when, is shown elsewhere.)
    async fn advance(&self, by: Duration) {
        let servers: Vec<String> = self.servers.0.iter().map(|etcd| etcd.url()).collect();
        let mut client = etcd_client::Client::connect(servers, None).await.expect("connected");
        let leases = client.leases().await.expect("a list of leases");
        for lease in leases.leases() {
            let left = client.lease_time_to_live(lease.id(), None).await.expect("known");
            // Leases are shared by lifetimes that are about as long, so they last a little longer.
            if Duration::from_secs(left.ttl().unsigned_abs()) <= by.mul_f64(1.05) + Duration::from_secs(1) {
                // It may have ended by itself.
                let _ = client.lease_revoke(lease.id()).await;
            }
        }
    }

    async fn restart(&mut self) {
        self.crash().await;
    }
}

struct Sealed(Plain);

#[async_trait]
impl Backend for Sealed {
    type Kv = EtcdKv;

    const ABILITIES: &'static [Ability] = &[
        Ability::Direct,
        Ability::Compact,
        Ability::Raw,
        Ability::Encrypted,
        Ability::Transform,
        Ability::Restart,
    ];

    fn missing() -> Option<String> {
        no_etcd()
    }

    async fn start() -> Self {
        Self(Plain::running().await)
    }

    fn kv(&self) -> Arc<EtcdKv> {
        Arc::clone(&self.0.kv)
    }

    fn transformer() -> Arc<dyn Transformer> {
        let config = br#"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: ["*.*"]
    providers:
      - aesgcm:
          keys:
            - name: key1
              secret: c2VjcmV0IGlzIHNlY3VyZQ==
"#;
        let file = Path::new("encryption.yaml");
        let transformers = Transformers::parse(file, config, &ConfigOptions::default());
        transformers.expect("a sound configuration").for_resource("", "pods")
    }

    async fn restart(&mut self) {
        self.0.crash().await;
    }
}

mod plain {
    use super::*;
    apiserver_storage_testing::conformance!(OverKv<Plain>);
}

mod sealed {
    use super::*;
    apiserver_storage_testing::conformance!(OverKv<Sealed>);
}

/// The watch cache over a cluster.
struct Cache<B>(std::marker::PhantomData<fn() -> B>);

/// What the cache keeps of what a backend can do. Where the server's progress is not to be believed consistent reads
/// go below, and nothing else changes.
macro_rules! cached {
    ($module:ident, $backend:ident, $($ability:ident),*) => {
        mod $module {
            use super::*;

            #[async_trait]
            impl Front for Cache<$backend> {
                type Below = $backend;

                const ABILITIES: &'static [Ability] =
                    &[Ability::Compact, Ability::Raw, Ability::Transform, $(Ability::$ability),*];

                async fn wrap(store: Arc<dyn Storage>) -> Arc<dyn Storage> {
                    let cache = Cacher::new(store, CacherConfig::default());
                    cache.wait_ready().await.expect("the cache gets ready");
                    Arc::new(cache)
                }
            }

            apiserver_storage_testing::conformance!(Fronted<Cache<$backend>>);
        }
    };
}
cached!(cached, Plain, Plain, Expiry);
cached!(cached_sealed, Sealed, Encrypted);

/// The cases about progress, where the server's version lets it be believed: of the cluster, and through the cache.
mod progress {
    use super::*;

    async fn when_believed<H: Harness, F: Future<Output = ()>>(case: impl FnOnce(H) -> F) {
        if common::reports_progress() {
            case(H::start().await).await;
        }
    }

    #[tokio::test]
    async fn progress_comes_when_asked_for() {
        when_believed(cases::watch::progress_comes_when_asked_for::<OverKv<Plain>>).await;
    }

    #[tokio::test]
    async fn no_progress_comes_unasked() {
        when_believed(cases::watch::no_progress_comes_unasked::<OverKv<Plain>>).await;
    }

    #[tokio::test]
    async fn through_the_cache_it_comes_when_asked_for() {
        when_believed(cases::watch::progress_comes_when_asked_for::<Fronted<Cache<Plain>>>).await;
    }

    #[tokio::test]
    async fn through_the_cache_none_comes_unasked() {
        when_believed(cases::watch::no_progress_comes_unasked::<Fronted<Cache<Plain>>>).await;
    }
}
