//! Strategic merge patches of one deployment, against what a real server made of them.

use apiserver_resources::defaults::apply_defaults;
use apiserver_resources::fieldvalidation::decode_value;
use apiserver_resources::merge::{parse_strategic, strategic};
use apiserver_resources::types::{Gvk, TypeRegistry};
use serde_json::Value;

const DEPLOYMENT: Gvk<'static> = Gvk {
    group: "apps",
    version: "v1",
    kind: "Deployment",
};

/// The patched object as a server would store it, or the status code and text of the refusal.
fn patched(live: &Value, patch: &Value) -> Result<Value, (u16, String)> {
    let registry = TypeRegistry::builtin();
    let of = registry.by_gvk(DEPLOYMENT).expect("a built-in kind");
    let patch = parse_strategic(patch.to_string().as_bytes()).expect("an object").patch;
    let merged = strategic(registry, of, live.clone(), &patch).map_err(|e| (e.status(), e.to_string()))?;
    let mut object = decode_value(registry, of, &merged)
        .map_err(|e| (422, e.to_string()))?
        .value;
    apply_defaults(DEPLOYMENT, &mut object);
    Ok(object)
}

/// Empty lists, maps and texts are nothing once an object was stored.
fn without_empty(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let map = map
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), without_empty(value)?)));
            Some(Value::Object(map.collect())).filter(|value| *value != serde_json::json!({}))
        }
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(
            items
                .iter()
                .map(|item| without_empty(item).unwrap_or(Value::Null))
                .collect(),
        ),
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        other => Some(other.clone()),
    }
}

// covers: apiserver-http/SMP-01, apiserver-http/SMP-02, apiserver-http/SMP-03, apiserver-http/SMP-04, apiserver-http/SMP-05, apiserver-http/SMP-06, apiserver-http/SMP-07, apiserver-http/SMP-08, apiserver-http/SMP-09, apiserver-http/SMP-13, apiserver-http/SMP-14
#[test]
fn patches_give_what_a_real_server_gives() {
    let recorded: Value = serde_json::from_str(include_str!("data/strategic.json")).expect("the recording is JSON");
    let live = &recorded["live"];
    let cases = recorded["cases"].as_array().expect("cases");
    let mut differences = Vec::new();
    for case in cases {
        let (patch, code) = (&case["patch"], case["code"].as_u64().expect("a code"));
        let got = patched(live, patch);
        let same = match (&got, code) {
            (Ok(object), 200) => ["finalizers", "annotations"]
                .iter()
                .map(|name| (&object["metadata"][*name], &case["metadata"][*name]))
                .chain([(&object["spec"], &case["spec"])])
                .all(|(got, want)| without_empty(got) == without_empty(want)),
            // What is wrong with the merged object is found later, in validation.
            (Ok(_), _) => case["message"]
                .as_str()
                .is_some_and(|m| m.contains("is invalid: spec") || m.contains("on URL")),
            (Err((400, _)), 400) => true,
            // A patch that cannot be applied is the client's fault, where upstream takes the blame.
            (Err((422, _)), 422 | 500) => true,
            _ => false,
        };
        if !same {
            let got = got.map(|object| without_empty(&object["spec"]["template"]["spec"]["containers"]));
            differences.push(format!(
                "{patch}\n  got {got:?}\n  want {code} {} {}",
                case["message"], case["spec"]["template"]["spec"]["containers"]
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
