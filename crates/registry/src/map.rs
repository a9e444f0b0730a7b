//! The resource map: which resource answers which group, version, resource and subresource. An immutable snapshot
//! that is replaced as a whole, so that kinds come and go while requests run.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use apiserver_storage_api::GroupVersionKind;

use crate::resource::{Resource, Verbs};

/// One entry of the map: a resource (or subresource) in one served version, with what discovery says about it.
#[derive(Clone)]
pub struct ServedResource {
    /// Who answers.
    pub resource: Arc<dyn Resource>,
    /// The API group; empty for the core group.
    pub group: String,
    /// The served version.
    pub version: String,
    /// How it is called.
    pub names: Names,
    /// Whether objects live in namespaces. A subresource takes it from its parent.
    pub namespaced: bool,
    /// `status`, `scale`; none for the resource itself.
    pub subresource: Option<String>,
    /// The kind that the subresource speaks, where it is not that of its parent: `autoscaling/v1 Scale`.
    pub kind_override: Option<GroupVersionKind>,
    /// A short digest of the storage version, as discovery publishes it.
    pub storage_version_hash: Option<String>,
    /// Whatever the front attaches: the schema in this version, converters, columns.
    pub handle: Option<Arc<dyn Any + Send + Sync>>,
}

/// How a resource is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Names {
    /// In URLs: `pods`.
    pub plural: String,
    /// In discovery: `pod`.
    pub singular: String,
    /// `Pod`.
    pub kind: String,
    /// `PodList`.
    pub list_kind: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
}

impl Names {
    /// The usual names: the singular is the kind in lower case, the list kind ends with `List`.
    pub fn new(plural: impl Into<String>, kind: impl Into<String>) -> Self {
        let kind = kind.into();
        Self {
            plural: plural.into(),
            singular: kind.to_lowercase(),
            list_kind: format!("{kind}List"),
            kind,
            short_names: Vec::new(),
            categories: Vec::new(),
        }
    }
}

impl ServedResource {
    /// A resource in its storage version under its usual names.
    pub fn new(resource: Arc<dyn Resource>) -> Self {
        let info = resource.info();
        let (gvk, names) = (
            info.gvk().clone(),
            Names::new(info.resource(), info.gvk().kind.as_str()),
        );
        let namespaced = info.is_namespaced();
        Self {
            resource,
            group: gvk.group,
            version: gvk.version,
            names,
            namespaced,
            subresource: None,
            kind_override: None,
            storage_version_hash: None,
            handle: None,
        }
    }

    /// A subresource of this entry, in the same version.
    #[must_use]
    pub fn with_subresource(&self, name: impl Into<String>, resource: Arc<dyn Resource>) -> Self {
        Self {
            resource,
            subresource: Some(name.into()),
            handle: self.handle.clone(),
            ..self.clone()
        }
    }

    /// The same resource in another served version.
    #[must_use]
    pub fn in_version(&self, version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            ..self.clone()
        }
    }

    /// Which verbs there are.
    pub fn verbs(&self) -> Verbs {
        self.resource.verbs()
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `pods/status`: as discovery names it.
    pub fn path(&self) -> String {
        match &self.subresource {
            None => self.names.plural.clone(),
            Some(subresource) => format!("{}/{subresource}", self.names.plural),
        }
    }

    fn key(&self) -> (&str, &str, &str, Option<&str>) {
        (
            &self.group,
            &self.version,
            &self.names.plural,
            self.subresource.as_deref(),
        )
    }
}

impl fmt::Debug for ServedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedResource")
            .field("group", &self.group)
            .field("version", &self.version)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// Everything that is served at one moment. Sorted by group, version, resource and subresource.
#[derive(Debug, Clone, Default)]
pub struct ResourceMap {
    entries: Box<[ServedResource]>,
}

impl ResourceMap {
    /// Begins a map.
    pub fn builder() -> ResourceMapBuilder {
        ResourceMapBuilder::default()
    }

    /// Begins a map with everything that is in this one.
    pub fn to_builder(&self) -> ResourceMapBuilder {
        ResourceMapBuilder {
            entries: self.entries.to_vec(),
        }
    }

    /// The entry for a path. Allocates nothing.
    pub fn get(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        subresource: Option<&str>,
    ) -> Option<&ServedResource> {
        let at = self
            .entries
            .binary_search_by(|own| own.key().cmp(&(group, version, resource, subresource)))
            .ok()?;
        self.entries.get(at)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = &ServedResource> {
        self.entries.iter()
    }

    /// All entries of one group and version, in order.
    pub fn of_version(&self, group: &str, version: &str) -> &[ServedResource] {
        let order = |own: &ServedResource| (own.group.as_str(), own.version.as_str()).cmp(&(group, version));
        let start = self.entries.partition_point(|own| order(own) == Ordering::Less);
        let end = self.entries.partition_point(|own| order(own) != Ordering::Greater);
        self.entries.get(start..end).unwrap_or_default()
    }
}

/// Collects entries and checks them together (`registry/R-MAP-01` to `R-MAP-06`).
#[derive(Debug, Default)]
pub struct ResourceMapBuilder {
    entries: Vec<ServedResource>,
}

/// Why an entry cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A name is empty or has a slash in it.
    #[error("invalid resource name: path={path:?}")]
    Name {
        /// The offending path.
        path: String,
    },
    /// The subresource of a resource that is not served in this version.
    #[error("missing parent: group={group:?} version={version:?} path={path:?}")]
    MissingParent {
        /// The group.
        group: String,
        /// The version.
        version: String,
        /// Resource and subresource.
        path: String,
    },
    /// Something is served there already; the first one stays.
    #[error("served twice: group={group:?} version={version:?} path={path:?}")]
    Duplicate {
        /// The group.
        group: String,
        /// The version.
        version: String,
        /// Resource and subresource.
        path: String,
    },
}

impl ResourceMapBuilder {
    /// Adds an entry.
    #[must_use]
    pub fn with(mut self, entry: ServedResource) -> Self {
        self.entries.push(entry);
        self
    }

    /// Takes a resource out of every version, with its subresources.
    #[must_use]
    pub fn without(mut self, group: &str, resource: &str) -> Self {
        self.entries
            .retain(|own| own.group != group || own.names.plural != resource);
        self
    }

    /// The map of all entries that can be served, and why the others cannot.
    pub fn build(self) -> (ResourceMap, Vec<MapError>) {
        let mut errors = Vec::new();
        let mut entries = self.entries;
        entries.retain(|own| {
            let subresource = own.subresource.as_deref().unwrap_or("x");
            let good = [own.names.plural.as_str(), subresource, own.version.as_str()];
            let good = good.iter().all(|name| !name.is_empty() && !name.contains('/')) && !own.group.contains('/');
            if !good {
                errors.push(MapError::Name { path: own.path() });
            }
            good
        });
        // Stable: of two entries for one path the first one added stays first.
        entries.sort_by(|a, b| a.key().cmp(&b.key()));
        let mut kept: Vec<ServedResource> = Vec::with_capacity(entries.len());
        let mut parent: Option<usize> = None;
        for mut own in entries {
            let (group, version, path) = (own.group.clone(), own.version.clone(), own.path());
            if kept.last().is_some_and(|last| last.key() == own.key()) {
                errors.push(MapError::Duplicate { group, version, path });
                continue;
            }
            // A resource sorts directly before its subresources.
            let above = parent.and_then(|at| kept.get(at)).filter(|parent| {
                (&parent.group, &parent.version, &parent.names.plural) == (&group, &version, &own.names.plural)
            });
            match (&own.subresource, above) {
                (None, _) => parent = Some(kept.len()),
                (Some(_), Some(parent)) => own.namespaced = parent.namespaced,
                (Some(_), None) => {
                    errors.push(MapError::MissingParent { group, version, path });
                    continue;
                }
            }
            kept.push(own);
        }
        (ResourceMap { entries: kept.into() }, errors)
    }
}

/// The map that is served now. Readers take a snapshot and keep it for as long as their request runs.
#[derive(Debug, Default)]
pub struct SharedResourceMap(RwLock<Arc<ResourceMap>>);

impl SharedResourceMap {
    /// Serves this map.
    pub fn new(map: ResourceMap) -> Self {
        Self(RwLock::new(Arc::new(map)))
    }

    /// What is served now.
    pub fn load(&self) -> Arc<ResourceMap> {
        // The lock guards one pointer, which no panic can leave half-written.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves this map from now on.
    pub fn store(&self, map: ResourceMap) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }

    /// Serves what `change` makes of the current map. Changes are applied one after the other, so none is lost.
    pub fn update(&self, change: impl FnOnce(&ResourceMap) -> ResourceMap) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let next = change(&current);
        *current = Arc::new(next);
    }
}
