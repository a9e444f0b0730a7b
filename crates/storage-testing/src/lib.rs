//! The conformance suite of storage backends: what the users of a [`Storage`](apiserver_storage_api::Storage) rely on,
//! as cases that any store can be run through.
//!
//! A backend writes a [`Harness`] and one line, [`conformance!`]; each case becomes a test with its own name. A case
//! shows one behaviour, and names it by the IDs of the catalogue. A backend that is a `Kv` has an easier way,
//! [`Backend`] and [`OverKv`]. What a backend cannot do (compact, look behind the
//! store) is an [`Ability`] that it does not list: the cases that need it are skipped and say so.
//!
//! Beside the suite:
//!
//! - [`model`]: random histories of all verbs, watches, compactions and restarts, by one client, compared with a list of
//!   changes. A failed one prints its seed and the command that runs it again.
//! - [`race`]: many clients and watchers at once, whose answers are held against the history in the end; also while
//!   something breaks on purpose.
//! - [`ReferenceKv`], a backend that is obviously right and loses answers on request; [`FaultStore`], which does that
//!   over any store; [`Spy`], which keeps the calls to any backend on record; [`SwitchTransformer`], whose faults a test switches; [`StandingClock`], which tells who waits.
//! - `proxy` (with the feature of that name): a network that cuts, swallows, delays and repeats.
//! - `etcd` (likewise): real etcd servers, alone or three, that are killed, stopped and started again.
//!
//! ```
//! use std::sync::Arc;
//!
//! use apiserver_storage_api::Storage;
//! use apiserver_storage_kv::{KvStore, KvStoreConfig, transform::Identity};
//! use apiserver_storage_testing::{Ability, Harness, ReferenceKv, fixture};
//!
//! struct Reference(Arc<ReferenceKv>);
//!
//! #[async_trait::async_trait]
//! impl Harness for Reference {
//!     const ABILITIES: &'static [Ability] = &[Ability::Direct];
//!
//!     async fn start() -> Self {
//!         Self(Arc::new(ReferenceKv::new()))
//!     }
//!
//!     fn store(&self) -> Arc<dyn Storage> {
//!         let config = KvStoreConfig::new("/registry", Arc::new(Identity));
//!         Arc::new(KvStore::new(Arc::clone(&self.0), fixture::pods(), config))
//!     }
//!
//!     fn other(&self) -> Arc<dyn Storage> {
//!         let config = KvStoreConfig::new("/registry", Arc::new(Identity));
//!         Arc::new(KvStore::new(Arc::clone(&self.0), fixture::config_maps(), config))
//!     }
//! }
//!
//! // In a file under `tests/`; each case becomes a `#[test]`.
//! apiserver_storage_testing::conformance!(Reference);
//! # fn main() {}
//! ```
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this crate is tests; a panic is how they fail"
)]

#[macro_use]
mod suite;

mod harness;

pub mod cases;
pub mod damaged;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fixture;
pub mod model;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod race;

mod clock;
mod fault;
mod fronted;
mod over_kv;
mod reference;
mod spy;
mod transformer;

pub use self::clock::StandingClock;
pub use self::fault::FaultStore;
pub use self::fronted::{Front, Fronted};
pub use self::harness::{Ability, Harness};
pub use self::over_kv::{Backend, OverKv};
pub use self::reference::{Calls, LostAnswer, ReferenceKv};
pub use self::spy::{Asked, Read, Spy};
pub use self::transformer::{BindingTransformer, Faults, SwitchTransformer};

#[doc(hidden)]
pub use self::harness::run;
