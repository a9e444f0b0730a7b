//! Patch: the stored object, changed by the client's instructions, once per attempt of the store's transaction.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, header};
use hyper::body::Incoming;
use json_patch::PatchOperation;
use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use apiserver_registry::{ApiError, ObjectUpdate, StorageVerb, UpdateOptions, from_storage_error};
use apiserver_resources::merge;
use apiserver_storage_api::Entry;

use crate::http::body::{self, Body};
use crate::http::options::{FieldValidation, Write, WriteOptions};
use crate::http::verbs::Call;
use crate::http::verbs::write::{answer, check_name, dedup_owners, place};

/// Most operations of a JSON patch (`apiserver-http/JPAT-02`).
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that the `copy` operations of a JSON patch may double (`apiserver-http/JPAT-04`).
const MAX_COPIED: usize = 3 * 1024 * 1024;

enum Patch {
    Json(json_patch::Patch),
    Merge(serde_json::Map<String, Value>),
    Strategic(Value),
}

pub(crate) async fn patch(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let kind = patch_type(call)?;
    let representation = call.negotiate(false)?;
    let body = body::read(body).await?;
    let options = WriteOptions::parse(&call.query, Write::Patch { apply: false })?;
    let (patch, findings) = parse(kind, &body, options.field_validation)?;
    let mut recipe = Recipe {
        call,
        patch,
        findings,
        validation: options.field_validation,
    };
    let update = UpdateOptions {
        dry_run: options.dry_run,
        ..UpdateOptions::default()
    };
    let written = call
        .resource
        .update(&call.context, &call.path.name, &mut recipe, update)
        .await?;
    answer(call, &written, representation)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatchType {
    Json,
    Merge,
    Strategic,
}

fn patch_type(call: &Call) -> Result<PatchType, ApiError> {
    let strategic = call.model.strategic_merge(&Value::Null, &Value::Null).is_some();
    let value = call
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if strategic => Ok(PatchType::Strategic),
        // Server-side apply comes later; kubectl tells its user so on 415 (`apiserver-http/SSA-26`).
        _ => {
            let strategic = if strategic {
                ", application/strategic-merge-patch+json"
            } else {
                ""
            };
            Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json{strategic}"
            )))
        }
    }
}

fn parse(kind: PatchType, body: &Bytes, validation: FieldValidation) -> Result<(Patch, Vec<String>), ApiError> {
    let findings = match validation {
        FieldValidation::Ignore => Vec::new(),
        _ => duplicates(body),
    };
    let patch = match kind {
        PatchType::Json => {
            let value: Value = serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            if let Some(operations) = value
                .as_array()
                .map(Vec::len)
                .filter(|operations| *operations > MAX_OPERATIONS)
            {
                return Err(ApiError::request_entity_too_large(format!(
                    "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {operations}"
                )));
            }
            let patch = serde_json::from_value(value)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            Patch::Json(patch)
        }
        PatchType::Merge => Patch::Merge(object(body)?),
        PatchType::Strategic => Patch::Strategic(Value::Object(object(body)?)),
    };
    Ok((patch, findings))
}

fn object(body: &Bytes) -> Result<serde_json::Map<String, Value>, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
}

/// Keys that stand twice in the patch itself.
fn duplicates(body: &Bytes) -> Vec<String> {
    apiserver_resources::document::parse(body)
        .map(|document| document.duplicates())
        .unwrap_or_default()
}

struct Recipe<'a> {
    call: &'a Call,
    patch: Patch,
    findings: Vec<String>,
    validation: FieldValidation,
}

#[async_trait]
impl ObjectUpdate for Recipe<'_> {
    async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
        let call = self.call;
        let (group, resource, name) = (&call.path.group, &call.path.resource, &call.path.name);
        let Some(current) = current else {
            return Err(ApiError::not_found(group, resource, name));
        };
        let json = current
            .json()
            .map_err(|error| from_storage_error(error, StorageVerb::Update, call.resource.info(), name))?;
        let mut patched: Value = serde_json::from_slice(&call.model.served(json)?).map_err(ApiError::internal)?;
        match &self.patch {
            Patch::Json(patch) => json_patch_apply(&mut patched, patch)?,
            Patch::Merge(patch) => patched = merge::json_merge(patched, patch),
            Patch::Strategic(patch) => {
                patched = call
                    .model
                    .strategic_merge(&patched, patch)
                    .ok_or_else(|| call.not_supported())??;
            }
        }
        let decoded = call.model.check_patched(patched, self.validation, &self.findings)?;
        for warning in decoded.warnings {
            call.context.warn(warning);
        }
        let mut object = decoded.object;
        place(call, &mut object)?;
        check_name(call, &object)?;
        dedup_owners(call, &mut object);
        call.model.apply_defaults(&mut object);
        Ok(object)
    }
}

/// Applies a JSON patch as upstream's library does: `replace` of a missing member adds it, `test` for null holds where
/// nothing is, and a negative index counts from the end (`apiserver-http/JPAT-05`).
fn json_patch_apply(document: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
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
        let result = json_patch_apply(&mut patched, &operations).ok().map(|()| patched);
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
}
