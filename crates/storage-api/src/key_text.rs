//! The text of a key, as it comes from a backend: in place or shared.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use arrayvec::ArrayString;

/// Bytes that lie in place. Most keys of Kubernetes are no longer, and the whole has 64 bytes with these.
const IN_PLACE: usize = 56;

/// The text of a key. A short one lies in place, so that a list makes no allocation for the key of an object; a longer
/// one, and one that a backend keeps anyway, is shared with its clones.
#[derive(Clone)]
pub struct KeyText(Held);

#[derive(Clone)]
enum Held {
    InPlace(ArrayString<IN_PLACE>),
    Shared(Arc<str>),
}

impl Deref for KeyText {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match &self.0 {
            Held::InPlace(text) => text,
            Held::Shared(text) => text,
        }
    }
}

impl From<&str> for KeyText {
    #[inline]
    fn from(text: &str) -> Self {
        Self(ArrayString::from(text).map_or_else(|_| Held::Shared(text.into()), Held::InPlace))
    }
}

impl From<String> for KeyText {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Shared as it is.
impl From<Arc<str>> for KeyText {
    fn from(text: Arc<str>) -> Self {
        Self(Held::Shared(text))
    }
}

impl Borrow<str> for KeyText {
    fn borrow(&self) -> &str {
        self
    }
}

impl AsRef<str> for KeyText {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq for KeyText {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for KeyText {}

impl PartialOrd for KeyText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyText {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for KeyText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Display for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::{Arc, Held, IN_PLACE, KeyText};

    #[test]
    fn a_short_text_lies_in_place_and_a_long_one_is_shared() {
        assert_eq!(size_of::<KeyText>(), 64);
        for length in [0, 1, IN_PLACE, IN_PLACE + 1, 300] {
            let text = "é".repeat(length / 2) + &"k".repeat(length % 2);
            let key = KeyText::from(text.as_str());
            assert_eq!((&*key, key.len()), (&*text, length));
            assert_eq!(matches!(key.0, Held::InPlace(_)), length <= IN_PLACE);
            let shared = KeyText::from(Arc::<str>::from(text.as_str()));
            assert!(matches!(&shared.clone().0, Held::Shared(held) if Arc::strong_count(held) == 2));
            assert_eq!(key, shared);
        }
    }

    #[test]
    fn where_a_text_lies_makes_no_difference() {
        let place = KeyText::from("/pods/a");
        let shared = KeyText::from(Arc::<str>::from("/pods/a"));
        assert_eq!(place.cmp(&shared), std::cmp::Ordering::Equal);
        assert!(place < KeyText::from("/pods/a\0") && place > KeyText::from("/pods"));
        assert_eq!(HashMap::from([(place.clone(), 1)]).get(&shared), Some(&1));
        assert_eq!(BTreeMap::from([(shared, 1)]).get("/pods/a"), Some(&1));
        assert_eq!(
            (format!("{place}"), format!("{place:?}")),
            ("/pods/a".into(), "\"/pods/a\"".into())
        );
    }
}
