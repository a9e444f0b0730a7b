//! What a backend writes to be tested: how to make a fresh store, and which powers a case may use behind its back.

use std::future::Future;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use apiserver_storage_api::{Key, Revision, Storage};

use crate::transformer::SwitchTransformer;

/// What a harness can do beyond the contract. A case that needs what is missing is skipped, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ability {
    /// Reads and watches go to the backend itself: they show the latest state even when any would do, fail when the
    /// backend's history is gone, and meet the transformer each time. A cache has none of this.
    Direct,
    /// [`Harness::compact`].
    Compact,
    /// [`Harness::raw_put`] and [`Harness::raw_get`].
    Raw,
    /// What is stored is the plaintext.
    Plain,
    /// What is stored is encrypted and bound to its key.
    Encrypted,
    /// [`Harness::transformer`].
    Transform,
    /// [`Harness::advance`].
    Expiry,
    /// [`Harness::restart`].
    Restart,
    /// The backend reports progress when asked to.
    Progress,
}

/// A backend under test. One value belongs to one case: its stores are fresh, and nobody else writes to them.
#[async_trait]
pub trait Harness: Sized + Send + Sync + 'static {
    /// What this harness can do.
    const ABILITIES: &'static [Ability];

    /// Why this harness cannot run here at all, such as a server that is not installed. Its cases are skipped then.
    fn missing() -> Option<String> {
        None
    }

    /// Starts an empty backend with a store of [`pods`](crate::fixture::pods) and one of
    /// [`config_maps`](crate::fixture::config_maps).
    async fn start() -> Self;

    /// The store of pods.
    fn store(&self) -> Arc<dyn Storage>;

    /// The store of config maps, on the same backend.
    fn other(&self) -> Arc<dyn Storage>;

    /// Forgets history below a revision.
    async fn compact(&self, _revision: Revision) {
        unreachable!("needs Ability::Compact")
    }

    /// Writes bytes under a key of the pods, past the store and its transformer; returns the revision.
    async fn raw_put(&self, _key: &Key, _value: Bytes) -> Revision {
        unreachable!("needs Ability::Raw")
    }

    /// Reads the stored bytes of a key of the pods, past the store and its transformer.
    async fn raw_get(&self, _key: &Key) -> Option<Bytes> {
        unreachable!("needs Ability::Raw")
    }

    /// The switches of the transformer that the store of pods uses.
    fn transformer(&self) -> &SwitchTransformer {
        unreachable!("needs Ability::Transform")
    }

    /// Lets time pass until what had so long to live has ended: moves a clock, or waits.
    async fn advance(&self, _by: Duration) {
        unreachable!("needs Ability::Expiry")
    }

    /// Stops the backend and starts it again on the same data.
    async fn restart(&mut self) {
        unreachable!("needs Ability::Restart")
    }

    /// Ends the backend without a chance to close anything and starts it again on what it left. Where that is no
    /// different: [`restart`](Self::restart).
    async fn crash(&mut self) {
        self.restart().await;
    }
}

/// How long a case may take. What it waits for comes within milliseconds; this only turns a hang into a failure.
const TIME_LIMIT: Duration = Duration::from_secs(180);

/// Runs one case on a runtime of its own, or says why not. Called by [`conformance!`](crate::conformance).
#[doc(hidden)]
pub fn run<H: Harness, F: Future<Output = ()>>(name: &str, needs: &[Ability], case: impl FnOnce(H) -> F) {
    let missing: Vec<_> = needs.iter().filter(|need| !H::ABILITIES.contains(need)).collect();
    if !missing.is_empty() {
        say(&format!(
            "skipped {name}: {} lacks {missing:?}",
            std::any::type_name::<H>()
        ));
        return;
    }
    if let Some(why) = H::missing() {
        say(&format!("skipped {name}: {why}"));
        return;
    }
    in_time(async { case(H::start().await).await });
}

/// Past the test runner's capture: what is skipped is seen in a plain run.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs something on a runtime of its own.
#[expect(clippy::expect_used, reason = "a test that cannot start has failed")]
pub(crate) fn in_time(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime starts");
    runtime.block_on(async {
        tokio::time::timeout(TIME_LIMIT, case)
            .await
            .expect("the case ends in time");
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}
