//! Keys: where an object lies below the resource prefix, checked once.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::{Result, StorageError};
use crate::key_text::KeyText;

/// The prefix of one resource's keys, `/pods/`: begins and ends with a slash.
///
/// Upstream accepts `/pods` and then takes `/podsfoo` for a pod (`storage-api/KEY-15`); here the prefix always ends
/// with a slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourcePrefix(Arc<str>);

impl ResourcePrefix {
    /// Checks a prefix and adds the final slash where it is missing.
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidKey`] for an empty prefix, `/`, and one that does not begin with a slash.
    pub fn new(prefix: &str) -> Result<Self> {
        let message = match prefix {
            "" => "resourcePrefix cannot be empty",
            "/" => "resourcePrefix cannot be /",
            _ if !prefix.starts_with('/') => "resourcePrefix needs to start from /",
            _ => {
                check_segments(prefix)?;
                let end = if prefix.ends_with('/') { "" } else { "/" };
                return Ok(Self(format!("{prefix}{end}").into()));
            }
        };
        Err(StorageError::InvalidKey {
            message: message.into(),
        })
    }

    /// The prefix of a kind whose names cannot stand in a key.
    pub(crate) fn fallback() -> Self {
        Self("/invalid-resource-name/".into())
    }

    /// The prefix with both slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of one object, `/pods/ns/name`: begins with its resource prefix, never contains the cluster prefix.
///
/// Cloning shares a long text.
#[derive(Clone)]
pub struct Key {
    /// The key, perhaps behind the cluster prefix: who has the full key makes no other text of it.
    text: KeyText,
    /// Where in it the key begins.
    start: usize,
}

impl Key {
    /// Checks a key of one object (`storage-api/KEY-03` to `KEY-12`). The bytes are kept exactly as given.
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidKey`] with upstream's text.
    pub fn new(prefix: &ResourcePrefix, key: &str) -> Result<Self> {
        check_segments(key)?;
        check_prefix(prefix, key)?;
        Ok(Self {
            text: key.into(),
            start: 0,
        })
    }

    /// Checks what stands behind the first bytes of a text.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); a text that is too short, or cut within a character, is an empty key.
    pub fn within(prefix: &ResourcePrefix, text: &KeyText, start: usize) -> Result<Self> {
        let key = text.get(start..).unwrap_or_default();
        check_segments(key)?;
        check_prefix(prefix, key)?;
        Ok(Self {
            text: text.clone(),
            start,
        })
    }

    /// The key without the cluster prefix.
    pub fn as_str(&self) -> &str {
        self.text.get(self.start..).unwrap_or_default()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// The keys that a list or a watch is about.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Exactly this key.
    Key(Key),
    /// Every key that begins with this text, which ends with a slash.
    Under(KeyPrefix),
}

/// A checked text that ends with a slash, below which keys are listed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(Arc<str>);

impl KeyPrefix {
    /// Checks a prefix for a recursive operation; a slash is added where it is missing (`storage-api/KEY-08`).
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidKey`] with upstream's text.
    pub fn new(prefix: &ResourcePrefix, key: &str) -> Result<Self> {
        check_segments(key)?;
        let key = if key.ends_with('/') {
            key.to_owned()
        } else {
            format!("{key}/")
        };
        check_prefix(prefix, &key)?;
        Ok(Self(key.into()))
    }

    /// The text, with its final slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scope {
    /// Everything of a resource.
    pub fn all(prefix: &ResourcePrefix) -> Self {
        Self::Under(KeyPrefix(Arc::clone(&prefix.0)))
    }

    /// Whether a key belongs to this scope.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Under(prefix) => key.as_str().starts_with(prefix.as_str()),
        }
    }

    /// The text of the key or prefix.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Key(key) => key.as_str(),
            Self::Under(prefix) => prefix.as_str(),
        }
    }
}

/// The order of these checks is part of the contract (`storage-api/KEY-07`).
fn check_segments(key: &str) -> Result<()> {
    let (dots, has_nul) = look(key.as_bytes());
    if dots {
        return Err(StorageError::InvalidKey {
            message: format!("invalid key: {key:?}"),
        });
    }
    if key.is_empty() || key == "/" {
        return Err(StorageError::InvalidKey {
            message: format!("empty key: {key:?}"),
        });
    }
    // A NUL separates nothing in our formats, but the next key after `k` is `k` plus NUL, so no key may hold one.
    if has_nul {
        return Err(StorageError::InvalidKey {
            message: format!("invalid key: {key:?}"),
        });
    }
    Ok(())
}

/// Whether a segment is `.` or `..`, and whether there is a NUL.
fn look(key: &[u8]) -> (bool, bool) {
    // Each key of a list is looked at, and most have neither a dot nor a NUL.
    if !has_either(key, b'.', 0) {
        return (false, false);
    }
    let (mut has_dots, mut has_nul) = (false, false);
    // How long the segment is so far, and whether all of it is dots.
    let (mut length, mut only_dots) = (0_usize, true);
    for byte in key {
        if *byte == b'/' {
            has_dots |= only_dots && matches!(length, 1 | 2);
            (length, only_dots) = (0, true);
        } else {
            only_dots &= *byte == b'.';
            length += 1;
        }
        has_nul |= *byte == 0;
    }
    (has_dots | (only_dots && matches!(length, 1 | 2)), has_nul)
}

/// Whether one of two bytes is among these: found out eight at a time.
fn has_either(bytes: &[u8], one: u8, other: u8) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // The highest bit of a byte that was zero, at least of the lowest such byte.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7) != 0;
    let (words, rest) = bytes.as_chunks::<8>();
    let is_in = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        has_zero(word ^ (ONES * u64::from(one))) || has_zero(word ^ (ONES * u64::from(other)))
    };
    words.iter().any(is_in) || rest.iter().any(|byte| *byte == one || *byte == other)
}

fn check_prefix(prefix: &ResourcePrefix, key: &str) -> Result<()> {
    if key.starts_with(prefix.as_str()) {
        return Ok(());
    }
    let message = format!("invalid key: {key:?} lacks resource prefix: {:?}", prefix.as_str());
    Err(StorageError::InvalidKey { message })
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

macro_rules! text {
    ($($type:ident)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    )*};
}
text!(Key KeyPrefix ResourcePrefix Scope);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(recursive: bool, key: &str, want: Result<&str, &str>) {
        let prefix = ResourcePrefix::new("/pods/").unwrap();
        let got = match recursive {
            true => KeyPrefix::new(&prefix, key).map(|key| key.to_string()),
            false => Key::new(&prefix, key).map(|key| key.to_string()),
        };
        let got = got.map_err(|error| error.to_string());
        assert_eq!(
            got.as_deref().map_err(String::as_str),
            want,
            "key {key:?}, recursive {recursive}"
        );
    }

    // covers: storage-api/KEY-03, storage-api/KEY-04, storage-api/KEY-05, storage-api/KEY-06, storage-api/KEY-07
    #[test]
    fn dots_and_empty_keys_are_refused_before_the_prefix_is_looked_at() {
        for key in [
            "..",
            "../foo",
            "/..",
            "/pods/../x",
            "/../foo",
            ".",
            "./x",
            "/foo/.",
            "/./",
            "/pods/./x",
        ] {
            let text = format!("invalid key: {key:?}");
            check(false, key, Err(&text));
            check(true, key, Err(&text));
        }
        for key in ["/pods/foo/bar..baz/", "/pods/foo/bar..", "/pods/foo/bar/baz/a.b.c/"] {
            check(false, key, Ok(key));
        }
        check(false, "", Err("empty key: \"\""));
        check(false, "/", Err("empty key: \"/\""));
    }

    #[test]
    fn a_byte_is_found_wherever_it_stands() {
        for length in 0..40 {
            assert!(!has_either(&vec![b'/'; length], b'.', 0), "{length}");
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'/'; length];
                    bytes[at] = byte;
                    assert_eq!(
                        has_either(&bytes, b'.', 0),
                        matches!(byte, b'.' | 0),
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
    }

    // covers: storage-api/KEY-08, storage-api/KEY-09, storage-api/KEY-10, storage-api/KEY-12
    #[test]
    fn keys_begin_with_the_resource_prefix() {
        check(true, "/pods", Ok("/pods/"));
        check(
            false,
            "/pods",
            Err("invalid key: \"/pods\" lacks resource prefix: \"/pods/\""),
        );
        check(
            true,
            "/pods.apps",
            Err("invalid key: \"/pods.apps/\" lacks resource prefix: \"/pods/\""),
        );
        check(
            false,
            "pods",
            Err("invalid key: \"pods\" lacks resource prefix: \"/pods/\""),
        );
        check(
            false,
            "/foo",
            Err("invalid key: \"/foo\" lacks resource prefix: \"/pods/\""),
        );
        check(false, "/pods/", Ok("/pods/"));
        check(false, "/pods/a//b/", Ok("/pods/a//b/"));
    }

    #[test]
    fn a_key_within_a_longer_text_is_that_key() {
        let prefix = ResourcePrefix::new("/pods/").unwrap();
        let full = KeyText::from("/registry/pods/ns/a");
        let within = Key::within(&prefix, &full, "/registry".len()).unwrap();
        let own = Key::new(&prefix, "/pods/ns/a").unwrap();
        assert_eq!((within.as_str(), &within), ("/pods/ns/a", &own));
        let keys = std::collections::HashSet::from([within.clone()]);
        assert!(keys.contains(&own) && keys.contains("/pods/ns/a"));
        let next = Key::new(&prefix, "/pods/ns/b").unwrap();
        assert!(within < next && own < next);
        for start in [0, 1, full.len(), full.len() + 1, usize::MAX] {
            Key::within(&prefix, &full, start).unwrap_err();
        }
    }

    // covers: storage-api/KEY-01, storage-api/KEY-15
    #[test]
    fn resource_prefixes_are_checked_and_end_with_a_slash() {
        for (prefix, want) in [
            ("", Err("resourcePrefix cannot be empty")),
            ("/", Err("resourcePrefix cannot be /")),
            ("pods", Err("resourcePrefix needs to start from /")),
            ("/pods", Ok("/pods/")),
            ("/pods/", Ok("/pods/")),
        ] {
            let got = ResourcePrefix::new(prefix)
                .map(|prefix| prefix.to_string())
                .map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "prefix {prefix:?}");
        }
    }
}
