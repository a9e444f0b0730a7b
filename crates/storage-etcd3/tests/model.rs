//! Random histories of the object store on a real etcd, compared with a model; the server is killed and started again
//! on the way. Also through the watch cache, which lives on then.
#![expect(clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;

use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_etcd3::api::Storage;
use apiserver_storage_kv::Kv;
use apiserver_storage_testing::model::{Name, histories};
use apiserver_storage_testing::race::races;
use apiserver_storage_testing::{Ability, Backend, Front, Fronted, OverKv};
use async_trait::async_trait;

use common::Etcd;

struct Single {
    kv: Arc<EtcdKv>,
    etcd: Etcd,
}

#[async_trait]
impl Backend for Single {
    type Kv = EtcdKv;

    const ABILITIES: &'static [Ability] = &[Ability::Direct, Ability::Compact, Ability::Raw, Ability::Restart];

    fn missing() -> Option<String> {
        common::etcd_binary().is_none().then(|| "no etcd".to_owned())
    }

    async fn start() -> Self {
        let etcd = Etcd::start().await.expect("found before");
        let kv = Arc::new(etcd.connect().await);
        Self { kv, etcd }
    }

    fn kv(&self) -> Arc<EtcdKv> {
        Arc::clone(&self.kv)
    }

    async fn restart(&mut self) {
        self.etcd.restart().await;
        // A write that finds the old connection dead does not know what became of it; a read finds the new one.
        let answers = async { while self.kv.coordination_get("any").await.is_err() {} };
        common::soon(answers).await;
    }
}

struct Cached;

#[async_trait]
impl Front for Cached {
    type Below = Single;

    const ABILITIES: &'static [Ability] = &[Ability::Compact, Ability::Raw, Ability::Restart];

    const SURVIVES: bool = true;

    async fn wrap(store: Arc<dyn Storage>) -> Arc<dyn Storage> {
        let cache = Cacher::new(store, CacherConfig::default());
        cache.wait_ready().await.expect("the cache gets ready");
        Arc::new(cache)
    }
}

fn name(test: &'static str) -> Name {
    Name {
        package: env!("CARGO_PKG_NAME"),
        file: "model",
        test,
    }
}

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-25, storage-api/GLOB-09
#[test]
fn direct() {
    histories::<OverKv<Single>>(name("direct"), 6);
}

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-25, storage-api/GLOB-09
#[test]
fn cached() {
    histories::<Fronted<Cached>>(name("cached"), 6);
}

// covers: storage-api/GLOB-01, storage-api/GLOB-04, storage-api/GLOB-07
#[test]
fn many_clients_direct() {
    races::<OverKv<Single>>(name("many_clients_direct"), 2);
}

#[test]
fn many_clients_cached() {
    races::<Fronted<Cached>>(name("many_clients_cached"), 2);
}
