//! The conformance suite over this backend: in memory and in a directory, plain and encrypted.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_testing::{Ability, Backend, OverKv};
use apiserver_storage_transform::{ConfigOptions, Transformer, Transformers};
use async_trait::async_trait;

/// AES-GCM with a key that is no secret.
fn aes_gcm() -> Arc<dyn Transformer> {
    let config = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [pods]
  providers:
  - aesgcm:
      keys:
      - name: key1
        secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
";
    let built = Transformers::parse(Path::new("test"), config.as_bytes(), &ConfigOptions::default());
    built.expect("a valid configuration").for_resource("", "pods")
}

async fn open(config: EmbeddedConfig, clock: &ManualClock) -> Arc<EmbeddedKv> {
    let config = config.with_clock(Arc::new(clock.clone()));
    Arc::new(EmbeddedKv::open(config).await.expect("the store opens"))
}

/// Leases end a twentieth late at most, so that they can be shared.
fn pass(clock: &ManualClock, by: Duration) {
    clock.advance(by + by / 20 + Duration::from_millis(1));
}

struct Memory {
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
}

impl Memory {
    async fn start() -> Self {
        let clock = ManualClock::new(SystemTime::now());
        Self {
            kv: open(EmbeddedConfig::memory(), &clock).await,
            clock,
        }
    }
}

/// A backend that is a part of another one, with what that one can do.
macro_rules! memory {
    ($name:ident, $kind:ident, $transformer:expr) => {
        struct $name(Memory);

        #[async_trait]
        impl Backend for $name {
            type Kv = EmbeddedKv;

            const ABILITIES: &'static [Ability] = &[
                Ability::Direct,
                Ability::Compact,
                Ability::Raw,
                Ability::$kind,
                Ability::Transform,
                Ability::Expiry,
                Ability::Progress,
            ];

            async fn start() -> Self {
                Self(Memory::start().await)
            }

            fn kv(&self) -> Arc<EmbeddedKv> {
                Arc::clone(&self.0.kv)
            }

            fn transformer() -> Arc<dyn Transformer> {
                $transformer
            }

            async fn advance(&self, by: Duration) {
                pass(&self.0.clock, by);
            }
        }
    };
}

mod memory {
    use super::*;

    memory!(Plain, Plain, Arc::new(apiserver_storage_transform::Identity));
    apiserver_storage_testing::conformance!(OverKv<Plain>);
}

mod memory_encrypted {
    use super::*;

    memory!(Encrypted, Encrypted, aes_gcm());
    apiserver_storage_testing::conformance!(OverKv<Encrypted>);
}

#[cfg(feature = "durable")]
mod durable {
    use super::*;

    struct Directory {
        kv: Arc<EmbeddedKv>,
        clock: ManualClock,
        path: tempfile::TempDir,
    }

    impl Directory {
        async fn start() -> Self {
            let clock = ManualClock::new(SystemTime::now());
            let path = tempfile::tempdir().expect("a directory");
            let kv = open(EmbeddedConfig::directory(path.path()), &clock).await;
            Self { kv, clock, path }
        }

        async fn restart(&mut self) {
            self.kv.close().await;
            self.kv = open(EmbeddedConfig::directory(self.path.path()), &self.clock).await;
        }
    }

    macro_rules! directory {
        ($name:ident, $kind:ident, $transformer:expr) => {
            struct $name(Directory);

            #[async_trait]
            impl Backend for $name {
                type Kv = EmbeddedKv;

                const ABILITIES: &'static [Ability] = &[
                    Ability::Direct,
                    Ability::Compact,
                    Ability::Raw,
                    Ability::$kind,
                    Ability::Transform,
                    Ability::Expiry,
                    Ability::Restart,
                    Ability::Progress,
                ];

                async fn start() -> Self {
                    Self(Directory::start().await)
                }

                fn kv(&self) -> Arc<EmbeddedKv> {
                    Arc::clone(&self.0.kv)
                }

                fn transformer() -> Arc<dyn Transformer> {
                    $transformer
                }

                async fn advance(&self, by: Duration) {
                    pass(&self.0.clock, by);
                }

                async fn restart(&mut self) {
                    self.0.restart().await;
                }
            }
        };
    }

    mod plain {
        use super::*;

        directory!(Plain, Plain, Arc::new(apiserver_storage_transform::Identity));
        apiserver_storage_testing::conformance!(OverKv<Plain>);
    }

    mod encrypted {
        use super::*;

        directory!(Encrypted, Encrypted, aes_gcm());
        apiserver_storage_testing::conformance!(OverKv<Encrypted>);
    }
}
