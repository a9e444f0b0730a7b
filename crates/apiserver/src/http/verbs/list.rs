//! List: the records' bytes, joined and streamed; nothing is decoded for a JSON client.

use std::io::Write as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use apiserver_registry::{ApiError, from_list_error};
use apiserver_resources::table;
use apiserver_storage_api::codec::json::write_string;
use apiserver_storage_api::{BoxError, Entry, ListEnd, Page, Revision, StorageError};

use crate::http::body::{self, Body};
use crate::http::negotiate::{Format, Representation, Shape, accepts_gzip};
use crate::http::options::ListParameters;
use crate::http::pretty::Indenter;
use crate::http::respond;
use crate::http::verbs::Call;
use crate::kinds::model::Model;

/// Bytes that are gathered before they go out.
const CHUNK: usize = 128 * 1024;

pub(crate) async fn list(call: Call) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    if let Shape::Metadata(_) = representation.shape {
        return Err(ApiError::not_acceptable(format!(
            "you requested PartialObjectMetadata, but the requested object is a list ({})",
            call.list_kind
        )));
    }
    let parameters = ListParameters::parse(&call.query, false, None, &|field| call.model.check_field(field))?;
    let options = parameters.list_options()?;
    let paged = options.limit.is_some();
    let list = call.resource.list(&call.context, options).await?;
    let revision = list.revision();
    let mut pages = list.into_pages();
    // The first page is awaited before the head goes out, so that its failure is a proper answer.
    let first = match pages.next().await {
        Some(page) => page.map_err(|error| list_error(&call, error))?,
        None => Page {
            end: Some(ListEnd::default()),
            ..Page::default()
        },
    };
    if representation.shape == Shape::Plain && representation.format == Format::Json && !paged {
        return Ok(stream(call, revision, first, pages, representation.pretty));
    }
    let (entries, end) = gather(&call, first, pages).await?;
    let json = whole(&call, revision, &entries, &end, representation)?;
    if representation.format == Format::Protobuf {
        let value: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
        let bytes = call
            .model
            .protobuf(&value)
            .ok_or_else(|| ApiError::not_acceptable("object does not implement the protobuf marshalling interface"))?;
        return Ok(respond::sized(
            StatusCode::OK,
            Format::Protobuf,
            bytes.into(),
            &call.headers,
        ));
    }
    Ok(respond::document(StatusCode::OK, &json, representation, &call.headers))
}

fn list_error(call: &Call, error: StorageError) -> ApiError {
    from_list_error(error, call.resource.info())
}

async fn gather(
    call: &Call,
    first: Page,
    mut pages: BoxStream<'static, Result<Page, StorageError>>,
) -> Result<(Vec<Entry>, ListEnd), ApiError> {
    let Page { mut entries, mut end } = first;
    while end.is_none() {
        let Some(page) = pages.next().await else { break };
        let page = page.map_err(|error| list_error(call, error))?;
        entries.extend(page.entries);
        end = page.end;
    }
    Ok((entries, end.unwrap_or_default()))
}

/// A list in one document.
pub(super) fn whole(
    call: &Call,
    revision: Revision,
    entries: &[Entry],
    end: &ListEnd,
    representation: Representation,
) -> Result<Bytes, ApiError> {
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let (Some(token), Some(metadata)) = (&end.next, metadata.as_object_mut()) {
        metadata.insert("continue".into(), token.encode().into());
        if let Some(remaining) = end.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
    }
    let json_of = |entry: &Entry| {
        let json = entry.json().map_err(|error| list_error(call, error))?;
        call.model.served(json)
    };
    let value_of = |entry: &Entry| -> Result<Value, ApiError> {
        serde_json::from_slice(&json_of(entry)?).map_err(ApiError::internal)
    };
    match representation.shape {
        Shape::Table(version) => {
            let include = respond::include_object(&call.query)?;
            let now = call.context.clock().now();
            let rows = entries
                .iter()
                .map(|entry| Ok(respond::row(&value_of(entry)?, &*call.model, version, include, now)))
                .collect::<Result<Vec<_>, ApiError>>()?;
            Ok(respond::to_bytes(&table::table(
                version,
                metadata,
                Some(call.model.columns()),
                rows,
            )))
        }
        Shape::MetadataList(version) | Shape::Metadata(version) => {
            let items = entries.iter().map(value_of).collect::<Result<Vec<_>, ApiError>>()?;
            Ok(respond::to_bytes(&table::partial_object_metadata_list(
                metadata, &items, version,
            )))
        }
        Shape::Plain => {
            let mut out = head(call, &metadata);
            for (at, entry) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(&json_of(entry)?);
            }
            out.extend_from_slice(b"]}");
            Ok(out.into())
        }
    }
}

/// A plain list up to its first item.
fn head(call: &Call, metadata: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"kind\":");
    write_string(&call.list_kind, &mut out);
    out.extend_from_slice(b",\"apiVersion\":");
    write_string(&call.api_version, &mut out);
    out.extend_from_slice(b",\"metadata\":");
    apiserver_storage_api::codec::json::write_value(metadata, &mut out);
    out.extend_from_slice(b",\"items\":[");
    out
}

/// An unlimited plain list: pages go out as they come. It has no continue token, so its metadata is known first.
fn stream(
    call: Call,
    revision: Revision,
    first: Page,
    pages: BoxStream<'static, Result<Page, StorageError>>,
    pretty: bool,
) -> Response<Body> {
    let head = head(&call, &json!({ "resourceVersion": revision.to_string() }));
    let size: usize = first
        .entries
        .iter()
        .filter_map(|entry| entry.json().ok())
        .map(Bytes::len)
        .sum();
    let gzip = accepts_gzip(&call.headers) && (first.end.is_none() || size > respond::GZIP_FROM);
    let model = Arc::clone(&call.model);
    let mut parts = chunks(model, head, first, pages).boxed();
    if pretty {
        parts = indented(parts).boxed();
    }
    let body = if gzip {
        body::stream(compress(parts))
    } else {
        body::stream(parts)
    };
    let mut response = respond::plain(StatusCode::OK, Format::Json.media_type(), body);
    if gzip {
        respond::gzip_headers(response.headers_mut());
    }
    response
}

/// The bytes of a list in pieces of about [`CHUNK`].
fn chunks(
    model: Arc<dyn Model>,
    head: Vec<u8>,
    first: Page,
    pages: BoxStream<'static, Result<Page, StorageError>>,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    struct State {
        model: Arc<dyn Model>,
        pages: BoxStream<'static, Result<Page, StorageError>>,
        entries: std::vec::IntoIter<Entry>,
        last_page: bool,
        buffer: BytesMut,
        first_item: bool,
        done: bool,
    }
    let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
    buffer.extend_from_slice(&head);
    let state = State {
        model,
        pages,
        last_page: first.end.is_some(),
        entries: first.entries.into_iter(),
        buffer,
        first_item: true,
        done: false,
    };
    futures::stream::try_unfold(state, |mut state| async move {
        if state.done {
            return Ok(None);
        }
        loop {
            while let Some(entry) = state.entries.next() {
                if !std::mem::take(&mut state.first_item) {
                    state.buffer.extend_from_slice(b",");
                }
                let json = state.model.served(entry.json()?).map_err(BoxError::from)?;
                state.buffer.extend_from_slice(&json);
                if state.buffer.len() >= CHUNK {
                    let chunk = state.buffer.split().freeze();
                    state.buffer.reserve(CHUNK + CHUNK / 4);
                    return Ok(Some((chunk, state)));
                }
            }
            if state.last_page {
                break;
            }
            match state.pages.next().await {
                Some(page) => {
                    let page = page?;
                    state.last_page = page.end.is_some();
                    state.entries = page.entries.into_iter();
                }
                None => break,
            }
        }
        state.buffer.extend_from_slice(b"]}\n");
        state.done = true;
        Ok(Some((state.buffer.split().freeze(), state)))
    })
}

/// Indents a document as it passes.
fn indented(
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let mut indenter = Indenter::default();
    chunks.map(move |chunk| {
        let chunk = chunk?;
        let mut out = Vec::with_capacity(chunk.len() + chunk.len() / 2);
        indenter.write(&chunk, &mut out);
        Ok(out.into())
    })
}

/// Compresses a stream of chunks into one gzip document.
fn compress(
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let encoder = flate2::write::GzEncoder::new(Vec::with_capacity(CHUNK), flate2::Compression::fast());
    futures::stream::try_unfold((Box::pin(chunks), Some(encoder)), |(mut chunks, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok(None) };
        loop {
            match chunks.next().await {
                Some(chunk) => {
                    encoder.write_all(&chunk?)?;
                    if !encoder.get_ref().is_empty() {
                        let out = std::mem::replace(encoder.get_mut(), Vec::with_capacity(CHUNK));
                        return Ok(Some((Bytes::from(out), (chunks, Some(encoder)))));
                    }
                }
                None => return Ok(Some((Bytes::from(encoder.finish()?), (chunks, None)))),
            }
        }
    })
}
