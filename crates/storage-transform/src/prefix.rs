//! Prefix dispatch: which provider, and which key of it, a stored value belongs to.
//!
//! Stored values say by a text prefix who wrote them. Readers walk an ordered list, writers use its first entry; that
//! order is the whole mechanism of key rotation. The same walk serves both levels, providers of a resource and keys of
//! a provider.
//!
//! A payload goes down as a slice of the stored value. What goes up is the complete stored value: the innermost entry
//! writes all prefixes into the one buffer it encrypts in, so no level copies the ciphertext again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::TransformError;
use crate::transformer::{DataContext, Decrypted, Outcome, Transformer};

/// One entry of a dispatch list: an encryption scheme that knows its values by their prefix.
///
/// Implement it to put a scheme of your own beside the configured ones, in a [`ProviderList`].
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// What every value of this provider starts with. Only `identity` has an empty one.
    fn prefix(&self) -> &[u8];

    /// Opens a value; `payload` is what follows the prefix.
    fn open<'a>(&'a self, payload: Bytes, ctx: &DataContext<'a>) -> Outcome<'a, Result<Decrypted, TransformError>>;

    /// Encrypts a value. The result is the complete stored value, **starting with the prefix**.
    fn seal<'a>(&'a self, plaintext: Bytes, ctx: &DataContext<'a>) -> Outcome<'a, Result<Bytes, TransformError>>;
}

/// An ordered list of entries, never empty.
pub(crate) struct Dispatch<P: ?Sized> {
    first: Arc<P>,
    rest: Vec<Arc<P>>,
    nothing_matched: TransformError,
}

impl<P: Provider + ?Sized> Dispatch<P> {
    /// `None` for an empty list: there would be nothing to write with.
    pub(crate) fn new(entries: Vec<Arc<P>>, nothing_matched: TransformError) -> Option<Self> {
        let mut entries = entries.into_iter();
        let first = entries.next()?;
        Some(Self {
            first,
            rest: entries.collect(),
            nothing_matched,
        })
    }

    pub(crate) fn open<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        self.walk(0, Vec::new(), data, *ctx)
    }

    pub(crate) fn seal<'a>(
        &'a self,
        plaintext: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        self.first.seal(plaintext, ctx)
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<P>> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Tries the candidates from `start` on. `failed` are the errors of those before.
    fn walk<'a>(
        &'a self,
        start: usize,
        mut failed: Vec<TransformError>,
        data: Bytes,
        ctx: DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        for (index, entry) in self.entries().enumerate().skip(start) {
            if !data.starts_with(entry.prefix()) {
                continue;
            }
            match entry.open(data.slice(entry.prefix().len()..), &ctx) {
                Outcome::Ready(result) => {
                    if let Some(opened) = Self::judge(index, entry, result, &mut failed) {
                        return Outcome::Ready(Ok(opened));
                    }
                }
                Outcome::Pending(future) => {
                    return Outcome::Pending(Box::pin(async move {
                        match Self::judge(index, entry, future.await, &mut failed) {
                            Some(opened) => Ok(opened),
                            None => self.walk(index + 1, failed, data, ctx).await,
                        }
                    }));
                }
            }
        }
        Outcome::Ready(Err(
            TransformError::combine(failed).unwrap_or_else(|| self.nothing_matched.clone())
        ))
    }

    /// The first candidate that succeeds wins; any but the first of the list makes the value stale.
    fn judge(
        index: usize,
        entry: &Arc<P>,
        result: Result<Decrypted, TransformError>,
        failed: &mut Vec<TransformError>,
    ) -> Option<Decrypted> {
        match result {
            Ok(opened) => Some(Decrypted {
                stale: opened.stale || index != 0,
                ..opened
            }),
            // An entry without a prefix is a candidate for every value. Its refusal says nothing about the others, and
            // counting it would hide their reason: `identity` may stand in front of an encrypting provider.
            Err(_) if entry.prefix().is_empty() => None,
            Err(error) => {
                failed.push(error);
                None
            }
        }
    }
}

impl<P: Provider + ?Sized> fmt::Debug for Dispatch<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// The providers of one resource, in the order of the configuration.
///
/// Reads try every provider whose prefix fits; writes use the first.
#[derive(Debug)]
pub struct ProviderList(Dispatch<dyn Provider>);

impl ProviderList {
    /// A list that reads with all of `providers` and writes with the first; `None` when there is none.
    pub fn new(providers: Vec<Arc<dyn Provider>>) -> Option<Self> {
        Dispatch::new(providers, TransformError::new(crate::ErrorKind::NoMatchingPrefix)).map(Self)
    }
}

impl Transformer for ProviderList {
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        self.0.open(data, ctx)
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        self.0.seal(data, ctx)
    }
}
