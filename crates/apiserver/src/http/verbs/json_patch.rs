//! JSON patch (RFC 6902), with the deviations of the library that Kubernetes uses.
//!
//! Upstream: gopkg.in/evanphx/json-patch.v4 (patch.go), kubernetes/apiserver pkg/endpoints/handlers (patch.go).

use json_patch::PatchOperation;
use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use apiserver_registry::ApiError;
use apiserver_resources::document::{self, Node};
use apiserver_resources::gofmt;

/// Most operations of a JSON patch (`apiserver-http/JPAT-02`).
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that the `copy` operations of a JSON patch may double (`apiserver-http/JPAT-04`).
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Most findings that are told.
const MAX_FINDINGS: usize = 100;
/// The members of an operation.
const MEMBERS: [&str; 4] = ["op", "path", "from", "value"];

/// Reads the operations, and the findings of strict reading.
pub(super) fn parse(body: &[u8]) -> Result<(json_patch::Patch, Vec<String>), ApiError> {
    let refuse = |error: &dyn std::fmt::Display| ApiError::bad_request(format!("error decoding patch: {error}"));
    let node = document::parse(body).map_err(|error| refuse(&error))?;
    let operations = match &node {
        Node::Array(operations) => operations,
        Node::Null => return Ok((json_patch::Patch(Vec::new()), Vec::new())),
        other => {
            let kind = other.go_kind();
            return Err(refuse(&format!(
                "json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp"
            )));
        }
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(ApiError::request_entity_too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let patch = serde_json::from_value(node.to_value()).map_err(|error| refuse(&error))?;
    Ok((patch, findings(operations)))
}

/// Members of the operations that are unknown or stand there twice; values are not looked into
/// (`apiserver-http/FVAL-06`).
fn findings(operations: &[Node]) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        let Node::Object(members) = operation else { continue };
        let mut seen = [false; MEMBERS.len()];
        for (name, _) in members {
            let what = match MEMBERS.iter().position(|member| member == name) {
                None => "unknown",
                Some(member) if std::mem::replace(&mut seen[member], true) => "duplicate",
                Some(_) => continue,
            };
            if findings.len() == MAX_FINDINGS {
                return findings;
            }
            let path = gofmt::quote(&format!("[{at}].{name}"));
            findings.push(format!("json patch {what} field {path}"));
        }
    }
    findings
}

/// Applies a JSON patch as upstream's library does: `replace` of a missing member adds it, `test` for null holds where
/// nothing is, and a negative index counts from the end (`apiserver-http/JPAT-05`).
pub(super) fn apply(document: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    let mut copied = 0;
    for operation in &patch.0 {
        let operation = match operation {
            PatchOperation::Test(test) if test.value.is_null() && document.pointer(test.path.as_str()).is_none() => {
                continue;
            }
            PatchOperation::Replace(replace) => {
                let path = from_end(document, &replace.path);
                let value = replace.value.clone();
                if document.pointer(path.as_str()).is_some() {
                    PatchOperation::Replace(json_patch::ReplaceOperation { path, value })
                } else {
                    PatchOperation::Add(json_patch::AddOperation { path, value })
                }
            }
            PatchOperation::Copy(copy) => {
                let (from, path) = (from_end(document, &copy.from), from_end(document, &copy.path));
                copied += document
                    .pointer(from.as_str())
                    .map_or(0, |value| value.to_string().len());
                if copied > MAX_COPIED {
                    return Err(rejected());
                }
                PatchOperation::Copy(json_patch::CopyOperation { from, path })
            }
            PatchOperation::Add(add) => {
                let path = from_end(document, &add.path);
                PatchOperation::Add(json_patch::AddOperation {
                    path,
                    value: add.value.clone(),
                })
            }
            PatchOperation::Remove(remove) => PatchOperation::Remove(json_patch::RemoveOperation {
                path: from_end(document, &remove.path),
            }),
            PatchOperation::Move(moved) => {
                let (from, path) = (from_end(document, &moved.from), from_end(document, &moved.path));
                PatchOperation::Move(json_patch::MoveOperation { from, path })
            }
            PatchOperation::Test(test) => {
                let path = from_end(document, &test.path);
                PatchOperation::Test(json_patch::TestOperation {
                    path,
                    value: test.value.clone(),
                })
            }
        };
        json_patch::patch(document, &json_patch::Patch(vec![operation])).map_err(|_| rejected())?;
    }
    Ok(())
}

/// The path with negative indexes counted from the end of their lists.
fn from_end(document: &Value, path: &PointerBuf) -> PointerBuf {
    if !path.as_str().contains("/-") {
        return path.clone();
    }
    let mut at = Some(document);
    let mut resolved = PointerBuf::new();
    for token in path.tokens() {
        let text = token.decoded();
        let index = match (at, text.parse::<i64>()) {
            (Some(Value::Array(items)), Ok(index @ ..0)) => {
                usize::try_from(index + i64::try_from(items.len()).unwrap_or(i64::MAX)).ok()
            }
            _ => None,
        };
        let text = index.map_or_else(|| text.into_owned(), |index| index.to_string());
        at = match at {
            Some(Value::Array(items)) => text.parse::<usize>().ok().and_then(|index| items.get(index)),
            Some(Value::Object(fields)) => fields.get(&text),
            _ => None,
        };
        resolved.push_back(text.as_str());
    }
    resolved
}

/// Upstream's answer to any operation that fails; which one it was is not said.
fn rejected() -> ApiError {
    ApiError::generic(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(document: Value, patch: Value, want: Option<Value>) {
        let mut patched = document;
        let operations: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
        let result = apply(&mut patched, &operations).ok().map(|()| patched);
        assert_eq!(result, want, "{patch}");
    }

    // covers: apiserver-http/JPAT-01, apiserver-http/JPAT-03, apiserver-http/JPAT-05
    #[test]
    fn json_patches_are_applied_with_upstreams_deviations() {
        let list = || json!({ "a": [1, 2, 3] });
        check(
            list(),
            json!([{ "op": "add", "path": "/a/-", "value": 4 }]),
            Some(json!({ "a": [1, 2, 3, 4] })),
        );
        check(
            list(),
            json!([{ "op": "remove", "path": "/a/-1" }]),
            Some(json!({ "a": [1, 2] })),
        );
        check(
            list(),
            json!([{ "op": "replace", "path": "/a/-2", "value": 9 }]),
            Some(json!({ "a": [1, 9, 3] })),
        );
        check(
            list(),
            json!([{ "op": "replace", "path": "/b", "value": 1 }]),
            Some(json!({ "a": [1, 2, 3], "b": 1 })),
        );
        check(
            list(),
            json!([{ "op": "test", "path": "/b", "value": null }]),
            Some(list()),
        );
        check(list(), json!([{ "op": "test", "path": "/a/0", "value": 2 }]), None);
        check(list(), json!([{ "op": "remove", "path": "/b" }]), None);
        check(list(), json!([{ "op": "add", "path": "/b/c", "value": 1 }]), None);
        check(
            list(),
            json!([{ "op": "move", "from": "/a/0", "path": "/b" }]),
            Some(json!({ "a": [2, 3], "b": 1 })),
        );
        check(
            list(),
            json!([{ "op": "copy", "from": "/a/-1", "path": "/b" }]),
            Some(json!({ "a": [1, 2, 3], "b": 3 })),
        );
    }

    // covers: apiserver-http/JPAT-04
    #[test]
    fn copies_are_bounded() {
        let text = "x".repeat(1024 * 1024);
        let copies: Vec<_> = (0..4)
            .map(|at| json!({ "op": "copy", "from": "/a", "path": format!("/b{at}") }))
            .collect();
        check(json!({ "a": text }), Value::Array(copies), None);
    }

    // covers: apiserver-http/FVAL-06
    #[test]
    fn members_of_operations_are_known_and_there_once() {
        let found = |body: &str| parse(body.as_bytes()).unwrap().1;
        assert_eq!(found(r#"[{"op":"add","path":"/a","value":{"x":1,"x":2}}]"#), [""; 0]);
        assert_eq!(
            found(r#"[{"op":"remove","path":"/b"},{"op":"remove","path":"/a","path":"/b","note":1}]"#),
            [
                r#"json patch duplicate field "[1].path""#,
                r#"json patch unknown field "[1].note""#
            ]
        );
    }

    // covers: apiserver-http/JPAT-02
    #[test]
    fn operations_are_a_list_of_bounded_length() {
        let code = |body: String| parse(body.as_bytes()).err().map(|error| error.code());
        let list = |count: usize| format!("[{}]", vec![r#"{"op":"remove","path":"/a"}"#; count].join(","));
        assert_eq!(code(list(MAX_OPERATIONS)), None);
        assert_eq!(code(list(MAX_OPERATIONS + 1)), Some(413));
        assert_eq!(code("{}".into()), Some(400));
        assert_eq!(code("[1]".into()), Some(400));
        assert_eq!(code("null".into()), None);
    }

    // covers: apiserver-http/JPAT-06
    #[test]
    fn many_operations_take_bounded_time() {
        let operations: Vec<_> = (0..MAX_OPERATIONS)
            .map(|at| json!({ "op": "add", "path": format!("/a/k{at}"), "value": at }))
            .collect();
        let patch: json_patch::Patch = serde_json::from_value(operations.into()).unwrap();
        let mut document = json!({ "a": {}, "b": vec!["x".repeat(100); 1000] });
        let started = std::time::Instant::now();
        apply(&mut document, &patch).unwrap();
        assert_eq!(document["a"].as_object().unwrap().len(), MAX_OPERATIONS);
        // Work by operation would take minutes if each looked at the whole document.
        assert!(
            started.elapsed() < std::time::Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
    }
}
