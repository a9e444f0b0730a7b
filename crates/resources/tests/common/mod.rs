//! Recorded values of a real cluster: see the `about` of each case.

// Each test binary uses a part of this, and none exports it.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// One stored value with what the server answered for it.
pub struct Recorded {
    /// For messages.
    pub name: String,
    pub key: String,
    pub bytes: Vec<u8>,
    /// `json`, `protobuf` or `cbor`.
    pub form: String,
    /// What is served after this form was written.
    pub served: Value,
    /// What the stored JSON says, where that is something else.
    pub stored_object: Option<Value>,
}

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("objects-"))
        })
        .collect();
    files.sort();
    assert!(files.len() > 50, "{} files", files.len());
    files
}

fn parse(path: &PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

fn decode(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().expect("base64 text")).expect("base64")
}

/// Every stored form of every recorded object.
pub fn objects() -> Vec<Recorded> {
    let mut all = Vec::new();
    for path in files() {
        for case in parse(&path)["cases"].as_array().expect("cases") {
            for stored in case["stored"].as_array().expect("forms") {
                let mut served = stored.get("object").unwrap_or(&case["object"]).clone();
                served["metadata"]["resourceVersion"] = stored["resource_version"].clone();
                all.push(Recorded {
                    name: case["name"].as_str().expect("name").to_owned(),
                    key: case["key"].as_str().expect("key").to_owned(),
                    bytes: decode(&stored["value"]),
                    form: stored["configuration"].as_str().expect("configuration").to_owned(),
                    served,
                    stored_object: case.get("stored_object").cloned(),
                });
            }
        }
    }
    all
}

/// What a server writes by itself on an empty store: keys and JSON values.
pub fn system() -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/system-json.json");
    parse(&path)["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| (key["key"].as_str().expect("key").to_owned(), decode(&key["value"])))
        .collect()
}

/// `apiVersion` and `kind`.
pub fn type_of(object: &Value) -> (String, String) {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    (text("apiVersion"), text("kind"))
}

/// Fails with the first place where two texts differ.
#[track_caller]
pub fn assert_same_text(name: &str, have: &[u8], want: &[u8]) {
    if have != want {
        let at = have.iter().zip(want).take_while(|(a, b)| a == b).count();
        let around = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(60)..bytes.len().min(at + 100)]).into_owned()
        };
        panic!(
            "{name}: differs at byte {at}\n have …{}…\n want …{}…",
            around(have),
            around(want)
        );
    }
}

/// The recorded cases as they are: with `also_served_as` and the like.
pub fn cases() -> Vec<Value> {
    files()
        .iter()
        .flat_map(|path| parse(path)["cases"].as_array().expect("cases").clone())
        .collect()
}
