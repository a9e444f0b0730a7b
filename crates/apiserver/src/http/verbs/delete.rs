//! Delete and delete collection.

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use apiserver_registry::{ApiError, DeleteBody, DeleteOptions};
use apiserver_storage_api::ListEnd;

use crate::http::body::{self, Body};
use crate::http::options::{self, ListParameters};
use crate::http::respond;
use crate::http::verbs::write::body_format;
use crate::http::verbs::{Call, list};
use crate::kinds::model::BodyFormat;

pub(crate) async fn delete(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    let options = read_options(call, body::read(body).await?)?;
    let explicitly_not_orphaning = options.orphan_dependents == Some(false);
    let deleted = call.resource.delete(&call.context, &call.path.name, options).await?;
    // The one case that upstream tells apart by its code (`apiserver-http/RDEL-06`).
    let code = if !deleted.is_gone() && explicitly_not_orphaning {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    match deleted.body(&*call.resource, &call.path.name)? {
        DeleteBody::Object(answer) => {
            let json = call.model.served(answer.json()?)?;
            respond::object(code, &json, &*call.model, representation, &call.asked())
        }
        DeleteBody::Status(status) => Ok(respond::document(
            code,
            &status.to_bytes().into(),
            representation,
            &call.headers,
        )),
    }
}

pub(crate) async fn delete_collection(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    let parameters = ListParameters::parse(&call.query, call.query.flag("watch"), None, &|field| {
        call.model.check_field(field)
    })?;
    let options = read_options(call, body::read(body).await?)?;
    if options.ignore_store_read_error == Some(true) {
        return Err(options::collection_forbids_unsafe());
    }
    let deleted = call
        .resource
        .delete_collection(&call.context, options, parameters.list_options()?)
        .await?;
    let end = ListEnd {
        next: deleted.next,
        remaining: deleted.remaining,
    };
    let list = list::whole(call, deleted.revision, &deleted.entries, &end)?;
    Ok(respond::document(StatusCode::OK, &list, representation, &call.headers))
}

/// `DeleteOptions` from the body; from the query where the body is empty (`apiserver-http/RDEL-03`).
fn read_options(call: &Call, body: Bytes) -> Result<DeleteOptions, ApiError> {
    if body.is_empty() {
        return options::delete_options_of_query(&call.query);
    }
    let value: Value = match body_format(&call.headers)? {
        BodyFormat::Json => serde_json::from_slice(&body).map_err(|error| undecodable(&error))?,
        BodyFormat::Yaml => {
            let text = std::str::from_utf8(&body).map_err(|error| undecodable(&error))?;
            serde_saphyr::from_str(text).map_err(|error| undecodable(&error))?
        }
        BodyFormat::Protobuf => crate::kinds::model::delete_options_of_protobuf(&body)?,
    };
    if !value.is_object() {
        return Err(undecodable(&"expected an object"));
    }
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
    if kind != "DeleteOptions" {
        let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a DeleteOptions: expected kind DeleteOptions"
        )));
    }
    serde_json::from_value(value).map_err(|error| undecodable(&error))
}

fn undecodable(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type DeleteOptions): couldn't get version/kind; {error}"
    ))
}
