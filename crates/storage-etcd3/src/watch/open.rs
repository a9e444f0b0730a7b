//! Opening one watch on one member.

use std::sync::Arc;

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tonic::Code;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvResult, WatchRequest, prefix_end};

use crate::cluster::{Cluster, positive};
use crate::convert;
use crate::error::{Failure, classify, fault};
use crate::member::{Link, Member, Trust};
use crate::metered::{Attempt, Method};

/// An open watch on a member.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) member: usize,
    /// Whether the member's progress reports mean what they say.
    pub(crate) trusted: bool,
    /// Where the member was when it accepted the watch.
    pub(crate) revision: Revision,
    pub(crate) sender: WatchRequestSender,
    pub(crate) responses: WatchResponseStream,
    /// How the stream ends is counted.
    pub(crate) attempt: Attempt,
    /// The place on the connection.
    pub(crate) link: Arc<Link>,
}

impl Cluster {
    /// Opens a watch on the current member.
    pub(super) async fn open_watch(&self, request: &WatchRequest, from: Revision) -> Result<Open, (usize, Failure)> {
        let (index, member) = self.current();
        let opened = async {
            let trusted = self.learn_trust(member).await == Trust::Yes;
            self.open_on(index, member, request, from, trusted).await
        };
        opened.await.map_err(|failure| (index, failure))
    }

    async fn open_on(
        &self,
        index: usize,
        member: &Member,
        request: &WatchRequest,
        from: Revision,
        trusted: bool,
    ) -> Result<Open, Failure> {
        // A watch that begins in the future is told no progress until something is written (`storage-etcd3/FEAT-10`).
        // One that may begin there begins one earlier; what is too old is dropped on arrival.
        let earlier = from.previous().filter(|_| trusted && from.get() > self.mark().highest);
        if let Some(earlier) = earlier {
            match self.open_at(index, member, request, earlier, trusted).await {
                Err(Failure::Answer(KvError::Compacted { .. })) => {}
                other => return other,
            }
        }
        self.open_at(index, member, request, from, trusted).await
    }

    async fn open_at(
        &self,
        index: usize,
        member: &Member,
        request: &WatchRequest,
        start: Revision,
        trusted: bool,
    ) -> Result<Open, Failure> {
        let link = member.link().await.map_err(classify)?;
        let options = options(request, start, trusted)?;
        let accepted = async {
            let key = convert::start_key(&request.key).to_vec();
            let mut attempt = Method::Watch.started();
            let stream = link.watch_client().watch(key, Some(options)).await;
            let stream = stream.inspect_err(|error| attempt.failed(error));
            let (sender, mut responses) = stream.map_err(classify)?.split();
            let created = responses.message().await.inspect_err(|error| attempt.failed(error));
            let created = created.map_err(classify)?.ok_or_else(|| {
                attempt.ended(Code::Ok);
                Failure::Lost("the watch ended before it began".into())
            })?;
            Ok((sender, responses, attempt, created))
        };
        // A connection that swallows everything must not hold the watch for ever.
        let limit = self.config.watch_open_timeout;
        let Some(accepted) = self.within(limit, accepted).await else {
            link.give_up();
            return Err(Failure::Lost("the watch was not accepted in time".into()));
        };
        let (sender, responses, attempt, created) = accepted?;
        if let Some(failure) = ended(&created) {
            if needs_login(&created) {
                link.log_in().await.map_err(classify)?;
            }
            return Err(failure);
        }
        if !created.created() {
            return Err(Failure::Answer(fault("a watch that begins without being accepted")));
        }
        let revision = self
            .observe(created.header().map(Into::into), None)
            .map_err(Failure::Answer)?;
        Ok(Open {
            member: index,
            trusted,
            revision,
            sender,
            responses,
            attempt,
            link,
        })
    }
}

fn options(request: &WatchRequest, start: Revision, trusted: bool) -> Result<WatchOptions, Failure> {
    let start = convert::signed(start);
    let start = start.ok_or_else(|| Failure::Answer(fault("a watch from a revision that etcd cannot express")))?;
    // deviates: storage-etcd3/EWATCH-13: large answers are asked for in fragments, and put together again in `batch.rs`.
    // Fragments bound what has to be in memory at a time.
    let mut options = WatchOptions::new().with_start_revision(start).with_fragment();
    if request.prefix {
        options = options.with_range(convert::end_key(prefix_end(&request.key).as_deref()).to_vec());
    }
    if request.previous {
        options = options.with_prev_key();
    }
    if trusted {
        options = options.with_progress_notify();
    }
    Ok(options)
}

/// Why the server ended the watch, if it did. A compacted start is no error of the call (`storage-etcd3/ETCD-02`).
pub(crate) fn ended(response: &WatchResponse) -> Option<Failure> {
    if !response.canceled() {
        return None;
    }
    if let Some(compacted) = convert::canceled(response.compact_revision()) {
        return Some(Failure::Answer(compacted));
    }
    let reason = response.cancel_reason();
    Some(
        if reason.contains("permission denied") || reason.contains("user name is empty") {
            Failure::Answer(fault(format!("the watch was refused: {reason}")))
        } else {
            Failure::Lost(format!("the watch was canceled: {reason}").into())
        },
    )
}

/// Whether the server refused the watch because the token that came with it means nothing (any more).
fn needs_login(response: &WatchResponse) -> bool {
    let reason = response.cancel_reason();
    reason.contains("invalid auth token") || reason.contains("auth store is old")
}

/// The revision of a response that has only a header: a report of progress.
pub(crate) fn progress_of(response: &WatchResponse) -> Option<KvResult<Revision>> {
    let bare = response.0.events.is_empty() && !response.created() && !response.canceled();
    let header = response.header().filter(|header| bare && header.revision() != 0)?;
    Some(positive(header.revision()))
}
