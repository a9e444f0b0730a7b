//! A real etcd, and connections to it.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::Clock;
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::Kv as _;
pub(crate) use apiserver_storage_testing::etcd::Etcd;

use crate::ground::soon;

/// A connection that compacts nothing by itself.
pub(crate) async fn connect(etcd: &Etcd) -> EtcdKv {
    let mut config = EtcdConfig::new([etcd.url()]).with_compaction_interval(None);
    config.health_interval = Duration::from_millis(100);
    connect_as(config).await
}

/// A connection that lives by a clock that stands. Nothing but what a test is about ends because it is moved.
pub(crate) async fn connect_still(etcd: &Etcd, clock: Arc<dyn Clock>, compaction: Option<Duration>) -> EtcdKv {
    let config = EtcdConfig::new([etcd.url()]).with_clock(clock);
    let mut config = config.with_compaction_interval(compaction);
    let never = Duration::from_secs(1_000_000);
    config.health_interval = never;
    config.health_timeout = never;
    config.request_timeout = never;
    config.watch_open_timeout = never;
    config.watch_probe_interval = never;
    config.size_interval = Duration::ZERO;
    connect_as(config).await
}

async fn connect_as(config: EtcdConfig) -> EtcdKv {
    let kv = EtcdKv::connect(config).await.unwrap();
    let answers = async {
        while kv.health().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("etcd answers", answers).await;
    kv
}
