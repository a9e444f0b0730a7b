//! Whether the cluster answers: a real read in the background, whose last result anybody can see without waiting. And
//! how large its database is.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, Either};
use tokio::task::JoinSet;
use tonic::Status;

use apiserver_storage_api::time::random_below;
use apiserver_storage_kv::{KvError, KvResult};

use crate::cluster::Cluster;
use crate::convert;
use crate::error::{Failure, classify_status};
use crate::member::Member;
use crate::metered::Method;
use crate::proto::RangeRequest;
use crate::rpc::Rpc;
use crate::shared::Shared;

// deviates: storage-etcd3/HEALTH-03, storage-etcd3/HEALTH-04: one probe after the other in the background, none for a
// caller; results cannot overtake each other.
/// Reads until the cluster is closed: at intervals, and whenever a call gets no answer.
pub(crate) async fn run(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    loop {
        let closed = closed.wait_for(|closed| *closed).map(drop);
        tokio::select! {
            biased;
            () = closed => return,
            () = cluster.clock().sleep(cluster.config.health_interval) => {}
            () = cluster.suspicion() => {}
        }
        probe(&shared).await;
    }
}

/// One read; remembers how it ended.
pub(crate) async fn probe(shared: &Shared) {
    let cluster = &shared.cluster;
    let mut now = pin!(shared.now());
    let mut result = cluster.within(cluster.patience(), &mut now).await;
    if result.is_none() {
        // Late: is it the member, or the connection? Keepalive would tell only much later.
        let (index, member) = cluster.current();
        let rest = cluster.within(cluster.config.health_timeout - cluster.patience(), now);
        result = match future::select(pin!(rest), pin!(examine(shared, member))).await {
            Either::Left((Some(answer), _)) => Some(answer),
            Either::Left((None, finding)) => {
                shared.set_health(Err(NO_ANSWER.to_owned()));
                act(shared, index, finding.await).await;
                return;
            }
            Either::Right((finding, rest)) => future::join(act(shared, index, finding), rest).await.1,
        };
    }
    shared.set_health(match result {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(format!("error getting data from etcd: {}", causes(&error))),
        None => Err(NO_ANSWER.to_owned()),
    });
}

const NO_ANSWER: &str = "error getting data from etcd: context deadline exceeded";

/// What a look at a member that owes an answer says.
enum Finding {
    /// It answers on a new connection; the others were asked when that was begun.
    Answers(Arc<Rpc>, JoinSet<()>),
    /// It does not, but its process lives: it has no leader, or too much to do.
    Lives,
    /// Nothing came from it at all.
    Dead,
}

/// Asks a member over a new connection, and over those that are there.
async fn examine(shared: &Shared, member: &Member) -> Finding {
    let cluster = &shared.cluster;
    member.lines.mark();
    let asked = member.ask_all();
    let attempt = async {
        let rpc = member.fresh_rpc().await?;
        let request = RangeRequest {
            key: convert::key(&cluster.config.probe_key),
            count_only: true,
            ..RangeRequest::default()
        };
        Method::Range.counted(rpc.range(&request)).await?;
        Ok::<_, Status>(rpc)
    };
    match cluster.within(cluster.config.health_timeout, attempt).await {
        Some(Ok(rpc)) => Finding::Answers(rpc, asked),
        _ if member.lines.silent() => Finding::Dead,
        _ => Finding::Lives,
    }
}

/// Ends what waits in vain, and spares later calls finding out one by one.
async fn act(shared: &Shared, index: usize, finding: Finding) {
    let cluster = &shared.cluster;
    let member = &cluster.members()[index];
    let server = &member.server;
    match finding {
        Finding::Answers(rpc, mut asked) => {
            tracing::warn!(server, "etcd is slow, or a connection dead: took a new one");
            member.adopt(rpc);
            // Silence alone is no sign: most connections of watches are idle. They have had the time that the new one
            // took, and get some more.
            let answered = async { while asked.join_next().await.is_some() {} };
            cluster.within(cluster.patience(), answered).await;
            member.lines.cut_silent();
            return;
        }
        Finding::Lives => tracing::warn!(server, "etcd member does not answer"),
        Finding::Dead => {
            tracing::warn!(server, "etcd member shows no sign of life: connections cut");
            member.lines.cut_all();
        }
    }
    cluster.rotate(index);
}

/// How often a member is asked for its version although nothing happened to it: one that nobody calls may have been
/// replaced without notice.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Asks members for their versions that are not known, until the cluster is closed.
pub(crate) async fn learn(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    let all = async {
        let mut again = cluster.clock().monotonic().saturating_add(ASK_AGAIN);
        loop {
            future::join_all(cluster.members().iter().map(|member| cluster.learn_trust(member))).await;
            cluster.clock().sleep(cluster.config.health_interval).await;
            let now = cluster.clock().monotonic();
            if now >= again {
                again = now.saturating_add(ASK_AGAIN);
                cluster.members().iter().for_each(Member::recheck);
            }
        }
    };
    tokio::select! {
        biased;
        _ = closed.wait_for(|closed| *closed) => {}
        () = all => {}
    }
}

/// How long a measurement of the database may take.
const MEASURE_LIMIT: Duration = Duration::from_secs(1);

// deviates: storage-etcd3/METR-12: measured in the background, so that a scrape waits for no cluster. One that does not
// answer keeps the size it had; one that never answered has none.
/// Measures the database at intervals until the cluster is closed.
pub(crate) async fn measure(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    let name = &cluster.config.cluster_name;
    let sizes = async {
        loop {
            if let Some(Ok(bytes)) = cluster.within(MEASURE_LIMIT, database_bytes(cluster)).await {
                let gauge = metrics::gauge!("apiserver_storage_size_bytes", "storage_cluster_id" => name.clone());
                // Exact up to eight petabytes.
                gauge.set(bytes as f64);
            }
            cluster.clock().sleep(cluster.config.size_interval).await;
        }
    };
    tokio::select! {
        biased;
        _ = closed.wait_for(|closed| *closed) => {}
        () = sizes => {}
    }
}

/// Bytes of the database of some member; of the next one where that does not answer.
pub(crate) async fn database_bytes(cluster: &Cluster) -> KvResult<u64> {
    let count = cluster.members().len();
    let bound = u64::try_from(count).unwrap_or(u64::MAX);
    let first = usize::try_from(random_below(&*cluster.config.rng, bound)).unwrap_or_default();
    let mut failed = None;
    for member in (0..count).map(|step| &cluster.members()[(first + step) % count]) {
        if cluster.is_closed() {
            return Err(KvError::Closed);
        }
        let status = async {
            let rpc = member.rpc().await?;
            Method::Status.counted(rpc.status()).await
        };
        match cluster.within(cluster.config.health_timeout, status).await {
            Some(Ok(status)) => return Ok(u64::try_from(status.db_size).unwrap_or_default()),
            Some(Err(status)) => failed = Some(classify_status(&status)),
            None => {}
        }
    }
    Err(match failed {
        Some(Failure::Answer(error)) => error,
        Some(Failure::Lost(cause) | Failure::NotSent(cause)) => KvError::Unreachable(cause),
        None => KvError::Timeout("no answer in time".into()),
    })
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
