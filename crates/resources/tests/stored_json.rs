//! What a real server stored as JSON, read and written again, is the same bytes.

mod common;

use apiserver_resources::types::Gvk;
use apiserver_resources::wire;
use common::{assert_same_text, objects, system, type_of};
use serde_json::Value;

/// Embedded documents that a client wrote: Go keeps the order of their keys, a decoded value does not.
const EMBEDDED: [&str; 1] = ["controllerrevision"];

#[track_caller]
fn check(name: &str, bytes: &[u8]) {
    let object: Value = serde_json::from_slice(bytes).expect("JSON");
    let (api_version, kind) = type_of(&object);
    let again = wire::encode_stored(Gvk::of(&api_version, &kind), &object).expect(name);
    if EMBEDDED.contains(&name) {
        assert_ne!(again, bytes, "{name} would need no exception");
        assert_eq!(serde_json::from_slice::<Value>(&again).expect("JSON"), object, "{name}");
    } else {
        assert_same_text(name, &again, bytes);
    }
}

/// Objects without a Go type have their keys sorted, so the version comes before the kind.
fn is_custom(bytes: &[u8]) -> bool {
    !bytes.starts_with(b"{\"kind\"")
}

// covers: storage-api/VER-13
#[test]
fn objects_of_built_in_kinds_come_out_as_they_were_stored() {
    let mut count = 0;
    for recorded in objects()
        .iter()
        .filter(|recorded| recorded.form == "json" && !is_custom(&recorded.bytes))
    {
        check(&recorded.name, &recorded.bytes);
        count += 1;
    }
    assert_eq!(count, 76);
}

#[test]
fn what_a_server_writes_by_itself_comes_out_as_it_was_stored() {
    let values = system();
    assert_eq!(values.len(), 187);
    for (key, bytes) in values {
        check(&key, &bytes);
    }
}

#[test]
fn custom_resources_come_out_sorted() {
    let mut count = 0;
    for recorded in objects()
        .iter()
        .filter(|recorded| recorded.form == "json" && is_custom(&recorded.bytes))
    {
        let object: Value = serde_json::from_slice(&recorded.bytes).expect("JSON");
        assert_same_text(&recorded.name, &wire::encode_untyped(&object), &recorded.bytes);
        count += 1;
    }
    assert_eq!(count, 4);
}

// covers: storage-api/VER-06, storage-api/VER-07
#[test]
fn a_served_object_is_stored_without_its_resource_version() {
    for recorded in objects() {
        if recorded.form != "json" || is_custom(&recorded.bytes) || recorded.stored_object.is_some() {
            continue;
        }
        let (api_version, kind) = type_of(&recorded.served);
        let stored = wire::encode_stored(Gvk::of(&api_version, &kind), &recorded.served).expect(&recorded.name);
        if !EMBEDDED.contains(&recorded.name.as_str()) {
            assert_same_text(&recorded.name, &stored, &recorded.bytes);
        }
    }
}
