//! The processor time of this process.

use std::path::Path;
use std::time::Duration;

/// What the threads that live have used so far, in user and kernel mode. `None` where the system does not say.
///
/// From the scheduler's own count per thread, which is in nanoseconds; the process' figure is in hundredths of a second.
pub(crate) fn used() -> Option<Duration> {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir(Path::new("/proc/self/task")).ok()? {
        let file = thread.ok()?.path().join("schedstat");
        // A thread may end between the listing and here.
        let Ok(text) = std::fs::read_to_string(file) else {
            continue;
        };
        total += Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?);
    }
    Some(total)
}
