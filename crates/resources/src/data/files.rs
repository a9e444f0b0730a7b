//! The shape of the data files.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::types::Union;

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'static"))]
pub(super) struct Wire {
    pub(super) kinds: BTreeMap<&'static str, &'static str>,
    pub(super) types: BTreeMap<&'static str, WireType>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'static"))]
pub(super) struct WireType {
    #[serde(default)]
    pub(super) fields: Option<Vec<WireField>>,
    #[serde(default)]
    pub(super) own_json: bool,
}

/// `[JSON name, tag, type]` or the same with flags.
pub(super) struct WireField {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) shape: &'static str,
    pub(super) flags: &'static str,
}

impl<'de: 'static> Deserialize<'de> for WireField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de: 'static> Visitor<'de> for Parts {
            type Value = WireField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("name, tag, type and perhaps flags")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<WireField, A::Error> {
                let missing = || A::Error::custom("a field has three or four parts");
                Ok(WireField {
                    name: parts.next_element()?.ok_or_else(missing)?,
                    number: parts.next_element()?.ok_or_else(missing)?,
                    shape: parts.next_element()?.ok_or_else(missing)?,
                    flags: parts.next_element()?.unwrap_or_default(),
                })
            }
        }
        deserializer.deserialize_seq(Parts)
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'static"))]
pub(super) struct Schemas {
    pub(super) types: BTreeMap<&'static str, SchemaType>,
}

#[derive(Deserialize)]
pub(super) struct SchemaType {
    #[serde(default)]
    pub(super) fields: BTreeMap<&'static str, SchemaField>,
    #[serde(default)]
    pub(super) required: Vec<&'static str>,
    #[serde(rename = "x-kubernetes-map-type", default)]
    pub(super) map_type: Option<&'static str>,
    #[serde(rename = "x-kubernetes-unions", default)]
    pub(super) unions: Vec<Union>,
}

/// A bare type, which `wire.json` knows better, or an object with what else is known.
#[derive(Default)]
pub(super) struct SchemaField(pub(super) RichField);

impl<'de: 'static> Deserialize<'de> for SchemaField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de: 'static> Visitor<'de> for Either {
            type Value = SchemaField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type or an object with a type")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<SchemaField, E> {
                Ok(SchemaField::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SchemaField, A::Error> {
                RichField::deserialize(MapAccessDeserializer::new(map)).map(SchemaField)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What else is known of a field.
#[derive(Deserialize, Default)]
pub(super) struct RichField {
    #[serde(default)]
    pub(super) list: Option<&'static str>,
    #[serde(default)]
    pub(super) keys: Vec<&'static str>,
    #[serde(default)]
    pub(super) map: Option<&'static str>,
    #[serde(default)]
    pub(super) patch: Option<&'static str>,
    #[serde(rename = "mergeKey", default)]
    pub(super) merge_key: Option<&'static str>,
    #[serde(default)]
    pub(super) default: Option<Value>,
    #[serde(rename = "enum", default)]
    pub(super) allowed: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'static"))]
pub(super) struct Defaults {
    pub(super) defaults: HashMap<&'static str, HashMap<&'static str, Vec<Value>>>,
}
