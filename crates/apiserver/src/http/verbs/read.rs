//! Get.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use apiserver_registry::{ApiError, StorageVerb, from_storage_error};
use apiserver_resources::table::{self, IncludeObject};
use apiserver_resources::types::Gvk;
use apiserver_resources::wire::protobuf;

use crate::http::body::Body;
use crate::http::list_writer::derived::{Derived, Shown, View};
use crate::http::negotiate::{Format, Shape};
use crate::http::options;
use crate::http::respond;
use crate::http::verbs::Call;
use crate::kinds::model::timestamp;

pub(crate) async fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    let at = options::read_at(&call.query)?;
    let entry = call.resource.get(&call.context, &call.path.name, at).await?;
    let json = entry
        .json()
        .map_err(|error| from_storage_error(error, StorageVerb::Get, call.resource.info(), &call.path.name))?;
    let include = match representation.shape {
        Shape::Table(_) => respond::include_object(&call.query)?,
        Shape::MetadataList(_) => {
            // Refused there.
            return respond::object(StatusCode::OK, json, &*call.model, representation, &call.asked());
        }
        _ => IncludeObject::Metadata,
    };
    let view = View::of(representation, include);
    let derived = Derived {
        model: Arc::clone(&call.model),
        forms: Arc::clone(&call.forms),
        view,
    };
    let shown = match derived.show(&entry, &mut 0)? {
        Shown::Bytes(message) if view.is_protobuf() => {
            let gvk = match representation.shape {
                Shape::Plain => Gvk::of(&call.api_version, &call.kind),
                Shape::Table(version) | Shape::Metadata(version) | Shape::MetadataList(version) => {
                    Gvk::new("meta.k8s.io", version, "PartialObjectMetadata")
                }
            };
            let head = protobuf::envelope_head(gvk);
            let mut envelope = Vec::with_capacity(head.len() + message.len() + 16);
            protobuf::write_envelope(&head, &message, &mut envelope);
            let bytes = envelope.into();
            return Ok(respond::sized(StatusCode::OK, Format::Protobuf, bytes, &call.headers));
        }
        Shown::Bytes(bytes) => bytes,
        Shown::Row(row) => {
            let Shape::Table(version) = representation.shape else {
                return Err(ApiError::internal("rows are for tables"));
            };
            let metadata = json!({ "resourceVersion": entry.revision().to_string() });
            let empty = respond::to_bytes(&table::table(version, metadata, Some(call.model.columns()), Vec::new()));
            // The rows come last.
            let head = empty.strip_suffix(b"]}").unwrap_or(&empty);
            let mut out = Vec::with_capacity(head.len() + row.text_len() + 96);
            out.extend_from_slice(head);
            row.write(timestamp(call.context.clock().now()), &mut out);
            out.extend_from_slice(b"]}");
            Bytes::from(out)
        }
    };
    Ok(respond::document(StatusCode::OK, &shown, representation, &call.headers))
}
