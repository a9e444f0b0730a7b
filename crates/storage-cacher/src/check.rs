//! Now and then the cache is compared with the storage below, at one revision.
//!
//! A cache that lost a change would be wrong until its next list. The comparison finds that: keys and revisions of both
//! sides are walked in step, in pages, and a difference is logged by key and leads to a new list.
//
// concerns: storage-cacher/CHK-08: both sides are walked in step; nothing is kept of what was compared, and no list is
//   held in memory (also MEM-14).

use std::collections::VecDeque;
use std::fmt;

use apiserver_storage_api::{
    Entry, ListAt, ListOptions, OnUnreadable, Result, Scope, SelectionPredicate, StorageError,
};
use futures::StreamExt;

use crate::cacher::Shared;
use crate::core::root::{Released, Step, Walk};

/// Objects that are taken from the cache in one go.
const CHUNK: usize = 1_024;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// A digest of names and revisions in the cache: what upstream logs, comparable between servers.
    pub cache: String,
    /// The same of the storage below.
    pub storage: String,
    /// The first object that differs; none when both sides agree.
    pub difference: Option<Difference>,
}

/// An object that the cache and the storage below do not agree on. Absent revisions: absent objects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The key of the cached object, or of the stored one where the cache has no more.
    pub cache: Option<String>,
    /// The key of the stored object.
    pub storage: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
        write!(f, "cache={} storage={}", side(&self.cache), side(&self.storage))
    }
}

impl Shared {
    /// Compares the state at hand with the storage below.
    pub(crate) async fn compare(&self) -> Result<Comparison> {
        let now = self.config.clock.monotonic();
        let root = self.current().ok_or_else(|| self.status.too_many_requests(now))?;
        let scope = Scope::all(self.info.prefix());
        let options = ListOptions {
            at: ListAt::Exact(root.revision),
            unreadable: OnUnreadable::Include,
            ..ListOptions::default()
        };
        let list = self.inner.list(&scope, options).await?;
        if list.revision() != root.revision {
            return Err(StorageError::internal(format!(
                "asked the storage for revision {} and got {}",
                root.revision,
                list.revision()
            )));
        }
        let walk = root.walk(&scope, None, &SelectionPredicate::default(), self.info.indexes());
        self.pins.add(&walk);
        drop(root);
        let (mut cached, mut sides) = (
            Cached {
                walk,
                taken: VecDeque::new(),
            },
            Sides::default(),
        );
        let mut pages = list.into_pages();
        while let Some(page) = pages.next().await {
            let page = page?;
            for stored in &page.entries {
                sides.add(cached.next()?.as_ref(), Some(stored));
            }
            if page.end.is_some() {
                break;
            }
        }
        while let Some(entry) = cached.next()? {
            sides.add(Some(&entry), None);
        }
        Ok(sides.finish())
    }
}

/// The cache's side, a part at a time.
struct Cached {
    walk: Walk,
    taken: VecDeque<Entry>,
}

impl Cached {
    fn next(&mut self) -> Result<Option<Entry>> {
        if self.taken.is_empty() {
            let taken = &mut self.taken;
            let examined = self.walk.examine(CHUNK, |entry| {
                taken.push_back(entry.clone());
                Step::Next
            });
            examined
                .map_err(|Released| StorageError::internal("the comparison took too long for the history budget"))?;
        }
        Ok(self.taken.pop_front())
    }
}

/// Both sides as far as they were walked.
#[derive(Default)]
struct Sides {
    cache: Digest,
    storage: Digest,
    difference: Option<Difference>,
}

impl Sides {
    fn add(&mut self, cached: Option<&Entry>, stored: Option<&Entry>) {
        for (digest, entry) in [(&mut self.cache, cached), (&mut self.storage, stored)] {
            if let Some(entry) = entry {
                digest.entry(entry);
            }
        }
        let place = |entry: &Entry| (entry.key().clone(), entry.revision());
        if self.difference.is_none() && cached.map(place) != stored.map(place) {
            let name = |entry: &Entry| format!("{} at {}", entry.key(), entry.revision());
            self.difference = Some(Difference {
                cache: cached.map(name),
                storage: stored.map(name),
            });
        }
    }

    fn finish(self) -> Comparison {
        Comparison {
            cache: self.cache.text(),
            storage: self.storage.text(),
            difference: self.difference,
        }
    }
}

/// 64-bit FNV-1 over `/namespace/name/revision` without separators in between.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn write(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = self.0.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        match entry.attributes() {
            Some(attributes) => self.object(&attributes.namespace, &attributes.name, &entry.revision().to_string()),
            None => self.object("", entry.key().as_str(), &entry.revision().to_string()),
        }
    }

    fn object(&mut self, namespace: &str, name: &str, revision: &str) {
        for text in [namespace, "/", name, "/", revision] {
            self.write(text);
        }
    }

    fn text(&self) -> String {
        format!("{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-cacher/CHK-03
    #[test]
    fn digests_are_upstreams() {
        for (objects, want) in [
            (&[][..], "cbf29ce484222325"),
            (&[("default", "pod", "2")], "86bf3a5e80d1c5cb"),
            (&[("default", "pod", "3")], "86bf3a5e80d1c5ca"),
            (&[("default", "pod", "4")], "86bf3a5e80d1c5cd"),
            (&[("kube-system", "pod", "2")], "4ae4e750bd825b17"),
            (&[("kube-public", "pod", "2")], "f940a60af965b03"),
            (&[("default", "pod2", "2")], "c9120494e4c1897d"),
            (&[("default", "pod3", "2")], "c9156494e4c46274"),
            (&[("Default", "pod", "2")], "1859bac707c2cb2b"),
            (&[("Default", "pod", "2"), ("Default", "pod", "3")], "11d147fc800df0e0"),
        ] {
            let mut digest = Digest::default();
            for (namespace, name, revision) in objects {
                digest.object(namespace, name, revision);
            }
            assert_eq!(digest.text(), want, "{objects:?}");
        }
    }
}
