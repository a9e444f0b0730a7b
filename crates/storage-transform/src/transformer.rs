//! The contract: plaintext bytes to stored bytes and back.
//!
//! A [`Transformer`] stands between the codec and the store. Each direction undoes the other for the same
//! [`DataContext`]. Transformers whose keys are in this process answer at once ([`Outcome::Ready`]), so the hot path
//! allocates no future; one that has to ask a key service answers [`Outcome::Pending`].

use std::fmt;
use std::future::{Future, IntoFuture, Ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::TransformError;

/// A boxed future, as returned by transformers that wait for a key service.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a value is bound to, beside its bytes.
///
/// The authenticated data is the complete key of the object in the store, path prefix included, for example
/// `/registry/secrets/default/my-secret`. Authenticated ciphers mix it in, so a ciphertext that was copied to another
/// key does not open. Other ciphers ignore it.
#[derive(Clone, Copy, Debug)]
pub struct DataContext<'a> {
    authenticated_data: &'a [u8],
}

impl<'a> DataContext<'a> {
    /// The context of the value under `storage_key`, the full key in the store.
    pub fn new(storage_key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            authenticated_data: storage_key.as_ref(),
        }
    }

    /// The bytes that authenticated ciphers bind the value to.
    pub fn authenticated_data(&self) -> &'a [u8] {
        self.authenticated_data
    }
}

/// A value as read back from the store.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decrypted {
    /// The plaintext.
    pub bytes: Bytes,
    /// The value is readable, but not what would be written today: another provider, another key, or not encrypted.
    /// The store writes such a value again on the next update, even when that update changes nothing.
    pub stale: bool,
}

impl Decrypted {
    /// A plaintext that is (`stale`) or is not due to be rewritten.
    pub fn new(bytes: Bytes, stale: bool) -> Self {
        Self { bytes, stale }
    }
}

// By hand, because the derived one would print the plaintext.
impl fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decrypted")
            .field("len", &self.bytes.len())
            .field("stale", &self.stale)
            .finish()
    }
}

/// Plaintext into stored bytes and stored bytes into plaintext.
///
/// # Contract
///
/// - What [`transform_to_storage`](Self::transform_to_storage) returned is read back unchanged, and not stale, by the
///   same transformer under the same context. With another context an authenticated transformer must fail.
/// - On error nothing of the plaintext is returned, and the error text carries neither plaintext nor key bytes.
/// - Calls come from many tasks at once; no caller holds a lock for them.
/// - A dropped future has written nothing anywhere; the call may be repeated.
pub trait Transformer: fmt::Debug + Send + Sync + 'static {
    /// Turns a stored value into its plaintext.
    ///
    /// # Errors
    ///
    /// No configured key opens the value: see [`ErrorKind`](crate::ErrorKind).
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>>;

    /// Turns plaintext into the bytes to store.
    ///
    /// # Errors
    ///
    /// The value cannot be encrypted; nothing may be written then.
    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>>;
}

const _: fn(&dyn Transformer) = |_| ();

/// An answer that is there already, or one to wait for.
///
/// `.await` works on both. Callers that list thousands of values match on `Ready` first and await only the rest.
#[must_use = "a pending outcome does nothing until it is awaited"]
pub enum Outcome<'a, T> {
    /// The answer; no future was made.
    Ready(T),
    /// A key service has to be asked.
    Pending(BoxFuture<'a, T>),
}

impl<'a, T: 'a> Outcome<'a, T> {
    /// Applies `f` to the answer, now or when it arrives.
    pub fn map<U>(self, f: impl FnOnce(T) -> U + Send + 'a) -> Outcome<'a, U> {
        match self {
            Self::Ready(value) => Outcome::Ready(f(value)),
            Self::Pending(future) => Outcome::Pending(Box::pin(async move { f(future.await) })),
        }
    }
}

impl<T> fmt::Debug for Outcome<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Outcome::Ready(..)",
            Self::Pending(_) => "Outcome::Pending(..)",
        })
    }
}

impl<'a, T> IntoFuture for Outcome<'a, T> {
    type Output = T;
    type IntoFuture = OutcomeFuture<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        OutcomeFuture(match self {
            Self::Ready(value) => State::Ready(std::future::ready(value)),
            Self::Pending(future) => State::Pending(future),
        })
    }
}

/// The future of an [`Outcome`].
pub struct OutcomeFuture<'a, T>(State<'a, T>);

enum State<'a, T> {
    Ready(Ready<T>),
    Pending(BoxFuture<'a, T>),
}

impl<T> Future for OutcomeFuture<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            State::Ready(ready) => Pin::new(ready).poll(cx),
            State::Pending(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for OutcomeFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutcomeFuture(..)")
    }
}
