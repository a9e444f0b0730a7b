//! The types of the built-in kinds: one view of a type that joins its schema, its wire form and its defaults.
//!
//! Types are interned: a [`TypeId`] is an index, so walking a document follows indices and hashes no type name. A
//! field is found by binary search in its type's sorted name table.

use std::collections::HashMap;
use std::fmt;
use std::ops::Index;
use std::sync::LazyLock;

use serde_json::Value;

use crate::data;

/// Names one type within its [`TypeRegistry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub(crate) u16);

/// What a value is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A 64-bit float.
    Double,
    /// Bytes, in JSON as base64 text.
    Bytes,
    /// A named type.
    Type(TypeId),
    /// A list.
    List {
        /// What the items are.
        item: Box<Shape>,
        /// Whether protobuf wraps the list in a message of its own, as its field 1.
        wrapped: bool,
    },
    /// A map from text to something.
    Map(Box<Shape>),
}

impl Shape {
    /// The named type this is, when it is one.
    #[must_use]
    pub fn type_id(&self) -> Option<TypeId> {
        match self {
            Self::Type(id) => Some(*id),
            _ => None,
        }
    }

    /// The named type at the bottom of lists and maps.
    #[must_use]
    pub fn innermost_type(&self) -> Option<TypeId> {
        match self {
            Self::Type(id) => Some(*id),
            Self::List { item, .. } | Self::Map(item) => item.innermost_type(),
            _ => None,
        }
    }
}

/// How a type appears in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An object with the type's fields.
    Struct,
    /// RFC 3339 text in whole seconds; null for the zero time.
    Time,
    /// RFC 3339 text with six digits of fraction; null for the zero time.
    MicroTime,
    /// A quantity such as `500m` or `8Gi`.
    Quantity,
    /// A number or text.
    IntOrString,
    /// Any JSON document, kept as it is.
    Raw,
    /// Any JSON document that is a set of managed fields, with an order of keys of its own.
    FieldsV1,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
}

/// How server-side apply treats a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Owned as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// A map whose keys are fields of the items, see [`Field::list_keys`].
    Map,
}

/// How server-side apply treats a map or an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// Owned as a whole.
    Atomic,
    /// Each key has owners of its own.
    Granular,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Items are merged (by [`Field::merge_key`] when the items are objects).
    pub merge: bool,
    /// The field is replaced as a whole.
    pub replace: bool,
    /// Keys that the patch does not list are removed.
    pub retain_keys: bool,
}

/// One field of a type, all that is known of it.
#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether Go holds it by a pointer, so that absent and zero are told apart.
    pub pointer: bool,
    /// Whether the empty value is left out of JSON. Structs are never empty in this sense.
    pub omit_empty: bool,
    /// Whether the zero value is left out of JSON, for types that know theirs.
    pub omit_zero: bool,
    /// Whether the schema demands it.
    pub required: bool,
    /// How server-side apply treats the list, where the schema says.
    pub list_type: Option<ListType>,
    /// The fields that identify an item of a [`ListType::Map`].
    pub list_keys: Vec<&'static str>,
    /// How server-side apply treats the map, where the field says (see also [`Type::map_type`]).
    pub map_type: Option<MapType>,
    /// How a strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// The field of the items by which a strategic merge patch merges them.
    pub merge_key: Option<&'static str>,
    /// The default that the schema states.
    pub schema_default: Option<Value>,
    /// The values that the schema allows; empty means any.
    pub allowed: Vec<Value>,
    /// The values that Go's defaulting functions were seen to set. One value is unconditional.
    pub go_defaults: Vec<Value>,
    /// Whether the OpenAPI schema has the field.
    pub in_schema: bool,
}

/// What protobuf has at one tag of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The type's own field with this index.
    Field(u16),
    /// A message whose fields stand inline in JSON.
    Embedded(TypeId),
}

/// One tag of a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The field number.
    pub number: u32,
    /// What it carries.
    pub slot: Slot,
}

/// Group, version and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk<'a> {
    /// The group, empty for the core group.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The kind.
    pub kind: &'a str,
}

impl<'a> Gvk<'a> {
    /// Joins the three names.
    #[must_use]
    pub fn new(group: &'a str, version: &'a str, kind: &'a str) -> Self {
        Self { group, version, kind }
    }

    /// Reads `apiVersion` and `kind` as an object has them.
    #[must_use]
    pub fn of(api_version: &'a str, kind: &'a str) -> Self {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self { group, version, kind }
    }

    /// Whether `api_version` is this group and version.
    #[must_use]
    pub fn has_api_version(&self, api_version: &str) -> bool {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.group == group && self.version == version
    }

    /// The `apiVersion` of objects of this kind.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

impl fmt::Display for Gvk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            write!(f, "{}, Kind={}", self.version, self.kind)
        } else {
            write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
        }
    }
}

/// A union as the schema states it.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Union {
    /// The field that says which member is set.
    #[serde(default)]
    pub discriminator: Option<String>,
    /// Member field to the discriminator's value.
    #[serde(rename = "fields-to-discriminateBy", default)]
    pub members: std::collections::BTreeMap<String, String>,
}

/// One type: its fields in the order in which Go writes them.
#[derive(Clone, Debug)]
pub struct Type {
    /// Its place in the registry.
    pub id: TypeId,
    /// The short name, such as `core.v1.Container`.
    pub name: &'static str,
    /// How it appears in JSON.
    pub form: Form,
    /// The kind it is, for top-level types.
    pub kind: Option<Gvk<'static>>,
    /// Whether server-side apply owns values of this type as a whole.
    pub map_type: Option<MapType>,
    /// The unions among its fields.
    pub unions: Vec<Union>,
    /// Whether the OpenAPI documents that the data was taken from have it.
    pub in_schema: bool,
    /// The JSON fields in Go's order, those of inline types in place.
    pub fields: Vec<Field>,
    /// The protobuf message, by ascending number.
    pub tags: Vec<Tag>,
    /// Whether a `kind` and an `apiVersion` of its own stand in front (Go's `TypeMeta`).
    pub has_type_meta: bool,
    pub(crate) by_name: Vec<u16>,
}

impl Type {
    /// The field of this JSON name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.field_index(name).map(|index| &self.fields[index])
    }

    /// The place of the field in [`Type::fields`].
    #[must_use]
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.by_name
            .binary_search_by(|&index| self.fields[usize::from(index)].name.cmp(name))
            .ok()
            .map(|found| usize::from(self.by_name[found]))
    }

    /// The fields by name, as OpenAPI documents list them.
    pub fn fields_by_name(&self) -> impl Iterator<Item = &Field> {
        self.by_name.iter().map(|&index| &self.fields[usize::from(index)])
    }

    /// What protobuf has at this number.
    #[must_use]
    pub fn tag(&self, number: u32) -> Option<Slot> {
        self.tags
            .binary_search_by_key(&number, |tag| tag.number)
            .ok()
            .map(|found| self.tags[found].slot)
    }
}

/// A column of `kubectl get`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Column {
    /// The header.
    pub name: String,
    /// The OpenAPI type of the cells.
    #[serde(rename = "type")]
    pub kind: String,
    /// The OpenAPI format of the cells; `name` marks the column with the object's name.
    pub format: String,
    /// Above 0 is shown with `-o wide` only.
    pub priority: i32,
}

/// A subresource as discovery lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Subresource {
    /// The last segment of the path.
    pub name: String,
    /// Its kind, with group and version in front (`autoscaling/v1/Scale`) where those are not the resource's.
    pub kind: String,
    /// What it can do.
    pub verbs: Vec<String>,
}

/// A resource as discovery and tables describe it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct ResourceEntry {
    /// The group, empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural name, as in paths.
    pub resource: String,
    /// The singular name.
    pub singular: String,
    /// The kind of its objects.
    pub kind: String,
    /// Whether objects live in namespaces.
    #[serde(rename = "scope", deserialize_with = "data::namespaced")]
    pub namespaced: bool,
    /// What it can do.
    pub verbs: Vec<String>,
    /// Abbreviations.
    #[serde(rename = "shortNames", default)]
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    #[serde(default)]
    pub categories: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// The columns of `kubectl get`.
    #[serde(default)]
    pub columns: Vec<Column>,
}

impl ResourceEntry {
    /// Group, version and kind of its objects.
    #[must_use]
    pub fn gvk(&self) -> Gvk<'_> {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    /// Whether discovery lists the verb.
    #[must_use]
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// All types and resources.
#[derive(Debug)]
pub struct TypeRegistry {
    pub(crate) types: Vec<Type>,
    pub(crate) by_name: HashMap<&'static str, TypeId>,
    pub(crate) by_kind: HashMap<&'static str, Vec<(Gvk<'static>, TypeId)>>,
    pub(crate) resources: Vec<ResourceEntry>,
}

/// The kinds that are registered in every group and version.
const EVERYWHERE: [&str; 7] = [
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "UpdateOptions",
    "WatchEvent",
];

static BUILTIN: LazyLock<TypeRegistry> = LazyLock::new(|| match data::load() {
    Ok(registry) => registry,
    // Invariant: the data is part of this crate and a test loads it, so no input from outside gets here.
    Err(error) => panic!("the built-in type data does not load: {error}"),
});

impl TypeRegistry {
    /// The built-in kinds. The first call reads the data; later ones are free.
    #[must_use]
    pub fn builtin() -> &'static TypeRegistry {
        &BUILTIN
    }

    /// The type of this short name, such as `core.v1.Container`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name).map(|&id| &self[id])
    }

    /// The type of a kind. Options of requests and frames of watches are kinds of every group and version.
    #[must_use]
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Type> {
        let wanted = Gvk::new(group, version, kind);
        let kinds = self.by_kind.get(kind)?;
        let own = kinds.iter().find(|(gvk, _)| *gvk == wanted);
        own.or_else(|| kinds.first().filter(|_| EVERYWHERE.contains(&kind)))
            .map(|&(_, id)| &self[id])
    }

    /// The type of a kind.
    #[must_use]
    pub fn by_gvk(&self, gvk: Gvk<'_>) -> Option<&Type> {
        self.by_kind(gvk.group, gvk.version, gvk.kind)
    }

    /// Every group and version in which a kind of this name exists.
    #[must_use]
    pub fn kinds_named(&self, kind: &str) -> &[(Gvk<'static>, TypeId)] {
        self.by_kind.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Every type; a type's place is its id.
    #[must_use]
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// The type with this id; `None` for an id of another registry.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(usize::from(id.0))
    }

    /// Every resource, in the order of discovery.
    #[must_use]
    pub fn resources(&self) -> &[ResourceEntry] {
        &self.resources
    }

    /// The resource of a plural name.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, resource: &str) -> Option<&ResourceEntry> {
        self.resources
            .iter()
            .find(|entry| entry.resource == resource && entry.group == group && entry.version == version)
    }

    /// The resource that serves a kind.
    #[must_use]
    pub fn resource_of_kind(&self, gvk: Gvk<'_>) -> Option<&ResourceEntry> {
        self.resources.iter().find(|entry| entry.gvk() == gvk)
    }
}

impl Index<TypeId> for TypeRegistry {
    type Output = Type;

    /// Ids come from this registry, so the index is always there.
    fn index(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }
}
