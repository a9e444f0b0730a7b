//! A page of the backend on its way: asked for, coming, and all there.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;

use apiserver_storage_api::{Result, Revision, StorageError};

use super::Reader;
use crate::convert::{self, Call};
use crate::kv::{Kv, KvPair, KvResult, RangeRequest};
use crate::latency::RequestLatency;
use crate::parts::{Progress, RangeEnd, RangeParts};

/// Something comes only while it is asked for. Whoever has one of these and goes away for long has to
/// [see it through](Self::all) before.
pub(super) struct Coming<K> {
    reader: Arc<Reader<K>>,
    pub(super) request: RangeRequest,
    parts: Arc<RangeParts>,
    state: State,
    /// When it was asked for, and how much of the time since then went by with looking at what had come.
    start: Duration,
    looked: Duration,
}

enum State {
    Coming(BoxFuture<'static, KvResult<RangeEnd>>),
    /// All of it has come.
    Here(RangeEnd),
    Failed(StorageError),
    /// The error was handed out.
    Over,
}

impl<K: Kv> Coming<K> {
    pub(super) fn new(reader: &Arc<Reader<K>>, request: RangeRequest) -> Self {
        let parts = Arc::new(RangeParts::default());
        let (kv, asked, into) = (Arc::clone(&reader.store.kv), request.clone(), Arc::clone(&parts));
        Self {
            reader: Arc::clone(reader),
            request,
            parts,
            state: State::Coming(Box::pin(async move { kv.range_into(asked, &into).await })),
            start: reader.store.meter.now(),
            looked: Duration::ZERO,
        }
    }

    /// Waits until there is something to take, or all of it has come.
    pub(super) async fn more(&mut self) -> Result<()> {
        poll_fn(|cx| {
            self.poll(cx);
            match self.parts.waiting() {
                0 if self.is_coming() => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        self.failure()
    }

    /// Waits until it is known where the store was when it answered.
    pub(super) async fn answered(&mut self) -> Result<Revision> {
        self.more().await?;
        let revision = self.parts.revision();
        revision.ok_or_else(|| StorageError::internal("an answer without revision"))
    }

    pub(super) fn is_coming(&self) -> bool {
        matches!(self.state, State::Coming(_))
    }

    /// Waits until all of it has come, or will not.
    pub(super) async fn all(&mut self) {
        poll_fn(|cx| {
            self.poll(cx);
            match self.is_coming() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// The state that comes, once something has.
    pub(super) fn state(&self) -> Revision {
        let revision = self.request.at.or_else(|| self.parts.revision());
        revision.unwrap_or(Revision::MIN)
    }

    /// What is known once all of it has come.
    pub(super) fn end(&self) -> Option<RangeEnd> {
        match self.state {
            State::Here(end) => Some(end),
            _ => None,
        }
    }

    /// Moves the next pairs, up to so many, to the end of `into`.
    pub(super) fn take(&self, most: usize, into: &mut Vec<KvPair>) {
        self.parts.take(most, into);
    }

    pub(super) fn progress(&self) -> Progress {
        self.parts.progress()
    }

    /// So much time went by with looking at what had come: the backend did not take it.
    pub(super) fn looked(&mut self, took: Duration) {
        if self.is_coming() {
            self.looked = self.looked.saturating_add(took);
        }
    }

    /// The error that it ended with, if it did; once.
    pub(super) fn failure(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Failed(error) => Err(error),
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// Lets come what can; wakes when there is more of it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let State::Coming(call) = &mut self.state else { return };
        let Poll::Ready(end) = call.as_mut().poll(cx) else {
            return;
        };
        let meter = &self.reader.store.meter;
        let took = meter.now().saturating_sub(self.start).saturating_sub(self.looked);
        meter.request("list", took, end.is_err());
        RequestLatency::add_storage(took);
        self.state = match self.checked(end) {
            Ok(end) => State::Here(end),
            Err(error) => State::Failed(error),
        };
    }

    fn checked(&self, end: KvResult<RangeEnd>) -> Result<RangeEnd> {
        let (prefix, token) = (self.reader.prefix.as_str(), self.reader.token.as_ref());
        let asked = self.request.at;
        let end = end.map_err(|error| convert::storage_error(error, Call::List { prefix, asked, token }))?;
        if end.more && self.parts.progress().pairs == 0 {
            // Going on would never end.
            let message = "no results were found, but the backend indicated there were more values remaining";
            return Err(StorageError::internal(format!("{message}: prefix={prefix}")));
        }
        Ok(end)
    }
}
