//! The store's counter behind `resourceVersion`: a number that is never zero.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::StorageError;

/// One point in the history of a store. Every successful write takes the next one; reads never move it.
///
/// Clients see it as the opaque string `resourceVersion`. Zero is not a revision: on the wire it means "any" or
/// "not stored yet" and becomes an option or an enum before it gets here. The largest is 2^63-1, because backends
/// count with signed numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(NonZeroU64);

impl Revision {
    /// The first revision there can be.
    pub const MIN: Revision = Revision(NonZeroU64::MIN);
    /// The largest revision that every backend can express.
    pub const MAX: Revision = match NonZeroU64::new(i64::MAX as u64) {
        Some(value) => Revision(value),
        None => Revision(NonZeroU64::MIN),
    };

    /// The revision of this number; `None` for zero.
    pub const fn new(value: u64) -> Option<Self> {
        match NonZeroU64::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The number in decimal digits, in a buffer of the caller's: what every entry that is made needs.
    pub fn digits(self, buffer: &mut [u8; 20]) -> &[u8] {
        let (mut left, mut first) = (self.get(), buffer.len());
        for (at, digit) in buffer.iter_mut().enumerate().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
            first = at;
            if left == 0 {
                break;
            }
        }
        buffer.get(first..).unwrap_or_default()
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The revision before this one; `None` for the first.
    pub const fn previous(self) -> Option<Self> {
        Self::new(self.get() - 1)
    }

    /// Reads a `resourceVersion` as clients send it: `""` and `"0"` are `None`, other decimal numbers a revision.
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidResourceVersion`] for anything that is not an unsigned 64-bit decimal number. A number
    /// above [`Revision::MAX`] is a revision of the far future, which reads answer with "too large".
    pub fn parse(text: &str) -> Result<Option<Self>, StorageError> {
        if text.is_empty() {
            return Ok(None);
        }
        // `u64::from_str` takes a leading plus, which upstream's parser refuses.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(value) if digits => Ok(Self::new(value)),
            _ => Err(StorageError::InvalidResourceVersion { value: text.to_owned() }),
        }
    }
}

/// The highest revision that anybody has told of, under concurrent callers: for compaction points and progress, which
/// only grow.
#[derive(Debug, Default)]
pub struct HighWaterMark(AtomicU64);

impl HighWaterMark {
    /// No revision yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Raises the mark; whether this revision is above every one before (`storage-api/VER-16`).
    pub fn update(&self, revision: Revision) -> bool {
        self.0.fetch_max(revision.get(), Ordering::AcqRel) < revision.get()
    }

    /// The highest revision so far.
    pub fn get(&self) -> Option<Revision> {
        Revision::new(self.0.load(Ordering::Acquire))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/VER-01, storage-api/VER-02
    #[test]
    fn parses_resource_versions_as_clients_send_them() {
        for (text, want) in [
            ("", Ok(None)),
            ("0", Ok(None)),
            ("7", Ok(Some(7))),
            ("007", Ok(Some(7))),
            ("18446744073709551615", Ok(Some(u64::MAX))),
            ("18446744073709551616", Err(())),
            ("a", Err(())),
            (" ", Err(())),
            ("-1", Err(())),
            ("+1", Err(())),
            ("1_0", Err(())),
        ] {
            let got = Revision::parse(text)
                .map(|revision| revision.map(Revision::get))
                .map_err(|_| ());
            assert_eq!(got, want, "resourceVersion {text:?}");
        }
    }

    // covers: storage-api/VER-11
    #[test]
    fn revisions_compare_as_numbers() {
        let at = |text| Revision::parse(text).unwrap();
        assert!(at("9") < at("10") && at("10") < at("100"));
        assert!(at("0") < at("1"), "no revision is before every one");
        assert_eq!(at("010"), at("10"));
        // An unparsable one never gets as far as a comparison.
        assert!(Revision::parse("a").is_err());
    }

    // covers: storage-api/VER-16
    #[test]
    fn of_those_who_raise_a_mark_at_once_each_height_has_one_first() {
        let mark = HighWaterMark::new();
        assert_eq!(mark.get(), None);
        let raised: Vec<u64> = std::thread::scope(|scope| {
            let raise = |offset: u64| {
                let mark = &mark;
                move || {
                    let own = (0..1000).map(|n| (n * 7919 + offset * 13) % 1000 + 1);
                    own.filter(|n| mark.update(Revision::new(*n).unwrap()))
                        .collect::<Vec<_>>()
                }
            };
            let threads: Vec<_> = (0..4).map(|offset| scope.spawn(raise(offset))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let unique: std::collections::BTreeSet<_> = raised.iter().collect();
        assert_eq!(unique.len(), raised.len(), "no value was the highest twice");
        assert_eq!(mark.get(), Revision::new(1000));
        assert_eq!(unique.last(), Some(&&1000));
        assert!(!mark.update(Revision::new(1000).unwrap()) && !mark.update(Revision::MIN));
    }
}
