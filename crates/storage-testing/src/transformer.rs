//! A transformer whose behaviour a test switches while the store is running.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use apiserver_storage_kv::transform::{DataContext, Decrypted, ErrorKind, Outcome, TransformError, Transformer};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Reading fails for good.
    pub unreadable: bool,
    /// Reading fails for now: a key service does not answer.
    pub unavailable: bool,
    /// What is read is due to be written again.
    pub stale: bool,
    /// Writing fails.
    pub unwritable: bool,
    /// Answers come from a future instead of at once, as those of a key service do.
    pub slow: bool,
}

/// Another transformer with switches. Cloning shares them.
#[derive(Debug, Clone)]
pub struct SwitchTransformer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    behind: Arc<dyn Transformer>,
    faults: Mutex<Faults>,
    reads: AtomicU64,
}

impl SwitchTransformer {
    /// Does what `behind` does until told otherwise.
    pub fn new(behind: Arc<dyn Transformer>) -> Self {
        Self(Arc::new(Inner {
            behind,
            faults: Mutex::default(),
            reads: AtomicU64::new(0),
        }))
    }

    /// From now on.
    pub fn set(&self, faults: Faults) {
        *self.0.faults.lock() = faults;
    }

    /// How many values were read since the last time.
    pub fn take_reads(&self) -> u64 {
        self.0.reads.swap(0, Ordering::Relaxed)
    }

    fn faults(&self) -> Faults {
        *self.0.faults.lock()
    }
}

fn later<'a, T: Send + 'a>(slow: bool, outcome: Outcome<'a, T>) -> Outcome<'a, T> {
    match slow {
        false => outcome,
        true => Outcome::Pending(Box::pin(async move {
            tokio::task::yield_now().await;
            outcome.await
        })),
    }
}

impl Transformer for SwitchTransformer {
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        let faults = self.faults();
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        if faults.unreadable {
            return Outcome::Ready(Err(TransformError::with_message(ErrorKind::External, "switched off")));
        }
        if faults.unavailable {
            return Outcome::Ready(Err(TransformError::with_message(
                ErrorKind::Unavailable,
                "switched off for now",
            )));
        }
        let opened = self.0.behind.transform_from_storage(data, ctx);
        later(
            faults.slow,
            opened.map(move |opened| opened.map(|opened| Decrypted::new(opened.bytes, opened.stale || faults.stale))),
        )
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        let faults = self.faults();
        if faults.unwritable {
            return Outcome::Ready(Err(TransformError::with_message(ErrorKind::External, "switched off")));
        }
        later(faults.slow, self.0.behind.transform_to_storage(data, ctx))
    }
}

/// Binds values to their keys and never writes the same bytes twice, as encryption does; without its secrecy.
#[derive(Debug, Default)]
pub struct BindingTransformer(AtomicU64);

const MARK: &[u8] = b"k8s:test:v1:";

impl BindingTransformer {
    fn open(data: &Bytes, ctx: &DataContext<'_>) -> Result<Decrypted, TransformError> {
        let payload = data
            .strip_prefix(MARK)
            .ok_or_else(|| TransformError::new(ErrorKind::NoMatchingPrefix))?;
        let (head, body) = payload
            .split_at_checked(16)
            .ok_or_else(|| TransformError::new(ErrorKind::TooShort))?;
        let plaintext: Vec<u8> = body.iter().map(|byte| !byte).collect();
        if head.get(8..) != Some(&tag(&plaintext, ctx)) {
            return Err(TransformError::new(ErrorKind::AuthFailed));
        }
        Ok(Decrypted::new(plaintext.into(), false))
    }
}

/// Depends on the value and the key that it is stored under.
fn tag(plaintext: &[u8], ctx: &DataContext<'_>) -> [u8; 8] {
    let bound = [ctx.authenticated_data(), plaintext].join(&0);
    apiserver_storage_api::digest(&bound).to_be_bytes()
}

impl Transformer for BindingTransformer {
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        Outcome::Ready(Self::open(&data, ctx))
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        let mut stored = MARK.to_vec();
        stored.extend_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        stored.extend_from_slice(&tag(&data, ctx));
        stored.extend(data.iter().map(|byte| !byte));
        Outcome::Ready(Ok(stored.into()))
    }
}
