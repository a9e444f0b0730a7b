//! etcd's messages to the contract's types.

use bytes::Bytes;
use etcd_client::proto::PbEvent;

use apiserver_storage_api::{KeyText, Revision};
use apiserver_storage_kv::{KvError, KvEvent, KvPair, KvResult, LeaseId};

use crate::cluster::positive;
use crate::error::fault;
use crate::proto::{KeyValue, TxnResponse};

/// etcd's word for the first of all keys, and for the end of all keys.
const NUL: &[u8] = &[0];

/// A key as requests hold it.
pub(crate) fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The first key in etcd's form, which knows no empty one.
pub(crate) fn start_key(start: &str) -> Bytes {
    if start.is_empty() {
        Bytes::from_static(NUL)
    } else {
        key(start)
    }
}

/// The end of a range in etcd's form.
pub(crate) fn end_key(end: Option<&str>) -> Bytes {
    end.map_or(Bytes::from_static(NUL), key)
}

/// A revision in etcd's form; `None` for one that it cannot express, which is far in the future.
pub(crate) fn signed(revision: Revision) -> Option<i64> {
    i64::try_from(revision.get()).ok()
}

/// The text of a stored key.
pub(crate) fn stored_key(bytes: &[u8]) -> KvResult<KeyText> {
    match std::str::from_utf8(bytes) {
        Ok(key) => Ok(key.into()),
        Err(_) => Err(fault(format!("a key that is not UTF-8: key={}", bytes.escape_ascii()))),
    }
}

/// A stored pair. Its value is a slice of the answer.
pub(crate) fn pair(stored: KeyValue) -> KvResult<KvPair> {
    Ok(KvPair {
        key: stored_key(&stored.key)?,
        value: stored.value,
        revision: positive(stored.mod_revision)?,
        created: positive(stored.create_revision)?,
        lease: (stored.lease != 0).then_some(LeaseId(stored.lease)),
    })
}

/// What the else branch of a transaction found.
pub(crate) fn else_branch(answer: TxnResponse) -> KvResult<Option<KeyValue>> {
    match answer.response.and_then(|response| response.range) {
        Some(range) => Ok(range.kvs.into_iter().next()),
        None => Err(fault("a transaction that failed without its else branch")),
    }
}

/// One change, and the revision it happened at.
pub(crate) fn event(event: PbEvent) -> KvResult<(Revision, KvEvent)> {
    const PUT: i32 = 0;
    const DELETE: i32 = 1;
    let kind = event.r#type;
    let stored = event.kv.ok_or_else(|| fault("an event without a key"))?;
    let revision = positive(stored.mod_revision)?;
    let previous = event.prev_kv.map(|stored| pair(stored.into())).transpose()?;
    let (key, current) = match kind {
        PUT => {
            let pair = pair(stored.into())?;
            (pair.key.clone(), Some(pair))
        }
        DELETE => (stored_key(&stored.key)?, None),
        other => return Err(fault(format!("an event of unknown type {other}"))),
    };
    let event = KvEvent { key, current, previous };
    Ok((revision, event))
}

/// What a watch that the server ended says about why.
pub(crate) fn canceled(compact_revision: i64) -> Option<KvError> {
    (compact_revision > 0).then(|| KvError::Compacted {
        compacted: positive(compact_revision).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::else_branch;
    use crate::proto::TxnResponse;
    use apiserver_storage_kv::KvError;

    // covers: storage-etcd3/TXN-06
    #[test]
    fn a_failed_transaction_without_its_else_branch_is_an_error_and_no_panic() {
        let bare = else_branch(TxnResponse::default());
        assert!(matches!(bare, Err(KvError::Fault(_))), "{bare:?}");
    }
}
