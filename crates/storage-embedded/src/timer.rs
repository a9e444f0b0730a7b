//! The one timer task of a store: ends leases and ages history.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, select};

use apiserver_storage_api::time::Clock;

use crate::core::{Answer, Core};
use crate::engine::Engine;
use crate::writer::Op;

/// Runs until the engine ends or all its handles are gone.
pub(crate) async fn run(core: Weak<Core>, engine: Arc<Engine>, clock: Arc<dyn Clock>) {
    // What is left to do when the writer does not say.
    const DEFAULT: Duration = Duration::from_secs(1);
    while engine.check().is_ok() {
        let started = clock.monotonic();
        let Some(strong) = core.upgrade() else { return };
        let wait = match strong.apply(Op::Tick).await {
            Ok(Answer::Ticked(wait)) => wait,
            Ok(_) => DEFAULT,
            Err(error) => {
                // The engine ends, or this tick could not be taken; the loop finds out which.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "tick of the embedded storage failed"
                );
                DEFAULT
            }
        };
        drop(strong);
        sleep_until(&*clock, started.saturating_add(wait), &engine).await;
    }
}

/// Returns at a time of the clock, or earlier when something came up.
async fn sleep_until(clock: &dyn Clock, deadline: Duration, engine: &Engine) {
    // The clock may be moved between looking at it and going to sleep.
    const MOVED: Duration = Duration::from_millis(20);
    loop {
        let before = clock.monotonic();
        if before >= deadline {
            tokio::task::yield_now().await;
            return;
        }
        let sleep = clock.sleep(deadline - before);
        if clock.monotonic().saturating_sub(before) > MOVED {
            continue;
        }
        let woken = std::pin::pin!(engine.timer.notified());
        match select(sleep, woken).await {
            Either::Left(_) | Either::Right(_) => return,
        }
    }
}
