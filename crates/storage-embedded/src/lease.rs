//! Leases without state: the id of a lease is when it ends, in milliseconds since 1970.
//!
//! So a lease costs nothing until a key hangs on it, survives a restart with the key, and keys whose times are close
//! share one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apiserver_storage_kv::LeaseId;

/// Milliseconds since 1970; at least one, because no lease is zero.
pub(crate) fn wall_millis(now: SystemTime) -> i64 {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i64::try_from(millis).unwrap_or(i64::MAX).max(1)
}

/// A lease that ends at `ttl` after `now`, or a little later so that it can be shared: a twentieth of the time at most,
/// and never more than a minute.
pub(crate) fn lease(now: i64, ttl: Duration) -> LeaseId {
    const LONGEST_DELAY: i64 = 60_000;
    let ttl = i64::try_from(ttl.as_nanos().div_ceil(1_000_000))
        .unwrap_or(i64::MAX)
        .max(1);
    let step = (ttl / 20).clamp(1, LONGEST_DELAY);
    let end = now.saturating_add(ttl);
    let late = end % step;
    LeaseId(if late == 0 {
        end
    } else {
        end.saturating_add(step - late)
    })
}

/// How long a lease lasts from `now` on; none: it has ended.
pub(crate) fn time_left(now: i64, LeaseId(end): LeaseId) -> Option<Duration> {
    let left = u64::try_from(end.saturating_sub(now)).ok().filter(|left| *left > 0)?;
    Some(Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_never_ends_early_and_only_a_little_late() {
        for (now, ttl, want) in [
            (1_000, Duration::from_secs(1), 2_000),
            (1_001, Duration::from_secs(1), 2_050),
            (1_000, Duration::ZERO, 1_001),
            (1_000, Duration::from_nanos(1), 1_001),
            (0, Duration::from_secs(3_600), 3_600_000),
            (1, Duration::from_secs(3_600), 3_660_000),
            (1_000, Duration::MAX, i64::MAX),
        ] {
            assert_eq!(lease(now, ttl), LeaseId(want), "now={now} ttl={ttl:?}");
        }
    }

    #[test]
    fn a_lease_tells_how_long_it_lasts() {
        for (now, end, want) in [(1_000, 3_500, Some(2_500)), (3_500, 3_500, None), (4_000, 3_500, None)] {
            let want = want.map(Duration::from_millis);
            assert_eq!(time_left(now, LeaseId(end)), want, "now={now} end={end}");
        }
    }
}
