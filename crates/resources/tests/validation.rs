//! Validation of built-in kinds against the answers of a real server: which fields are at fault, and in which words.

use apiserver_resources::defaults::apply_defaults;
use apiserver_resources::fieldvalidation::decode_typed;
use apiserver_resources::merge::{json_merge, parse_merge};
use apiserver_resources::types::{Gvk, TypeRegistry};
use apiserver_resources::validation::{FieldError, validate_create, validate_update};
use serde_json::{Value, json};

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// Brings an object to the state in which it is validated: decoded, defaulted, in its namespace.
fn prepared(gvk: Gvk<'_>, namespace: Option<&str>, body: &Value) -> Value {
    let decoded = decode_typed(TypeRegistry::builtin(), gvk, body.to_string().as_bytes()).expect("it decodes");
    let mut object = decoded.value;
    if let Some(Value::Object(texts)) = object.get_mut("stringData").map(Value::take) {
        // Secrets take texts; where they are turned into data is the registry's business.
        for (key, value) in texts {
            let encoded = base64_of(value.as_str().unwrap_or_default());
            object["data"][key] = json!(encoded);
        }
    }
    apply_defaults(gvk, &mut object);
    match namespace {
        Some(namespace) => object["metadata"]["namespace"] = json!(namespace),
        None => drop(
            object["metadata"]
                .as_object_mut()
                .and_then(|map| map.remove("namespace")),
        ),
    }
    object
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn found(case: &Value) -> Vec<FieldError> {
    let gvk = Gvk::new(text(case, "group"), text(case, "version"), text(case, "kind"));
    let namespace = case["namespace"].as_str();
    match case.get("old") {
        None => validate_create(
            gvk.group,
            gvk.kind,
            namespace.is_some(),
            &prepared(gvk, namespace, &case["body"]),
        ),
        Some(old) => {
            let patch = parse_merge(case["body"].to_string().as_bytes()).expect("a patch").patch;
            let new = prepared(gvk, namespace, &json_merge(old.clone(), &patch));
            validate_update(
                gvk.group,
                gvk.kind,
                namespace.is_some(),
                &new,
                &prepared(gvk, namespace, old),
            )
        }
    }
}

/// A message without the list of changes at its end, and with one word for the unit of lengths, which upstream has two for.
fn essence(message: &str) -> String {
    message
        .split('\n')
        .next()
        .unwrap_or_default()
        .replace("bytes", "characters")
}

// covers: apiserver-http/STAT-07, registry/R-CRE-10, registry/R-UPD-15, registry/R-RES-01, registry/R-RES-09, registry/R-RES-16, registry/R-RES-17, registry/R-RES-22
#[test]
fn faults_are_those_that_a_real_server_finds() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/validation.json")).expect("the recording is JSON");
    let mut differences = Vec::new();
    for case in &cases {
        let mut got: Vec<_> = found(case)
            .iter()
            .map(|e| format!("{}: {}", e.field, essence(&e.message())))
            .collect();
        let recorded = case["causes"].as_array().expect("causes").iter();
        let mut want: Vec<_> = recorded
            .map(|c| format!("{}: {}", text_at(c, 0), essence(text_at(c, 1))))
            .collect();
        got.sort();
        got.dedup();
        want.sort();
        want.dedup();
        if got != want {
            differences.push(format!(
                "{} {}\n  got  {got:?}\n  want {want:?}",
                text(case, "kind"),
                case["body"]
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {}\n{}",
        differences.len(),
        cases.len(),
        differences.join("\n")
    );
    assert!(cases.len() > 100);
}

fn text_at(cause: &Value, index: usize) -> &str {
    cause[index].as_str().unwrap_or_default()
}
