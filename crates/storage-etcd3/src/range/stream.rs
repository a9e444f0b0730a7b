//! Ranges that come in parts, where the server has streams of ranges: from etcd 3.7 on.
//!
//! A range that is bounded by nothing may weigh anything. As a stream its parts are small whatever it weighs, the server
//! counts nothing that was not asked for, and what was read stays read when the connection breaks: the rest is read at
//! the same revision, elsewhere if need be. A member without streams is remembered for a while, and what is left comes
//! from it in one answer.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use parking_lot::Mutex;
use tonic::{Code, Status};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvPair, KvResult, RangePage, RangeRequest};

use super::{is_empty, plain};
use crate::cluster::Retry;
use crate::convert;
use crate::error::{Failure, classify_status, fault};
use crate::member::Member;
use crate::metered::{Attempt, Method};
use crate::proto::{RangeResponse, RangeStreamResponse, ResponseHeader};
use crate::shared::Shared;

// concerns: storage-etcd3/ETCD-07: no version is asked for here: a server has streams or says that it has none, and old
// flags are the operator's. Tests run on 3.4 and 3.5, and on 3.7 where there is one (also RCLI-01).
// concerns: storage-etcd3/STREAM-13: that parts are small is the server's doing, and all that is needed: the client takes
// what comes, and its window bounds what is on the way (also STREAM-14).
// concerns: storage-etcd3/STREAM-19: no order and no filters are asked for, and what stands between with no streams says
// so as an old server does.
// concerns: storage-etcd3/STREAM-18: nothing is decoded while a stream is read, so its time is the time of reading.

/// How long a member that has no streams is not asked for one again. It may have been upgraded then.
const LACKING: Duration = Duration::from_secs(600);
/// So many keys fit into one answer, and are not worth a stream.
const FEW: u64 = 500;

/// Which members have no streams, as far as is known: until when, on the clock that only goes forward.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<usize, Duration>>);

impl Streams {
    fn offered(&self, member: usize, now: Duration) -> bool {
        self.0.lock().get(&member).is_none_or(|until| now >= *until)
    }

    fn lacking(&self, member: usize, now: Duration) {
        self.0.lock().insert(member, now.saturating_add(LACKING));
    }
}

/// Why a stream brings nothing more.
#[derive(Debug)]
enum Broken {
    /// The member has no streams.
    Lacking,
    By(Failure),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::By(classify_status(&status))
    }
}

/// What the last part says.
#[derive(Debug)]
struct End {
    header: ResponseHeader,
    more: bool,
    /// Keys of this stream, and behind it if it was cut off by its limit.
    count: u64,
}

/// A range that is being read: what came, and what is left to ask for.
#[derive(Debug)]
struct Reading {
    left: RangeRequest,
    pairs: Vec<KvPair>,
}

impl Reading {
    fn take(&mut self, answer: RangeResponse) -> KvResult<()> {
        let parts = answer.kvs;
        self.pairs.reserve(parts.len());
        for pair in parts {
            self.pairs.push(convert::pair(pair)?);
        }
        Ok(())
    }

    /// What is still to be asked for after `taken` pairs of this attempt. `None`: nothing.
    fn advance(&mut self, taken: usize) -> Option<()> {
        if let (Some(last), true) = (self.pairs.last(), taken > 0) {
            self.left.start = format!("{}\0", last.key);
        }
        if let Some(limit) = self.left.limit {
            let taken = u64::try_from(taken).unwrap_or(u64::MAX);
            self.left.limit = Some(NonZeroU64::new(limit.get().saturating_sub(taken))?);
        }
        Some(())
    }
}

impl Shared {
    // deviates: storage-etcd3/STREAM-04: the revision is asked for first, so that a stream that breaks can be gone on
    // with, and so that whoever needs a minimum can refuse before anything is read.
    /// Reads a range as a stream; `None` where that is not worth it, or not to be had.
    pub(super) async fn streamed(&self, request: &RangeRequest) -> KvResult<Option<RangePage>> {
        let worth = request.limit_bytes.is_none() && !request.count_only && !is_empty(request);
        let (cluster, few) = (&self.cluster, request.limit.is_some_and(|limit| limit.get() <= FEW));
        if !worth || few || !self.streams.offered(cluster.current().0, cluster.clock().monotonic()) {
            return Ok(None);
        }
        let pinned = match request.at {
            Some(at) => at,
            None => self.now().await?,
        };
        let mut left = request.clone();
        left.at = Some(pinned);
        let pairs = Vec::new();
        match self.read_on(Reading { left, pairs }).await {
            Ok(Some(page)) if request.at.is_none() => Ok(Some(RangePage {
                // The state that was read, however much was written since.
                revision: pinned,
                ..page
            })),
            // The latest state cannot be gone; the one that was latest a moment ago can.
            Err(KvError::Compacted { .. }) if request.at.is_none() => Ok(None),
            other => other,
        }
    }

    /// Reads what is left, on whichever member has it. `None`: no stream was to be had from the first one.
    async fn read_on(&self, mut reading: Reading) -> KvResult<Option<RangePage>> {
        let cluster = &self.cluster;
        let mut retry = Retry::new(cluster, cluster.config.retry_deadline);
        loop {
            if cluster.is_closed() {
                return Err(KvError::Closed);
            }
            let (index, member) = cluster.current();
            let (had, generation) = (reading.pairs.len(), cluster.mark().generation);
            let broken = if self.streams.offered(index, cluster.clock().monotonic()) {
                match self.stream_of(member, &mut reading).await {
                    Ok((end, revision)) => return Ok(Some(whole(reading, had, &end, revision))),
                    Err(broken) => broken,
                }
            } else {
                Broken::Lacking
            };
            let taken = reading.pairs.len() - had;
            if reading.advance(taken).is_none() {
                // The limit was reached, and only what comes after it is not known: that is one small answer.
                return self.the_rest(reading, true).await.map(Some);
            }
            match broken {
                Broken::Lacking => {
                    self.streams.lacking(index, cluster.clock().monotonic());
                    if reading.pairs.is_empty() {
                        return Ok(None);
                    }
                    return self.the_rest(reading, false).await.map(Some);
                }
                Broken::By(Failure::Lost(cause) | Failure::NotSent(cause)) => {
                    if taken > 0 {
                        retry = Retry::new(cluster, cluster.config.retry_deadline);
                    }
                    cluster.rotate(index);
                    retry.pause(cause).await?;
                }
                Broken::By(Failure::Answer(error)) => {
                    return Err(self.range_error(error, reading.left.at, generation).await);
                }
            }
        }
    }

    /// One attempt: a stream of one member, to its end.
    async fn stream_of(&self, member: &Member, reading: &mut Reading) -> Result<(End, Revision), Broken> {
        let cluster = &self.cluster;
        // No part may take longer than a call may.
        let limit = cluster.config.request_timeout;
        let late = || Status::deadline_exceeded("no answer in time");
        let mark = cluster.mark();
        let mut request = plain(&reading.left);
        if let Some(limit) = reading.left.limit {
            request.limit = i64::try_from(limit.get()).unwrap_or(i64::MAX);
        }
        request.revision = pinned(reading.left.at)?;
        let rpc = cluster.within(limit, member.rpc()).await.ok_or_else(late)??;
        let mut attempt = Method::RangeStream.started();
        let opened = cluster.within(limit, rpc.range_stream(request)).await;
        let opened = opened.unwrap_or_else(|| Err(late()));
        // A server without streams may say so at once or in the place of the first part.
        let stream = opened
            .inspect_err(|status| attempt.ended(status.code()))
            .map_err(lacking_or)?;
        let parts = stream::unfold(stream, |mut stream| async move {
            let part = cluster.within(limit, stream.next()).await;
            let part = part.unwrap_or_else(|| Err(late())).transpose()?;
            Some((part, stream))
        });
        let end = follow(counted(parts, attempt), reading).await?;
        let observed = cluster.observe(Some(end.header.clone()), Some(mark));
        let revision = observed.map_err(answer)?;
        Ok((end, revision))
    }

    /// What is left in one answer; `cut`: only how much that is.
    async fn the_rest(&self, reading: Reading, cut: bool) -> KvResult<RangePage> {
        let Reading { mut left, mut pairs } = reading;
        left.count_only = cut;
        let rest = self.page(left).await?;
        let had = u64::try_from(pairs.len()).unwrap_or(u64::MAX);
        pairs.extend(rest.pairs);
        Ok(RangePage {
            pairs,
            more: rest.more || (cut && rest.count > 0),
            count: rest.count.saturating_add(had),
            revision: rest.revision,
        })
    }
}

fn whole(reading: Reading, had: usize, end: &End, revision: Revision) -> RangePage {
    RangePage {
        pairs: reading.pairs,
        more: end.more,
        count: end.count.saturating_add(u64::try_from(had).unwrap_or_default()),
        revision,
    }
}

/// A revision as requests say it.
fn pinned(at: Option<Revision>) -> Result<i64, Broken> {
    match at.map(convert::signed) {
        None => Ok(0),
        Some(Some(at)) => Ok(at),
        // Further in the future than etcd counts.
        Some(None) => Err(Broken::By(Failure::Answer(KvError::Future { current: Revision::MIN }))),
    }
}

fn lacking_or(status: Status) -> Broken {
    match status.code() {
        Code::Unimplemented => Broken::Lacking,
        _ => status.into(),
    }
}

/// The same parts; how they end is counted, also when nobody takes them all.
fn counted<T>(parts: impl Stream<Item = Result<T, Status>>, attempt: Attempt) -> impl Stream<Item = Result<T, Status>> {
    stream::unfold((Box::pin(parts), attempt), |(mut parts, mut attempt)| async move {
        let part = parts.next().await;
        match &part {
            None => attempt.ended(Code::Ok),
            Some(Err(status)) => attempt.ended(status.code()),
            Some(Ok(_)) => {}
        }
        Some((part?, (parts, attempt)))
    })
}

/// Takes the parts of a stream up to its end. What came before an error stays taken.
async fn follow(
    parts: impl Stream<Item = Result<RangeStreamResponse, Status>>,
    reading: &mut Reading,
) -> Result<End, Broken> {
    let mut parts = std::pin::pin!(parts);
    let (mut first, mut end) = (true, None);
    while let Some(part) = parts.next().await {
        let mut part = match part {
            Ok(part) => part.range_response.unwrap_or_default(),
            Err(error) if first => return Err(lacking_or(error)),
            Err(error) => return Err(error.into()),
        };
        first = false;
        if let Some(header) = part.header.take() {
            end = Some(End {
                header,
                more: part.more,
                count: u64::try_from(part.count).unwrap_or_default(),
            });
        }
        reading.take(part).map_err(answer)?;
    }
    // Only the last part says which state it was; without it a list that was cut short would look whole.
    end.ok_or_else(|| {
        let start = &reading.left.start;
        answer(fault(format!(
            "a stream of a range that ended without a revision: start={start:?}"
        )))
    })
}

fn answer(error: KvError) -> Broken {
    Broken::By(Failure::Answer(error))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use apiserver_storage_kv::{KvError, RangeRequest};
    use futures::{StreamExt, stream};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tonic::Status;

    use super::{Broken, End, Failure, LACKING, Reading, Streams, counted, follow};
    use crate::metered::Method;
    use crate::proto::{KeyValue, RangeResponse, RangeStreamResponse, ResponseHeader};

    type Part = Result<RangeStreamResponse, Status>;

    fn part(keys: &[&str], end: Option<(i64, bool, i64)>) -> Part {
        let pair = |key: &&str| KeyValue {
            key: key.as_bytes().to_vec().into(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: "v".into(),
            lease: 0,
        };
        let range_response = Some(RangeResponse {
            header: end.map(|(revision, ..)| ResponseHeader {
                revision,
                ..ResponseHeader::default()
            }),
            kvs: keys.iter().map(pair).collect(),
            more: end.is_some_and(|(_, more, _)| more),
            count: end.map_or(0, |(.., count)| count),
        });
        Ok(RangeStreamResponse { range_response })
    }

    fn error(status: Status) -> Part {
        Err(status)
    }

    fn reading() -> Reading {
        Reading {
            left: RangeRequest::prefix("/registry/pods/"),
            pairs: Vec::new(),
        }
    }

    async fn read(parts: Vec<Part>) -> (Reading, Result<End, Broken>) {
        let mut reading = reading();
        let end = follow(stream::iter(parts), &mut reading).await;
        (reading, end)
    }

    fn keys(reading: &Reading) -> Vec<&str> {
        reading.pairs.iter().map(|pair| &*pair.key).collect()
    }

    // covers: storage-etcd3/STREAM-03, storage-etcd3/RCLI-11
    #[tokio::test]
    async fn parts_are_put_together_and_the_last_one_says_the_rest() {
        let (reading, end) = read(vec![
            part(&["a", "b"], None),
            part(&["c"], None),
            part(&["d"], Some((9, true, 7))),
        ])
        .await;
        let end = end.expect("it came to its end");
        assert_eq!(keys(&reading), ["a", "b", "c", "d"]);
        assert_eq!((end.header.revision, end.more, end.count), (9, true, 7));
    }

    // covers: storage-etcd3/STREAM-12, storage-etcd3/RCLI-11
    #[tokio::test]
    async fn a_stream_that_ends_without_a_revision_is_no_list() {
        for parts in [vec![], vec![part(&["a"], None)]] {
            let (_, end) = read(parts).await;
            let Err(Broken::By(Failure::Answer(KvError::Fault(cause)))) = end else {
                panic!("{end:?}")
            };
            assert!(cause.to_string().contains("/registry/pods/"), "{cause}");
        }
    }

    // covers: storage-etcd3/STREAM-09, storage-etcd3/STREAM-10
    #[tokio::test]
    async fn only_the_first_answer_can_say_that_there_are_no_streams() {
        let unimplemented = || error(Status::unimplemented("unknown method RangeStream"));
        let (_, first) = read(vec![unimplemented()]).await;
        assert!(matches!(first, Err(Broken::Lacking)), "{first:?}");
        let (_, later) = read(vec![part(&["a"], None), unimplemented()]).await;
        assert!(
            matches!(later, Err(Broken::By(Failure::Answer(KvError::Fault(_))))),
            "{later:?}"
        );
    }

    // covers: storage-etcd3/STREAM-11, storage-etcd3/STREAM-15
    #[tokio::test]
    async fn an_error_on_the_way_says_what_it_is() {
        let gone = "etcdserver: mvcc: required revision has been compacted";
        let (_, end) = read(vec![part(&["a"], None), error(Status::out_of_range(gone))]).await;
        assert!(
            matches!(end, Err(Broken::By(Failure::Answer(KvError::Compacted { .. })))),
            "{end:?}"
        );
    }

    // covers: storage-etcd3/STREAM-16
    #[tokio::test]
    async fn after_a_break_the_rest_is_asked_for_and_no_more() {
        let mut reading = reading();
        reading.left.limit = NonZeroU64::new(5);
        let lost = || error(Status::unavailable("connection reset"));
        let end = follow(stream::iter([part(&["a", "b"], None), lost()]), &mut reading).await;
        assert!(matches!(end, Err(Broken::By(Failure::Lost(_)))), "{end:?}");
        assert_eq!(reading.advance(2), Some(()));
        assert_eq!((&*reading.left.start, reading.left.limit), ("b\0", NonZeroU64::new(3)));
        let end = follow(stream::iter([lost()]), &mut reading).await;
        assert!(end.is_err());
        assert_eq!(reading.advance(0), Some(()));
        assert_eq!((&*reading.left.start, reading.left.limit), ("b\0", NonZeroU64::new(3)));
        let end = follow(stream::iter([part(&["c", "d", "e"], None), lost()]), &mut reading).await;
        assert!(end.is_err());
        assert_eq!(reading.advance(3), None, "all that was asked for is there");
    }

    // covers: storage-etcd3/FEAT-06
    #[test]
    fn a_member_without_streams_is_asked_again_after_a_while() {
        let streams = Streams::default();
        let now = Duration::from_secs(5000);
        assert!(streams.offered(0, now), "until the contrary is known");
        streams.lacking(0, now);
        assert!(!streams.offered(0, now + LACKING - Duration::from_secs(1)));
        assert!(streams.offered(1, now), "each member for itself");
        assert!(streams.offered(0, now + LACKING));
    }

    // covers: storage-etcd3/METR-13
    #[test]
    fn a_stream_is_counted_when_it_starts_and_once_by_how_it_ends() {
        type Parts = Vec<Result<u8, Status>>;
        let broken = || Err(Status::unavailable("connection reset"));
        let cases: [(&str, Parts, usize); 5] = [
            ("OK", vec![Ok(1), Ok(2)], 9),
            ("OK", vec![], 1),
            ("Unavailable", vec![Ok(1), broken()], 9),
            ("Unavailable", vec![broken(), broken()], 1),
            ("Canceled", vec![Ok(1), Ok(2)], 2),
        ];
        for (code, parts, taken) in cases {
            let recorder = PrometheusBuilder::new().build_recorder();
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            metrics::with_local_recorder(&recorder, || {
                let parts = counted(stream::iter(parts), Method::RangeStream.started());
                runtime
                    .expect("a runtime")
                    .block_on(parts.take(taken).for_each(async |_| {}));
            });
            let text = recorder.handle().render();
            let labels = "grpc_type=\"server_stream\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"RangeStream\"";
            let lines = text.lines().filter(|line| line.starts_with("grpc_client_"));
            let mut lines: Vec<_> = lines.collect();
            lines.sort_unstable();
            let handled = format!("grpc_client_handled_total{{{labels},grpc_code=\"{code}\"}} 1");
            let started = format!("grpc_client_started_total{{{labels}}} 1");
            assert_eq!(lines, [handled, started], "{taken} taken");
        }
    }
}
