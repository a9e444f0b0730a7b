//! Reads the facts about the built-in types and joins them.
//!
//! `wire.json` leads: it has every type and Go's field order. `schemas.json` and `defaults.json` add what they know to
//! the fields of the same name; a type or field that only they have is an error of the data, apart from the names
//! below.

mod files;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer};

use self::files::{Defaults, RichField, Schemas, Wire, WireField, WireType};
use crate::types::{
    Field, Form, Gvk, ListType, MapType, PatchStrategy, ResourceEntry, Shape, Slot, Tag, Type, TypeId, TypeRegistry,
};

static WIRE: &str = include_str!("../../data/wire.json");
/// What the other file lacks: a version that is stored and never served, and views of metadata.
static MORE: &str = include_str!("../../data/more.json");
static SCHEMAS: &str = include_str!("../../data/schemas.json");
static DEFAULTS: &str = include_str!("../../data/defaults.json");
static RESOURCES: &str = include_str!("../../data/resources.json");

/// Types that OpenAPI names differently from Go.
const ALIASES: [(&str, &str); 2] = [("IntOrString", "intstr.IntOrString"), ("Quantity", "resource.Quantity")];
/// Types of requests only: they are no Go struct and no document has them inside.
const SCHEMA_ONLY: &str = "meta.v1.Patch";

/// Why the data does not load.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{file} is not the JSON it should be")]
    Json {
        file: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("type {0} is mentioned but not described")]
    UnknownType(String),
    #[error("field {field} of {ty} is described but not on the wire")]
    UnknownField { ty: String, field: String },
    #[error("{0} is no group/version/kind")]
    Kind(String),
    #[error("more types than an id can name")]
    TooMany,
}

/// Reads the `scope` of a resource.
pub(crate) fn namespaced<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let scope = String::deserialize(deserializer)?;
    Ok(scope == "Namespaced")
}

fn read<T: Deserialize<'static>>(file: &'static str, text: &'static str) -> Result<T, LoadError> {
    serde_json::from_str(text).map_err(|source| LoadError::Json { file, source })
}

/// Reads and joins everything.
pub(crate) fn load() -> Result<TypeRegistry, LoadError> {
    let mut wire: Wire = read("wire.json", WIRE)?;
    let more: Wire = read("more.json", MORE)?;
    wire.kinds.extend(more.kinds);
    wire.types.extend(more.types);
    let schemas: Schemas = read("schemas.json", SCHEMAS)?;
    let defaults: Defaults = read("defaults.json", DEFAULTS)?;
    let resources: Vec<ResourceEntry> = read("resources.json", RESOURCES)?;

    let mut ids = HashMap::with_capacity(wire.types.len() + ALIASES.len());
    for (index, name) in wire.types.keys().enumerate() {
        ids.insert(*name, TypeId(u16::try_from(index).map_err(|_| LoadError::TooMany)?));
    }
    for (alias, name) in ALIASES {
        let id = *ids.get(name).ok_or_else(|| LoadError::UnknownType(name.to_owned()))?;
        ids.insert(alias, id);
    }

    let joiner = Joiner {
        wire: &wire.types,
        ids: &ids,
    };
    let mut types = wire
        .types
        .iter()
        .map(|(name, ty)| joiner.ty(name, ty))
        .collect::<Result<Vec<_>, _>>()?;
    join_schemas(&mut types, &ids, schemas)?;
    join_defaults(&mut types, &ids, defaults)?;

    let mut by_kind: HashMap<&'static str, Vec<(Gvk<'static>, TypeId)>> = HashMap::new();
    for (path, name) in wire.kinds {
        let gvk = parse_kind(path)?;
        let id = *ids.get(name).ok_or_else(|| LoadError::UnknownType(name.to_owned()))?;
        types[usize::from(id.0)].kind = Some(gvk);
        by_kind.entry(gvk.kind).or_default().push((gvk, id));
    }
    Ok(TypeRegistry {
        types,
        by_name: ids,
        by_kind,
        resources,
    })
}

fn parse_kind(path: &'static str) -> Result<Gvk<'static>, LoadError> {
    let mut parts = path.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("core"), Some(version), Some(kind), None) => Ok(Gvk::new("", version, kind)),
        (Some(group), Some(version), Some(kind), None) => Ok(Gvk::new(group, version, kind)),
        _ => Err(LoadError::Kind(path.to_owned())),
    }
}

fn lookup(ids: &HashMap<&'static str, TypeId>, name: &str) -> Result<TypeId, LoadError> {
    ids.get(name)
        .copied()
        .ok_or_else(|| LoadError::UnknownType(name.to_owned()))
}

/// Turns wire types into [`Type`]s.
struct Joiner<'a> {
    wire: &'a BTreeMap<&'static str, WireType>,
    ids: &'a HashMap<&'static str, TypeId>,
}

impl Joiner<'_> {
    fn ty(&self, name: &'static str, wire: &WireType) -> Result<Type, LoadError> {
        let form = form_of(name, wire.own_json);
        let mut ty = Type {
            id: lookup(self.ids, name)?,
            name,
            form,
            kind: None,
            map_type: None,
            unions: Vec::new(),
            in_schema: false,
            fields: Vec::new(),
            tags: Vec::new(),
            has_type_meta: false,
            by_name: Vec::new(),
        };
        if form == Form::Struct {
            self.add_fields(&mut ty, wire, true)?;
            ty.tags.sort_by_key(|tag| tag.number);
            ty.by_name = (0..u16::try_from(ty.fields.len()).map_err(|_| LoadError::TooMany)?).collect();
            let fields = &ty.fields;
            ty.by_name.sort_by_key(|&index| fields[usize::from(index)].name);
        }
        Ok(ty)
    }

    /// Adds the fields of `wire`, and of what is inline in it, in Go's order. Only the type's own level has tags:
    /// an inline message is decoded by its own type.
    fn add_fields(&self, ty: &mut Type, wire: &WireType, own_level: bool) -> Result<(), LoadError> {
        for field in wire.fields.iter().flatten() {
            let &WireField {
                name,
                number,
                shape,
                flags,
            } = field;
            let has = |flag: &str| flags.split_ascii_whitespace().any(|known| known == flag);
            let slot = if has("inline") {
                let target = shape.trim_start_matches('*');
                let inner = self
                    .wire
                    .get(target)
                    .ok_or_else(|| LoadError::UnknownType(target.to_owned()))?;
                ty.has_type_meta |= own_level && target == "meta.v1.TypeMeta";
                self.add_fields(ty, inner, false)?;
                Slot::Embedded(lookup(self.ids, target)?)
            } else {
                let index = u16::try_from(ty.fields.len()).map_err(|_| LoadError::TooMany)?;
                ty.fields
                    .push(self.field(name, shape, has("omitempty"), has("omitzero"))?);
                Slot::Field(index)
            };
            if own_level && number != 0 {
                ty.tags.push(Tag { number, slot });
            }
        }
        Ok(())
    }

    fn field(
        &self,
        name: &'static str,
        shape: &'static str,
        omit_empty: bool,
        omit_zero: bool,
    ) -> Result<Field, LoadError> {
        let pointee = shape.strip_prefix('*');
        Ok(Field {
            name,
            shape: self.shape(pointee.unwrap_or(shape))?,
            pointer: pointee.is_some(),
            omit_empty,
            omit_zero,
            required: false,
            list_type: None,
            list_keys: Vec::new(),
            map_type: None,
            patch: PatchStrategy::default(),
            merge_key: None,
            schema_default: None,
            allowed: Vec::new(),
            go_defaults: Vec::new(),
            in_schema: false,
        })
    }

    fn shape(&self, text: &str) -> Result<Shape, LoadError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (item, name) = rest.rsplit_once(']').unwrap_or((rest, ""));
            return Ok(Shape::List {
                item: Box::new(self.shape(item)?),
                wrapped: name.starts_with('@'),
            });
        }
        if let Some(rest) = text.strip_prefix('{') {
            let (_, value) = rest
                .strip_suffix('}')
                .unwrap_or(rest)
                .split_once(':')
                .unwrap_or(("string", rest));
            return Ok(Shape::Map(Box::new(self.shape(value)?)));
        }
        Ok(match text {
            "string" => Shape::String,
            "bool" => Shape::Bool,
            "int32" => Shape::Int32,
            "int64" => Shape::Int64,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            name => Shape::Type(lookup(self.ids, name)?),
        })
    }
}

fn form_of(name: &str, own_json: bool) -> Form {
    match name {
        _ if !own_json => Form::Struct,
        "meta.v1.Time" | "..time.Time" => Form::Time,
        "meta.v1.MicroTime" => Form::MicroTime,
        "resource.Quantity" => Form::Quantity,
        "intstr.IntOrString" => Form::IntOrString,
        "meta.v1.FieldsV1" => Form::FieldsV1,
        "apiextensions.v1.JSONSchemaPropsOrArray" => Form::SchemaOrArray,
        "apiextensions.v1.JSONSchemaPropsOrBool" => Form::SchemaOrBool,
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => Form::SchemaOrStrings,
        _ => Form::Raw,
    }
}

fn join_schemas(types: &mut [Type], ids: &HashMap<&'static str, TypeId>, schemas: Schemas) -> Result<(), LoadError> {
    for (name, schema) in schemas.types {
        if name == SCHEMA_ONLY {
            continue;
        }
        let ty = &mut types[usize::from(lookup(ids, name)?.0)];
        ty.in_schema = true;
        ty.map_type = schema.map_type.map(map_type);
        ty.unions = schema.unions;
        for (field_name, known) in schema.fields {
            let Some(index) = ty.field_index(field_name) else {
                return Err(LoadError::UnknownField {
                    ty: name.to_owned(),
                    field: field_name.to_owned(),
                });
            };
            let field = &mut ty.fields[index];
            field.in_schema = true;
            field.required = schema.required.contains(&field_name);
            join_field(field, known.0);
        }
    }
    Ok(())
}

fn join_field(field: &mut Field, known: RichField) {
    field.list_type = known.list.map(|list| match list {
        "map" => ListType::Map,
        "set" => ListType::Set,
        _ => ListType::Atomic,
    });
    field.list_keys = known.keys;
    field.map_type = known.map.map(map_type);
    let strategies = known.patch.unwrap_or_default();
    let has = |wanted: &str| strategies.split(',').any(|strategy| strategy == wanted);
    field.patch = PatchStrategy {
        merge: has("merge"),
        replace: has("replace"),
        retain_keys: has("retainKeys"),
    };
    field.merge_key = known.merge_key;
    field.schema_default = known.default;
    field.allowed = known.allowed;
}

fn map_type(text: &str) -> MapType {
    if text == "atomic" {
        MapType::Atomic
    } else {
        MapType::Granular
    }
}

fn join_defaults(types: &mut [Type], ids: &HashMap<&'static str, TypeId>, defaults: Defaults) -> Result<(), LoadError> {
    for (name, fields) in defaults.defaults {
        let ty = &mut types[usize::from(lookup(ids, name)?.0)];
        for (field_name, values) in fields {
            let Some(index) = ty.field_index(field_name) else {
                return Err(LoadError::UnknownField {
                    ty: name.to_owned(),
                    field: field_name.to_owned(),
                });
            };
            ty.fields[index].go_defaults = values;
        }
    }
    inherit_defaults(types);
    Ok(())
}

/// Defaults that are known of a type hold for its fields where it stands inline.
fn inherit_defaults(types: &mut [Type]) {
    for at in 0..types.len() {
        let embedded: Vec<TypeId> = types[at]
            .tags
            .iter()
            .filter_map(|tag| match tag.slot {
                Slot::Embedded(id) => Some(id),
                Slot::Field(_) => None,
            })
            .collect();
        for id in embedded {
            for inner in types[usize::from(id.0)].fields.clone() {
                if let Some(index) = types[at]
                    .field_index(inner.name)
                    .filter(|_| !inner.go_defaults.is_empty())
                {
                    types[at].fields[index].go_defaults = inner.go_defaults;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_loads_and_joins() {
        let registry = load().expect("the data loads");
        assert!(registry.types.len() > 600, "{} types", registry.types.len());
        assert_eq!(registry.resources.len(), 68);
        let pod_spec = registry.by_name("core.v1.PodSpec").expect("known");
        let containers = pod_spec.field("containers").expect("known");
        assert!(containers.required && !containers.omit_empty && containers.patch.merge);
        assert_eq!(
            (containers.list_type, containers.merge_key),
            (Some(ListType::Map), Some("name"))
        );
        assert_eq!(containers.list_keys, ["name"]);
        let container = &registry[containers.shape.innermost_type().expect("a type")];
        assert_eq!(container.name, "core.v1.Container");
        assert_eq!(pod_spec.field("restartPolicy").expect("known").go_defaults, ["Always"]);
        let volumes = pod_spec.field("volumes").expect("known");
        assert!(volumes.patch.merge && volumes.patch.retain_keys && !volumes.patch.replace);
    }

    #[test]
    fn inline_types_stand_in_place_in_json_and_nested_in_protobuf() {
        let registry = TypeRegistry::builtin();
        let volume = registry.by_name("core.v1.Volume").expect("known");
        assert_eq!(volume.fields[0].name, "name");
        assert_eq!(volume.fields[1].name, "hostPath");
        let source = registry.by_name("core.v1.VolumeSource").expect("known").id;
        assert_eq!(volume.tag(2), Some(Slot::Embedded(source)));
        let pod = registry.by_kind("", "v1", "Pod").expect("known");
        assert!(pod.has_type_meta);
        assert_eq!((pod.fields[0].name, pod.fields[1].name), ("kind", "apiVersion"));
        assert_eq!(pod.tags.first().map(|tag| tag.number), Some(1));
    }

    #[test]
    fn schema_and_wire_agree_on_every_field_name() {
        for ty in TypeRegistry::builtin().types() {
            for field in &ty.fields {
                assert!(
                    field.in_schema || !ty.in_schema,
                    "{}.{} is not in the schema",
                    ty.name,
                    field.name
                );
            }
        }
    }
}
