//! The way of a write: from a caller to the writer, through the commit, into what is visible, and back.
//!
//! A memory-only engine does all of it at once, on the caller's thread and under a short lock. A durable one hands the
//! change to its committer thread.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use apiserver_storage_api::time::Clock;
use apiserver_storage_kv::{KvResult, WriteOutcome};

#[cfg(feature = "durable")]
use crate::committer::Committer;
use crate::engine::Engine;
use crate::error::Trouble;
use crate::group::Group;
use crate::lease::wall_millis;
use crate::writer::{Decision, Now, Op, Writer};

/// What a caller learns of its change.
#[derive(Debug)]
pub(crate) enum Answer {
    Write(WriteOutcome),
    Compacted,
    Coordinated(bool),
    Ticked(Duration),
}

/// The engine with its way in. Dropping it ends the engine.
pub(crate) struct Core {
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: Arc<dyn Clock>,
    sink: Sink,
}

enum Sink {
    Direct(Mutex<Writer>),
    #[cfg(feature = "durable")]
    Committer(Committer),
}

impl Core {
    pub(crate) fn in_memory(engine: Arc<Engine>, clock: Arc<dyn Clock>, writer: Writer) -> Self {
        Self {
            engine,
            clock,
            sink: Sink::Direct(Mutex::new(writer)),
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn durable(engine: Arc<Engine>, clock: Arc<dyn Clock>, committer: Committer) -> Self {
        Self {
            engine,
            clock,
            sink: Sink::Committer(committer),
        }
    }

    /// Makes a change and returns once it is durable and visible.
    pub(crate) async fn apply(&self, op: Op) -> KvResult<Answer> {
        self.engine.check()?;
        match &self.sink {
            Sink::Direct(writer) => self.apply_here(&mut writer.lock(), op),
            #[cfg(feature = "durable")]
            Sink::Committer(committer) => committer.apply(&self.engine, op).await,
        }
    }

    fn apply_here(&self, writer: &mut Writer, op: Op) -> KvResult<Answer> {
        let mut group = writer.begin();
        let expiry = writer.next_expiry();
        let decision = writer.decide(op, now(&*self.clock), &mut group);
        if !group.is_empty() {
            self.engine.publish(writer, &group);
        }
        let wakes = writer.next_expiry() != expiry || group.compacted.is_some();
        let answer = self.engine.answer(decision?, &group)?;
        match answer {
            // Forgetting goes on at once, in turns, so that nobody waits long for the lock.
            Answer::Ticked(_) if writer.has_backlog() => Ok(Answer::Ticked(Duration::ZERO)),
            Answer::Ticked(_) => Ok(answer),
            _ => {
                if wakes {
                    self.engine.timer.notify_one();
                }
                Ok(answer)
            }
        }
    }

    /// Finishes what was accepted, then ends.
    pub(crate) async fn close(&self) {
        match &self.sink {
            Sink::Direct(writer) => {
                // Whoever has the lock is let through.
                drop(writer.lock());
                self.engine.close();
            }
            #[cfg(feature = "durable")]
            Sink::Committer(committer) => committer.close().await,
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        match &self.sink {
            Sink::Direct(_) => self.engine.close(),
            // Its queue closes with it; the thread finishes what is in there and ends.
            #[cfg(feature = "durable")]
            Sink::Committer(_) => {}
        }
    }
}

impl Engine {
    /// Turns a decision into an answer, once its group is visible.
    pub(crate) fn answer(&self, decision: Decision, group: &Group) -> KvResult<Answer> {
        Ok(match decision {
            Decision::Applied(revision) => Answer::Write(WriteOutcome::Applied(revision)),
            Decision::Mismatch(None) => Answer::Write(WriteOutcome::Mismatch {
                current: None,
                revision: self.head(),
            }),
            Decision::Mismatch(Some((key, version))) => {
                let written = group.records.iter().find(|record| record.revision == version.revision);
                let recent = || {
                    self.log
                        .read()
                        .get(version.revision)
                        .and_then(|record| record.value.clone())
                };
                let value = match written.and_then(|record| record.value.clone()).or_else(recent) {
                    Some(value) => Some(value),
                    None => self.reader.value_blocking((Arc::clone(&key), version))?,
                };
                let value = value.ok_or_else(|| Trouble::damaged(&key, version.revision, "value is missing"))?;
                let current = Some(version.pair(&key, value));
                Answer::Write(WriteOutcome::Mismatch {
                    current,
                    revision: self.head(),
                })
            }
            Decision::Compacted => Answer::Compacted,
            Decision::Coordinated(written) => Answer::Coordinated(written),
            Decision::Ticked(wait) => Answer::Ticked(wait),
        })
    }
}

/// The time on both clocks.
pub(crate) fn now(clock: &dyn Clock) -> Now {
    Now {
        wall: wall_millis(clock.now()),
        monotonic: clock.monotonic(),
    }
}
