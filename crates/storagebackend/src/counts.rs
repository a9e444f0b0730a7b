//! The number and size of the objects of all open stores as gauges, counted again and again while the factory is open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use apiserver_storage_api::Storage;
use apiserver_storage_api::time::jitter;
use apiserver_storage_kv::ObjectNumbers;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::Config;
use crate::factory::Open;

/// The stores that a program starts with are open after this, and their numbers known without waiting for a period.
const FIRST: Duration = Duration::from_secs(1);

/// The task that counts. Ends, and takes its gauges along, when this is dropped.
#[derive(Debug)]
pub(crate) struct Counts {
    /// None where nothing is counted.
    task: Option<AbortHandle>,
    /// The task holds an end of it.
    running: watch::Sender<()>,
}

impl Counts {
    /// Counts what is open from now on.
    pub(crate) fn start(config: &Config, open: &Arc<Open>) -> Self {
        let running = watch::Sender::new(());
        let period = config.count_metric_poll_period;
        let task = (!period.is_zero()).then(|| {
            let (open, clock, rng) = (Arc::clone(open), Arc::clone(&config.clock), Arc::clone(&config.rng));
            let end = running.subscribe();
            let task = async move {
                // Dropped last: who waits for the end finds no gauges.
                let _end = end;
                let mut numbers = ObjectNumbers::default();
                let mut pause = period.min(FIRST);
                loop {
                    clock.sleep(pause).await;
                    // Held while they are asked, no longer, so that a store still closes with its last user.
                    let stores: Vec<Arc<dyn Storage>> = open.lock().values().filter_map(Weak::upgrade).collect();
                    numbers.publish(&stores).await;
                    drop(stores);
                    // Several servers on one cluster do not count in step.
                    pause = jitter(&*rng, period);
                }
            };
            tokio::spawn(task).abort_handle()
        });
        Self { task, running }
    }

    /// Counts no more; returns when the gauges are gone. Again: nothing more happens.
    pub(crate) async fn end(&self) {
        self.abort();
        self.running.closed().await;
    }

    fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.abort();
    }
}
