//! Conditional writes: one compare, one write, and the key's state when the compare fails (`storage-etcd3/TXN-02` to
//! `TXN-07`).

use bytes::Bytes;
use etcd_client::proto::PbTxnResponse;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use std::sync::atomic::{AtomicU32, Ordering};

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{Expected, KvError, KvResult, Lease, LeaseId, WriteOutcome};

use crate::convert;
use crate::metered::Method;
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
        let options = match (lease, expected) {
            (Lease::Keep, Expected::At(_)) => PutOptions::new().with_ignore_lease(),
            (Lease::Keep, Expected::Absent) | (Lease::None, _) => PutOptions::new(),
            (Lease::Id(LeaseId(id)), _) => PutOptions::new().with_lease(id),
        };
        let attempts = AtomicU32::new(0);
        let put = || {
            attempts.fetch_add(1, Ordering::Relaxed);
            TxnOp::put(key, value.clone(), Some(options.clone()))
        };
        let outcome = self.conditional(key, expected, put).await;
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
        let delete = || TxnOp::delete(key, None);
        self.conditional(key, Expected::At(expected), delete).await
    }

    async fn conditional(&self, key: &str, expected: Expected, write: impl Fn() -> TxnOp) -> KvResult<WriteOutcome> {
        let expected = match expected {
            Expected::Absent => 0,
            // What etcd cannot express matches nothing that is there.
            Expected::At(revision) => convert::signed(revision).unwrap_or(i64::MAX),
        };
        // deviates: storage-etcd3/TXN-02: a create that finds the key taken brings what is there, as updates do.
        let txn = || {
            Txn::new()
                .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
                .and_then([write()])
                .or_else([TxnOp::get(key, None)])
        };
        let (answer, revision) = self.transaction(txn).await?;
        if answer.succeeded {
            return Ok(WriteOutcome::Applied(revision));
        }
        let current = convert::else_branch(answer)?.map(convert::pair).transpose()?;
        Ok(WriteOutcome::Mismatch { current, revision })
    }

    // concerns: storage-etcd3/ETCD-13: a write that the server gave up on may be applied later, so its error says that
    // the outcome is not known, and nothing here sends it again.
    /// Runs a transaction that writes. It is made for each attempt, because most have only one, which then holds the only
    /// copy of the value.
    pub(crate) async fn transaction(&self, txn: impl Fn() -> Txn) -> KvResult<(PbTxnResponse, Revision)> {
        let mark = self.cluster.mark();
        let call = self.cluster.write(|clients| {
            let (mut kv, txn) = (clients.kv.clone(), txn());
            async move { kv.txn(txn).await }
        });
        let mut answer = call.await?;
        let header = answer.take_header();
        match self.cluster.observe(header, Some(mark)) {
            Ok(revision) => Ok((answer.0, revision)),
            // It was applied, in a store that is not the one it was meant for.
            Err(error) if answer.succeeded() => Err(KvError::OutcomeUnknown(error.into())),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn compact(&self, revision: Revision) -> KvResult<()> {
        let Some(at) = convert::signed(revision) else {
            let current = self.now().await?;
            return Err(KvError::Future { current });
        };
        // Compacting twice is compacting once, so a lost answer is no harm.
        let compact = self.cluster.repeatable(Method::Compact, |clients| {
            let mut kv = clients.kv.clone();
            async move { kv.compact(at, None).await }
        });
        match compact.await {
            Ok(_) => {}
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
        self.note_compacted(revision);
        Ok(())
    }

    pub(crate) async fn coordination_get(&self, key: &str) -> KvResult<Option<(Bytes, u64)>> {
        let mark = self.cluster.mark();
        let read = self.cluster.read(|clients| {
            let (mut kv, options) = (clients.kv.clone(), GetOptions::new().with_limit(1));
            async move { kv.get(key, Some(options)).await }
        });
        let mut answer = read.await?;
        self.cluster.observe(answer.take_header(), Some(mark))?;
        let stored = answer.0.kvs.into_iter().next();
        Ok(stored.map(|stored| {
            let version = u64::try_from(stored.version).unwrap_or_default();
            (Bytes::from(stored.value), version)
        }))
    }

    pub(crate) async fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> KvResult<bool> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let txn = || {
            Txn::new()
                .when([Compare::version(key, CompareOp::Equal, version)])
                .and_then([TxnOp::put(key, value.clone(), None)])
        };
        let (answer, _) = self.transaction(txn).await?;
        Ok(answer.succeeded)
    }
}
