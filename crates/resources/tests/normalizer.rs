//! What storage reads and writes of built-in kinds, against a real cluster's values.

mod common;

use apiserver_resources::convert::convert;
use apiserver_resources::normalizer::{BuiltinNormalizer, resource_info};
use apiserver_resources::types::{Gvk, TypeRegistry};
use apiserver_resources::wire;
use apiserver_storage_api::{Encoded, MediaType, Normalizer, Revision};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{assert_same_text, cases, objects, system, type_of};
use serde_json::{Value, json};

/// Written with the keys of an embedded document in the client's order, which a decoded document does not have.
const EMBEDDED: [&str; 1] = ["controllerrevision"];

fn revision() -> Revision {
    Revision::new(4711).expect("not zero")
}

fn of(api_version: &str, kind: &str) -> BuiltinNormalizer {
    BuiltinNormalizer::of(Gvk::of(api_version, kind)).expect("built in")
}

/// What a client is served, with the revision of the test.
fn canonical(served: &Value) -> Vec<u8> {
    let (api_version, kind) = type_of(served);
    let mut served = served.clone();
    served["metadata"]["resourceVersion"] = revision().to_string().into();
    wire::encode_served(Gvk::of(&api_version, &kind), &served).expect("an object of the kind")
}

// covers: storage-api/VER-09, storage-api/VER-13
#[test]
fn every_recorded_form_is_served_as_it_was_and_written_as_it_was() {
    let mut count = 0;
    for recorded in objects()
        .iter()
        .filter(|recorded| !recorded.key.contains("shop.example.com/"))
    {
        let (api_version, kind) = type_of(&recorded.served);
        let normalizer = of(&api_version, &kind);
        let read = normalizer
            .normalize(&recorded.bytes, revision(), &[])
            .expect(&recorded.name);
        // Some are served in a version that is not the stored one.
        let served = convert(recorded.served.clone(), normalizer.served()).expect(&recorded.name);
        if EMBEDDED.contains(&recorded.name.as_str()) {
            let object: Value = serde_json::from_slice(&read.json).expect("JSON");
            assert_same_text(&recorded.name, &canonical(&object), &canonical(&served));
            continue;
        }
        assert_same_text(&recorded.name, &read.json, &canonical(&served));
        assert_eq!(&read.json[read.resource_version.clone()], b"4711");
        assert_eq!(read.media_type, MediaType::detect(&recorded.bytes));
        assert_eq!(
            recorded.served["metadata"]["name"], *read.attributes.name,
            "{}",
            recorded.name
        );
        let again = normalizer
            .encode(&Encoded::from_json(read.json), read.media_type)
            .expect(&recorded.name);
        if recorded.stored_object.is_none() || normalizer.served() != normalizer.stored() {
            assert_eq!(again, recorded.bytes, "{}", recorded.name);
        }
        count += 1;
    }
    assert!(count > 145, "{count} values");
}

// covers: storage-api/VER-06, storage-api/VER-07, storage-api/VER-12
#[test]
fn what_a_server_writes_by_itself_is_written_again_the_same() {
    let mut count = 0;
    for (key, bytes) in system() {
        let (api_version, kind) = type_of(&serde_json::from_slice(&bytes).expect("JSON"));
        if kind == "RangeAllocation" {
            continue;
        }
        let normalizer = of(&api_version, &kind);
        let read = normalizer.normalize(&bytes, revision(), &[]).expect(&key);
        let again = normalizer
            .encode(&Encoded::from_json(read.json), MediaType::Json)
            .expect(&key);
        assert_same_text(&key, &again, &bytes);
        count += 1;
    }
    assert!(count > 180, "{count} values");
}

#[test]
fn embedded_documents_are_served_and_stored_as_the_client_wrote_them() {
    let recorded = objects()
        .into_iter()
        .find(|recorded| recorded.name == EMBEDDED[0] && recorded.form == "json");
    let stored = recorded.expect("recorded").bytes;
    let read = of("apps/v1", "ControllerRevision")
        .normalize(&stored, revision(), &[])
        .expect("reads");
    let served = String::from_utf8_lossy(&read.json).replace("\"resourceVersion\":\"4711\",", "");
    assert_same_text(EMBEDDED[0], format!("{served}\n").as_bytes(), &stored);
    let again = of("apps/v1", "ControllerRevision").encode(&Encoded::from_json(read.json), MediaType::Json);
    assert_same_text(EMBEDDED[0], &again.expect("can be stored"), &stored);
}

#[test]
fn values_in_cbor_are_read_and_written() {
    for (kind, name) in [("ConfigMap", "a"), ("Pod", "b")] {
        let normalizer = of("v1", kind);
        let object = json!({"kind": kind, "apiVersion": "v1", "metadata": {"name": name, "labels": {"x": "y"}}});
        let stored = normalizer
            .encode(&Encoded::from_json(object.to_string()), MediaType::Cbor)
            .expect(kind);
        let read = normalizer.normalize(&stored, revision(), &[]).expect(kind);
        assert_eq!((read.media_type, &*read.attributes.name), (MediaType::Cbor, name));
        let json = normalizer
            .encode(&Encoded::from_json(read.json.clone()), MediaType::Json)
            .expect(kind);
        assert_eq!(
            normalizer.normalize(&json, revision(), &[]).expect(kind).json,
            read.json
        );
    }
}

#[test]
fn definitions_are_json_whatever_is_asked_for() {
    let object = json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": "a"}});
    let normalizer = of("apiregistration.k8s.io/v1", "APIService");
    let stored = normalizer
        .encode(&Encoded::from_json(object.to_string()), MediaType::Protobuf)
        .expect("stored");
    assert_eq!(MediaType::detect(&stored), MediaType::Json);
}

#[test]
fn objects_are_converted_to_every_version_that_they_were_served_in() {
    let mut count = 0;
    for case in cases() {
        for (path, other) in case["also_served_as"].as_object().into_iter().flatten() {
            let (api_version, kind) = type_of(other);
            if api_version.starts_with("shop.example.com") {
                continue;
            }
            let converted = convert(case["object"].clone(), Gvk::of(&api_version, &kind));
            let converted = converted.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_same_text(path, &canonical(&converted), &canonical(other));
            count += 1;
        }
    }
    assert_eq!(count, 4);
}

#[test]
fn keys_lie_where_kubernetes_puts_them() {
    let mut count = 0;
    for case in cases() {
        let (group, resource) = (
            case["group"].as_str().expect("group"),
            case["resource"].as_str().expect("resource"),
        );
        let Some(entry) = TypeRegistry::builtin()
            .resources()
            .iter()
            .find(|entry| entry.group == group && entry.resource == resource)
        else {
            continue;
        };
        let info = resource_info(entry);
        let key = info
            .object_key(case["namespace"].as_str(), case["object_name"].as_str().expect("name"))
            .expect("a key");
        assert_eq!(format!("/registry{}", key.as_str()), case["key"], "{resource}");
        count += 1;
    }
    assert_eq!(count, 76);
}

#[test]
fn fields_are_extracted_after_defaulting() {
    let fields = |resource: &str, kind: &str, object: Value| {
        let entry = TypeRegistry::builtin().resource("", "v1", resource).expect("built in");
        let info = resource_info(entry);
        assert_eq!(info.gvk().kind, kind);
        let stored = serde_json::to_vec(&object).expect("JSON");
        let read = info
            .normalizer()
            .normalize(&stored, revision(), info.selectable_fields())
            .expect(kind);
        read.attributes
    };
    let pod = fields(
        "pods",
        "Pod",
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"nodeName": "n"}}),
    );
    assert_eq!(pod.fields.get("spec.nodeName"), Some("n"));
    assert_eq!(pod.fields.get("spec.restartPolicy"), Some("Always"));
    assert_eq!(pod.fields.get("spec.hostNetwork"), Some("false"));
    assert_eq!(pod.fields.get("status.phase"), Some(""));
    assert_eq!(pod.fields.get("spec.unheardOf"), None);
    assert_eq!(pod.labels.get("x"), Some("y"));
    let event = fields(
        "events",
        "Event",
        json!({"reportingComponent": "c", "involvedObject": {"kind": "Pod"}}),
    );
    assert_eq!(event.fields.get("source"), Some("c"));
    assert_eq!(event.fields.get("involvedObject.kind"), Some("Pod"));
    let event = fields(
        "events",
        "Event",
        json!({"reportingComponent": "c", "source": {"component": "s"}}),
    );
    assert_eq!(event.fields.get("source"), Some("s"));
    let namespace = fields("namespaces", "Namespace", json!({"metadata": {"name": "a"}}));
    assert_eq!(
        (namespace.fields.get("status.phase"), namespace.fields.get("name")),
        (Some("Active"), Some("a"))
    );
    assert_eq!(namespace.labels.get("kubernetes.io/metadata.name"), Some("a"));
}

#[test]
fn json_in_any_layout_is_read_as_go_reads_it() {
    let head = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"4711"}"#;
    let named = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"4711"}"#;
    for (stored, want) in [
        (&b""[..], format!("{head}}}")),
        (b"null\n", format!("{head}}}")),
        (b" {} ", format!("{head}}}")),
        (
            b"\n {\"apiVersion\": \"v1\",\n\"data\": {\"b\": \"2\", \"a\": null},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}",
            format!(r#"{named},"data":{{"a":"","b":"2"}}}}"#),
        ),
        (
            br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"1","unheardOf":1},"x":{}}"#,
            format!("{named}}}"),
        ),
        (
            br#"{"kind":"Pod","data":{"a":"1"},"kind":"ConfigMap","apiVersion":"v1","data":{"b":"2"},"metadata":{"name":"a"}}"#,
            format!(r#"{named},"data":{{"a":"1","b":"2"}}}}"#),
        ),
        (
            br#"{"metadata":{"name":"a"},"binaryData":{"a":[0,255],"b":null,"c":"AQ\n=="}}"#,
            format!(r#"{named},"binaryData":{{"a":"AP8=","b":null,"c":"AQ=="}}}}"#),
        ),
        (
            b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"x\xe2\x80y\"}}",
            format!("{named},\"data\":{{\"k\":\"x\u{fffd}\u{fffd}y\"}}}}"),
        ),
    ] {
        let read = of("v1", "ConfigMap").normalize(stored, revision(), &[]);
        assert_eq!(read.map(|read| String::from_utf8_lossy(&read.json).into_owned()), Ok(want));
    }
}

#[test]
fn what_cannot_be_read_is_named_and_not_shown() {
    for (stored, want) in [
        (
            &b"hunter2"[..],
            "not JSON: invalid character or structure at line 1 column 1",
        ),
        (b"[]", "expected an object"),
        (
            b"{\"a\":1}}",
            "not JSON: invalid character or structure at line 1 column 8",
        ),
        (
            b"{\"kind\":\"Secret\"",
            "not JSON: the text ends too early at line 1 column 16",
        ),
        (
            br#"{"kind":"Secret","apiVersion":"v9"}"#,
            r#"no kind "Secret" is registered for version "v9""#,
        ),
        (
            br#"{"kind":"Pod","apiVersion":"v1"}"#,
            "expected v1, Kind=Secret, found v1, Kind=Pod",
        ),
        (br#"{"kind":7}"#, "kind: expected a string"),
        (br#"{"metadata":"hunter2"}"#, "metadata: expected an object"),
        (
            br#"{"metadata":{"labels":"hunter2"}}"#,
            "metadata.labels: expected an object",
        ),
        (
            br#"{"metadata":{"name":"a"},"data":{"k":7}}"#,
            r#"data["k"]: expected base64, found a number"#,
        ),
        (
            br#"{"metadata":{"name":"a"},"data":{"k":"hunter2!"}}"#,
            r#"data["k"]: expected base64, found another text"#,
        ),
        (
            br#"{"metadata":{"name":"a","finalizers":["a",{}]}}"#,
            "metadata.finalizers[1]: expected a string, found an object",
        ),
        (b"k8s\0", "not a protobuf message: the envelope names no kind"),
        (
            b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07Nothing\x12\0\x1a\0\"\0",
            r#"no kind "Nothing" is registered for version "v1""#,
        ),
        (
            b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\0",
            "expected v1, Kind=Secret, found v1, Kind=Pod",
        ),
        (
            b"k8s\0\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5",
            "not a protobuf message: a number has too many bytes",
        ),
    ] {
        let read = of("v1", "Secret").normalize(stored, revision(), &[]);
        assert_eq!(
            read.map(|read| read.json).map_err(|error| error.0),
            Err(want.to_owned())
        );
    }
}

#[test]
fn nothing_that_is_stored_panics() {
    let normalizer = of("v1", "Pod");
    for recorded in objects().iter().filter(|recorded| recorded.name.starts_with("pod")) {
        for length in (0..recorded.bytes.len()).step_by(7) {
            let _ = normalizer.normalize(&recorded.bytes[..length], revision(), &[]);
        }
        for at in (0..recorded.bytes.len()).step_by(11) {
            let mut bytes = recorded.bytes.clone();
            bytes[at] = bytes[at].wrapping_add(1);
            if let Ok(read) = normalizer.normalize(&bytes, revision(), &[]) {
                normalizer
                    .encode(&Encoded::from_json(read.json), MediaType::Json)
                    .expect("what reads can be written");
            }
        }
    }
}

/// Read by Kubernetes and refused here: what happens to parse as YAML is no stored object.
const REFUSED: [&str; 1] = ["yaml"];
/// Refused by Kubernetes and read here: there the gate of the format is off by default.
const READ: [&str; 2] = ["cbor", "cbor-text-keys"];

// covers: storage-api/VER-07, storage-api/VER-09
#[test]
fn odd_values_are_read_or_refused_as_a_real_server_did() {
    let text = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/odd.json")).expect("readable");
    let file: Value = serde_json::from_slice(&text).expect("JSON");
    let mut count = 0;
    for case in file["cases"].as_array().expect("cases") {
        let text = |name: &str| case[name].as_str().expect("text");
        let name = text("name");
        let value = STANDARD.decode(text("value")).expect("base64");
        let read = of(text("apiVersion"), text("kind")).normalize(&value, revision(), &[]);
        let served = &case["served"];
        if REFUSED.contains(&name) || READ.contains(&name) {
            assert_ne!(served.is_null(), read.is_err(), "{name} is no exception");
        } else if served.is_null() {
            assert!(read.is_err(), "{name}");
        } else {
            assert_same_text(name, &read.expect(name).json, &canonical(served));
        }
        count += 1;
    }
    assert_eq!(count, 33);
}
