//! How much of the time of a request was spent in storage (`storage-etcd3/OBS-02`, `OBS-03`).
//!
//! Whoever serves requests makes a [`RequestLatency`] for each and runs the request's work in its
//! [`scope`](RequestLatency::scope); every call to a backend that is made in there is added, whichever store makes it.
//! Pages of a list that are read after the scope has ended count too: a list remembers whose it is.
//!
//! ```
//! use apiserver_storage_kv::RequestLatency;
//!
//! # async fn handle_request() {}
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let latency = RequestLatency::new();
//! latency.scope(handle_request()).await;
//! println!("storage took {:?} of it, decoding {:?}", latency.storage(), latency.decode());
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

/// What one request has spent in storage so far. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct RequestLatency(Arc<Spent>);

#[derive(Debug, Default)]
struct Spent {
    storage: AtomicU64,
    decode: AtomicU64,
}

thread_local! {
    /// The request whose work this thread is doing at the moment.
    static CURRENT: RefCell<Option<RequestLatency>> = const { RefCell::new(None) };
}

impl RequestLatency {
    /// Nothing was spent yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sum of the times of all calls to a backend, those that ran side by side included: reads, lists, writes,
    /// deletions, leases, and the beginnings of watches.
    pub fn storage(&self) -> Duration {
        Duration::from_nanos(self.0.storage.load(Ordering::Relaxed))
    }

    /// The sum of the times that reading stored values took, decryption apart.
    pub fn decode(&self) -> Duration {
        Duration::from_nanos(self.0.decode.load(Ordering::Relaxed))
    }

    /// Runs a future as work of this request.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        Scope {
            latency: Some(self.clone()),
            work,
        }
    }

    /// The request whose work is being done.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Adds a call to the backend to the current request, if there is one.
    pub(crate) fn add_storage(took: Duration) {
        CURRENT.with_borrow(|current| {
            if let Some(latency) = current {
                latency.0.storage.fetch_add(nanos(took), Ordering::Relaxed);
            }
        });
    }

    /// Decodes something, measuring it where there is a request to add it to.
    pub(crate) fn decoding<T>(now: impl Fn() -> Duration, decode: impl FnOnce() -> T) -> T {
        let Some(latency) = Self::current() else {
            return decode();
        };
        let start = now();
        let decoded = decode();
        latency
            .0
            .decode
            .fetch_add(nanos(now().saturating_sub(start)), Ordering::Relaxed);
        decoded
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pin_project! {
    /// The work of a request: each time it is polled, its thread knows whose work it does.
    struct Scope<F> {
        latency: Option<RequestLatency>,
        #[pin]
        work: F,
    }
}

/// Puts back on leaving, also by a panic, what was current before.
struct Restore(Option<RequestLatency>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _restore = Restore(CURRENT.replace(this.latency.clone()));
        this.work.poll(cx)
    }
}

/// Runs a future as work of that request, if there is one.
pub(crate) fn scoped<F: Future>(latency: &Option<RequestLatency>, work: F) -> impl Future<Output = F::Output> + use<F> {
    Scope {
        latency: latency.clone().or_else(RequestLatency::current),
        work,
    }
}
