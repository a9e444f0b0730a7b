//! What the storage layers must know of a kind, as a value.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::key::{Key, KeyPrefix, ResourcePrefix, Scope};
use crate::normalizer::{JsonNormalizer, Normalizer};

/// Group, version and kind: what `apiVersion` and `kind` of an object say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupVersionKind {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version within the group.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl GroupVersionKind {
    /// The three parts together.
    pub fn new(group: impl Into<String>, version: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// As objects write it: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }
}

/// Where the objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceScope {
    /// In namespaces.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A field that can be selected by: its label in `fieldSelector` and the path of the value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SelectableField {
    /// As clients write it: `spec.nodeName`.
    pub label: Arc<str>,
    /// The names that lead to the value in the object.
    pub path: Arc<[String]>,
    /// What the field reads as when it is not there.
    pub default: Arc<str>,
}

impl SelectableField {
    /// A field whose label is its path, joined by dots; reads as empty when it is not there.
    pub fn new(label: &str) -> Self {
        Self::with_path(label, label.split('.').map(str::to_owned).collect::<Vec<_>>(), "")
    }

    /// A field with a label of its own.
    pub fn with_path(label: &str, path: impl Into<Arc<[String]>>, default: &str) -> Self {
        Self {
            label: label.into(),
            path: path.into(),
            default: default.into(),
        }
    }
}

/// All that storage, cache and factory know of a kind. A value, not a type: kinds can come at run time.
///
/// ```
/// use apiserver_storage_api::{ResourceInfo, ResourceScope};
///
/// let widgets = ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced)
///     .with_selectable_field("spec.color");
/// assert_eq!(widgets.prefix().as_str(), "/example.com/widgets/");
/// assert_eq!(widgets.object_key(Some("ns"), "a")?.as_str(), "/example.com/widgets/ns/a");
/// # Ok::<(), apiserver_storage_api::StorageError>(())
/// ```
#[derive(Clone)]
pub struct ResourceInfo {
    gvk: GroupVersionKind,
    resource: String,
    scope: ResourceScope,
    prefix: ResourcePrefix,
    selectable_fields: Arc<[SelectableField]>,
    indexes: Arc<[Index]>,
    normalizer: Arc<dyn Normalizer>,
}

/// What the cache keeps an index on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Index {
    /// The values of a selectable field, by its label (upstream's `f:`).
    Field(Arc<str>),
    /// The values of a label (upstream's `l:`).
    Label(Arc<str>),
}

impl ResourceInfo {
    /// A kind in its storage version. Keys lie under `/<group>/<resource>/`, for the core group under `/<resource>/`;
    /// nothing but name and namespace can be selected by; objects are checked and compacted, not pruned.
    pub fn new(group: &str, version: &str, resource: &str, kind: &str, scope: ResourceScope) -> Self {
        let gvk = GroupVersionKind::new(group, version, kind);
        let prefix = match group {
            "" => format!("/{resource}/"),
            group => format!("/{group}/{resource}/"),
        };
        // A resource name with a slash or dots alone cannot be served at all; such a kind gets a prefix of its own
        // rather than a panic, and its keys are refused one by one.
        let prefix = ResourcePrefix::new(&prefix).unwrap_or_else(|_| ResourcePrefix::fallback());
        let normalizer = Arc::new(JsonNormalizer::new(gvk.clone()));
        Self {
            gvk,
            resource: resource.to_owned(),
            scope,
            prefix,
            selectable_fields: Arc::from([]),
            indexes: Arc::from([]),
            normalizer,
        }
    }

    /// Keys lie under another prefix, as for nodes (`/minions/`).
    #[must_use]
    pub fn with_prefix(mut self, prefix: ResourcePrefix) -> Self {
        self.prefix = prefix;
        self
    }

    /// Objects can be selected by this field too, found under its own name.
    #[must_use]
    pub fn with_selectable_field(self, label: &str) -> Self {
        let fields = self
            .selectable_fields
            .iter()
            .cloned()
            .chain([SelectableField::new(label)])
            .collect();
        self.with_selectable_fields(fields)
    }

    /// Objects can be selected by these fields, and by name and namespace.
    #[must_use]
    pub fn with_selectable_fields(mut self, fields: Vec<SelectableField>) -> Self {
        self.selectable_fields = fields.into();
        self
    }

    /// The cache keeps these indexes.
    #[must_use]
    pub fn with_indexes(mut self, indexes: Vec<Index>) -> Self {
        self.indexes = indexes.into();
        self
    }

    /// Stored values are read and written by this normalizer.
    #[must_use]
    pub fn with_normalizer(mut self, normalizer: Arc<dyn Normalizer>) -> Self {
        self.normalizer = normalizer;
        self
    }

    /// Group, storage version and kind.
    pub fn gvk(&self) -> &GroupVersionKind {
        &self.gvk
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &str {
        &self.gvk.group
    }

    /// The plural name in URLs.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// `pods`, `deployments.apps`: as messages and configuration name it.
    pub fn group_resource(&self) -> String {
        match self.group() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }

    /// Where objects live.
    pub fn scope(&self) -> ResourceScope {
        self.scope
    }

    /// Whether objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == ResourceScope::Namespaced
    }

    /// What all keys of this kind begin with.
    pub fn prefix(&self) -> &ResourcePrefix {
        &self.prefix
    }

    /// What can be selected by, beside name and namespace.
    pub fn selectable_fields(&self) -> &[SelectableField] {
        &self.selectable_fields
    }

    /// What the cache keeps indexes on.
    pub fn indexes(&self) -> &[Index] {
        &self.indexes
    }

    /// The one who reads and writes stored values.
    pub fn normalizer(&self) -> &Arc<dyn Normalizer> {
        &self.normalizer
    }

    /// Checks the text of a key of this kind.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](crate::StorageError::InvalidKey).
    pub fn key(&self, key: &str) -> Result<Key> {
        Key::new(&self.prefix, key)
    }

    /// The key of an object (`storage-api/KEY-16`).
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](crate::StorageError::InvalidKey) for names and namespaces that cannot stand in a key.
    pub fn object_key(&self, namespace: Option<&str>, name: &str) -> Result<Key> {
        crate::names::check_path_segment(name)?;
        match namespace {
            Some(namespace) => {
                crate::names::check_path_segment(namespace)?;
                self.key(&format!("{}{namespace}/{name}", self.prefix.as_str()))
            }
            None => self.key(&format!("{}{name}", self.prefix.as_str())),
        }
    }

    /// Everything of this kind, or everything of it in one namespace.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](crate::StorageError::InvalidKey) for a namespace that cannot stand in a key.
    pub fn list_scope(&self, namespace: Option<&str>) -> Result<Scope> {
        match namespace {
            Some(namespace) => {
                crate::names::check_path_segment(namespace)?;
                let text = format!("{}{namespace}/", self.prefix.as_str());
                Ok(Scope::Under(KeyPrefix::new(&self.prefix, &text)?))
            }
            None => Ok(Scope::all(&self.prefix)),
        }
    }
}

impl fmt::Debug for ResourceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceInfo")
            .field("gvk", &self.gvk)
            .field("resource", &self.resource)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
