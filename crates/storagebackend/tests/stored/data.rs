//! The recordings. Those that tests of other crates use too lie there, once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Value;

/// Where the recorded objects lie.
const OBJECTS: &str = "resources/tests/data";

/// One recorded object.
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    /// The stored JSON says something else than what is served.
    pub(crate) stored_differs: bool,
    /// How it was served: in the version of its path, and in others.
    pub(crate) served: Vec<Value>,
    /// How it was stored, one after the other.
    pub(crate) forms: Vec<Form>,
    /// What a write of exactly the served object stores, where that is not what was stored.
    pub(crate) put_unchanged: Option<Bytes>,
}

/// One stored form of an object.
pub(crate) struct Form {
    /// `json`, `protobuf` or `cbor`.
    pub(crate) name: String,
    pub(crate) value: Bytes,
    /// What is served after this form was written, where that is something else.
    pub(crate) served: Option<Value>,
    /// How long the object lives.
    pub(crate) ttl: Option<Duration>,
}

impl Object {
    /// The form of a name.
    pub(crate) fn form(&self, name: &str) -> Option<&Form> {
        self.forms.iter().find(|form| form.name == name)
    }

    /// What is served in a version once a form was written, without its revision; `None` for a version that nobody
    /// was served.
    pub(crate) fn served_as(&self, form: &Form, api_version: &str) -> Option<Value> {
        let all = form.served.iter().chain(&self.served);
        let mut found = all.filter(|object| object["apiVersion"] == api_version);
        found.next().cloned().map(without_revision)
    }
}

/// A file below `crates/`.
pub(crate) fn read(path: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every recorded object, kind by kind.
pub(crate) fn objects() -> Vec<Object> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(OBJECTS);
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("objects-")).collect();
    names.sort();
    let files = names.iter().map(|name| read(&format!("{OBJECTS}/{name}")));
    files
        .flat_map(|file| array(&file["cases"]).iter().map(object).collect::<Vec<_>>())
        .collect()
}

fn object(case: &Value) -> Object {
    let also = case["also_served_as"].as_object().into_iter().flatten();
    Object {
        name: text(&case["name"]),
        key: text(&case["key"]),
        group: text(&case["group"]),
        resource: text(&case["resource"]),
        stored_differs: case.get("stored_object").is_some(),
        served: std::iter::once(&case["object"])
            .chain(also.map(|(_, object)| object))
            .cloned()
            .collect(),
        forms: array(&case["stored"]).iter().map(form).collect(),
        put_unchanged: case.get("put_unchanged").map(|put| bytes(&put["value"])),
    }
}

fn form(stored: &Value) -> Form {
    Form {
        name: text(&stored["configuration"]),
        value: bytes(&stored["value"]),
        served: stored.get("object").cloned(),
        ttl: stored["lease"]["granted_ttl_seconds"].as_u64().map(Duration::from_secs),
    }
}

/// The kinds of some objects, each with those of its objects that have a form.
pub(crate) fn by_resource<'a>(objects: &'a [Object], form: &str) -> BTreeMap<(&'a str, &'a str), Vec<&'a Object>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.form(form).is_some()) {
        // Both APIs of events have one store.
        let group = object.group.trim_start_matches("events.k8s.io");
        all.entry((group, object.resource.as_str())).or_default().push(object);
    }
    all
}

/// An object as it is at no revision.
pub(crate) fn without_revision(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// The texts and lists that a recording surely has.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// Bytes in base64.
pub(crate) fn bytes(base64: &Value) -> Bytes {
    BASE64_STANDARD
        .decode(base64.as_str().expect("bytes in base64"))
        .unwrap()
        .into()
}

/// Every value of a field, at whatever depth.
pub(crate) fn every(value: &Value, field: &str, found: &mut impl FnMut(&Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| every(item, field, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match name == field {
            true => found(value),
            false => every(value, field, found),
        }),
        _ => {}
    }
}
