//! The committer thread: drains the queue into one group, commits it, shows it, and answers everybody in it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use apiserver_storage_api::BoxError;
use apiserver_storage_api::time::Clock;
use apiserver_storage_kv::{KvError, KvResult};

use crate::core::{Answer, now};
use crate::disk::Disk;
use crate::engine::Engine;
use crate::error::Trouble;
use crate::group::Group;
use crate::pack::pack;
use crate::upkeep::Upkeep;
use crate::writer::{Decision, Op, Writer};

/// Requests that wait; a caller beyond that waits for a place.
const QUEUE: usize = 256;
/// Bytes of keys and values after which a group is full.
const BYTES_PER_GROUP: usize = 16 << 20;

/// Bytes of the largest value that is packed on its caller's thread: a fraction of a millisecond.
const PACKED_ON_THE_SPOT: usize = 128 << 10;

/// How long writes are refused after one found no space.
const PAUSE_WHEN_FULL: Duration = Duration::from_secs(5);

type Reply = oneshot::Sender<KvResult<Answer>>;

struct Request {
    op: Op,
    reply: Reply,
}

/// The callers' side of the committer thread.
pub(crate) struct Committer {
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    ended: watch::Receiver<bool>,
    runtime: Handle,
}

impl Committer {
    /// Starts the thread.
    pub(crate) fn start(
        engine: Arc<Engine>,
        disk: Arc<Disk>,
        writer: Writer,
        clock: Arc<dyn Clock>,
        upkeep: Upkeep,
        runtime: Handle,
    ) -> KvResult<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (ending, ended) = watch::channel(false);
        let thread = Thread {
            engine,
            disk,
            writer,
            clock,
            queue: receiver,
            full_until: None,
            upkeep,
        };
        std::thread::Builder::new()
            .name("embedded-commit".to_owned())
            .spawn(move || {
                thread.run_to_end();
                // Nobody may be waiting for it.
                let _ = ending.send(true);
            })
            .map_err(|error| KvError::from(Trouble::Thread(Box::new(error))))?;
        Ok(Self {
            queue: Mutex::new(Some(sender)),
            ended,
            runtime,
        })
    }

    pub(crate) async fn apply(&self, engine: &Engine, mut op: Op) -> KvResult<Answer> {
        if let Op::Put { value, packed, .. } = &mut op {
            *packed = self.pack(value).await;
        }
        let queue = self.queue.lock().clone().ok_or(KvError::Closed)?;
        let (reply, answer) = oneshot::channel();
        if queue.send(Request { op, reply }).await.is_err() {
            engine.check()?;
            return Err(KvError::Closed);
        }
        // The queue stays open for this request until it is answered.
        let answer = answer.await;
        drop(queue);
        answer.unwrap_or_else(|_| Err(KvError::OutcomeUnknown(Box::new(Trouble::Unanswered))))
    }

    /// Packs a value before it waits for the committer thread: there is one of that, and whatever it does delays
    /// everybody, while callers pack on all processors at once. A value whose condition then fails was packed in vain.
    async fn pack(&self, value: &Bytes) -> Option<Bytes> {
        if value.len() <= PACKED_ON_THE_SPOT {
            return pack(value);
        }
        let value = value.clone();
        let packing = self.runtime.spawn_blocking(move || pack(&value));
        // What could not be packed is written as it is.
        packing.await.ok().flatten()
    }

    /// Closes the queue and waits until the thread has worked it off and ended.
    pub(crate) async fn close(&self) {
        drop(self.queue.lock().take());
        let mut ended = self.ended.clone();
        // An error means that the thread is gone, which is what is waited for.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer")
            .field("ended", &*self.ended.borrow())
            .finish_non_exhaustive()
    }
}

struct Thread {
    engine: Arc<Engine>,
    disk: Arc<Disk>,
    writer: Writer,
    clock: Arc<dyn Clock>,
    queue: mpsc::Receiver<Request>,
    /// After a write that found no space: when the next one is tried.
    full_until: Option<Duration>,
    upkeep: Upkeep,
}

/// A request's caller and what was decided for it.
type Decided = (Reply, KvResult<Decision>);

/// The engine was stopped; everybody has been told.
struct Stopped;

impl Thread {
    fn run_to_end(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            self.engine.stop("the committer thread panicked");
        }
        // Those who still wait in the queue learn that surely nothing of theirs was written.
        self.queue.close();
        while let Some(request) = self.queue.blocking_recv() {
            let refused = self.engine.check().err().unwrap_or(KvError::Closed);
            let _ = request.reply.send(Err(refused));
        }
        self.upkeep.cancel(&self.disk);
        self.engine.close();
        self.disk.close();
    }

    fn run(&mut self) {
        while let Some(requests) = self.receive() {
            if let Err(Stopped) = self.commit(requests) {
                return;
            }
            if self.full_until.is_none()
                && !self.writer.has_backlog()
                && let Err(error) = self
                    .upkeep
                    .tend(&self.disk, self.writer.footprint(), self.clock.monotonic())
            {
                self.engine.stop(&describe(&error));
                return;
            }
        }
    }

    /// The next requests, waiting for one unless there is other work. `None` when no more can come.
    fn receive(&mut self) -> Option<Vec<Request>> {
        let mut requests = Vec::new();
        if self.full_until.is_some() || !self.writer.has_backlog() {
            requests.push(self.queue.blocking_recv()?);
        }
        let mut bytes: usize = requests.iter().map(|request| request.op.bytes()).sum();
        while requests.len() < QUEUE && bytes < BYTES_PER_GROUP {
            match self.queue.try_recv() {
                Ok(request) => {
                    bytes += request.op.bytes();
                    requests.push(request);
                }
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) if requests.is_empty() => return None,
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
        Some(requests)
    }

    /// One group. Fails when the engine must not go on.
    fn commit(&mut self, requests: Vec<Request>) -> Result<(), Stopped> {
        let time = now(&*self.clock);
        if self.full_until.is_some_and(|until| time.monotonic < until) {
            for request in requests {
                answer(request.reply, Err(KvError::NoSpace(Box::new(Trouble::Full))));
            }
            return Ok(());
        }
        let mut group = self.writer.begin();
        let expiry = self.writer.next_expiry();
        let decided: Vec<Decided> = requests
            .into_iter()
            .map(|request| (request.reply, self.writer.decide(request.op, time, &mut group)))
            .collect();
        if !group.is_empty() {
            let started = self.clock.monotonic();
            match self.disk.commit(&group) {
                Ok(()) => {}
                Err(KvError::NoSpace(error)) => return self.out_of_space(decided, &group, error),
                Err(error) => return self.fail(decided, &error),
            }
            let took = self.clock.monotonic().saturating_sub(started);
            metrics::histogram!("apiserver_storage_embedded_commit_duration_seconds").record(took);
            metrics::histogram!("apiserver_storage_embedded_commit_records").record(group.records.len() as f64);
            self.upkeep.note(&group);
            self.engine.publish(&self.writer, &group);
            self.full_until = None;
            self.engine.set_full(false);
        }
        if self.writer.next_expiry() != expiry {
            self.engine.timer.notify_one();
        }
        self.answer_all(decided, &group);
        Ok(())
    }

    fn answer_all(&self, decided: Vec<Decided>, group: &Group) {
        for (reply, decision) in decided {
            answer(reply, decision.and_then(|decision| self.engine.answer(decision, group)));
        }
    }

    /// A commit found no space. What the disk has is found out by opening the file anew; then writes are refused for a
    /// while, because each attempt costs that much.
    fn out_of_space(&mut self, decided: Vec<Decided>, group: &Group, error: BoxError) -> Result<(), Stopped> {
        self.upkeep.cancel(&self.disk);
        let mut loaded = match self.disk.reopen() {
            Ok(loaded) => loaded,
            Err(reopening) => {
                tracing::error!(
                    error = &*error,
                    "embedded storage is out of space and its file cannot be reopened"
                );
                return self.fail(decided, &reopening);
            }
        };
        // A transaction is on the disk as a whole or not at all.
        let written = loaded.writer.head == self.writer.head
            && loaded.writer.compacted == self.writer.compacted
            && loaded.writer.coordination == self.writer.coordination;
        loaded.writer.inherit(&mut self.writer);
        self.writer = loaded.writer;
        self.engine.set_full(true);
        self.full_until = Some(self.clock.monotonic() + PAUSE_WHEN_FULL);
        if written {
            self.engine.publish(&self.writer, group);
            self.answer_all(decided, group);
            return Ok(());
        }
        for (reply, decision) in decided {
            let refused = || KvError::NoSpace(Box::new(Trouble::Full));
            answer(reply, Err(decision.err().unwrap_or_else(refused)));
        }
        Ok(())
    }

    /// A commit failed: what the disk has of it is open, so nothing goes on, and nobody learns more than that.
    fn fail(&self, decided: Vec<Decided>, error: &KvError) -> Result<(), Stopped> {
        let reason = describe(error);
        self.engine.stop(&reason);
        for (reply, decision) in decided {
            let stopped = Trouble::Stopped {
                reason: Arc::from(reason.as_str()),
            };
            let error = match decision {
                Ok(Decision::Applied(_) | Decision::Coordinated(true) | Decision::Compacted) => {
                    KvError::OutcomeUnknown(Box::new(stopped))
                }
                // Nothing was to be written; but what was found may be part of what failed.
                Ok(_) => stopped.into(),
                Err(error) => error,
            };
            answer(reply, Err(error));
        }
        Err(Stopped)
    }
}

/// Answers a caller. One that has left does not want to know.
fn answer(reply: Reply, answer: KvResult<Answer>) {
    let _ = reply.send(answer);
}

/// An error with its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
