//! How large the objects of a kind are on average: an estimate, learnt from what passes by anyway.
//!
//! Pages of lists and events of watches show stored sizes; they are kept by key, each with the revision it was seen at,
//! so that nothing that comes late or twice changes anything. A page is the whole truth of its part of the keys: what
//! was known there and is not in it, is gone. So no list of keys is needed to forget what was deleted unseen.
//!
//! What is kept is bounded. Up to [`KEPT`] objects all of them are known and the average is exact; beyond that a sample
//! is kept, those whose hash begins with so many zero bits, the same whatever order they come in. The average of some
//! thousand values chosen so is as good as that of all, and most events of a large kind are passed over without taking
//! the lock, which is held for one of these at a time and never while something is waited for.
//!
//! Upstream: pkg/storage/etcd3/stats.go, which keeps a table of all keys behind one lock and rebuilds it with each list
//! of keys.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::atomic::{self, AtomicU32};

use apiserver_storage_api::{KeyText, Revision};
use parking_lot::Mutex;

use crate::kv::{KvEvent, KvPair, RangePage, RangeRequest};

/// So many keys are kept at most.
pub(crate) const KEPT: usize = 4096;

/// The sizes of one kind.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    known: Mutex<Known>,
    /// Keys whose hash begins with fewer zero bits are not kept.
    zeros: AtomicU32,
    seed: Seed,
}

/// Where hashes begin: somewhere else in each process, so that nobody can choose names that all are kept, or none.
#[derive(Debug)]
struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(()))
    }
}

impl Seed {
    /// Eight bytes at a time: each key of each page of a large kind is hashed, to be passed over mostly. That the first
    /// bits are spread evenly is all that is needed.
    fn hash(&self, key: &str) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, bytes: [u8; 8]| {
            let product = u128::from(hash ^ u64::from_le_bytes(bytes)) * u128::from(ODD);
            // Both halves, truncated on purpose.
            (product >> 64) as u64 ^ product as u64
        };
        let (whole, rest) = key.as_bytes().as_chunks::<8>();
        let hash = whole.iter().fold(self.0, |hash, bytes| mix(hash, *bytes));
        let mut last = [0; 8];
        for (to, byte) in last.iter_mut().zip(rest) {
            *to = *byte;
        }
        // Once more, so that the last bytes reach the first bits.
        mix(mix(hash, last), [0xa5; 8])
    }
}

#[derive(Debug, Default)]
struct Known {
    sizes: BTreeMap<KeyText, Size>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: u64,
    revision: Revision,
}

impl Known {
    fn put(&mut self, key: &KeyText, new: Size) {
        match self.sizes.get_mut(&**key) {
            Some(old) if new.revision > old.revision => {
                self.bytes = self.bytes - old.bytes + new.bytes;
                *old = new;
            }
            Some(_) => {}
            None => {
                self.bytes += new.bytes;
                self.sizes.insert(key.clone(), new);
            }
        }
    }

    /// Forgets a key, unless something newer is known of it.
    fn remove(&mut self, key: &str, at: Revision) {
        if self.sizes.get(key).is_some_and(|size| size.revision <= at)
            && let Some(size) = self.sizes.remove(key)
        {
            self.bytes -= size.bytes;
        }
    }

    /// Holds a page of these keys at this revision against what is known of them: what is new or changed in it, and what
    /// is gone.
    fn compare<'p>(
        &self,
        keys: (Bound<&str>, Bound<&str>),
        at: Revision,
        pairs: impl Iterator<Item = &'p KvPair>,
    ) -> (Vec<&'p KvPair>, Vec<KeyText>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        let mut pairs = pairs.peekable();
        for (key, size) in self.sizes.range::<str, _>(keys) {
            // Mostly a key meets itself: it is compared once.
            let found = loop {
                match pairs.peek().map(|pair| pair.key.cmp(key)) {
                    Some(Ordering::Less) => changed.extend(pairs.next()),
                    Some(Ordering::Equal) => break pairs.next(),
                    Some(Ordering::Greater) | None => break None,
                }
            };
            match found {
                Some(pair) if pair.revision > size.revision => changed.push(pair),
                None if size.revision <= at => gone.push(key.clone()),
                Some(_) | None => {}
            }
        }
        changed.extend(pairs);
        (changed, gone)
    }
}

impl Sizes {
    /// A page of a list, that of this request.
    pub(crate) fn page(&self, request: &RangeRequest, page: &RangePage) {
        let at = request.at.unwrap_or(page.revision);
        let last = page.pairs.last().map(|pair| &*pair.key);
        let end = match (page.more, last, request.end.as_deref()) {
            (true, Some(last), _) => Bound::Included(last),
            // Nothing is known of where such a page ends.
            (true, None, _) => return,
            (false, _, Some(end)) => Bound::Excluded(end),
            (false, _, None) => Bound::Unbounded,
        };
        self.part((Bound::Included(&request.start), end), at, &page.pairs);
    }

    /// All pairs that the state at a revision has between these keys.
    pub(crate) fn part(&self, keys: (Bound<&str>, Bound<&str>), at: Revision, pairs: &[KvPair]) {
        if is_empty(keys) {
            return;
        }
        let mut known = self.known.lock();
        let kept = pairs.iter().filter(|pair| self.keeps(&pair.key));
        let (changed, gone) = known.compare(keys, at, kept);
        for key in gone {
            known.remove(&key, at);
        }
        for pair in changed {
            self.put(&mut known, pair);
        }
    }

    /// A change of a key.
    pub(crate) fn event(&self, revision: Revision, event: &KvEvent) {
        if !self.keeps(&event.key) {
            return;
        }
        let mut known = self.known.lock();
        match &event.current {
            Some(pair) => self.put(&mut known, pair),
            None => known.remove(&event.key, revision),
        }
    }

    /// How many sizes are known, and the average of them.
    pub(crate) fn average(&self) -> (usize, u64) {
        let known = self.known.lock();
        let count = known.sizes.len();
        (count, known.bytes.checked_div(count as u64).unwrap_or_default())
    }

    fn put(&self, known: &mut Known, pair: &KvPair) {
        // Fewer are kept since it was chosen.
        if !self.keeps(&pair.key) {
            return;
        }
        let (bytes, revision) = (pair.value.len() as u64, pair.revision);
        known.put(&pair.key, Size { bytes, revision });
        if known.sizes.len() > KEPT {
            self.keep_half(known);
        }
    }

    fn keeps(&self, key: &str) -> bool {
        match self.zeros.load(atomic::Ordering::Relaxed) {
            0 => true,
            zeros => self.seed.hash(key).leading_zeros() >= zeros,
        }
    }

    /// There are too many: every other one is forgotten, and none like it is kept from now on.
    fn keep_half(&self, known: &mut Known) {
        self.zeros.fetch_add(1, atomic::Ordering::Relaxed);
        let Known { sizes, bytes } = known;
        sizes.retain(|key, size| {
            let keeps = self.keeps(key);
            if !keeps {
                *bytes -= size.bytes;
            }
            keeps
        });
    }
}

/// Whether no key lies between these.
fn is_empty(keys: (Bound<&str>, Bound<&str>)) -> bool {
    let (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) = keys else {
        return false;
    };
    match from.cmp(to) {
        Ordering::Less => false,
        Ordering::Equal => !matches!(keys, (Bound::Included(_), Bound::Included(_))),
        Ordering::Greater => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const FIRST: &str = "/registry/pods/ns/a";
    const SECOND: &str = "/registry/pods/ns/b";

    fn at(revision: u64) -> Revision {
        Revision::new(revision).expect("not zero")
    }

    fn pair(key: &str, size: usize, revision: u64) -> KvPair {
        KvPair {
            key: key.into(),
            value: Bytes::from(vec![0; size]),
            revision: at(revision),
            created: at(1),
            lease: None,
        }
    }

    fn put(sizes: &Sizes, key: &str, size: usize, revision: u64) {
        let event = KvEvent {
            key: key.into(),
            current: Some(pair(key, size, revision)),
            previous: None,
        };
        sizes.event(at(revision), &event);
    }

    fn delete(sizes: &Sizes, key: &str, revision: u64) {
        let event = KvEvent {
            key: key.into(),
            current: None,
            previous: None,
        };
        sizes.event(at(revision), &event);
    }

    fn page(sizes: &Sizes, revision: u64, pairs: Vec<KvPair>) {
        let page = RangePage {
            count: pairs.len() as u64,
            pairs,
            more: false,
            revision: at(revision),
        };
        sizes.page(&RangeRequest::prefix("/registry/pods/"), &page);
    }

    // covers: storage-etcd3/ESTAT-03, storage-etcd3/ESTAT-07
    #[test]
    fn the_average_follows_what_is_seen_and_nothing_that_comes_late_or_twice() {
        let sizes = Sizes::default();
        let average = || sizes.average().1;
        put(&sizes, FIRST, 10, 2);
        assert_eq!(average(), 10);
        put(&sizes, SECOND, 20, 3);
        assert_eq!(average(), 15);
        put(&sizes, FIRST, 30, 4);
        assert_eq!(average(), 25);
        put(&sizes, SECOND, 10, 5);
        assert_eq!(average(), 20);
        delete(&sizes, FIRST, 6);
        assert_eq!(average(), 10);
        for (size, revision) in [(1000, 3), (1000, 4), (1000, 5)] {
            put(&sizes, SECOND, size, revision);
        }
        delete(&sizes, SECOND, 4);
        page(&sizes, 4, vec![pair(SECOND, 1000, 3)]);
        page(&sizes, 4, vec![]);
        assert_eq!(sizes.average(), (1, 10), "replays of older states change nothing");
        delete(&sizes, SECOND, 7);
        assert_eq!(sizes.average(), (0, 0));
    }

    // covers: storage-etcd3/ESTAT-04, storage-etcd3/ESTAT-06
    #[test]
    fn a_page_tells_what_is_gone_in_its_part_of_the_keys() {
        let sizes = Sizes::default();
        let keys = ["a", "c", "e", "g"].map(|name| format!("/registry/pods/ns/{name}"));
        for key in &keys {
            put(&sizes, key, 10, 5);
        }
        let part = |more, pairs: Vec<KvPair>, request: &RangeRequest| {
            let page = RangePage {
                count: 4,
                pairs,
                more,
                revision: at(9),
            };
            sizes.page(request, &page);
        };
        let request = RangeRequest::prefix("/registry/pods/");
        // `a` is gone. What lies behind the last key of the page is not known yet.
        part(
            true,
            vec![pair("/registry/pods/ns/b", 10, 6), pair(&keys[1], 10, 5)],
            &request,
        );
        assert_eq!(sizes.average().0, 4);
        let rest = RangeRequest::between(format!("{}\0", keys[1]), request.end.clone());
        part(false, vec![pair(&keys[3], 40, 7)], &rest);
        assert_eq!(sizes.average(), (3, 20), "e is gone");
        // A list of the past knows nothing of what came later, nor one of other keys.
        let past = RangeRequest {
            at: Some(at(4)),
            ..request.clone()
        };
        part(false, vec![], &past);
        part(false, vec![], &RangeRequest::prefix("/registry/pods/other/"));
        assert_eq!(sizes.average(), (3, 20));
        // A list that was read long ago and is looked at now brings a size back; the next page takes it away.
        part(
            false,
            vec![pair(&keys[0], 100, 5)],
            &RangeRequest {
                at: Some(at(5)),
                ..RangeRequest::prefix(&keys[0])
            },
        );
        assert_eq!(sizes.average(), (4, 40));
        part(false, vec![], &RangeRequest::prefix(&keys[0]));
        assert_eq!(sizes.average(), (3, 20));
    }

    // covers: storage-etcd3/ESTAT-10, storage-etcd3/OPEN-11
    #[test]
    fn a_large_kind_is_known_by_a_sample_of_bounded_size() {
        let sizes = Sizes::default();
        let total = 20 * KEPT as u64;
        for n in 0..total {
            // In the order of keys, sizes rise: a sample of the first ones would be far off.
            put(&sizes, &format!("/registry/pods/ns/{n:08}"), n as usize, n + 2);
        }
        let (known, average) = sizes.average();
        assert!((KEPT / 4..=KEPT).contains(&known), "{known}");
        let middle = total / 2;
        assert!(average.abs_diff(middle) < middle / 10, "{average} is far from {middle}");
        for n in 0..total {
            delete(&sizes, &format!("/registry/pods/ns/{n:08}"), total + n + 2);
        }
        assert_eq!(sizes.average(), (0, 0), "nothing stays behind");
    }
}
