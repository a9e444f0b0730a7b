//! List: the records' bytes, joined and streamed; nothing is decoded for a JSON client.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use apiserver_registry::{ApiError, from_list_error};
use apiserver_resources::table;
use apiserver_storage_api::codec::json::write_string;
use apiserver_storage_api::{BoxError, Entry, ListEnd, Page, Revision, StorageError};

use crate::http::body::{self, Body};
use crate::http::list_writer::{ListWriter, served};
use crate::http::negotiate::{Format, Representation, Shape, accepts_gzip};
use crate::http::options::ListParameters;
use crate::http::pretty::Indenter;
use crate::http::respond;
use crate::http::verbs::Call;

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
    if representation == Representation::JSON {
        return joined(&call, revision, &entries, &end);
    }
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
    let metadata = metadata(revision, end);
    let json_of = |entry: &Entry| {
        entry.record().map_err(|error| list_error(call, error))?;
        served(&*call.model, &call.forms, entry).map_err(ApiError::internal)
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

fn metadata(revision: Revision, end: &ListEnd) -> Value {
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let (Some(token), Some(metadata)) = (&end.next, metadata.as_object_mut()) {
        metadata.insert("continue".into(), token.encode().into());
        if let Some(remaining) = end.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
    }
    metadata
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

/// A plain list in compact JSON that is there as a whole.
fn joined(call: &Call, revision: Revision, entries: &[Entry], end: &ListEnd) -> Result<Response<Body>, ApiError> {
    let gzip = accepts_gzip(&call.headers) && size(entries) > respond::GZIP_FROM;
    let head = head(call, &metadata(revision, end));
    let mut writer = ListWriter::new(Arc::clone(&call.model), Arc::clone(&call.forms), &head, gzip);
    let mut chunks = Vec::new();
    for entry in entries {
        // An unreadable entry is an answer of its own, as long as nothing was sent.
        entry.record().map_err(|error| list_error(call, error))?;
        writer.item(entry).map_err(ApiError::internal)?;
        if writer.is_full() {
            chunks.push(Ok(writer.chunk()));
        }
    }
    chunks.push(Ok(writer.end()));
    Ok(answer(body::stream(futures::stream::iter(chunks)), gzip))
}

fn answer(body: Body, gzip: bool) -> Response<Body> {
    let mut response = respond::plain(StatusCode::OK, Format::Json.media_type(), body);
    if gzip {
        respond::gzip_headers(response.headers_mut());
    }
    response
}

/// Bytes of the entries that can be read.
fn size(entries: &[Entry]) -> usize {
    let json = entries.iter().filter_map(|entry| entry.json().ok());
    json.map(Bytes::len).sum()
}

/// An unlimited plain list: pages go out as they come. It has no continue token, so its metadata is known first.
fn stream(
    call: Call,
    revision: Revision,
    first: Page,
    pages: BoxStream<'static, Result<Page, StorageError>>,
    pretty: bool,
) -> Response<Body> {
    let head = head(&call, &metadata(revision, &ListEnd::default()));
    let gzip = accepts_gzip(&call.headers) && (first.end.is_none() || size(&first.entries) > respond::GZIP_FROM);
    // Indentation is made anew for each answer, so there are no segments of it.
    let writer = ListWriter::new(call.model, call.forms, &head, gzip && !pretty);
    let parts = chunks(writer, first, pages);
    let body = match (pretty, gzip) {
        (false, _) => body::stream(parts),
        (true, false) => body::stream(indented(parts)),
        (true, true) => body::stream(compress(indented(parts))),
    };
    answer(body, gzip)
}

/// The bytes of a list in pieces.
fn chunks(
    writer: ListWriter,
    first: Page,
    pages: BoxStream<'static, Result<Page, StorageError>>,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    struct State {
        writer: ListWriter,
        pages: BoxStream<'static, Result<Page, StorageError>>,
        entries: std::vec::IntoIter<Entry>,
        last_page: bool,
    }
    let state = State {
        writer,
        pages,
        last_page: first.end.is_some(),
        entries: first.entries.into_iter(),
    };
    futures::stream::try_unfold(Some(state), |state| async move {
        let Some(mut state) = state else { return Ok(None) };
        loop {
            for entry in state.entries.by_ref() {
                state.writer.item(&entry)?;
                if state.writer.is_full() {
                    return Ok(Some((state.writer.chunk(), Some(state))));
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
        Ok(Some((state.writer.end(), None)))
    })
}

/// Indents a document as it passes.
fn indented(
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
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
