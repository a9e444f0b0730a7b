//! Waiting until the cache has reached a revision, and asking the backend where it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use apiserver_storage_api::{Result, Revision, Storage, StorageError};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, TryFutureExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::planted::{Bug, planted};

/// Readers that wait for a revision, in the order of their revisions: a new state wakes those it satisfies and nobody
/// else.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: Mutex<BTreeMap<(Revision, u64), oneshot::Sender<()>>>,
    next_id: AtomicU64,
}

/// A place in the queue. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    waiters: &'a Waiters,
    id: (Revision, u64),
    reached: oneshot::Receiver<()>,
}

impl Waiters {
    /// Joins the queue. The caller looks once more at the state after this, which may have come meanwhile.
    pub(crate) fn join(&self, revision: Revision) -> Ticket<'_> {
        let (sender, reached) = oneshot::channel();
        let id = (revision, self.next_id.fetch_add(1, Ordering::Relaxed));
        self.waiting.lock().insert(id, sender);
        Ticket {
            waiters: self,
            id,
            reached,
        }
    }

    /// Wakes whoever waits for this revision or an earlier one.
    pub(crate) fn reach(&self, revision: Revision) {
        let mut waiting = self.waiting.lock();
        while let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= revision) {
            // A reader that has left no longer cares.
            let _ = first.remove().send(());
        }
    }

    /// Sends everybody away: waiting has become pointless.
    pub(crate) fn dismiss(&self) {
        self.waiting.lock().clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }
}

impl Ticket<'_> {
    /// Ends when the revision is reached, or when everybody was sent away.
    pub(crate) async fn reached(&mut self) {
        // Both outcomes send the reader to look at the state again.
        let _ = (&mut self.reached).await;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.waiters.waiting.lock().remove(&self.id);
    }
}

type Answer = Shared<BoxFuture<'static, Result<Present, Arc<StorageError>>>>;

/// Where the storage below is.
#[derive(Debug, Clone)]
pub(crate) struct Present {
    /// The revision of the latest write.
    pub(crate) revision: Revision,
    /// The identity of the store, asked for after the revision: when it is the one that the cache has, so is the revision's.
    pub(crate) store: Option<Arc<str>>,
}

/// One question "which revision is now" at a time. A reader shares an answer only if the question is asked after the
/// reader came; otherwise the answer could be older than a write that the reader knows of.
#[derive(Default)]
pub(crate) struct Now {
    last: Mutex<Option<Question>>,
}

struct Question {
    asked: Arc<AtomicBool>,
    answer: Answer,
}

impl std::fmt::Debug for Now {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Now")
    }
}

impl Now {
    /// The backend's current revision, as of some moment after this call began.
    pub(crate) async fn ask(&self, storage: &Arc<dyn Storage>) -> Result<Present> {
        let answer = self.question(storage);
        answer.await.map_err(|error| share(&error))
    }

    fn question(&self, storage: &Arc<dyn Storage>) -> Answer {
        let mut last = self.last.lock();
        let before = match last.take() {
            Some(question) if !question.asked.load(Ordering::SeqCst) || planted(Bug::JoinsOlderQuestion) => {
                let answer = question.answer.clone();
                *last = Some(question);
                return answer;
            }
            // One that is under way is too old for us. Ours goes out when it is back, with whoever comes until then.
            Some(question) if question.answer.peek().is_none() => Some(question.answer),
            _ => None,
        };
        let asked = Arc::new(AtomicBool::new(false));
        let (storage, flag) = (Arc::clone(storage), Arc::clone(&asked));
        let answer = async move {
            if let Some(before) = before {
                // Its outcome is for those who shared it.
                let _ = before.await;
            }
            flag.store(true, Ordering::SeqCst);
            let revision = storage.current_revision().await?;
            let store = storage.store_id().await?.map(Into::into);
            Ok::<_, StorageError>(Present { revision, store })
        };
        let answer = answer.map_err(Arc::new).boxed().shared();
        *last = Some(Question {
            asked,
            answer: answer.clone(),
        });
        answer
    }
}

/// The same error for each of those who shared a question.
fn share(error: &Arc<StorageError>) -> StorageError {
    match &**error {
        StorageError::NotReady { cause, retry_after } => StorageError::NotReady {
            cause: cause.clone(),
            retry_after: *retry_after,
        },
        StorageError::TooManyRequests { cause, retry_after } => StorageError::TooManyRequests {
            cause: cause.clone(),
            retry_after: *retry_after,
        },
        StorageError::Timeout { key } => StorageError::Timeout { key: key.clone() },
        StorageError::Closed => StorageError::Closed,
        StorageError::Unreachable { .. } => StorageError::Unreachable {
            source: Arc::clone(error).into(),
        },
        _ => StorageError::Internal {
            message: "the backend could not be asked for its revision".into(),
            source: Some(Arc::clone(error).into()),
        },
    }
}
