//! The suite over the reference backend: shows that the object store and the cases agree, plain and sealed.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_kv::transform::Transformer;
use apiserver_storage_testing::{Ability, Backend, BindingTransformer, OverKv, ReferenceKv};
use async_trait::async_trait;

struct Plain(Arc<ReferenceKv>);

#[async_trait]
impl Backend for Plain {
    type Kv = ReferenceKv;

    const ABILITIES: &'static [Ability] = &[
        Ability::Direct,
        Ability::Compact,
        Ability::Raw,
        Ability::Plain,
        Ability::Transform,
        Ability::Expiry,
        Ability::Progress,
    ];

    async fn start() -> Self {
        Self(Arc::new(ReferenceKv::new()))
    }

    fn kv(&self) -> Arc<ReferenceKv> {
        Arc::clone(&self.0)
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

struct Sealed(Plain);

#[async_trait]
impl Backend for Sealed {
    type Kv = ReferenceKv;

    const ABILITIES: &'static [Ability] = &[
        Ability::Direct,
        Ability::Compact,
        Ability::Raw,
        Ability::Encrypted,
        Ability::Transform,
        Ability::Expiry,
    ];

    async fn start() -> Self {
        Self(Plain::start().await)
    }

    fn kv(&self) -> Arc<ReferenceKv> {
        self.0.kv()
    }

    fn transformer() -> Arc<dyn Transformer> {
        Arc::new(BindingTransformer::default())
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by).await;
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
        include_str!("../src/cases/matrix.rs"),
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
