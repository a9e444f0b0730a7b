//! Create and update: the body of the request becomes an object, the store does the rest.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Response, header};
use hyper::body::Incoming;
use serde_json::Value;

use apiserver_registry::{ApiError, CreateOptions, ObjectUpdate, Replace, UpdateOptions, Written};
use apiserver_storage_api::{Entry, Preconditions};

use crate::http::body::{self, Body};
use crate::http::options::{Write, WriteOptions};
use crate::http::respond;
use crate::http::verbs::{Call, code};
use crate::kinds::model::{BodyFormat, Decoded};

pub(crate) async fn create(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    let format = body_format(&call.headers)?;
    let body = body::read(body).await?;
    let options = WriteOptions::parse(&call.query, Write::Create)?;
    let mut object = decode(call, &body, format, &options)?;
    place(call, &mut object)?;
    wipe_system_fields(&mut object);
    dedup_owners(call, &mut object);
    call.model.apply_defaults(&mut object);
    let name = (!call.path.name.is_empty()).then(|| call.path.name.clone());
    let create = CreateOptions {
        dry_run: options.dry_run,
        name,
    };
    let written = call.resource.create(&call.context, object, create).await?;
    answer(call, &written, representation)
}

pub(crate) async fn update(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    let body = body::read(body).await?;
    let options = WriteOptions::parse(&call.query, Write::Update)?;
    let format = body_format(&call.headers)?;
    let mut object = decode(call, &body, format, &options)?;
    place(call, &mut object)?;
    check_name(call, &object)?;
    dedup_owners(call, &mut object);
    call.model.apply_defaults(&mut object);
    let update = UpdateOptions {
        dry_run: options.dry_run,
        ..UpdateOptions::default()
    };
    let mut recipe = Put(Replace(object));
    let written = call
        .resource
        .update(&call.context, &call.path.name, &mut recipe, update)
        .await?;
    answer(call, &written, representation)
}

/// The recipe of a PUT. A body that says nothing of who owns which field leaves that as it is stored
/// (`apiserver-http/SSA-14`); an empty list clears it.
struct Put(Replace);

#[async_trait]
impl ObjectUpdate for Put {
    fn preconditions(&self) -> Preconditions {
        self.0.preconditions()
    }

    async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
        let mut object = self.0.update(current).await?;
        let stored = current.and_then(|current| current.meta().ok()).unwrap_or_default();
        if let Some(metadata) = metadata_of(&mut object).filter(|_| !stored.managed_fields.is_empty()) {
            metadata
                .entry("managedFields")
                .or_insert(Value::Array(stored.managed_fields));
        }
        Ok(object)
    }
}

/// How the body is written, by its Content-Type (`apiserver-http/NEG-08`).
pub(crate) fn body_format(headers: &HeaderMap) -> Result<BodyFormat, ApiError> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "application/json" => Ok(BodyFormat::Json),
        "application/yaml" => Ok(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyFormat::Protobuf),
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

fn decode(call: &Call, body: &Bytes, format: BodyFormat, options: &WriteOptions) -> Result<Value, ApiError> {
    let Decoded { object, warnings } = call.model.decode(body, format, options.field_validation)?;
    for warning in warnings {
        call.context.warn(warning);
    }
    Ok(object)
}

/// Puts the object into the namespace of the path; another one in the body is an error (`apiserver-http/BODY-08`).
pub(crate) fn place(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let expected = call.expected_namespace();
    let Some(metadata) = metadata_of(object) else {
        return Ok(());
    };
    let own = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if own == expected {
        return Ok(());
    }
    if expected.is_empty() {
        metadata.remove("namespace");
    } else if own.is_empty() {
        metadata.insert("namespace".into(), expected.into());
    } else {
        let text = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(text));
    }
    Ok(())
}

/// The name in the body must be the one in the path (`apiserver-http/BODY-09`).
pub(crate) fn check_name(call: &Call, object: &Value) -> Result<(), ApiError> {
    let url = &call.path.name;
    match object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
    {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({url} based on URL) was undeterminable: name must be provided"
        ))),
        name if name == url => Ok(()),
        name => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        ))),
    }
}

pub(crate) fn metadata_of(object: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    let object = object.as_object_mut()?;
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(serde_json::Map::new());
    }
    metadata.as_object_mut()
}

/// What only the server sets is dropped from a new object (`apiserver-http/BODY-10`).
fn wipe_system_fields(object: &mut Value) {
    if let Some(metadata) = metadata_of(object) {
        for field in [
            "creationTimestamp",
            "uid",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ] {
            metadata.remove(field);
        }
    }
}

/// Removes owner references that are there twice, with a warning (`apiserver-http/BODY-11`).
pub(crate) fn dedup_owners(call: &Call, object: &mut Value) {
    let Some(Value::Array(owners)) = object.pointer_mut("/metadata/ownerReferences") else {
        return;
    };
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut doubled = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            doubled.extend(owner.get("uid").and_then(Value::as_str).map(str::to_owned));
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    for uid in doubled {
        call.context.warn(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uid}"
        ));
    }
}

pub(crate) fn answer(
    call: &Call,
    written: &Written,
    representation: crate::http::negotiate::Representation,
) -> Result<Response<Body>, ApiError> {
    let json = call.model.served(written.object.json()?)?;
    respond::object(
        code(written.created),
        &json,
        &*call.model,
        representation,
        &call.asked(),
    )
}
