//! Whether the cache can serve, and since when.

use std::time::Duration;

use apiserver_storage_api::{NotReady, StorageError};
use tokio::sync::watch;

/// What readers are told when they may come back: at least, at most, and how fast it grows with the downtime.
const RETRY_AFTER: (f64, f64, f64) = (1.0, 30.0, 0.06);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was listed yet, or what was is no longer followed.
    Pending(Option<String>),
    Ready,
    /// There is more than may be kept: everybody is served by the storage below.
    Uncached,
    /// Final.
    Closed,
}

/// The state and when it last changed.
#[derive(Debug)]
pub(crate) struct Status(watch::Sender<(State, Duration)>);

impl Status {
    pub(crate) fn new(now: Duration) -> Self {
        Self(watch::Sender::new((State::Pending(None), now)))
    }

    /// Changes the state. Repeating one, or learning another cause, does not restart the downtime.
    pub(crate) fn set(&self, state: State, now: Duration) {
        self.0.send_if_modified(|(own, since)| {
            if *own == State::Closed || *own == state {
                return false;
            }
            if std::mem::discriminant(own) != std::mem::discriminant(&state) {
                *since = now;
            }
            *own = state;
            true
        });
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.borrow().0 == State::Ready
    }

    pub(crate) fn is_uncached(&self) -> bool {
        self.0.borrow().0 == State::Uncached
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().0 == State::Closed
    }

    /// Ends once the cache is ready or closed.
    pub(crate) async fn settled(&self) {
        let mut state = self.0.subscribe();
        // The sender is ours and outlives the wait.
        let _ = state.wait_for(|(state, _)| !matches!(state, State::Pending(_))).await;
    }

    /// Ends once the cache is closed.
    pub(crate) async fn closed(&self) {
        let mut state = self.0.subscribe();
        // As above.
        let _ = state.wait_for(|(state, _)| *state == State::Closed).await;
    }

    /// Ends once the cache is closed or gone, and does not keep it.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut state = self.0.subscribe();
        async move {
            // Either of the two is an end.
            let _ = state.wait_for(|(state, _)| *state == State::Closed).await;
        }
    }

    pub(crate) fn check(&self, now: Duration) -> Result<(), NotReady> {
        let (state, since) = self.0.borrow().clone();
        let cause = match state {
            State::Ready | State::Uncached => return Ok(()),
            State::Pending(None) => "storage is (re)initializing".to_owned(),
            State::Pending(Some(cause)) => format!("storage is (re)initializing: {cause}"),
            State::Closed => "apiserver cacher is stopped".to_owned(),
        };
        Err(NotReady {
            cause,
            retry_after: retry_after(now.saturating_sub(since)),
        })
    }

    /// What a reader is told that is better served later than by the backend.
    pub(crate) fn too_many_requests(&self, now: Duration) -> StorageError {
        match self.check(now) {
            Err(NotReady { cause, retry_after }) => StorageError::TooManyRequests { cause, retry_after },
            // It became ready just now.
            Ok(()) => StorageError::TooManyRequests {
                cause: "storage was (re)initializing".into(),
                retry_after: Duration::from_secs(1),
            },
        }
    }
}

/// The longer the cache is down, the later clients shall come back.
fn retry_after(downtime: Duration) -> Duration {
    let (least, most, growth) = RETRY_AFTER;
    let seconds = (growth * downtime.as_secs_f64()).exp().clamp(least, most).floor();
    Duration::from_secs(seconds as u64)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    // covers: storage-cacher/NRDY-05
    #[test]
    fn the_hint_grows_with_the_downtime() {
        for (downtime, want) in [
            (0, 1),
            (11_500, 1),
            (14_000, 2),
            (20_000, 3),
            (30_000, 6),
            (40_000, 11),
            (56_700, 30),
            (540_000, 30),
        ] {
            assert_eq!(
                retry_after(Duration::from_millis(downtime)),
                Duration::from_secs(want),
                "after {downtime} ms"
            );
        }
    }

    // covers: storage-cacher/RDY-01, storage-cacher/RDY-02, storage-cacher/RDY-05, storage-cacher/RDY-06, storage-cacher/NRDY-06
    #[test]
    fn the_downtime_counts_from_the_last_real_change() {
        let at = Duration::from_secs;
        let status = Status::new(at(0));
        let cause = |now| {
            status
                .check(now)
                .err()
                .map(|error| (error.cause, error.retry_after.as_secs()))
        };
        assert_eq!(cause(at(20)), Some(("storage is (re)initializing".into(), 3)));
        status.set(State::Pending(Some("no route".into())), at(10));
        assert_eq!(cause(at(20)), Some(("storage is (re)initializing: no route".into(), 3)));
        status.set(State::Ready, at(20));
        status.set(State::Ready, at(21));
        assert_eq!(cause(at(21)), None);
        status.set(State::Pending(None), at(100));
        assert_eq!(cause(at(100)), Some(("storage is (re)initializing".into(), 1)));
        status.set(State::Closed, at(101));
        status.set(State::Ready, at(102));
        assert_eq!(cause(at(102)), Some(("apiserver cacher is stopped".into(), 1)));
        assert!(status.is_closed() && !status.is_ready());
    }

    // covers: storage-cacher/RDY-04, storage-cacher/RDY-03
    #[test]
    fn a_waiter_that_comes_too_late_waits_for_the_next_time() {
        let status = Status::new(Duration::ZERO);
        let mut context = Context::from_waker(Waker::noop());
        let mut waiters: Vec<_> = (0..10).map(|_| Box::pin(status.settled())).collect();
        let mut settled = || {
            let done = waiters.iter_mut().map(|waiter| waiter.as_mut().poll(&mut context));
            done.filter(std::task::Poll::is_ready).count()
        };
        assert_eq!(settled(), 0);
        status.set(State::Ready, Duration::ZERO);
        status.set(State::Pending(None), Duration::ZERO);
        assert_eq!(settled(), 0, "it is pending again");
        status.set(State::Ready, Duration::ZERO);
        assert_eq!(settled(), 10, "one transition releases all");
        drop(waiters);
        status.set(State::Pending(None), Duration::ZERO);
        let mut last = Box::pin(status.settled());
        assert!(last.as_mut().poll(&mut context).is_pending());
        status.set(State::Closed, Duration::ZERO);
        assert!(last.as_mut().poll(&mut context).is_ready());
        assert_eq!(
            status.check(Duration::ZERO).unwrap_err().cause,
            "apiserver cacher is stopped"
        );
    }
}
