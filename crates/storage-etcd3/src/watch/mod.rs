//! Watches: opened on a connection of their own, continued elsewhere when that breaks, ended only when going on would
//! lose something.
//!
//! A watch is pulled by its reader and has no task and no queue: while nobody reads, the server is held back by the
//! flow control of its stream. It goes on after the last revision that was delivered or reported as reached, so a break
//! loses and repeats nothing. A silent watch is asked for progress; one that does not answer is opened anew. What came
//! before an error is delivered before it, whatever they came in.

mod batch;
mod open;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::WatchResponse;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tonic::Code;

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{BoxError, Revision};
use apiserver_storage_kv::{KvError, KvResult, KvWatch, KvWatchItem, WatchRequest};

use self::batch::Batches;
use self::open::{Open, ended, progress_of};
use crate::cluster::Retry;
use crate::convert;
use crate::error::{Failure, classify, fault};
use crate::proto::RangeRequest;
use crate::shared::Shared;

/// How far the resumed watches of a broken connection are apart.
const RESUME_SPREAD: Duration = Duration::from_millis(20);

// deviates: storage-etcd3/EWATCH-14: the call returns when the watch is accepted and, where an initial state goes before
// it, when its first page is there; `WatchItem::InitialEnd` says when the rest of that work is done.
/// Opens a watch; returns when a member has accepted it.
pub(crate) async fn open(shared: Arc<Shared>, request: WatchRequest) -> KvResult<KvWatch> {
    let cluster = &shared.cluster;
    let now = match request.from {
        Some(_) => None,
        // The member that takes the watch may lag: only the cluster knows what "now" is.
        None => Some(shared.now().await?),
    };
    let from = match (request.from, now) {
        (Some(from), _) => from,
        (None, Some(now)) => now.next(),
        (None, None) => return Err(fault("a watch without a start")),
    };
    let generation = cluster.mark().generation;
    let mut retry = Retry::new(cluster, cluster.config.retry_deadline);
    let open = loop {
        if cluster.is_closed() {
            return Err(KvError::Closed);
        }
        match cluster.open_watch(&request, from).await {
            Ok(open) => break open,
            Err((member, Failure::Lost(cause) | Failure::NotSent(cause))) => {
                cluster.rotate(member);
                retry.pause(cause).await?;
            }
            Err((_, Failure::Answer(error))) => return Err(shared.learned(error, generation)),
        }
    };
    let revision = now.map_or(open.revision, |now| now.max(open.revision));
    if from <= open.revision {
        // Whether that start is compacted, the server says late, and only if nothing else is to be said.
        shared.still_readable(&request.key, from, generation).await?;
    }
    tracing::debug!(key = request.key, %from, server = cluster.members()[open.member].server, "etcd watch opened");
    let live = Box::new(Live {
        signals: signals(shared.progress_asked.subscribe(), cluster.closed()),
        quiet: None,
        timer: None,
        shared,
        request,
        generation,
        batches: Batches::new(from),
        open: Some(open),
        ready: VecDeque::new(),
        unanswered: false,
        unheard: 0,
        failed: None,
        over: false,
    });
    let items = stream::unfold(live, Live::next).boxed();
    Ok(KvWatch { revision, items })
}

impl Shared {
    /// Fails if the state at a revision is gone.
    async fn still_readable(&self, key: &str, at: Revision, generation: u64) -> KvResult<()> {
        let Some(at) = convert::signed(at) else {
            return Ok(());
        };
        let request = RangeRequest {
            key: convert::start_key(key),
            revision: at,
            count_only: true,
            ..RangeRequest::default()
        };
        match self.cluster.range(&request).await {
            Err(KvError::Compacted { .. }) => {
                let compacted = u64::try_from(at).ok().and_then(Revision::new).map(Revision::next);
                Err(self.learned(KvError::Compacted { compacted }, generation))
            }
            // The watch is open; whatever else is wrong, it will say so itself.
            _ => Ok(()),
        }
    }

    /// The store that answers now is the one that was watched, and remembers what was delivered.
    async fn still_the_same(&self, generation: u64, next: Revision) -> KvResult<()> {
        let cluster = &self.cluster;
        let mut retry = Retry::new(cluster, cluster.config.resume_deadline);
        let now = loop {
            // Not longer than the health check waits, which sees to a connection that is dead.
            match cluster.within(cluster.config.health_timeout, self.now()).await {
                None => retry.pause("no answer in time".into()).await?,
                Some(Err(KvError::Unreachable(cause) | KvError::Timeout(cause))) => retry.pause(cause).await?,
                Some(other) => break other?,
            }
        };
        if cluster.mark().generation != generation || now.next() < next {
            return Err(KvError::Reset);
        }
        Ok(())
    }
}

/// What the rest of the process tells a watch.
enum Signal {
    ProgressAsked,
    Closed,
}

fn signals(asked: watch::Receiver<u64>, closed: watch::Receiver<bool>) -> BoxStream<'static, Signal> {
    let signals = stream::unfold((asked, closed), async |(mut asked, mut closed)| {
        let signal = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Signal::Closed,
            Ok(()) = asked.changed() => Signal::ProgressAsked,
        };
        Some((signal, (asked, closed)))
    });
    signals.boxed()
}

/// What woke a watch.
enum Wake {
    Message(Result<Option<WatchResponse>, etcd_client::Error>),
    Signal(Option<Signal>),
    Timer,
}

// deviates: storage-etcd3/EWATCH-22: there are no stages and no queues between them: the reader pulls the server's stream,
// and what waits for a key service is a few values of that one reader.
// deviates: storage-etcd3/EWATCH-32: without queues nobody is blocked on one. A reader that is slow holds back its own
// stream, and etcd counts those that it cannot send to.
// concerns: storage-etcd3/ETCD-09: a watch that catches up, or cannot be sent to, gets its events late and many at a
// time. It is silent for no other reason than a dead one, so it is given more time at each probe.
/// A running watch.
struct Live {
    shared: Arc<Shared>,
    request: WatchRequest,
    /// Which life of the store it belongs to.
    generation: u64,
    batches: Batches,
    /// The stream; none while it is to be opened anew.
    open: Option<Open>,
    /// What came with the last response and was not taken yet.
    ready: VecDeque<KvWatchItem>,
    signals: BoxStream<'static, Signal>,
    /// Since when the reader has been waiting and the server said nothing.
    quiet: Option<Duration>,
    /// Ends when that may be too long. It is not set anew with every message: it looks at the clock when it ends.
    timer: Option<BoxFuture<'static, ()>>,
    /// It was asked whether it lives.
    unanswered: bool,
    /// How often in a row it did not answer.
    unheard: u32,
    /// What it ends with, once all that came before was taken.
    failed: Option<KvError>,
    over: bool,
}

impl Live {
    async fn next(mut self: Box<Self>) -> Option<(KvResult<KvWatchItem>, Box<Self>)> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some((Ok(item), self));
            }
            if self.over {
                return None;
            }
            if let Some(error) = self.failed.take() {
                self.over = true;
                return Some((Err(error), self));
            }
            if let Err(error) = self.step().await {
                self.open = None;
                self.failed = Some(error);
            }
        }
    }

    /// Does one thing; an error is the end.
    async fn step(&mut self) -> KvResult<()> {
        let Some(open) = &mut self.open else {
            return self.resume().await;
        };
        // Asked for apart from the signals: those are heard only once there is nothing to be read.
        if self.shared.cluster.is_closed() {
            return Err(KvError::Closed);
        }
        let config = &self.shared.cluster.config;
        // A server that is busy catching up does not answer either: it gets more time with each attempt.
        let patience = config.watch_probe_interval.saturating_mul(1 << self.unheard.min(4));
        let quiet = *self.quiet.get_or_insert_with(|| config.clock.monotonic());
        let timer = self.timer.get_or_insert_with(|| match open.trusted {
            true => config.clock.sleep(patience),
            false => future::pending().boxed(),
        });
        let wake = tokio::select! {
            biased;
            message = open.responses.message() => Wake::Message(message),
            signal = self.signals.next() => Wake::Signal(signal),
            () = timer => Wake::Timer,
        };
        match wake {
            Wake::Signal(Some(Signal::ProgressAsked)) => {
                self.ask();
                Ok(())
            }
            Wake::Signal(Some(Signal::Closed) | None) => Err(KvError::Closed),
            Wake::Message(Ok(Some(response))) => {
                self.quiet = None;
                self.response(response)
            }
            Wake::Message(Ok(None)) => {
                open.attempt.ended(Code::Ok);
                self.lost("the stream ended".into())
            }
            Wake::Message(Err(error)) => {
                open.attempt.failed(&error);
                match classify(error) {
                    // An open stream that fails is broken, whatever it says: opening it anew shows what is the matter.
                    Failure::Answer(error) => self.lost(error.into()),
                    Failure::Lost(cause) | Failure::NotSent(cause) => self.lost(cause),
                }
            }
            Wake::Timer => {
                let left = patience.saturating_sub(config.clock.monotonic().saturating_sub(quiet));
                if !left.is_zero() {
                    self.timer = Some(config.clock.sleep(left));
                    return Ok(());
                }
                (self.timer, self.quiet) = (None, None);
                if self.unanswered {
                    open.link.give_up();
                    self.unheard += 1;
                    self.broken("no sign of life".into())
                } else {
                    self.unanswered = true;
                    self.ask();
                    Ok(())
                }
            }
        }
    }

    /// Asks the server for progress, if it can be believed. Where the connection takes no requests, nothing is lost: it
    /// is asked again or replaced.
    fn ask(&mut self) {
        if let Some(open) = self.open.as_mut().filter(|open| open.trusted) {
            let _ = open.sender.request_progress().now_or_never();
        }
    }

    fn response(&mut self, response: WatchResponse) -> KvResult<()> {
        self.unanswered = false;
        if mem::take(&mut self.unheard) > 0 {
            // It would be waited for as long as one that was busy.
            self.timer = None;
        }
        if let Some(failure) = ended(&response) {
            return match failure {
                Failure::Answer(KvError::Compacted {
                    compacted: Some(compacted),
                }) if compacted <= self.batches.next() => self.broken("opened too early".into()),
                Failure::Answer(error) => Err(self.shared.learned(error, self.generation)),
                Failure::Lost(cause) | Failure::NotSent(cause) => self.lost(cause),
            };
        }
        if let Some(revision) = progress_of(&response) {
            if self.open.as_ref().is_some_and(|open| open.trusted) {
                self.ready.extend(self.batches.progress(revision?));
            }
            return Ok(());
        }
        let last_fragment = !response.0.fragment;
        self.batches.events(response.0.events, last_fragment, &mut self.ready)
    }

    // deviates: storage-etcd3/EWATCH-27: a member without a leader ends its watches; they go on at one that has one.
    /// The member failed: everybody goes to the next one.
    fn lost(&mut self, cause: BoxError) -> KvResult<()> {
        if let Some(open) = &self.open {
            self.shared.cluster.rotate(open.member);
        }
        self.broken(cause)
    }

    /// The stream is of no use; a new one may be had anywhere.
    fn broken(&mut self, cause: BoxError) -> KvResult<()> {
        self.batches.interrupted();
        self.unanswered = false;
        if let Some(open) = self.open.take() {
            let server = &self.shared.cluster.members()[open.member].server;
            let (key, next) = (&self.request.key, self.batches.next());
            tracing::debug!(key, %next, server, cause, "etcd watch broke, to be opened anew");
        }
        metrics::counter!("apiserver_storage_etcd_watch_resumes_total").increment(1);
        Ok(())
    }

    // deviates: storage-etcd3/EWATCH-28: not for ever; whoever reads hears after a while that nobody takes the watch.
    /// Opens the watch anew where it broke off, on a member that takes it.
    async fn resume(&mut self) -> KvResult<()> {
        let shared = Arc::clone(&self.shared);
        let cluster = &shared.cluster;
        let (request, generation, next) = (&self.request, self.generation, self.batches.next());
        let mut retry = Retry::new(cluster, cluster.config.resume_deadline);
        let resumed = async {
            // All watches of a connection break at once; they need not come back at once.
            cluster.clock().sleep(jitter(&*cluster.config.rng, RESUME_SPREAD)).await;
            loop {
                shared.still_the_same(generation, next).await?;
                match cluster.open_watch(request, next).await {
                    Ok(open) => return Ok(open),
                    Err((member, Failure::Lost(cause) | Failure::NotSent(cause))) => {
                        cluster.rotate(member);
                        retry.pause(cause).await?;
                    }
                    Err((_, Failure::Answer(error))) => return Err(shared.learned(error, generation)),
                }
            }
        };
        let mut closed = cluster.closed();
        let closed = closed.wait_for(|closed| *closed).map(drop);
        let open = match future::select(std::pin::pin!(resumed), std::pin::pin!(closed)).await {
            future::Either::Left((open, _)) => open?,
            future::Either::Right(_) => return Err(KvError::Closed),
        };
        self.open = Some(open);
        (self.timer, self.quiet) = (None, None);
        Ok(())
    }
}
