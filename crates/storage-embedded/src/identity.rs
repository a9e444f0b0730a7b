//! Who a new store is: its random id, and the revision that it starts at.

use std::time::{SystemTime, UNIX_EPOCH};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::StoreId;

/// The id of these random bytes, in hexadecimal.
pub(crate) fn store_id(bytes: &[u8]) -> StoreId {
    StoreId(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The revision that a store made at `now` starts at: 10-microsecond steps since 1970.
pub(crate) fn first_revision(now: SystemTime) -> Revision {
    let micros = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    u64::try_from(micros / 10)
        .ok()
        .and_then(Revision::new)
        .unwrap_or(Revision::MIN)
}
