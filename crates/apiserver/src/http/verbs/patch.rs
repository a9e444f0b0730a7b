//! Patch: the stored object, changed by the client's instructions, once per attempt of the store's transaction.

use async_trait::async_trait;
use http::{Response, header};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use apiserver_registry::{ApiError, ObjectUpdate, StorageVerb, UpdateOptions, from_storage_error};
use apiserver_resources::merge;
use apiserver_storage_api::Entry;

use crate::http::body::{self, Body};
use crate::http::options::{FieldValidation, Write, WriteOptions};
use crate::http::verbs::write::{answer, check_name, dedup_owners, place};
use crate::http::verbs::{Call, json_patch};
use crate::kinds::builtin::patch_error;
use crate::kinds::model::Patched;

enum Patch {
    Json(::json_patch::Patch),
    Merge(Map<String, Value>),
    Strategic(Value),
}

pub(crate) async fn patch(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let kind = patch_type(call)?;
    let representation = call.negotiate(false)?;
    let body = body::read(body).await?;
    let options = WriteOptions::parse(&call.query, Write::Patch { apply: false })?;
    let (patch, findings) = parse(kind, &body)?;
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
    let strategic = call.model.strategic_merge(Value::Null, &Value::Null).is_some();
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

/// Reads a patch, and the findings of strict reading.
fn parse(kind: PatchType, body: &[u8]) -> Result<(Patch, Vec<String>), ApiError> {
    match kind {
        PatchType::Json => {
            let (patch, findings) = json_patch::parse(body)?;
            Ok((Patch::Json(patch), findings))
        }
        PatchType::Merge => {
            let parsed = merge::parse_merge(body).map_err(|error| patch_error(&error))?;
            Ok((Patch::Merge(parsed.patch), parsed.findings))
        }
        PatchType::Strategic => {
            let parsed = merge::parse_strategic(body).map_err(|error| patch_error(&error))?;
            Ok((Patch::Strategic(Value::Object(parsed.patch)), parsed.findings))
        }
    }
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
            Patch::Json(patch) => json_patch::apply(&mut patched, patch)?,
            Patch::Merge(patch) => patched = merge::json_merge(patched, patch),
            Patch::Strategic(patch) => {
                patched = call
                    .model
                    .strategic_merge(patched, patch)
                    .ok_or_else(|| call.not_supported())??;
            }
        }
        let patched = Patched {
            object: patched,
            findings: &self.findings,
            patch: match &self.patch {
                Patch::Strategic(patch) => Some(patch),
                Patch::Json(_) | Patch::Merge(_) => None,
            },
        };
        let decoded = call.model.check_patched(patched, self.validation)?;
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
