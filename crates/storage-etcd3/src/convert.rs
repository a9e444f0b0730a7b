//! etcd's messages to the contract's types.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue, PbTxnOpResponse, PbTxnResponse};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvEvent, KvPair, KvResult, LeaseId};

use crate::cluster::positive;
use crate::error::fault;

/// etcd's word for "to the end of all keys".
pub(crate) const TO_THE_END: &[u8] = &[0];

/// The first key in etcd's form, which knows no empty one.
pub(crate) fn start_key(key: &str) -> Vec<u8> {
    if key.is_empty() { vec![0] } else { key.into() }
}

/// The end of a range in etcd's form.
pub(crate) fn end_key(end: Option<&str>) -> Vec<u8> {
    end.map_or_else(|| TO_THE_END.to_vec(), Into::into)
}

/// A revision in etcd's form; `None` for one that it cannot express, which is far in the future.
pub(crate) fn signed(revision: Revision) -> Option<i64> {
    i64::try_from(revision.get()).ok()
}

pub(crate) fn key(bytes: Vec<u8>) -> KvResult<Arc<str>> {
    match String::from_utf8(bytes) {
        Ok(key) => Ok(key.into()),
        Err(error) => Err(fault(format!(
            "a key that is not UTF-8: key={}",
            error.as_bytes().escape_ascii()
        ))),
    }
}

pub(crate) fn pair(stored: PbKeyValue) -> KvResult<KvPair> {
    Ok(KvPair {
        key: key(stored.key)?,
        value: Bytes::from(stored.value),
        revision: positive(stored.mod_revision)?,
        created: positive(stored.create_revision)?,
        lease: (stored.lease != 0).then_some(LeaseId(stored.lease)),
    })
}

/// What the else branch of a transaction found.
pub(crate) fn else_branch(answer: PbTxnResponse) -> KvResult<Option<PbKeyValue>> {
    match answer.responses.into_iter().next().and_then(|one| one.response) {
        Some(PbTxnOpResponse::ResponseRange(range)) => Ok(range.kvs.into_iter().next()),
        _ => Err(fault("a transaction that failed without its else branch")),
    }
}

/// One change, and the revision it happened at.
pub(crate) fn event(event: PbEvent) -> KvResult<(Revision, KvEvent)> {
    const PUT: i32 = 0;
    const DELETE: i32 = 1;
    let kind = event.r#type;
    let stored = event.kv.ok_or_else(|| fault("an event without a key"))?;
    let revision = positive(stored.mod_revision)?;
    let previous = event.prev_kv.map(pair).transpose()?;
    let (key, current) = match kind {
        PUT => {
            let pair = pair(stored)?;
            (Arc::clone(&pair.key), Some(pair))
        }
        DELETE => (key(stored.key)?, None),
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
    use apiserver_storage_kv::KvError;
    use etcd_client::proto::PbTxnResponse;

    use super::else_branch;

    // covers: storage-etcd3/TXN-06
    #[test]
    fn a_failed_transaction_without_its_else_branch_is_an_error_and_no_panic() {
        let bare = else_branch(PbTxnResponse::default());
        assert!(matches!(bare, Err(KvError::Fault(_))), "{bare:?}");
    }
}
