//! AES-GCM with static keys and random nonces: the `aesgcm` provider.
//!
//! Stored value: `k8s:enc:aesgcm:v1:` NAME `:` || nonce (12) || ciphertext || tag (16), authenticated together with the
//! full storage key. A value that was changed, or moved to another key of the store, does not open.
//!
//! One allocation per call: the size of the stored value is known beforehand, headers, nonce and plaintext are written
//! into one buffer and encrypted there; reading decrypts in the one buffer that becomes the plaintext.
//!
//! Not here: a limit over all servers that share a key ([`KeyUsage`](crate::KeyUsage) counts this process only), and
//! protection against an older value of the same key being put back.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm as Gcm};
use bytes::Bytes;

use crate::error::{ErrorKind, TransformError};
use crate::prefix::{Dispatch, Provider};
use crate::random::RandomSource;
use crate::transformer::{DataContext, Decrypted, Outcome};
use crate::usage::WriteCounter;

const NAME: &str = "aesgcm";
const PREFIX: &str = "k8s:enc:aesgcm:v1:";
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// A cipher for each key length that AES has. The key schedules are wiped when they are dropped.
enum Cipher {
    Aes128(Aes128Gcm),
    Aes192(Gcm<Aes192, U12>),
    Aes256(Aes256Gcm),
}

impl Cipher {
    /// `None` unless the secret has 16, 24 or 32 bytes.
    fn new(secret: &[u8]) -> Option<Self> {
        Some(match secret.len() {
            16 => Self::Aes128(Aes128Gcm::new_from_slice(secret).ok()?),
            24 => Self::Aes192(Gcm::new_from_slice(secret).ok()?),
            32 => Self::Aes256(Aes256Gcm::new_from_slice(secret).ok()?),
            _ => return None,
        })
    }

    /// Encrypts `buffer` in place and returns the tag; `None` when the cipher refuses the length.
    fn encrypt(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        fn run<C>(cipher: &C, nonce: &[u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8]) -> Option<[u8; TAG_LEN]>
        where
            C: AeadInOut,
            Nonce<C>: From<[u8; NONCE_LEN]>,
            Tag<C>: Into<[u8; TAG_LEN]>,
        {
            cipher
                .encrypt_inout_detached(&Nonce::<C>::from(*nonce), aad, buffer.into())
                .ok()
                .map(Into::into)
        }
        match self {
            Self::Aes128(cipher) => run(cipher, nonce, aad, buffer),
            Self::Aes192(cipher) => run(cipher, nonce, aad, buffer),
            Self::Aes256(cipher) => run(cipher, nonce, aad, buffer),
        }
    }

    /// Checks the tag, then decrypts `buffer` in place; `None`, and an untouched buffer, when the tag is wrong.
    fn decrypt(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG_LEN]) -> Option<()> {
        fn run<C>(cipher: &C, nonce: &[u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG_LEN]) -> Option<()>
        where
            C: AeadInOut,
            Nonce<C>: From<[u8; NONCE_LEN]>,
            Tag<C>: From<[u8; TAG_LEN]>,
        {
            let (nonce, tag) = (Nonce::<C>::from(*nonce), Tag::<C>::from(*tag));
            cipher.decrypt_inout_detached(&nonce, aad, buffer.into(), &tag).ok()
        }
        match self {
            Self::Aes128(cipher) => run(cipher, nonce, aad, buffer, tag),
            Self::Aes192(cipher) => run(cipher, nonce, aad, buffer, tag),
            Self::Aes256(cipher) => run(cipher, nonce, aad, buffer, tag),
        }
    }
}

/// One named key.
struct Key {
    provider: Arc<str>,
    name: Arc<str>,
    /// Everything that stands before the nonce in a stored value: provider prefix, key name, colon.
    header: Vec<u8>,
    cipher: Cipher,
    random: Arc<dyn RandomSource>,
    counter: Arc<WriteCounter>,
}

impl Key {
    fn decrypt(&self, payload: &[u8], aad: &[u8]) -> Result<Decrypted, ErrorKind> {
        let (nonce, sealed) = payload.split_first_chunk::<NONCE_LEN>().ok_or(ErrorKind::TooShort)?;
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(ErrorKind::AuthFailed)?;
        let mut buffer = ciphertext.to_vec();
        self.cipher
            .decrypt(nonce, aad, &mut buffer, tag)
            .ok_or(ErrorKind::AuthFailed)?;
        Ok(Decrypted::new(Bytes::from(buffer), false))
    }

    fn encrypt(&self, plaintext: &[u8], aad: &[u8]) -> Result<Bytes, TransformError> {
        self.counter.claim()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|error| {
            TransformError::with_message(ErrorKind::RandomSource, "failed to write nonce for AES-GCM")
                .with_source(error)
        })?;
        let body = self.header.len() + NONCE_LEN;
        let mut stored = Vec::with_capacity(body + plaintext.len() + TAG_LEN);
        stored.extend_from_slice(&self.header);
        stored.extend_from_slice(&nonce);
        stored.extend_from_slice(plaintext);
        let tag = self
            .cipher
            .encrypt(&nonce, aad, &mut stored[body..])
            .ok_or_else(|| TransformError::with_message(ErrorKind::External, "the value is too long for AES-GCM"))?;
        stored.extend_from_slice(&tag);
        Ok(Bytes::from(stored))
    }

    fn locate(&self, error: TransformError) -> TransformError {
        error.at(&self.provider, Some(&self.name))
    }
}

// By hand: neither cipher nor header need be seen, and the cipher must not be.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

impl Provider for Key {
    /// The key name and its colon; the provider's own prefix is gone when a payload arrives here.
    fn prefix(&self) -> &[u8] {
        &self.header[PREFIX.len()..]
    }

    fn open<'a>(&'a self, payload: Bytes, ctx: &DataContext<'a>) -> Outcome<'a, Result<Decrypted, TransformError>> {
        let opened = self.decrypt(&payload, ctx.authenticated_data());
        Outcome::Ready(opened.map_err(|kind| self.locate(TransformError::new(kind))))
    }

    fn seal<'a>(&'a self, plaintext: Bytes, ctx: &DataContext<'a>) -> Outcome<'a, Result<Bytes, TransformError>> {
        Outcome::Ready(
            self.encrypt(&plaintext, ctx.authenticated_data())
                .map_err(|error| self.locate(error)),
        )
    }
}

/// The `aesgcm` provider: an ordered list of named keys. The first one writes, all of them read.
#[derive(Debug)]
pub(crate) struct AesGcm {
    keys: Dispatch<Key>,
}

impl AesGcm {
    /// A provider with these keys, each a name, a secret of 16, 24 or 32 bytes and its count of writes.
    ///
    /// # Errors
    ///
    /// The name of the key whose secret has another length; an empty name when there is no key at all.
    pub(crate) fn new<'k>(
        keys: impl IntoIterator<Item = (&'k str, &'k [u8], Arc<WriteCounter>)>,
        random: &Arc<dyn RandomSource>,
    ) -> Result<Self, String> {
        let provider: Arc<str> = NAME.into();
        let mut entries = Vec::new();
        for (name, secret, counter) in keys {
            entries.push(Arc::new(Key {
                provider: Arc::clone(&provider),
                name: name.into(),
                header: format!("{PREFIX}{name}:").into_bytes(),
                cipher: Cipher::new(secret).ok_or_else(|| name.to_owned())?,
                random: Arc::clone(random),
                counter,
            }));
        }
        let nothing_matched = TransformError::with_message(
            ErrorKind::NoMatchingKey,
            "no matching key was found for the provided AES transformer",
        );
        let keys = Dispatch::new(entries, nothing_matched.at(&provider, None)).ok_or_else(String::new)?;
        Ok(Self { keys })
    }
}

impl Provider for AesGcm {
    fn prefix(&self) -> &[u8] {
        PREFIX.as_bytes()
    }

    fn open<'a>(&'a self, payload: Bytes, ctx: &DataContext<'a>) -> Outcome<'a, Result<Decrypted, TransformError>> {
        self.keys.open(payload, ctx)
    }

    fn seal<'a>(&'a self, plaintext: Bytes, ctx: &DataContext<'a>) -> Outcome<'a, Result<Bytes, TransformError>> {
        self.keys.seal(plaintext, ctx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::error::Error as _;

    use super::*;
    use crate::random::{RandomError, SystemRandom};

    #[derive(Debug)]
    struct NoRandom;

    impl RandomSource for NoRandom {
        fn fill(&self, _buffer: &mut [u8]) -> Result<(), RandomError> {
            Err(RandomError::new("none left"))
        }
    }

    fn provider(random: Arc<dyn RandomSource>, counter: Arc<WriteCounter>) -> AesGcm {
        AesGcm::new([("key1", &[7; 32][..], counter)], &random).expect("a key of 32 bytes")
    }

    fn seal(provider: &AesGcm, plaintext: &'static [u8]) -> Result<Bytes, TransformError> {
        let Outcome::Ready(result) = provider.seal(Bytes::from_static(plaintext), &DataContext::new("/registry/x"))
        else {
            panic!("static keys answer at once");
        };
        result
    }

    // covers: storage-transform/GCM-12
    #[test]
    fn without_random_bytes_nothing_is_written() {
        let error = seal(&provider(Arc::new(NoRandom), WriteCounter::new()), b"x").expect_err("no nonce");
        assert_eq!(error.kind(), ErrorKind::RandomSource);
        assert!(error.is_transient());
        assert_eq!(
            error.to_string(),
            "failed to write nonce for AES-GCM: provider=aesgcm key=key1"
        );
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("no random bytes: none left")
        );
    }

    // covers: storage-transform/GCM-13
    #[test]
    fn a_worn_out_key_writes_no_more() {
        let counter = WriteCounter::starting_at(crate::MAX_WRITES_PER_KEY);
        let error = seal(&provider(Arc::new(SystemRandom), counter), b"x").expect_err("worn out");
        assert_eq!(error.kind(), ErrorKind::KeyExhausted);
        assert_eq!((error.provider(), error.key_name()), (Some("aesgcm"), Some("key1")));
    }

    // covers: storage-transform/GCM-01, storage-transform/GCM-03
    #[test]
    fn every_write_has_a_nonce_of_its_own_and_28_bytes_of_overhead() {
        let provider = provider(Arc::new(SystemRandom), WriteCounter::new());
        let header = "k8s:enc:aesgcm:v1:key1:".len();
        let mut nonces = HashSet::new();
        for _ in 0..1000 {
            let stored = seal(&provider, b"plain").expect("sealed");
            assert_eq!(stored.len(), header + 5 + 28);
            assert!(
                nonces.insert(stored.slice(header..header + NONCE_LEN)),
                "a nonce came twice"
            );
        }
    }

    // covers: storage-transform/GCM-02
    #[test]
    fn a_key_of_another_length_is_refused_by_name() {
        let random: Arc<dyn RandomSource> = Arc::new(SystemRandom);
        for len in [0, 15, 17, 31, 33, 64] {
            let secret = vec![0; len];
            let result = AesGcm::new([("odd", &secret[..], WriteCounter::new())], &random);
            assert_eq!(result.err().as_deref(), Some("odd"), "{len} bytes");
        }
    }
}
