//! Random histories over the reference backend: shows that the model and the object store agree, plain and sealed.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_kv::transform::Transformer;
use apiserver_storage_testing::model::{Name, histories};
use apiserver_storage_testing::race::races;
use apiserver_storage_testing::{Ability, Backend, BindingTransformer, OverKv, ReferenceKv};
use async_trait::async_trait;

const ABILITIES: &[Ability] = &[Ability::Direct, Ability::Compact, Ability::Raw, Ability::Expiry];

struct Reference<const SEALED: bool>(Arc<ReferenceKv>);

#[async_trait]
impl<const SEALED: bool> Backend for Reference<SEALED> {
    type Kv = ReferenceKv;

    const ABILITIES: &'static [Ability] = ABILITIES;

    async fn start() -> Self {
        Self(Arc::new(ReferenceKv::new()))
    }

    fn kv(&self) -> Arc<ReferenceKv> {
        Arc::clone(&self.0)
    }

    fn transformer() -> Arc<dyn Transformer> {
        match SEALED {
            true => Arc::new(BindingTransformer::default()),
            false => Arc::new(apiserver_storage_kv::transform::Identity),
        }
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

fn name(test: &'static str) -> Name {
    Name {
        package: env!("CARGO_PKG_NAME"),
        file: "model",
        test,
    }
}

#[test]
fn plain() {
    histories::<OverKv<Reference<false>>>(name("plain"), 30);
}

#[test]
fn sealed() {
    histories::<OverKv<Reference<true>>>(name("sealed"), 10);
}

#[test]
fn many_clients_at_once() {
    races::<OverKv<Reference<false>>>(name("many_clients_at_once"), 5);
}
