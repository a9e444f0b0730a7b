//! Leases that are shared by keys whose lifetimes are close.
//!
//! A lease is granted for a little longer than asked for, and reused as long as that little covers what has passed
//! (`storage-etcd3/LEASE-01` to `LEASE-05`). Several are kept at a time, so that alternating lifetimes do not thrash.
//! Whoever finds none that fits asks for one, and those who come meanwhile with the same lifetime wait for it instead
//! of asking, too; all others go their way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_kv::{KvError, KvResult, LeaseId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::fault;
use crate::metered::Method;
use crate::shared::Shared;

/// Leases that are kept for reuse at most.
const KEPT: usize = 32;

/// Upper bounds for the histogram `etcd_lease_object_counts`, to be given to whatever renders it.
pub const LEASE_OBJECT_BUCKETS: [f64; 7] = [10.0, 50.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0];

/// The leases that can still be used.
#[derive(Debug)]
pub(crate) struct Leases {
    reuse: u64,
    max_keys: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<Kept>,
    /// Who asks for a lease of so many seconds; the value says why there was none.
    asking: HashMap<u64, watch::Receiver<Option<Arc<KvError>>>>,
}

#[derive(Debug)]
struct Kept {
    id: LeaseId,
    expires: Duration,
    keys: u32,
}

/// How to come by a lease.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    /// By sharing this one.
    Share(LeaseId),
    /// By asking for one.
    Ask(Ask<'a>),
    /// By waiting for one that was asked for: until this changes or ends.
    Wait(watch::Receiver<Option<Arc<KvError>>>),
}

/// The right to ask for a lease. Those who wait go on when it is dropped.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    leases: &'a Leases,
    ttl: u64,
    /// Before it was asked for: what the cluster counts begins later and ends later.
    now: Duration,
    waiting: Option<watch::Sender<Option<Arc<KvError>>>>,
}

impl Leases {
    pub(crate) fn new(reuse: Duration, max_keys: u32) -> Self {
        Self {
            reuse: reuse.as_secs(),
            max_keys: if max_keys == 0 { 1000 } else { max_keys },
            state: Mutex::default(),
        }
    }

    /// Seconds that a lease is granted beyond those that were asked for.
    fn window(&self, ttl: u64) -> u64 {
        self.reuse.min(ttl / 20)
    }

    /// How to come by a lease that lives at least `ttl` seconds and at most a window more.
    // deviates: storage-etcd3/LEASE-09: several leases are kept, not one.
    // deviates: storage-etcd3/LEASE-10: a grant holds no lock. Who wants a like lease shares it, others do not wait.
    pub(crate) fn turn(&self, ttl: u64, now: Duration) -> Turn<'_> {
        let window = self.window(ttl);
        let ask = |waiting| {
            Turn::Ask(Ask {
                leases: self,
                ttl,
                now,
                waiting,
            })
        };
        if window == 0 {
            return ask(None);
        }
        let earliest = now.saturating_add(Duration::from_secs(ttl));
        let latest = earliest.saturating_add(Duration::from_secs(window));
        let mut state = self.state.lock();
        let fits = |lease: &&mut Kept| earliest < lease.expires && lease.expires < latest && lease.keys < self.max_keys;
        if let Some(lease) = state.kept.iter_mut().find(fits) {
            lease.keys += 1;
            return Turn::Share(lease.id);
        }
        if let Some(asked) = state.asking.get(&ttl) {
            return Turn::Wait(asked.clone());
        }
        let (waiting, asked) = watch::channel(None);
        state.asking.insert(ttl, asked);
        ask(Some(waiting))
    }

    /// How long a lease lasts that is kept for reuse.
    fn time_left(&self, id: LeaseId, now: Duration) -> Option<Duration> {
        let state = self.state.lock();
        let lease = state.kept.iter().find(|lease| lease.id == id)?;
        Some(lease.expires.saturating_sub(now))
    }

    /// The cluster does not know this lease: it is not given out again.
    // deviates: storage-etcd3/LEASE-11: a lease that vanished costs one failed write, not all until its end.
    pub(crate) fn forget(&self, id: LeaseId) {
        self.state.lock().kept.retain(|lease| lease.id != id);
    }
}

impl Ask<'_> {
    /// What the cluster is asked for, in seconds.
    fn seconds(&self) -> i64 {
        i64::try_from(self.ttl.saturating_add(self.leases.window(self.ttl))).unwrap_or(i64::MAX)
    }

    /// It was granted: those who wait share it.
    fn granted(self, id: LeaseId) {
        let window = self.leases.window(self.ttl);
        let lease = Kept {
            id,
            expires: self
                .now
                .saturating_add(Duration::from_secs(self.ttl.saturating_add(window))),
            keys: 1,
        };
        if window == 0 {
            record(&lease);
            return;
        }
        let mut state = self.leases.state.lock();
        // What nobody can use any more goes, and so does the one that ends first when there are too many.
        state.kept.retain(|lease| {
            let useful = lease.expires > self.now && lease.keys < self.leases.max_keys;
            if !useful {
                record(lease);
            }
            useful
        });
        if state.kept.len() >= KEPT {
            let first = (0..state.kept.len()).min_by_key(|&index| state.kept[index].expires);
            if let Some(first) = first {
                record(&state.kept.swap_remove(first));
            }
        }
        state.kept.push(lease);
    }

    /// There is none: those who wait hear why, instead of asking one after the other.
    fn failed(mut self, error: &Arc<KvError>) {
        if let Some(waiting) = self.waiting.take() {
            // Nobody finds this any more when those who wait are told.
            self.leases.state.lock().asking.remove(&self.ttl);
            waiting.send_replace(Some(Arc::clone(error)));
        }
    }
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        if self.waiting.is_some() {
            self.leases.state.lock().asking.remove(&self.ttl);
        }
    }
}

impl Shared {
    /// A lease for a key that is to live so long, from the next full second on.
    pub(crate) async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let seconds = seconds.max(1);
        loop {
            match self.leases.turn(seconds, self.cluster.clock().monotonic()) {
                Turn::Share(id) => return Ok(id),
                Turn::Ask(ask) => return self.grant(ask).await,
                Turn::Wait(mut asked) => {
                    // An end without a reason is that there is one now, or that whoever asked gave up.
                    let _ = asked.changed().await;
                    if let Some(error) = &*asked.borrow() {
                        return Err(again(error));
                    }
                }
            }
        }
    }

    /// How long a lease lasts: as far as is known here, else as the cluster says.
    pub(crate) async fn time_left(&self, lease: LeaseId) -> KvResult<Option<Duration>> {
        if let Some(left) = self.leases.time_left(lease, self.cluster.clock().monotonic()) {
            return Ok(Some(left));
        }
        let asked = self.cluster.repeatable(Method::LeaseTimeToLive, |rpc| async move {
            rpc.lease_time_to_live(lease.0).await
        });
        // Of a lease that it does not know the cluster says that -1 seconds are left.
        Ok(u64::try_from(asked.await?.ttl).ok().map(Duration::from_secs))
    }

    async fn grant(&self, ask: Ask<'_>) -> KvResult<LeaseId> {
        let seconds = ask.seconds();
        // A lease that was granted twice is one that nothing hangs on: it ends by itself.
        let grant = self
            .cluster
            .repeatable(Method::LeaseGrant, |rpc| async move { rpc.lease_grant(seconds).await });
        let granted = match grant.await.map(|granted| LeaseId(granted.id)) {
            Ok(LeaseId(0)) => Err(fault("a lease without a name")),
            other => other,
        };
        match granted {
            Ok(id) => {
                ask.granted(id);
                Ok(id)
            }
            Err(error) => {
                let error = Arc::new(error);
                ask.failed(&error);
                Err(again(&error))
            }
        }
    }
}

/// The same failure for one more caller.
fn again(error: &Arc<KvError>) -> KvError {
    let cause = Box::new(Arc::clone(error));
    match &**error {
        KvError::Closed => KvError::Closed,
        KvError::Reset => KvError::Reset,
        KvError::Unreachable(_) => KvError::Unreachable(cause),
        KvError::Timeout(_) => KvError::Timeout(cause),
        KvError::NoSpace(_) => KvError::NoSpace(cause),
        KvError::TooManyRequests(_) => KvError::TooManyRequests(cause),
        _ => KvError::Fault(cause),
    }
}

// deviates: storage-etcd3/LEASE-08: counts the keys that really share the lease, once, when it is given out no more.
fn record(lease: &Kept) {
    metrics::histogram!("etcd_lease_object_counts").record(lease.keys);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use apiserver_storage_kv::{KvError, LeaseId};

    use super::{Leases, Turn};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A lease that was asked for and granted.
    fn grant(leases: &Leases, id: i64, ttl: u64, now: u64) {
        match leases.turn(ttl, at(now)) {
            Turn::Ask(ask) => ask.granted(LeaseId(id)),
            other => panic!("not to be asked for: {other:?}"),
        }
    }

    /// The lease that would be shared.
    fn shared(leases: &Leases, ttl: u64, now: u64) -> Option<i64> {
        match leases.turn(ttl, at(now)) {
            Turn::Share(LeaseId(id)) => Some(id),
            _ => None,
        }
    }

    // covers: storage-etcd3/LEASE-01
    #[test]
    fn the_window_is_five_percent_and_at_most_the_configured_one() {
        let leases = Leases::new(at(60), 1000);
        for (ttl, want) in [(3600, 60), (1000, 50), (20, 1), (19, 0), (1, 0)] {
            assert_eq!(leases.window(ttl), want, "{ttl}");
        }
        assert_eq!(Leases::new(at(0), 1000).window(3600), 0);
    }

    // covers: storage-etcd3/LEASE-02, storage-etcd3/LEASE-03, storage-etcd3/LEASE-07
    #[test]
    fn a_lease_is_reused_while_it_lives_long_enough_and_not_too_long() {
        let leases = Leases::new(at(60), 1000);
        grant(&leases, 1, 1000, 0);
        for (ttl, now, want) in [
            (1000, 1, Some(1)),
            (1000, 49, Some(1)),
            (1000, 50, None),
            (1049, 0, Some(1)),
            (100, 1, None),
        ] {
            assert_eq!(shared(&leases, ttl, now), want, "{ttl} {now}");
        }
        grant(&leases, 2, 10, 0);
        assert_eq!(shared(&leases, 10, 0), None, "a short one is never shared");
    }

    // covers: storage-etcd3/LEASE-04, storage-etcd3/LEASE-05
    #[test]
    fn a_full_lease_is_not_reused() {
        let leases = Leases::new(at(60), 2);
        grant(&leases, 1, 1000, 0);
        assert_eq!(shared(&leases, 1000, 1), Some(1));
        assert_eq!(shared(&leases, 1000, 1), None);
        let default = Leases::new(at(60), 0);
        grant(&default, 1, 1000, 0);
        for _ in 1..1000 {
            assert_eq!(shared(&default, 1000, 1), Some(1));
        }
        assert_eq!(shared(&default, 1000, 1), None);
    }

    // covers: storage-etcd3/LEASE-09, storage-etcd3/OPEN-09
    #[test]
    fn alternating_lifetimes_share_their_own_leases_and_a_forgotten_one_is_gone() {
        let leases = Leases::new(at(60), 1000);
        grant(&leases, 1, 1000, 0);
        grant(&leases, 2, 3600, 0);
        assert_eq!(shared(&leases, 1000, 1), Some(1));
        assert_eq!(shared(&leases, 3600, 1), Some(2));
        leases.forget(LeaseId(1));
        assert_eq!(shared(&leases, 1000, 1), None);
        assert_eq!(shared(&leases, 3600, 1), Some(2));
    }

    // covers: storage-etcd3/LEASE-10, storage-etcd3/OPEN-09
    #[tokio::test]
    async fn while_one_asks_others_with_the_same_lifetime_wait_and_nobody_else() {
        let leases = Leases::new(at(60), 1000);
        let Turn::Ask(first) = leases.turn(1000, at(0)) else {
            panic!("there is none")
        };
        let Turn::Wait(mut waits) = leases.turn(1000, at(0)) else {
            panic!("one was asked for")
        };
        for other in [3600, 10, 10] {
            let turn = leases.turn(other, at(0));
            assert!(matches!(turn, Turn::Ask(_)), "{other}: {turn:?}");
        }
        first.granted(LeaseId(1));
        assert!(waits.changed().await.is_err(), "it is over");
        assert_eq!(shared(&leases, 1000, 1), Some(1));
    }

    // covers: storage-etcd3/LEASE-06
    #[tokio::test]
    async fn a_failed_grant_is_told_to_those_who_wait_and_an_abandoned_one_is_taken_over() {
        let leases = Leases::new(at(60), 1000);
        let waiting = || match leases.turn(1000, at(0)) {
            Turn::Wait(waits) => waits,
            other => panic!("one was asked for: {other:?}"),
        };
        let Turn::Ask(first) = leases.turn(1000, at(0)) else {
            panic!("there is none")
        };
        let mut waits = waiting();
        first.failed(&Arc::new(KvError::Unreachable("gone".into())));
        waits.changed().await.expect("told");
        assert!(waits.borrow().is_some());
        let Turn::Ask(second) = leases.turn(1000, at(0)) else {
            panic!("the next one asks anew")
        };
        let mut waits = waiting();
        drop(second);
        assert!(waits.changed().await.is_err());
        assert!(waits.borrow().is_none(), "no failure: whoever waited asks");
        assert!(matches!(leases.turn(1000, at(0)), Turn::Ask(_)));
    }
}
