//! Identity: the stored value is the plaintext.

use bytes::Bytes;

use crate::error::{ErrorKind, TransformError};
use crate::prefix::Provider;
use crate::transformer::{DataContext, Decrypted, Outcome, Transformer};

/// What every encrypted value starts with. Plain JSON starts with `{`, plain protobuf with `k8s` and a zero byte.
pub const RESERVED_PREFIX: &[u8] = b"k8s:enc:";

/// Stores values as they are, and refuses to hand out encrypted ones as if they were plain.
///
/// It is the transformer of every resource that the configuration does not name, and the `identity` provider in a list
/// of providers. Both directions hand back the same shared [`Bytes`]; nothing is copied.
///
/// Writing does not check: a plaintext that happens to start with [`RESERVED_PREFIX`] is stored, and cannot be read
/// back. No Kubernetes object starts like that.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Identity {
    fn check(data: Bytes) -> Result<Decrypted, TransformError> {
        if data.starts_with(RESERVED_PREFIX) {
            return Err(TransformError::new(ErrorKind::EncryptedDataInIdentity));
        }
        Ok(Decrypted::new(data, false))
    }
}

impl Transformer for Identity {
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        _ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        Outcome::Ready(Self::check(data))
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        _ctx: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        Outcome::Ready(Ok(data))
    }
}

impl Provider for Identity {
    fn prefix(&self) -> &[u8] {
        b""
    }

    fn open<'a>(&'a self, payload: Bytes, _ctx: &DataContext<'a>) -> Outcome<'a, Result<Decrypted, TransformError>> {
        Outcome::Ready(Self::check(payload))
    }

    fn seal<'a>(&'a self, plaintext: Bytes, _ctx: &DataContext<'a>) -> Outcome<'a, Result<Bytes, TransformError>> {
        Outcome::Ready(Ok(plaintext))
    }
}
