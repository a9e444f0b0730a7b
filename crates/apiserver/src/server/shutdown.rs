//! How a server stops: it takes nothing new, lets what is under way finish, ends the watches, and closes its storage,
//! each within its time and whatever the storage does.
//!
//! Upstream: kubernetes/apiserver pkg/server/genericapiserver.go (graceful termination).
//
// deviates: apiserver-http/SHUT-06: without a time to spread them over, watches end cleanly too, and told where they are.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use apiserver_storagebackend::Factory;

use crate::config::ShutdownConfig;
use crate::http::under_way::{GROUPS, UnderWay};

/// How long clients of watches may take to read what is left for them.
const READING: Duration = Duration::from_secs(5);
/// How long connections may take to close once nothing is under way.
const SOCKETS: Duration = Duration::from_secs(2);
/// How long the storage may take to close.
const CLOSING: Duration = Duration::from_secs(30);
/// Watches end at least this fast, in a second.
const ENDS_PER_SECOND: usize = 200;

/// What tells the parts of a server to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// Shutdown was asked for: not ready any more.
    pub(crate) stopping: CancellationToken,
    /// Nothing new is taken.
    pub(crate) draining: CancellationToken,
    /// Connections are cut.
    pub(crate) cut: CancellationToken,
}

impl Signals {
    pub(crate) fn all(&self) {
        self.stopping.cancel();
        self.draining.cancel();
        self.cut.cancel();
    }
}

/// Stops everything, in order. `tasks` end by themselves once nothing new is taken and connections are closed.
pub(super) async fn stop(
    signals: &Signals,
    under_way: &UnderWay,
    factory: &Factory,
    tasks: &mut Vec<JoinHandle<()>>,
    config: &ShutdownConfig,
) {
    signals.stopping.cancel();
    tracing::info!(delay = ?config.delay, "shutdown was asked for");
    tokio::time::sleep(config.delay).await;
    signals.draining.cancel();
    tracing::info!(
        requests = under_way.requests.len(),
        watches = under_way.watches.len(),
        "no more requests are taken"
    );
    tokio::join!(
        requests(under_way, config.requests),
        watches(under_way, factory, config)
    );
    tracing::info!("requests and watches have ended");
    let ended = async {
        for task in tasks.iter_mut() {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the server failed");
            }
        }
    };
    if timeout(SOCKETS, ended).await.is_err() {
        tracing::warn!("connections did not end in time and are cut");
        signals.cut.cancel();
        for task in tasks.iter_mut().filter(|task| !task.is_finished()) {
            if timeout(SOCKETS, &mut *task).await.is_err() {
                task.abort();
            }
        }
    }
    tasks.clear();
    match timeout(CLOSING, factory.close()).await {
        Ok(()) => tracing::info!("the storage is closed"),
        Err(_) => tracing::warn!("the storage did not close in time"),
    }
}

async fn requests(under_way: &UnderWay, limit: Duration) {
    under_way.requests.close();
    if timeout(limit, under_way.requests.wait()).await.is_err() {
        let requests = under_way.requests.len();
        tracing::warn!(requests, "requests did not end in time and are cut");
    }
}

/// Ends the watches: a group after the other, if they are not to come back all at once; then those that caches serve,
/// which tell where they are; then what is left.
async fn watches(under_way: &UnderWay, factory: &Factory, config: &ShutdownConfig) {
    let pause = pause(under_way.watches.len(), config.watches);
    if !pause.is_zero() {
        for end in &under_way.ends {
            end.cancel();
            tokio::time::sleep(pause).await;
        }
    }
    factory.end_watches(READING).await;
    under_way.ends.iter().for_each(CancellationToken::cancel);
    under_way.watches.close();
    if timeout(READING, under_way.watches.wait()).await.is_err() {
        let watches = under_way.watches.len();
        tracing::warn!(watches, "clients do not read their watches, which are cut");
    }
}

/// Between two groups: the time is used up, unless the watches are so few that they can end faster.
fn pause(watches: usize, time: Duration) -> Duration {
    let fastest = Duration::from_secs_f64(watches as f64 / ENDS_PER_SECOND as f64);
    time.min(fastest) / GROUPS as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_watches_end_fast_and_many_within_the_time() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(100_000, Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(0, seconds(60)), Duration::ZERO);
        assert_eq!(pause(200, seconds(64)) * GROUPS as u32, seconds(1));
        assert_eq!(pause(100_000, seconds(64)), seconds(1));
    }
}
