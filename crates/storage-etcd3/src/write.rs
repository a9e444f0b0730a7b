//! Conditional writes: one compare, one write, and the key's state when the compare fails (`storage-etcd3/TXN-02` to
//! `TXN-07`).

use bytes::Bytes;
use std::sync::atomic::{AtomicU32, Ordering};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{Expected, KvError, KvResult, Lease, LeaseId, WriteOutcome};

use crate::convert;
use crate::metered::Method;
use crate::proto::{Compare, DeleteRangeRequest, Operation, PutRequest, RangeRequest, TxnRequest, TxnResponse};
use crate::shared::Shared;

/// What a transaction weighs beside the value and the three times that it names its key.
const ENVELOPE_BYTES: usize = 512;

impl Shared {
    /// Bytes of the largest value whose write is tried.
    pub(crate) fn max_value_bytes(&self) -> usize {
        self.cluster.config.max_request_bytes.saturating_sub(ENVELOPE_BYTES)
    }

    pub(crate) async fn put_if(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        lease: Lease,
    ) -> KvResult<WriteOutcome> {
        let size = value.len();
        let limit = self.max_value_bytes().saturating_sub(3 * key.len());
        if size > limit {
            return Err(KvError::TooLarge { size, limit });
        }
        let (ignore_lease, id) = match (lease, expected) {
            (Lease::Keep, Expected::At(_)) => (true, 0),
            (Lease::Keep, Expected::Absent) | (Lease::None, _) => (false, 0),
            (Lease::Id(LeaseId(id)), _) => (false, id),
        };
        let shared_key = convert::key(key);
        let put = Operation::Put(PutRequest {
            key: shared_key.clone(),
            value: value.clone(),
            lease: id,
            ignore_lease,
        });
        let attempts = AtomicU32::new(0);
        let attempted = || {
            attempts.fetch_add(1, Ordering::Relaxed);
        };
        let outcome = self.conditional(shared_key, expected, put, attempted).await;
        if let Ok(WriteOutcome::Mismatch {
            current: Some(pair), ..
        }) = &outcome
            && attempts.load(Ordering::Relaxed) > 1
            && pair.value == value
        {
            // Sent again because it surely was not sent before; should that have been wrong, this is our own write.
            return Err(KvError::OutcomeUnknown(
                "the key holds what a repeated write was to store".into(),
            ));
        }
        match (&outcome, lease) {
            (Err(KvError::LeaseNotFound), Lease::Id(id)) => self.leases.forget(id),
            (Err(KvError::TooLarge { .. }), _) => return Err(KvError::TooLarge { size, limit }),
            _ => {}
        }
        outcome
    }

    pub(crate) async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        let key = convert::key(key);
        let delete = Operation::Delete(DeleteRangeRequest { key: key.clone() });
        self.conditional(key, Expected::At(expected), delete, || {}).await
    }

    async fn conditional(
        &self,
        key: Bytes,
        expected: Expected,
        write: Operation,
        attempted: impl Fn(),
    ) -> KvResult<WriteOutcome> {
        let expected = match expected {
            Expected::Absent => 0,
            // What etcd cannot express matches nothing that is there.
            Expected::At(revision) => convert::signed(revision).unwrap_or(i64::MAX),
        };
        // deviates: storage-etcd3/TXN-02: a create that finds the key taken brings what is there, as updates do.
        let get = Operation::Range(RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        });
        let txn = TxnRequest::new(Compare::mod_revision(key, expected), write, Some(get));
        let (answer, revision) = self.transaction(&txn, attempted).await?;
        if answer.succeeded {
            return Ok(WriteOutcome::Applied(revision));
        }
        let current = convert::else_branch(answer)?.map(convert::pair).transpose()?;
        Ok(WriteOutcome::Mismatch { current, revision })
    }

    // concerns: storage-etcd3/ETCD-13: a write that the server gave up on may be applied later, so its error says that
    // the outcome is not known, and nothing here sends it again.
    /// Runs a transaction that writes; `attempted` is called before each attempt. Key and value are shared by all that
    /// hold the transaction, and copied once, into what is sent.
    pub(crate) async fn transaction(
        &self,
        txn: &TxnRequest,
        attempted: impl Fn(),
    ) -> KvResult<(TxnResponse, Revision)> {
        let mark = self.cluster.mark();
        let mut answer = self.cluster.txn(txn, attempted).await?;
        let header = answer.header.take();
        match self.cluster.observe(header, Some(mark)) {
            Ok(revision) => Ok((answer, revision)),
            // It was applied, in a store that is not the one it was meant for.
            Err(error) if answer.succeeded => Err(KvError::OutcomeUnknown(error.into())),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn compact(&self, revision: Revision) -> KvResult<()> {
        let Some(at) = convert::signed(revision) else {
            let current = self.now().await?;
            return Err(KvError::Future { current });
        };
        let generation = self.cluster.mark().generation;
        // Compacting twice is compacting once, so a lost answer is no harm.
        let compact = self
            .cluster
            .repeatable(Method::Compact, |rpc| async move { rpc.compact(at).await });
        match compact.await {
            Ok(()) => {}
            Err(KvError::Future { .. }) => {
                let current = self.now().await?;
                return Err(KvError::Future { current });
            }
            Err(KvError::Compacted { .. }) => {
                // Exactly there, or beyond? What is readable at a revision is not compacted beyond it.
                let key = self.cluster.config.probe_key.as_str();
                self.get(key, Some(revision)).await?;
            }
            Err(error) => return Err(error),
        }
        self.cluster.note_compacted(revision, generation);
        Ok(())
    }

    pub(crate) async fn coordination_get(&self, key: &str) -> KvResult<Option<(Bytes, u64)>> {
        let mark = self.cluster.mark();
        let request = RangeRequest {
            key: convert::key(key),
            limit: 1,
            ..RangeRequest::default()
        };
        let answer = self.cluster.range(&request).await?;
        self.cluster.observe(answer.header, Some(mark))?;
        let stored = answer.kvs.into_iter().next();
        Ok(stored.map(|stored| {
            let version = u64::try_from(stored.version).unwrap_or_default();
            // Such values are small, and kept by those who ask.
            (Bytes::copy_from_slice(&stored.value), version)
        }))
    }

    pub(crate) async fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> KvResult<bool> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let key = convert::key(key);
        let put = Operation::Put(PutRequest {
            key: key.clone(),
            value,
            ..PutRequest::default()
        });
        let txn = TxnRequest::new(Compare::version(key, version), put, None);
        let (answer, _) = self.transaction(&txn, || {}).await?;
        Ok(answer.succeeded)
    }
}
