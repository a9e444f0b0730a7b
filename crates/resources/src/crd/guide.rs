//! What pruning and defaults would leave as it is: the structural schema as the guide of a scan.
//!
//! A part refuses whatever would be pruned, completed or brought into another shape, and what it is not sure about; the
//! value is decoded then. The rules are those of `prune`, and for metadata those of its type in another place: both must
//! come to the same.

use apiserver_storage_api::Guide;

use super::schema::{Additional, Schema};
use crate::types::{Form, Shape, Type, TypeRegistry};
use crate::wire::time;

/// A part of an object of a custom kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'s> {
    /// The object itself.
    Whole(&'s Schema, &'static Type),
    /// A value with a schema.
    Known(&'s Schema),
    /// A value below `additionalProperties: true` or in a list without a schema: members of objects are pruned.
    Bare,
    /// A value that is kept whatever it is.
    Kept,
    /// The object's metadata.
    Metadata(&'static Type),
    /// The count of generations in it, which begins at one.
    Generation,
    /// A value in metadata.
    Typed(&'static Shape),
}

impl<'s> Part<'s> {
    /// The guide of the objects of a schema; `None` for a schema that has a say in metadata.
    pub(super) fn of(schema: &'s Schema) -> Option<Self> {
        let is_plain = match schema.member("metadata") {
            None => true,
            Some(metadata) => metadata.properties.is_empty() && !matches!(metadata.additional, Some(Additional::Of(_))),
        };
        let metadata = TypeRegistry::builtin().by_name("meta.v1.ObjectMeta")?;
        is_plain.then_some(Self::Whole(schema, metadata))
    }

    fn member_of(schema: &'s Schema, name: &str) -> Option<Self> {
        match (schema.properties.get(name), &schema.additional) {
            (Some(declared), _) => Some(Self::Known(declared)),
            // Pruning and defaults disagree about these.
            (None, Some(Additional::Of(_))) if schema.embedded_resource && is_of_every_object(name) => None,
            (None, _) if schema.embedded_resource && is_of_every_object(name) => Some(Self::Kept),
            (None, Some(Additional::Of(schema))) => Some(Self::Known(schema)),
            (None, Some(Additional::Any)) => Some(Self::Bare),
            (None, _) => schema.preserve_unknown_fields.then_some(Self::Kept),
        }
    }
}

fn is_of_every_object(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

impl Guide for Part<'_> {
    fn is_anything(self) -> bool {
        matches!(self, Self::Kept)
    }

    fn member(self, name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        match self {
            Self::Whole(_, metadata) if name == "metadata" => Some(Self::Metadata(metadata)),
            Self::Whole(schema, _) => Self::member_of(schema, name),
            // Declared ones are not pruned, but may get defaults.
            Self::Known(schema)
                if schema.embedded_resource && is_of_every_object(name) && schema.properties.contains_key(name) =>
            {
                None
            }
            Self::Known(schema) => Self::member_of(schema, name),
            Self::Kept => Some(self),
            Self::Metadata(_) if name == "generation" => Some(Self::Generation),
            Self::Metadata(of) => of.field(name).map(|field| Self::Typed(&field.shape)),
            Self::Typed(Shape::Map(item)) => Some(Self::Typed(item)),
            Self::Typed(Shape::Type(id)) => {
                let of = &TypeRegistry::builtin()[*id];
                match of.form {
                    Form::Struct => of.field(name).map(|field| Self::Typed(&field.shape)),
                    Form::FieldsV1 | Form::Raw => Some(Self::Kept),
                    _ => None,
                }
            }
            Self::Bare | Self::Generation | Self::Typed(_) => None,
        }
    }

    fn item(self) -> Option<Self> {
        match self {
            Self::Known(schema) => match &schema.items {
                Some(items) => Some(Self::Known(items)),
                None if schema.preserve_unknown_fields => Some(Self::Kept),
                None => Some(Self::Bare),
            },
            Self::Bare | Self::Kept => Some(self),
            Self::Typed(Shape::List { item, .. }) => Some(Self::Typed(item)),
            Self::Whole(..) | Self::Metadata(_) | Self::Generation | Self::Typed(_) => None,
        }
    }

    fn scalar(self, text: &[u8]) -> bool {
        let is_text = text.first() == Some(&b'"');
        let number = || std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        match self {
            Self::Known(schema) => schema.nullable || text != b"null",
            Self::Bare | Self::Kept => true,
            Self::Whole(..) | Self::Metadata(_) => false,
            Self::Generation => number().is_some_and(|number| number != 0),
            Self::Typed(shape) => match shape {
                Shape::String => is_text,
                Shape::Bool => matches!(text, b"true" | b"false"),
                Shape::Int32 => number().is_some_and(|number| i32::try_from(number).is_ok()),
                Shape::Int64 => number().is_some(),
                Shape::Type(id) => match TypeRegistry::builtin()[*id].form {
                    Form::Time => is_time(text, time::Precision::Seconds),
                    Form::MicroTime => is_time(text, time::Precision::Micros),
                    _ => false,
                },
                Shape::Double | Shape::Bytes | Shape::List { .. } | Shape::Map(_) => false,
            },
        }
    }

    fn required(self) -> usize {
        match self {
            Self::Whole(schema, _) | Self::Known(schema) => schema.defaults,
            Self::Metadata(_) => 1,
            Self::Bare | Self::Kept | Self::Generation | Self::Typed(_) => 0,
        }
    }

    fn is_required(self) -> bool {
        match self {
            Self::Known(schema) => schema.default.is_some(),
            Self::Generation => true,
            _ => false,
        }
    }
}

/// Whether a quoted text is a time as it is written.
fn is_time(text: &[u8], precision: time::Precision) -> bool {
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    text.is_some_and(|text| time::is_canonical(text, precision))
}
