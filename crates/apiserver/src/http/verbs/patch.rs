//! Patch: the stored object, changed by the client's instructions, once per attempt of the store's transaction.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, header};
use hyper::body::Incoming;
use serde_json::Value;

use apiserver_registry::{ApiError, ObjectUpdate, StatusCause, StorageVerb, UpdateOptions, from_storage_error};
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
    let mut recipe = Recipe { call, patch, findings, validation: options.field_validation };
    let mut update = UpdateOptions::default();
    update.dry_run = options.dry_run;
    let written = call.resource.update(&call.context, &call.path.name, &mut recipe, update).await?;
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
    let value = call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if strategic => Ok(PatchType::Strategic),
        // Server-side apply comes later; kubectl tells its user so on 415 (`apiserver-http/SSA-26`).
        _ => {
            let strategic = if strategic { ", application/strategic-merge-patch+json" } else { "" };
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
            if let Some(operations) = value.as_array().map(Vec::len).filter(|operations| *operations > MAX_OPERATIONS) {
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
    apiserver_resources::document::parse(body).map(|document| document.duplicates()).unwrap_or_default()
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
        let Some(current) = current else { return Err(ApiError::not_found(group, resource, name)) };
        let json = current
            .json()
            .map_err(|error| from_storage_error(error, StorageVerb::Update, call.resource.info(), name))?;
        let mut patched: Value = serde_json::from_slice(&call.model.served(json)?).map_err(ApiError::internal)?;
        match &self.patch {
            Patch::Json(patch) => json_patch_apply(&mut patched, patch)?,
            Patch::Merge(patch) => patched = merge::json_merge(patched, patch),
            Patch::Strategic(patch) => {
                patched = call.model.strategic_merge(&patched, patch).ok_or_else(|| call.not_supported())??;
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

/// Applies a JSON patch as upstream's library does: `replace` of a missing key adds it, and an index counts from the
/// end where it is negative (`apiserver-http/JPAT-05`).
fn json_patch_apply(document: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    use json_patch::PatchOperation;
    let mut copied = 0;
    for (at, operation) in patch.0.iter().enumerate() {
        let single = match operation {
            PatchOperation::Replace(replace) if document.pointer(replace.path.as_str()).is_none() => {
                json_patch::Patch(vec![PatchOperation::Add(json_patch::AddOperation {
                    path: replace.path.clone(),
                    value: replace.value.clone(),
                })])
            }
            PatchOperation::Copy(copy) => {
                copied += document.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
                if copied > MAX_COPIED {
                    return Err(rejected(at, "the copies of the patch exceed 3 MiB"));
                }
                json_patch::Patch(vec![operation.clone()])
            }
            other => json_patch::Patch(vec![other.clone()]),
        };
        json_patch::patch(document, &single).map_err(|error| rejected(at, &error.kind.to_string()))?;
    }
    Ok(())
}

/// Upstream's message; the cause says which operation failed, which upstream hides.
fn rejected(operation: usize, why: &str) -> ApiError {
    let cause = StatusCause::new("", format!("operation {operation}: {why}"), "patch");
    ApiError::generic(422, "Invalid", "the server rejected our request due to an error in our request").with_cause(cause)
}
