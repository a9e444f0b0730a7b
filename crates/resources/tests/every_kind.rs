//! Every built-in kind with every field set, and with every field empty: whichever form it is stored in, the same is
//! read. Recordings show what objects look like; this shows that no kind and no field is left out.

use apiserver_resources::normalizer::{BuiltinNormalizer, resource_info};
use apiserver_resources::types::{Field, Form, Gvk, Shape, Type, TypeId, TypeRegistry};
use apiserver_resources::wire::{self, protobuf};
use apiserver_storage_api::codec::cbor;
use apiserver_storage_api::{MediaType, Normalizer, Revision};
use serde_json::{Map, Value, json};

/// Some fields of Go's types have no number, and are in no protobuf.
fn is_in_protobuf(ty: &Type, field: &Field) -> bool {
    let registry = TypeRegistry::builtin();
    ty.tags.iter().any(|tag| match tag.slot {
        apiserver_resources::types::Slot::Field(index) => ty.fields[usize::from(index)].name == field.name,
        apiserver_resources::types::Slot::Embedded(id) => registry[id].field(field.name).is_some(),
    })
}

/// A value with everything in it. `above` are the types around it: none is nested in itself twice.
fn full(shape: &Shape, above: &mut Vec<TypeId>) -> Option<Value> {
    Some(match shape {
        Shape::String => "text <&>".into(),
        Shape::Bool => true.into(),
        Shape::Int32 => (-7).into(),
        Shape::Int64 => i64::MAX.into(),
        Shape::Double => json!(1.5),
        Shape::Bytes => "AQID".into(),
        Shape::List { item, .. } => json!([full(item, above)?]),
        Shape::Map(item) => json!({ "a": full(item, above)?, "B/c": full(item, above)? }),
        Shape::Type(id) => {
            let ty = &TypeRegistry::builtin()[*id];
            match ty.form {
                Form::Struct if above.iter().filter(|other| *other == id).count() > 1 => return None,
                Form::Struct => {
                    above.push(*id);
                    let fields = ty.fields.iter().filter(|field| is_in_protobuf(ty, field));
                    let fields = fields.filter_map(|field| Some((field.name.to_owned(), full(&field.shape, above)?)));
                    let object: Map<String, Value> = fields.collect();
                    above.pop();
                    object.into()
                }
                Form::Time => "2026-01-02T03:04:05Z".into(),
                Form::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
                Form::Quantity => "1500m".into(),
                Form::IntOrString => "25%".into(),
                Form::Raw => json!({ "b": [1, "<"], "a": null }),
                Form::FieldsV1 => json!({ "f:a": { ".": {} } }),
                Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => {
                    json!({ "type": "string" })
                }
            }
        }
    })
}

fn kinds() -> Vec<(Gvk<'static>, &'static Type)> {
    let registry = TypeRegistry::builtin();
    let kinds: Vec<_> = registry.types().iter().filter_map(|ty| Some((ty.kind?, ty))).collect();
    assert!(kinds.len() > 150, "{} kinds", kinds.len());
    kinds
}

fn with_type(gvk: Gvk<'_>, mut object: Value) -> Value {
    object["apiVersion"] = gvk.api_version().into();
    object["kind"] = gvk.kind.into();
    object
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_field_of_every_kind_goes_through_protobuf() {
    for (gvk, ty) in kinds() {
        // Stored as JSON always; its protobuf has other forms of the same.
        if gvk.group == "apiextensions.k8s.io" && gvk.version == "v1beta1" {
            continue;
        }
        let Some(object) = full(&Shape::Type(ty.id), &mut Vec::new()) else {
            continue;
        };
        for object in [with_type(gvk, object), with_type(gvk, json!({}))] {
            let bytes = protobuf::encode(gvk, &object).unwrap_or_else(|error| panic!("{gvk}: {error}"));
            let read = protobuf::decode(&bytes).unwrap_or_else(|error| panic!("{gvk}: {error}"));
            assert_eq!(protobuf::encode(gvk, &read).as_ref(), Ok(&bytes), "{gvk}");
            let json = |object| text(&wire::encode_served(gvk, object).expect("an object of the kind"));
            assert_eq!(json(&read), json(&object), "{gvk}");
        }
    }
}

#[test]
fn every_stored_kind_is_read_alike_in_every_form() {
    let revision = Revision::new(7).expect("not zero");
    let (registry, mut count) = (TypeRegistry::builtin(), 0);
    for entry in registry.resources() {
        let Some(normalizer) = BuiltinNormalizer::of(entry.gvk()) else {
            panic!("{} cannot be stored", entry.gvk());
        };
        let (gvk, info) = (normalizer.served(), resource_info(entry));
        let ty = registry.by_gvk(gvk).expect("known");
        let Some(object) = full(&Shape::Type(ty.id), &mut Vec::new()) else {
            continue;
        };
        let object = with_type(gvk, object);
        let json = wire::encode_stored(gvk, &object).expect("JSON");
        let value: Value = serde_json::from_slice(&json).expect("JSON");
        let forms = [
            (
                MediaType::Protobuf,
                protobuf::encode_stored(gvk, &object).expect("protobuf"),
            ),
            (MediaType::Cbor, cbor::to_vec(&value)),
            (MediaType::Json, json.clone()),
            (MediaType::Json, serde_json::to_vec_pretty(&value).expect("JSON")),
        ];
        let fields = info.selectable_fields();
        let read = |stored: &[u8]| {
            let read = normalizer.normalize(stored, revision, fields);
            read.unwrap_or_else(|error| panic!("{gvk}: {error}"))
        };
        let want = read(&json);
        assert!(text(&want.json).contains("\"resourceVersion\":\"7\""), "{gvk}");
        for (media_type, stored) in forms {
            let have = read(&stored);
            assert_eq!(have.media_type, media_type, "{gvk}");
            assert_eq!(text(&have.json), text(&want.json), "{gvk} as {media_type}");
            assert_eq!(have.attributes, want.attributes, "{gvk} as {media_type}");
        }
        count += 1;
    }
    assert!(count >= 60, "{count} kinds");
}
