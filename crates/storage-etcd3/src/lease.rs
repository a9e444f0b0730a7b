//! Leases that are shared by keys whose lifetimes are close.
//!
//! A lease is granted for a little longer than asked for, and reused as long as that little covers what has passed
//! (`storage-etcd3/LEASE-01` to `LEASE-05`). Several are kept at a time, so that alternating lifetimes do not thrash.

use std::time::Duration;

use apiserver_storage_kv::LeaseId;
use parking_lot::Mutex;

/// Leases that are kept for reuse at most.
const KEPT: usize = 32;

/// The leases that can still be used.
#[derive(Debug)]
pub(crate) struct Leases {
    reuse: u64,
    max_keys: u32,
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    id: LeaseId,
    expires: Duration,
    keys: u32,
}

impl Leases {
    pub(crate) fn new(reuse: Duration, max_keys: u32) -> Self {
        Self {
            reuse: reuse.as_secs(),
            max_keys: if max_keys == 0 { 1000 } else { max_keys },
            kept: Mutex::default(),
        }
    }

    /// Seconds that a lease is granted beyond those that were asked for.
    pub(crate) fn window(&self, ttl: u64) -> u64 {
        self.reuse.min(ttl / 20)
    }

    /// A kept lease that lives at least `ttl` seconds and at most a window more.
    // deviates: storage-etcd3/LEASE-09: several leases are kept, not one.
    pub(crate) fn reusable(&self, ttl: u64, now: Duration) -> Option<LeaseId> {
        let earliest = now + Duration::from_secs(ttl);
        let latest = earliest + Duration::from_secs(self.window(ttl));
        let mut kept = self.kept.lock();
        let fits = |lease: &&mut Kept| earliest < lease.expires && lease.expires < latest && lease.keys < self.max_keys;
        let lease = kept.iter_mut().find(fits)?;
        lease.keys += 1;
        Some(lease.id)
    }

    /// Remembers a lease that was granted; `now` is the time before it was.
    pub(crate) fn granted(&self, id: LeaseId, ttl: u64, now: Duration) {
        let window = self.window(ttl);
        let lease = Kept {
            id,
            expires: now + Duration::from_secs(ttl + window),
            keys: 1,
        };
        if window == 0 {
            record(&lease);
            return;
        }
        let mut kept = self.kept.lock();
        // What nobody can use any more goes, and so does the one that ends first when there are too many.
        kept.retain(|lease| {
            let useful = lease.expires > now && lease.keys < self.max_keys;
            if !useful {
                record(lease);
            }
            useful
        });
        if kept.len() >= KEPT {
            let first = (0..kept.len()).min_by_key(|&index| kept[index].expires);
            if let Some(first) = first {
                record(&kept.swap_remove(first));
            }
        }
        kept.push(lease);
    }

    /// The cluster does not know this lease: it is not given out again.
    // deviates: storage-etcd3/LEASE-11: a lease that vanished costs one failed write, not all until its end.
    pub(crate) fn forget(&self, id: LeaseId) {
        self.kept.lock().retain(|lease| lease.id != id);
    }
}

// deviates: storage-etcd3/LEASE-08: counts the keys that really share the lease, once, when it is given out no more.
fn record(lease: &Kept) {
    metrics::histogram!("etcd_lease_object_counts").record(lease.keys);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use apiserver_storage_kv::LeaseId;

    use super::Leases;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
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
        leases.granted(LeaseId(1), 1000, at(0));
        for (ttl, now, want) in [
            (1000, 1, Some(LeaseId(1))),
            (1000, 49, Some(LeaseId(1))),
            (1000, 50, None),
            (1049, 0, Some(LeaseId(1))),
            (100, 1, None),
        ] {
            assert_eq!(leases.reusable(ttl, at(now)), want, "{ttl} {now}");
        }
        leases.granted(LeaseId(2), 10, at(0));
        assert_eq!(leases.reusable(10, at(0)), None, "a short one is never shared");
    }

    // covers: storage-etcd3/LEASE-04, storage-etcd3/LEASE-05
    #[test]
    fn a_full_lease_is_not_reused() {
        let leases = Leases::new(at(60), 2);
        leases.granted(LeaseId(1), 1000, at(0));
        assert_eq!(leases.reusable(1000, at(1)), Some(LeaseId(1)));
        assert_eq!(leases.reusable(1000, at(1)), None);
        let default = Leases::new(at(60), 0);
        default.granted(LeaseId(1), 1000, at(0));
        for _ in 1..1000 {
            assert_eq!(default.reusable(1000, at(1)), Some(LeaseId(1)));
        }
        assert_eq!(default.reusable(1000, at(1)), None);
    }

    #[test]
    fn alternating_lifetimes_share_their_own_leases_and_a_forgotten_one_is_gone() {
        let leases = Leases::new(at(60), 1000);
        leases.granted(LeaseId(1), 1000, at(0));
        leases.granted(LeaseId(2), 3600, at(0));
        assert_eq!(leases.reusable(1000, at(1)), Some(LeaseId(1)));
        assert_eq!(leases.reusable(3600, at(1)), Some(LeaseId(2)));
        leases.forget(LeaseId(1));
        assert_eq!(leases.reusable(1000, at(1)), None);
        assert_eq!(leases.reusable(3600, at(1)), Some(LeaseId(2)));
    }
}
