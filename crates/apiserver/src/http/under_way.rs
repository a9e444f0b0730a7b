//! What is under way: requests until their answer is read, and watches until they end. A server that stops waits for the
//! one and ends the other.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use apiserver_storage_api::BoxError;

use crate::http::body::Body;

/// Watches that are not to end all at once end in so many groups, one after the other.
pub(crate) const GROUPS: usize = 64;

/// Everything that is under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// All but watches.
    pub(crate) requests: TaskTracker,
    pub(crate) watches: TaskTracker,
    /// What ends the watches of a group.
    pub(crate) ends: [CancellationToken; GROUPS],
    next: AtomicUsize,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self {
            requests: TaskTracker::new(),
            watches: TaskTracker::new(),
            ends: std::array::from_fn(|_| CancellationToken::new()),
            next: AtomicUsize::new(0),
        }
    }
}

impl UnderWay {
    /// One more watch, and what ends it.
    pub(crate) fn watch(&self) -> (TaskTrackerToken, CancellationToken) {
        let group = self.next.fetch_add(1, Ordering::Relaxed) % GROUPS;
        (self.watches.token(), self.ends[group].clone())
    }
}

/// An answer that holds something until it is read to its end, or dropped.
pub(crate) fn held<G: Send + Unpin + 'static>(response: Response<Body>, guard: G) -> Response<Body> {
    response.map(|body| Held { body, _guard: guard }.boxed_unsync())
}

struct Held<G> {
    body: Body,
    _guard: G,
}

impl<G: Unpin> http_body::Body for Held<G> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use crate::http::body;

    use super::*;

    #[tokio::test]
    async fn an_answer_holds_on_until_it_is_read_or_dropped() {
        let under_way = UnderWay::default();
        let answer = || held(Response::new(body::full("text")), under_way.requests.token());
        let (read, dropped) = (answer(), answer());
        assert_eq!(under_way.requests.len(), 2);
        let body = read.into_body();
        assert_eq!(body.size_hint().exact(), Some(4), "its length is still known");
        assert_eq!(body.collect().await.unwrap().to_bytes(), "text");
        assert_eq!(under_way.requests.len(), 1);
        drop(dropped);
        assert!(under_way.requests.is_empty());
    }

    #[test]
    fn watches_are_spread_over_the_groups() {
        let under_way = UnderWay::default();
        let watches: Vec<_> = (0..GROUPS * 2).map(|_| under_way.watch()).collect();
        assert_eq!(under_way.watches.len(), GROUPS * 2);
        under_way.ends[0].cancel();
        let ended = watches.iter().filter(|(_, end)| end.is_cancelled()).count();
        assert_eq!(ended, 2);
    }
}
