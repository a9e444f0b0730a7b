//! Writes answers: objects and errors in the negotiated representation, with gzip where it pays.

use std::io::Write as _;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use apiserver_registry::ApiError;
use apiserver_resources::table::{self, IncludeObject};
use apiserver_resources::types::Gvk;
use apiserver_resources::wire::protobuf;

use crate::http::body::{self, Body};
use crate::http::negotiate::{self, Format, Offer, Representation, Shape};
use crate::http::pretty;
use crate::http::query::Query;
use crate::kinds::model::{Model, timestamp};

/// From this size on a body is compressed for clients that take it (`apiserver-http/ENC-04`).
pub(crate) const GZIP_FROM: usize = 128 * 1024;

/// What an answer needs of its request.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a Query,
    pub(crate) now: SystemTime,
}

/// What a row of a Table carries beside its cells (`apiserver-http/QRY-20`, `TABH-05`).
pub(crate) fn include_object(query: &Query) -> Result<IncludeObject, ApiError> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: invalid value for 'includeObject': {other:?}"
        ))),
    }
}

/// The answer to a failed request, in a form that the client reads.
pub(crate) fn error(error: &ApiError, headers: &HeaderMap, query: &Query) -> Response<Body> {
    let status = error.status();
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if code == StatusCode::NO_CONTENT {
        return plain_status(code, body::empty());
    }
    let json = Bytes::from(status.to_bytes());
    // Where nothing can be negotiated the error stays what it is, as indented JSON (`apiserver-http/NEG-07`).
    let representation = negotiate::negotiate(headers, query, &Offer::PLAIN, false);
    let mut response = match representation {
        Ok(representation) => document(code, &json, representation, headers),
        Err(_) => document(
            code,
            &json,
            Representation {
                pretty: true,
                ..Representation::JSON
            },
            headers,
        ),
    };
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Writes a finished JSON document in a format other than protobuf.
pub(crate) fn document(
    code: StatusCode,
    json: &Bytes,
    representation: Representation,
    headers: &HeaderMap,
) -> Response<Body> {
    match representation.format {
        Format::Json if representation.pretty => sized(code, Format::Json, pretty::indent(json).into(), headers),
        Format::Json | Format::Protobuf => {
            let mut line = Vec::with_capacity(json.len() + 1);
            line.extend_from_slice(json);
            if !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            sized(code, Format::Json, line.into(), headers)
        }
        Format::Yaml => match yaml(json) {
            Ok(yaml) => sized(code, Format::Yaml, yaml.into(), headers),
            Err(error) => self::error(&error, &HeaderMap::new(), &Query::default()),
        },
    }
}

pub(crate) fn yaml(json: &[u8]) -> Result<Vec<u8>, ApiError> {
    let value: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
    serde_saphyr::to_string(&value)
        .map(String::into_bytes)
        .map_err(ApiError::internal)
}

/// A body of known size, compressed where that pays.
pub(crate) fn sized(code: StatusCode, format: Format, bytes: Bytes, headers: &HeaderMap) -> Response<Body> {
    if bytes.len() > GZIP_FROM && negotiate::accepts_gzip(headers) {
        let mut encoder =
            flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 4), flate2::Compression::fast());
        // Writing into a vector does not fail; should it, the plain body is as good.
        if encoder.write_all(&bytes).is_ok()
            && let Ok(compressed) = encoder.finish()
        {
            let mut response = plain(code, format.media_type(), body::full(compressed));
            gzip_headers(response.headers_mut());
            return response;
        }
    }
    plain(code, format.media_type(), body::full(bytes))
}

pub(crate) fn gzip_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// An answer with a content type.
pub(crate) fn plain(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = plain_status(code, body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = plain(code, "text/plain; charset=utf-8", body::full(text.into()));
    response
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

pub(crate) fn plain_status(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}

/// One object in the negotiated representation.
pub(crate) fn object(
    code: StatusCode,
    json: &Bytes,
    model: &dyn Model,
    representation: Representation,
    asked: &Asked<'_>,
) -> Result<Response<Body>, ApiError> {
    let json = match representation.shape {
        Shape::Plain if representation.format == Format::Protobuf => {
            let value: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
            let bytes = model.protobuf(&value).ok_or_else(|| {
                ApiError::not_acceptable("object does not implement the protobuf marshalling interface")
            })?;
            return Ok(sized(code, Format::Protobuf, bytes.into(), asked.headers));
        }
        Shape::Plain => json.clone(),
        Shape::Table(version) => {
            let include = include_object(asked.query)?;
            let value: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
            let row = row(&value, model, version, include, asked.now);
            let metadata = json!({ "resourceVersion": value["metadata"]["resourceVersion"] });
            to_bytes(&table::table(version, metadata, Some(model.columns()), vec![row]))
        }
        Shape::Metadata(version) => {
            let value: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
            if representation.format == Format::Protobuf {
                let message = protobuf::encode_metadata(&value).map_err(ApiError::internal)?;
                let head = protobuf::envelope_head(Gvk::new("meta.k8s.io", version, "PartialObjectMetadata"));
                let mut envelope = Vec::with_capacity(head.len() + message.len() + 16);
                protobuf::write_envelope(&head, &message, &mut envelope);
                return Ok(sized(code, Format::Protobuf, envelope.into(), asked.headers));
            }
            to_bytes(&table::partial_object_metadata(&value, version))
        }
        Shape::MetadataList(_) => {
            let text = "you requested PartialObjectMetadataList, but the requested object is not a list";
            return Err(ApiError::not_acceptable(text));
        }
    };
    Ok(document(code, &json, representation, asked.headers))
}

pub(crate) fn to_bytes(value: &Value) -> Bytes {
    apiserver_storage_api::codec::json::to_vec(value).into()
}

/// One row of a Table.
fn row(object: &Value, model: &dyn Model, version: &str, include: IncludeObject, now: SystemTime) -> Value {
    table::row(cells(object, model, now), object, include, version)
}

/// The cells of one row, as they are at a time.
pub(crate) fn cells(object: &Value, model: &dyn Model, now: SystemTime) -> Vec<Value> {
    let now = timestamp(now);
    model.cells(object).iter().map(|cell| cell.at(now)).collect()
}
