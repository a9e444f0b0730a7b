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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::error::ErrorKind;
    use crate::identity::Identity;

    /// Opens with a fixed answer, at once or after having waited once.
    #[derive(Debug)]
    struct Stub {
        prefix: &'static str,
        answer: Result<bool, ErrorKind>,
        waits: bool,
    }

    impl Provider for Stub {
        fn prefix(&self) -> &[u8] {
            self.prefix.as_bytes()
        }

        fn open<'a>(
            &'a self,
            payload: Bytes,
            _ctx: &DataContext<'a>,
        ) -> Outcome<'a, Result<Decrypted, TransformError>> {
            let answer = self
                .answer
                .map(|stale| Decrypted::new(payload, stale))
                .map_err(TransformError::new);
            if !self.waits {
                return Outcome::Ready(answer);
            }
            Outcome::Pending(Box::pin(async move {
                let mut waited = false;
                poll_fn(|_| {
                    if std::mem::replace(&mut waited, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
                answer
            }))
        }

        fn seal<'a>(&'a self, plaintext: Bytes, _ctx: &DataContext<'a>) -> Outcome<'a, Result<Bytes, TransformError>> {
            let sealed = [self.prefix.as_bytes(), &plaintext[..]].concat();
            Outcome::Ready(self.answer.map(|_| Bytes::from(sealed)).map_err(TransformError::new))
        }
    }

    fn stub(prefix: &'static str, answer: Result<bool, ErrorKind>) -> Arc<dyn Provider> {
        Arc::new(Stub {
            prefix,
            answer,
            waits: false,
        })
    }

    fn waiting(prefix: &'static str, answer: Result<bool, ErrorKind>) -> Arc<dyn Provider> {
        Arc::new(Stub {
            prefix,
            answer,
            waits: true,
        })
    }

    fn list(providers: Vec<Arc<dyn Provider>>) -> ProviderList {
        ProviderList::new(providers).expect("at least one provider")
    }

    /// Drives an outcome to its end; the stubs wait only for being polled again.
    fn finish<T>(outcome: Outcome<'_, T>) -> T {
        let mut future = pin!(outcome.into_future());
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
        }
    }

    fn open(list: &ProviderList, data: &'static str) -> Result<(Bytes, bool), Vec<ErrorKind>> {
        let result = finish(list.transform_from_storage(Bytes::from(data), &DataContext::new("/registry/x")));
        result
            .map(|opened| (opened.bytes, opened.stale))
            .map_err(|error| error.causes().iter().map(TransformError::kind).collect())
    }

    const FAIL: Result<bool, ErrorKind> = Err(ErrorKind::AuthFailed);
    const SHORT: Result<bool, ErrorKind> = Err(ErrorKind::TooShort);

    // covers: storage-transform/PFX-01, storage-transform/PFX-02, storage-transform/PFX-04, storage-transform/PFX-05, storage-transform/PFX-10
    #[test]
    fn the_first_candidate_that_opens_wins_and_is_stale_unless_it_is_the_first_entry() {
        for make in [stub, waiting] {
            let providers = list(vec![make("a:", Ok(false)), make("b:", FAIL), make("b:", Ok(false))]);
            assert_eq!(open(&providers, "a:x"), Ok((Bytes::from("x"), false)));
            assert_eq!(open(&providers, "b:x"), Ok((Bytes::from("x"), true)));
            assert_eq!(open(&providers, "c:x"), Err(vec![ErrorKind::NoMatchingPrefix]));
            assert_eq!(
                open(&list(vec![make("a:", Ok(true))]), "a:x"),
                Ok((Bytes::from("x"), true))
            );
        }
    }

    // covers: storage-transform/PFX-03
    #[test]
    fn prefixes_are_compared_byte_for_byte() {
        let providers = list(vec![stub("key1:", Ok(false))]);
        for data in ["key10:x", "KEY1:x", "key1", ""] {
            assert_eq!(
                open(&providers, data),
                Err(vec![ErrorKind::NoMatchingPrefix]),
                "{data:?}"
            );
        }
    }

    // covers: storage-transform/PFX-09
    #[test]
    fn all_candidates_that_failed_are_reported_in_order() {
        for make in [stub, waiting] {
            let providers = list(vec![make("a:", FAIL), make("b:", Ok(false)), make("a:", SHORT)]);
            assert_eq!(
                open(&providers, "a:x"),
                Err(vec![ErrorKind::AuthFailed, ErrorKind::TooShort])
            );
        }
    }

    // covers: storage-transform/PFX-07, storage-transform/PFX-08, storage-transform/IDN-06
    #[test]
    fn identity_is_a_candidate_for_all_and_its_refusal_is_not_counted() {
        let first = list(vec![Arc::new(Identity), stub("k8s:enc:a:", FAIL)]);
        assert_eq!(open(&first, "{}"), Ok((Bytes::from("{}"), false)));
        assert_eq!(open(&first, "k8s:enc:a:x"), Err(vec![ErrorKind::AuthFailed]));
        assert_eq!(open(&first, "k8s:enc:b:x"), Err(vec![ErrorKind::NoMatchingPrefix]));
        let last = list(vec![stub("k8s:enc:a:", Ok(false)), Arc::new(Identity)]);
        assert_eq!(open(&last, "{}"), Ok((Bytes::from("{}"), true)));
    }

    // covers: storage-transform/PFX-11
    #[test]
    fn the_first_entry_writes_and_no_other_is_asked() {
        let seal = |list: &ProviderList| {
            let result = finish(list.transform_to_storage(Bytes::from("x"), &DataContext::new("/registry/x")));
            result.map_err(|error| error.kind())
        };
        assert_eq!(
            seal(&list(vec![stub("a:", Ok(false)), stub("b:", Ok(false))])),
            Ok(Bytes::from("a:x"))
        );
        assert_eq!(
            seal(&list(vec![stub("a:", FAIL), stub("b:", Ok(false))])),
            Err(ErrorKind::AuthFailed)
        );
    }

    // covers: storage-transform/PFX-13
    #[test]
    fn an_empty_list_is_refused_when_it_is_made() {
        assert!(ProviderList::new(Vec::new()).is_none());
    }
}
