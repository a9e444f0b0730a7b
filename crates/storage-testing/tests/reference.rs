//! The suite over the reference backend: shows that the object store and the cases agree, plain and encrypted.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{Key, ResourceInfo, Revision, Storage};
use apiserver_storage_kv::transform::{Identity, Transformer};
use apiserver_storage_kv::{Kv, KvStore, KvStoreConfig};
use apiserver_storage_testing::{Ability, Harness, ReferenceKv, SwitchTransformer, fixture};
use async_trait::async_trait;
use bytes::Bytes;

struct Parts {
    kv: Arc<ReferenceKv>,
    transformer: SwitchTransformer,
}

impl Parts {
    fn new(behind: impl Transformer) -> Self {
        Self {
            kv: Arc::new(ReferenceKv::new()),
            transformer: SwitchTransformer::new(Arc::new(behind)),
        }
    }

    fn store(&self, info: ResourceInfo) -> Arc<dyn Storage> {
        let config = KvStoreConfig::new("/registry", Arc::new(self.transformer.clone()));
        Arc::new(KvStore::new(Arc::clone(&self.kv), info, config))
    }
}

macro_rules! harness {
    ($name:ident, $kind:ident, $behind:expr) => {
        struct $name(Parts);

        #[async_trait]
        impl Harness for $name {
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
                Self(Parts::new($behind))
            }

            fn store(&self) -> Arc<dyn Storage> {
                self.0.store(fixture::pods())
            }

            fn other(&self) -> Arc<dyn Storage> {
                self.0.store(fixture::config_maps())
            }

            async fn compact(&self, revision: Revision) {
                self.0
                    .kv
                    .compact(revision)
                    .await
                    .expect("a revision that was reached");
            }

            async fn raw_put(&self, key: &Key, value: Bytes) -> Revision {
                self.0.kv.raw_put(&format!("/registry{key}"), value)
            }

            async fn raw_get(&self, key: &Key) -> Option<Bytes> {
                self.0
                    .kv
                    .raw_get(&format!("/registry{key}"))
                    .map(|pair| pair.value)
            }

            fn transformer(&self) -> &SwitchTransformer {
                &self.0.transformer
            }

            async fn advance(&self, by: Duration) {
                self.0.kv.advance(by);
            }
        }
    };
}

mod plain {
    use super::*;

    harness!(Plain, Plain, Identity);
    apiserver_storage_testing::conformance!(Plain);
}

#[test]
fn every_case_is_in_the_list() {
    let list = include_str!("../src/suite.rs");
    let cases = [
        include_str!("../src/cases/counter.rs"),
        include_str!("../src/cases/create.rs"),
        include_str!("../src/cases/delete.rs"),
        include_str!("../src/cases/get.rs"),
        include_str!("../src/cases/history.rs"),
        include_str!("../src/cases/keys.rs"),
        include_str!("../src/cases/list.rs"),
        include_str!("../src/cases/paging.rs"),
        include_str!("../src/cases/suggestion.rs"),
        include_str!("../src/cases/unreadable.rs"),
        include_str!("../src/cases/update.rs"),
        include_str!("../src/cases/watch.rs"),
    ];
    for file in cases {
        for line in file.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
            let name = line.split('<').next().unwrap_or_default();
            assert!(
                list.contains(&format!(" {name}: [")),
                "{name} is not in the list of the suite"
            );
        }
    }
}
