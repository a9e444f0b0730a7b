//! The members as one thing to call: failover, retries, deadlines, and whether it is still the same store.
//!
//! All calls go to one member until it fails; the next one is tried then, by everybody. A read is repeated as long as
//! members cannot be reached. A write is repeated only if it surely was not sent: a repeated one might meet itself.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;

use apiserver_storage_api::time::{Clock, jitter};
use apiserver_storage_api::{BoxError, Revision};
use apiserver_storage_kv::{KvError, KvResult};
use tokio::sync::{Notify, watch};
use tonic::Status;

use crate::answer::Part;
use crate::config::{EtcdConfig, EtcdConfigError};
use crate::error::{Failure, classify_status, fault};
use crate::member::{Member, Trust, trust_of};
use crate::metered::Method;
use crate::proto::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse};
use crate::rpc::{Came, Rpc};
use crate::tls::Tls;

const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long calls that wait for an answer may go on once the cluster is closed.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// What is shared by all that talk to one cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: EtcdConfig,
    members: Vec<Member>,
    current: AtomicUsize,
    identity: Mutex<Identity>,
    closed: watch::Sender<bool>,
    /// A call waits longer than calls do.
    slow: Notify,
}

/// Which store it is, and how far it was seen.
#[derive(Debug, Default)]
struct Identity {
    /// Zero until the first answer.
    cluster: u64,
    highest: u64,
    /// History below it is known to be gone; zero where nothing is known.
    compacted: u64,
    generation: u64,
}

/// A point in the life of a store: no linearizable answer to a later call is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) highest: u64,
    pub(crate) generation: u64,
}

/// What a call does, and so what it means that its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It can be repeated.
    Read,
    /// It cannot.
    Write,
}

impl Cluster {
    pub(crate) fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        if config.servers.is_empty() {
            return Err(EtcdConfigError::NoServers);
        }
        let tls = Tls::read(&config)?;
        let members = config.servers.iter().map(|server| Member::new(server, &config, &tls));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            members,
            config,
            current: AtomicUsize::new(0),
            identity: Mutex::default(),
            closed: watch::Sender::new(false),
            slow: Notify::new(),
        })
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.config.clock
    }

    /// Ends all calls that have not begun; watches and tasks see it. Calls that are under way get a little time.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member that calls go to.
    pub(crate) fn current(&self) -> (usize, &Member) {
        let index = self.current.load(Ordering::Relaxed) % self.members.len();
        (index, &self.members[index])
    }

    /// The member failed: the next one is current, unless somebody saw to that already.
    pub(crate) fn rotate(&self, failed: usize) {
        self.members[failed].recheck();
        let next = (failed + 1) % self.members.len();
        if next != failed {
            let moved = self
                .current
                .compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
            if moved.is_ok() {
                let (from, to) = (&self.members[failed].server, &self.members[next].server);
                tracing::debug!(from, to, "etcd member failed, going to the next one");
            }
        }
    }

    /// Reads keys.
    pub(crate) async fn range(&self, request: &RangeRequest) -> KvResult<RangeResponse> {
        let call = |rpc: Arc<Rpc>| async move { rpc.range(request).await };
        self.call(Effect::Read, Method::Range, || 0, call).await
    }

    /// Reads keys while they come, if there is room for the answer. `ask` says what is still to be asked for, in each
    /// attempt anew, and something to remember of it; what `take` says of a part ends the call.
    pub(crate) async fn range_into<T>(
        &self,
        ask: impl Fn() -> (RangeRequest, T),
        room: usize,
        take: impl Fn(Part) -> KvResult<()>,
    ) -> KvResult<(Came, T)> {
        let parts = AtomicU64::new(0);
        let take = |part: Part| {
            parts.fetch_add(1, Ordering::Relaxed);
            take(part)
        };
        let call = |rpc: Arc<Rpc>| {
            let ((request, remembered), take) = (ask(), &take);
            async move {
                let came = rpc.range_into(request, room, take).await?;
                Ok(came.map(|came| (came, remembered)))
            }
        };
        let progress = || parts.load(Ordering::Relaxed);
        self.call(Effect::Read, Method::Range, progress, call).await?
    }

    /// A call that can be repeated, and is no read.
    pub(crate) async fn repeatable<T, F>(&self, method: Method, call: impl Fn(Arc<Rpc>) -> F) -> KvResult<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.call(Effect::Read, method, || 0, call).await
    }

    /// A transaction that changes something. `attempted` is called before each attempt.
    pub(crate) async fn txn(&self, request: &TxnRequest, attempted: impl Fn()) -> KvResult<TxnResponse> {
        let call = |rpc: Arc<Rpc>| {
            attempted();
            async move { rpc.txn(request).await }
        };
        self.call(Effect::Write, Method::Txn, || 0, call).await
    }

    /// Makes a call, elsewhere and again where that is harmless. `progress` grows with what came of its answer: as long as
    /// it does from attempt to attempt, there is no end to them.
    async fn call<T, F>(
        &self,
        effect: Effect,
        method: Method,
        progress: impl Fn() -> u64,
        call: impl Fn(Arc<Rpc>) -> F,
    ) -> KvResult<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut retry = Retry::new(self, self.config.retry_deadline);
        let mut had = progress();
        loop {
            if self.is_closed() {
                return Err(KvError::Closed);
            }
            let (index, member) = self.current();
            // On the heap: every layer above would hold all that a call takes, and move it.
            let attempt = Box::pin(async {
                let rpc = member.rpc().await.map_err(|status| not_sent(&status))?;
                let answer = method.counted(call(rpc)).await;
                answer.map_err(|status| classify_status(&status))
            });
            let cause = match self.watched(attempt).await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(Failure::Answer(error))) => return Err(error),
                Some(Err(Failure::NotSent(cause))) => cause,
                Some(Err(Failure::Lost(cause))) if effect == Effect::Read => cause,
                Some(Err(Failure::Lost(cause))) => {
                    self.rotate(index);
                    return Err(KvError::OutcomeUnknown(cause));
                }
                None if self.is_closed() => {
                    return Err(match effect {
                        Effect::Read => KvError::Closed,
                        Effect::Write => KvError::OutcomeUnknown(KvError::Closed.into()),
                    });
                }
                None => {
                    self.rotate(index);
                    return Err(match effect {
                        Effect::Read => KvError::Timeout(elapsed()),
                        Effect::Write => KvError::OutcomeUnknown(elapsed()),
                    });
                }
            };
            self.rotate(index);
            let has = progress();
            if std::mem::replace(&mut had, has) < has {
                retry = Retry::new(self, self.config.retry_deadline);
            }
            retry.pause(cause).await?;
        }
    }

    /// Awaits a call for at most as long as calls may take, which is not so long any more once the cluster is closed. One
    /// that takes long has its member looked at at once: if there is no life in it the call ends then, with its
    /// connection.
    async fn watched<T>(&self, attempt: impl Future<Output = T>) -> Option<T> {
        let (limit, patience) = (self.config.request_timeout, self.patience());
        let mut attempt = std::pin::pin!(attempt);
        if let Some(done) = self.within(patience.min(limit), &mut attempt).await {
            return Some(done);
        }
        self.slow.notify_one();
        // Only calls that take long look at whether the cluster was closed, so that the others do not pay for it.
        let mut closed = self.closed();
        let cut_off = async {
            // The other end is in here.
            let _ = closed.wait_for(|closed| *closed).await;
            self.clock().sleep(CLOSE_GRACE).await;
        };
        tokio::select! {
            biased;
            done = self.within(limit.saturating_sub(patience), attempt) => done,
            () = cut_off => None,
        }
    }

    /// How long an answer may take before the member is looked at closer.
    pub(crate) fn patience(&self) -> Duration {
        self.config.health_timeout / 2
    }

    /// Waits until a call takes long; not less than a little, however many do.
    pub(crate) async fn suspicion(&self) {
        self.clock().sleep(self.patience() / 2).await;
        self.slow.notified().await;
    }

    /// Awaits for at most so long.
    pub(crate) async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let timer = self.clock().sleep(limit);
        tokio::select! {
            biased;
            done = future => Some(done),
            () = timer => None,
        }
    }

    /// Where the store is known to be now; taken before a call, held against its answer.
    pub(crate) fn mark(&self) -> Mark {
        let identity = self.identity.lock();
        Mark {
            highest: identity.highest,
            generation: identity.generation,
        }
    }

    /// Takes the revision out of an answer.
    ///
    /// With a mark from before the call (which must have been linearizable), fails with [`KvError::Reset`] when the
    /// store went back behind it; in any case when it is another store.
    pub(crate) fn observe(&self, header: Option<ResponseHeader>, mark: Option<Mark>) -> KvResult<Revision> {
        let header = header.ok_or_else(|| fault("an answer without header"))?;
        let revision = positive(header.revision)?;
        let mut identity = self.identity.lock();
        let same = identity.cluster == 0 || identity.cluster == header.cluster_id;
        let current = mark.is_none_or(|mark| mark.generation == identity.generation);
        if same && !current {
            return Err(KvError::Reset);
        }
        let behind = mark.is_some_and(|mark| revision.get() < mark.highest);
        if !same || behind {
            let (was, highest) = (identity.cluster, identity.highest);
            *identity = Identity {
                cluster: header.cluster_id,
                highest: revision.get(),
                // What the other store forgot says nothing about this one.
                compacted: 0,
                generation: identity.generation + 1,
            };
            drop(identity);
            let is = header.cluster_id;
            tracing::error!(was, is, highest, %revision, "the etcd cluster is another one, or went back");
            metrics::counter!("apiserver_storage_etcd_resets_total").increment(1);
            return Err(KvError::Reset);
        }
        identity.cluster = header.cluster_id;
        identity.highest = identity.highest.max(revision.get());
        Ok(revision)
    }

    /// History below this is known to be gone.
    pub(crate) fn compacted(&self) -> Option<Revision> {
        Revision::new(self.identity.lock().compacted)
    }

    /// Where the store is known to be, and how many revisions of it can still be read, as far as that is known.
    pub(crate) fn kept(&self) -> (u64, u64) {
        let identity = self.identity.lock();
        (identity.highest, identity.highest.saturating_sub(identity.compacted))
    }

    /// The store of that generation says that its history below `revision` is gone; so it has been there. It says nothing
    /// where it is not the store any more.
    pub(crate) fn note_compacted(&self, revision: Revision, generation: u64) {
        let mut identity = self.identity.lock();
        if identity.generation == generation {
            identity.compacted = identity.compacted.max(revision.get());
            identity.highest = identity.highest.max(revision.get());
        }
    }

    /// The cluster's id, and how often the store was another one or went back since this process looks; once anything
    /// has answered.
    pub(crate) fn id(&self) -> Option<(u64, u64)> {
        let identity = self.identity.lock();
        (identity.cluster != 0).then_some((identity.cluster, identity.generation))
    }

    // deviates: storage-etcd3/FEAT-01: known for each cluster and not for the process; a feature is a method, so that
    // there is none of unknown name (also FEAT-07).
    // deviates: storage-etcd3/FEAT-03, storage-etcd3/FEAT-05: known per member and asked again after it was away, so that
    // an upgrade is noticed and one old cluster does not speak for another.
    // concerns: storage-etcd3/FEAT-08: this is why the versions in `trust_of` are those.
    // concerns: storage-etcd3/FEAT-09: a request for progress goes over the stream of its own watch, to the same member.
    // concerns: storage-etcd3/RCLI-09: each member has clients of its own, so that a status is that of a known member.
    /// Asks a member for its version, unless it is known and nothing happened since.
    pub(crate) async fn learn_trust(&self, member: &Member) -> Trust {
        if !member.unchecked() {
            return member.trust();
        }
        let status = async {
            let rpc = member.rpc().await?;
            // The connection that this may make is no reason to ask once more.
            let status = Method::Status.counted(rpc.status()).await;
            member.lines.take_made();
            status
        };
        if let Some(Ok(status)) = self.within(self.config.health_timeout, status).await {
            let trust = trust_of(&status.version);
            if trust == Trust::No && member.trust() != Trust::No {
                let (server, version) = (&member.server, &status.version);
                tracing::warn!(server, version, "this etcd reports no trustworthy progress on watches");
            }
            member.set_trust(trust);
        }
        member.trust()
    }
}

/// Logging in failed: whatever it was, the call itself was not sent.
fn not_sent(status: &Status) -> Failure {
    match classify_status(status) {
        Failure::Lost(cause) | Failure::NotSent(cause) => Failure::NotSent(cause),
        answer @ Failure::Answer(_) => answer,
    }
}

fn elapsed() -> BoxError {
    "no answer in time".into()
}

/// A revision as etcd counts them.
pub(crate) fn positive(revision: i64) -> KvResult<Revision> {
    u64::try_from(revision)
        .ok()
        .and_then(Revision::new)
        .ok_or_else(|| fault(format!("an answer with revision {revision}")))
}

/// Attempts of one call: each member at once, then pauses that grow, then no more.
pub(crate) struct Retry<'a> {
    cluster: &'a Cluster,
    give_up: Duration,
    failed: usize,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(cluster: &'a Cluster, limit: Duration) -> Self {
        Self {
            cluster,
            give_up: cluster.clock().monotonic().saturating_add(limit),
            failed: 0,
        }
    }

    /// Waits until the next attempt.
    ///
    /// Fails with [`KvError::Unreachable`] when there was time enough, with [`KvError::Closed`] on shutdown.
    pub(crate) async fn pause(&mut self, cause: BoxError) -> KvResult<()> {
        let clock = self.cluster.clock();
        if clock.monotonic() >= self.give_up {
            return Err(KvError::Unreachable(cause));
        }
        self.failed += 1;
        let members = self.cluster.members.len();
        if !self.failed.is_multiple_of(members) {
            return Ok(());
        }
        let rounds = u32::try_from(self.failed / members - 1).unwrap_or(u32::MAX).min(10);
        let pause = FIRST_PAUSE.saturating_mul(1 << rounds).min(LONGEST_PAUSE);
        let mut closed = self.cluster.closed();
        let closed = closed.wait_for(|closed| *closed).map(drop);
        tokio::select! {
            biased;
            () = closed => Err(KvError::Closed),
            () = clock.sleep(jitter(&*self.cluster.config.rng, pause)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use apiserver_storage_api::time::{Clock, ManualClock};
    use apiserver_storage_kv::KvError;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use parking_lot::Mutex;

    use super::{Cluster, Retry};
    use crate::config::EtcdConfig;

    /// A clock that moves by what is slept, and remembers it.
    #[derive(Debug)]
    struct Skipping(ManualClock, Mutex<Vec<Duration>>);

    impl Clock for Skipping {
        fn now(&self) -> SystemTime {
            self.0.now()
        }

        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.1.lock().push(duration);
            self.0.advance(duration);
            futures::future::ready(()).boxed()
        }
    }

    // covers: storage-etcd3/EERR-12
    #[tokio::test]
    async fn each_member_is_tried_at_once_and_then_after_pauses_that_grow_and_scatter() {
        let clock = Arc::new(Skipping(ManualClock::new(SystemTime::UNIX_EPOCH), Mutex::default()));
        let servers = (0..3).map(|number| format!("http://10.0.0.{number}:2379"));
        let config = EtcdConfig::new(servers).with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let cluster = Cluster::new(config).expect("a sound configuration");
        let mut retry = Retry::new(&cluster, Duration::from_secs(30));
        let mut attempts = 1;
        let end = loop {
            match retry.pause("refused".into()).await {
                Ok(()) => attempts += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(end, KvError::Unreachable(_)), "{end:?}");
        let pauses = clock.1.lock().clone();
        assert!(attempts >= pauses.len() * 3, "three attempts to a pause");
        let total: Duration = pauses.iter().sum();
        assert!(
            (30.0..32.0).contains(&total.as_secs_f64()),
            "until there was time enough: {total:?}"
        );
        for (round, pause) in pauses.iter().enumerate() {
            let base = Duration::from_millis(25 << round.min(6)).min(Duration::from_secs(1));
            assert!(*pause >= base / 2 && *pause <= base * 3 / 2, "{round}: {pause:?}");
        }
        let scattered = pauses[10..].windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(scattered > 5, "not in step: {pauses:?}");
        cluster.close();
        let mut closed = Retry::new(&cluster, Duration::from_secs(30));
        let end = loop {
            if let Err(error) = closed.pause("refused".into()).await {
                break error;
            }
        };
        assert!(matches!(end, KvError::Closed), "{end:?}");
    }

    #[tokio::test]
    async fn a_member_that_failed_is_left_once_by_all_who_saw_it_fail() {
        let servers = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"];
        let cluster = Cluster::new(EtcdConfig::new(servers)).expect("a sound configuration");
        for _ in 0..5 {
            cluster.rotate(0);
        }
        assert_eq!(cluster.current().0, 1);
        cluster.rotate(2);
        assert_eq!(cluster.current().0, 1, "somebody else's old news");
        cluster.rotate(1);
        cluster.rotate(2);
        assert_eq!(cluster.current().0, 0);
    }
}
