//! The etcd backend of the apiserver storage stack.

mod config;
mod kv;

mod cluster;
mod member;
mod tls;

mod compact;
mod convert;
mod error;
mod health;
mod lease;
mod range;
mod shared;
mod watch;
mod write;

pub use self::config::{Credentials, EtcdConfig, EtcdConfigError};
pub use self::kv::EtcdKv;

/// The object store on an etcd cluster.
pub type Etcd3Store = apiserver_storage_kv::KvStore<EtcdKv>;
