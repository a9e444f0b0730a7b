//! Protobuf values of a real server, decoded and encoded again.

mod common;

use apiserver_resources::defaults::apply_defaults;
use apiserver_resources::types::Gvk;
use apiserver_resources::wire::{self, WireError, protobuf};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Recorded, assert_same_text, objects, type_of};
use serde_json::json;

/// Written with the keys of an embedded document in the client's order, which a decoded document does not have.
const EMBEDDED: [&str; 1] = ["controllerrevision"];

fn values() -> Vec<Recorded> {
    let values: Vec<_> = objects()
        .into_iter()
        .filter(|recorded| recorded.form == "protobuf")
        .collect();
    assert_eq!(values.len(), 73);
    values
}

// covers: apiserver-http/BODY-13
#[test]
fn recorded_values_decode_to_what_was_served() {
    for recorded in values() {
        let mut object = protobuf::decode(&recorded.bytes).unwrap_or_else(|error| panic!("{}: {error}", recorded.name));
        let (api_version, kind) = type_of(&object);
        if (api_version.clone(), kind.clone()) != type_of(&recorded.served) {
            // Served in another version than stored.
            continue;
        }
        let gvk = Gvk::of(&api_version, &kind);
        // What was stored before a default existed gets it on read.
        apply_defaults(gvk, &mut object);
        object["metadata"]["resourceVersion"] = recorded.served["metadata"]["resourceVersion"].clone();
        let have = wire::encode_served(gvk, &object).expect("an object of the kind");
        assert_same_text(
            &recorded.name,
            &have,
            &wire::encode_served(gvk, &recorded.served).expect("an object"),
        );
    }
}

#[test]
fn recorded_values_are_written_as_they_were_stored() {
    for recorded in values() {
        let object = protobuf::decode(&recorded.bytes).expect("decodes");
        let (api_version, kind) = type_of(&object);
        let again = protobuf::encode_stored(Gvk::of(&api_version, &kind), &object).expect(&recorded.name);
        if EMBEDDED.contains(&recorded.name.as_str()) {
            assert_eq!(protobuf::decode(&again), Ok(object), "{}", recorded.name);
        } else {
            assert_eq!(again, recorded.bytes, "{}", recorded.name);
        }
    }
}

#[test]
fn a_decoded_object_is_what_go_writes_as_json() {
    for recorded in values() {
        let object = protobuf::decode(&recorded.bytes).expect("decodes");
        let (api_version, kind) = type_of(&object);
        let json = wire::encode_served(Gvk::of(&api_version, &kind), &object).expect(&recorded.name);
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&json).expect("JSON"),
            object,
            "{}",
            recorded.name
        );
    }
}

// covers: apiserver-http/BODY-13
#[test]
fn a_body_that_kubectl_sent_is_read() {
    let body = STANDARD
        .decode("azhzAAoPCgJ2MRIJQ29uZmlnTWFwEhUKAwoBYRIGCgFrEgF2EgYKAW4SATE=")
        .expect("base64");
    let want =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v", "n": "1"}});
    assert_eq!(protobuf::decode(&body), Ok(want));
}

#[test]
fn lists_statuses_options_and_views_of_metadata_go_both_ways() {
    for (api_version, kind, object) in [
        (
            "v1",
            "PodList",
            json!({
                "metadata": {"resourceVersion": "7", "continue": "x", "remainingItemCount": 0},
                "items": [{
                    "metadata": {"name": "a"},
                    "spec": {"containers": [{"name": "c", "resources": {}}], "priority": -1},
                    "status": {}
                }]
            }),
        ),
        ("v1", "ConfigMapList", json!({"metadata": {}, "items": null})),
        (
            "v1",
            "Status",
            json!({
                "metadata": {}, "status": "Failure", "message": "m", "reason": "Invalid", "code": 422,
                "details": {"name": "a", "kind": "Pod", "causes": [{"reason": "r", "message": "m", "field": "f"}]}
            }),
        ),
        (
            "apps/v1",
            "DeleteOptions",
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}),
        ),
        (
            "meta.k8s.io/v1",
            "PartialObjectMetadataList",
            json!({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}),
        ),
        (
            "authorization.k8s.io/v1",
            "SubjectAccessReview",
            json!({
                "metadata": {}, "status": {"allowed": false},
                "spec": {"user": "u", "extra": {"scopes": ["a", ""], "none": []}}
            }),
        ),
    ] {
        let mut object = object;
        object["kind"] = kind.into();
        object["apiVersion"] = api_version.into();
        let bytes = protobuf::encode(Gvk::of(api_version, kind), &object).expect(kind);
        let read = protobuf::decode(&bytes).expect(kind);
        let gvk = Gvk::of(api_version, kind);
        assert_eq!(protobuf::encode(gvk, &read), Ok(bytes), "{kind}");
        let json = |value| String::from_utf8(wire::encode_served(gvk, value).expect(kind)).expect("UTF-8");
        assert_eq!(
            json(&read).replace("\"none\":null", "\"none\":[]"),
            json(&object),
            "{kind}"
        );
    }
}

#[test]
fn a_watch_event_holds_its_object() {
    assert_eq!(
        protobuf::encode_watch_event("ADDED", b"k8s\0x"),
        b"\x0a\x05ADDED\x12\x07\x0a\x05k8s\0x"
    );
}

#[test]
fn truncated_and_damaged_values_are_errors_or_objects_and_never_panic() {
    for recorded in values() {
        for length in (0..recorded.bytes.len()).step_by(13) {
            let _ = protobuf::decode(&recorded.bytes[..length]);
        }
        for at in (0..recorded.bytes.len()).step_by(17) {
            let mut bytes = recorded.bytes.clone();
            bytes[at] ^= 0x55;
            if let Ok(object) = protobuf::decode(&bytes) {
                let (api_version, kind) = type_of(&object);
                wire::encode_stored(Gvk::of(&api_version, &kind), &object).expect("what decodes can be written");
            }
        }
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let envelope = |api_version, kind, raw: &[u8]| {
        protobuf::Envelope {
            api_version,
            kind,
            raw,
            ..protobuf::Envelope::default()
        }
        .to_bytes()
    };
    for (bytes, want) in [
        (
            b"{}".to_vec(),
            "not a protobuf message: the envelope's prefix is missing",
        ),
        (
            envelope("", "", b""),
            "not a protobuf message: the envelope names no kind",
        ),
        (
            envelope("example.com/v1", "Widget", b""),
            "no kind \"Widget\" is registered for version \"example.com/v1\"",
        ),
        (
            envelope("v1", "Pod", b"\x0a\xff"),
            "not a protobuf message: the message ends too early",
        ),
        (
            envelope("v1", "Pod", b"\x12\x02\x0a\x05"),
            "not a protobuf message: spec: the message ends too early",
        ),
        (
            envelope("v1", "Pod", b"\x0a\x03\x0a\x01\xff"),
            "not a protobuf message: metadata: name: a text is not UTF-8",
        ),
    ] {
        assert_eq!(
            protobuf::decode(&bytes).map_err(|error| error.to_string()),
            Err(want.to_owned())
        );
    }
}

#[test]
fn nesting_is_bounded() {
    // A schema within a schema, without end: field 28 of a schema is what it must not be.
    let mut schema = Vec::new();
    for _ in 0..2000 {
        let mut outer = vec![0xe2, 0x01];
        let mut length = schema.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&schema);
        schema = outer;
    }
    let ty = "apiextensions.v1.JSONSchemaProps";
    let not = apiserver_resources::types::TypeRegistry::builtin()
        .by_name(ty)
        .expect("known")
        .field("not");
    assert!(not.is_some());
    let result = protobuf::decode_as(Gvk::of("apiextensions.k8s.io/v1", "CustomResourceDefinition"), &{
        let wrap = |tag: u8, inner: Vec<u8>| {
            let mut out = vec![tag << 3 | 2];
            let mut length = inner.len();
            while length >= 0x80 {
                out.push(length as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            out.extend(inner);
            out
        };
        // spec (2), versions (7), schema (4), openAPIV3Schema (1).
        wrap(2, wrap(7, wrap(4, wrap(1, schema))))
    });
    match result {
        Err(WireError::Protobuf(text)) => assert!(text.ends_with("nested too deeply"), "{text}"),
        other => panic!("{other:?}"),
    }
}
