//! The key index: every key with its kept versions, without values, as a persistent map. A clone is a snapshot in O(1),
//! so readers walk it without a lock while the writer goes on.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use apiserver_storage_api::Revision;

use crate::record::Version;

#[derive(Clone, Default)]
pub(crate) struct KeyIndex {
    keys: OrdMap<Arc<str>, Versions>,
}

/// The versions of one key in revision order, never none. Most keys have one, which then needs no allocation.
#[derive(Clone)]
enum Versions {
    One(Version),
    Many(Arc<Vec<Version>>),
}

impl Versions {
    fn as_slice(&self) -> &[Version] {
        match self {
            Versions::One(version) => std::slice::from_ref(version),
            Versions::Many(versions) => versions,
        }
    }

    fn last(&self) -> Option<Version> {
        self.as_slice().last().copied()
    }

    fn at(&self, at: Revision) -> Option<Version> {
        let versions = self.as_slice();
        let known = versions.partition_point(|version| version.revision <= at);
        known.checked_sub(1).and_then(|last| versions.get(last)).copied()
    }

    fn push(&mut self, version: Version) {
        match self {
            Versions::One(first) => *self = Versions::Many(Arc::new(vec![*first, version])),
            Versions::Many(versions) => Arc::make_mut(versions).push(version),
        }
    }

    /// Without one version; none when nothing is left.
    fn without(&self, revision: Revision) -> Option<Versions> {
        let mut left: Vec<Version> = self
            .as_slice()
            .iter()
            .copied()
            .filter(|version| version.revision != revision)
            .collect();
        match left.len() {
            0 | 1 => left.pop().map(Versions::One),
            _ => Some(Versions::Many(Arc::new(left))),
        }
    }
}

impl KeyIndex {
    /// The key as it is stored, with its latest version, a deletion included.
    pub(crate) fn latest(&self, key: &str) -> Option<(Arc<str>, Version)> {
        let (key, versions) = self.keys.get_key_value(key)?;
        versions.last().map(|version| (Arc::clone(key), version))
    }

    /// The live version of a key at a revision.
    pub(crate) fn live_at(&self, key: &str, at: Revision) -> Option<(Arc<str>, Version)> {
        let (key, versions) = self.keys.get_key_value(key)?;
        versions
            .at(at)
            .filter(|version| version.live)
            .map(|version| (Arc::clone(key), version))
    }

    /// All keys of a range that are live at a revision.
    pub(crate) fn range<'a>(
        &'a self,
        bounds: (Bound<&'a str>, Bound<&'a str>),
    ) -> impl Iterator<Item = (&'a Arc<str>, VersionsAt<'a>)> + 'a {
        self.keys
            .range::<_, str>(bounds)
            .map(|(key, versions)| (key, VersionsAt(versions)))
    }

    /// Adds the version of a new revision, which is above all others.
    pub(crate) fn push(&mut self, key: &Arc<str>, version: Version) {
        match self.keys.get_mut(&**key) {
            Some(versions) => versions.push(version),
            None => {
                self.keys.insert(Arc::clone(key), Versions::One(version));
            }
        }
    }

    /// Forgets one version, and the key with its last one.
    pub(crate) fn remove(&mut self, key: &str, revision: Revision) {
        let Some(versions) = self.keys.get(key) else { return };
        match versions.without(revision) {
            Some(left) => {
                if let Some(versions) = self.keys.get_mut(key) {
                    *versions = left;
                }
            }
            None => {
                self.keys.remove(key);
            }
        }
    }
}

/// The versions of one key, to be asked for a revision.
pub(crate) struct VersionsAt<'a>(&'a Versions);

impl VersionsAt<'_> {
    pub(crate) fn live_at(&self, at: Revision) -> Option<Version> {
        self.0.at(at).filter(|version| version.live)
    }
}
