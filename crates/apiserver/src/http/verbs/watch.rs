//! Watch: one line per event, the records' bytes in a small frame.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use apiserver_registry::{ApiError, Resource, from_watch_error};
use apiserver_resources::table::{self, IncludeObject};
use apiserver_storage_api::time::{Clock, OsRng, jitter};
use apiserver_storage_api::{BoxError, Entry, Event, EventKind, Revision, StorageError, Watch, WatchItem, WatchStart};

use crate::http::body::{self, Body};
use crate::http::negotiate::{Format, Representation, Shape};
use crate::http::options::ListParameters;
use crate::http::respond;
use crate::http::verbs::Call;
use crate::kinds::model::Model;

/// The shortest time that a watch without `timeoutSeconds` lasts; up to twice as long (`apiserver-http/RWAT-11`).
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Bytes of events that go out in one piece.
const CHUNK: usize = 64 * 1024;

pub(crate) async fn watch(call: Call) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(true)?;
    let name = (!call.path.name.is_empty()).then_some(call.path.name.as_str());
    let parameters = ListParameters::parse(&call.query, true, name, &|field| call.model.check_field(field))?;
    let include = match representation.shape {
        Shape::Table(_) => respond::include_object(&call.query)?,
        _ => IncludeObject::Metadata,
    };
    if representation.format != Format::Json {
        let text = "watches are served as application/json;stream=watch only";
        return Err(ApiError::not_acceptable(text));
    }
    let options = parameters.watch_options()?;
    let start = match options.start {
        WatchStart::After(revision) => Some(revision),
        _ => None,
    };
    let watch = match call.resource.watch(&call.context, options).await {
        // Clients look for a version that is too old in the stream; upstream says it there too.
        Err(error) if error.is_expired() => {
            let mut frames = BytesMut::new();
            frame("ERROR", &error.status().to_bytes(), &mut frames);
            let only = futures::stream::once(std::future::ready(Ok(frames.freeze())));
            return Ok(respond::plain(
                StatusCode::OK,
                Format::Json.media_type(),
                body::stream(only),
            ));
        }
        other => other?,
    };
    let timeout = match parameters.timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => MIN_TIMEOUT + jitter(&OsRng, MIN_TIMEOUT / 2),
    };
    let frames = Frames {
        model: Arc::clone(&call.model),
        kind: call.kind.clone(),
        api_version: call.api_version.clone(),
        resource: Arc::clone(&call.resource),
        representation,
        include,
        clock: Arc::clone(call.context.clock()),
        bookmarks: parameters.allow_bookmarks,
        initial_bookmark: parameters.wants_initial_bookmark(),
        columns_sent: false,
        delivered: start,
    };
    metrics::counter!("apiserver_watch_started_total", "resource" => call.path.resource.clone()).increment(1);
    let deadline = call.context.clock().sleep(timeout);
    let chunks = events(watch, frames, deadline, call.draining.clone());
    let mut response = respond::plain(StatusCode::OK, Format::Json.media_type(), body::stream(chunks));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The chunks of a watch: everything that is ready goes out together. Ends cleanly at the deadline, when the store
/// ends the watch and when the server drains.
fn events(
    watch: Watch,
    frames: Frames,
    deadline: futures::future::BoxFuture<'static, ()>,
    draining: CancellationToken,
) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send {
    let state = (watch, frames, deadline, draining, false);
    futures::stream::unfold(
        state,
        |(mut watch, mut frames, mut deadline, draining, ended)| async move {
            if ended {
                return None;
            }
            let mut buffer = BytesMut::new();
            let mut ended = false;
            loop {
                let item = if buffer.is_empty() {
                    tokio::select! {
                        biased;
                        () = draining.cancelled() => None,
                        () = &mut deadline => {
                            // A last bookmark lets the client go on from here, however little happened.
                            frames.last_bookmark(&mut buffer);
                            None
                        }
                        item = watch.next() => item,
                    }
                } else {
                    match futures::poll!(watch.next()) {
                        std::task::Poll::Ready(item) => item,
                        std::task::Poll::Pending => break,
                    }
                };
                ended = match item {
                    None => true,
                    Some(Ok(item)) => frames.write(item, &mut buffer),
                    Some(Err(error)) => {
                        frames.error(&frames.api_error(error), &mut buffer);
                        true
                    }
                };
                if ended || buffer.len() >= CHUNK {
                    break;
                }
            }
            if buffer.is_empty() && ended {
                return None;
            }
            Some((Ok(buffer.freeze()), (watch, frames, deadline, draining, ended)))
        },
    )
}

/// Writes the frames of one watch.
struct Frames {
    model: Arc<dyn Model>,
    kind: String,
    api_version: String,
    resource: Arc<dyn Resource>,
    representation: Representation,
    include: IncludeObject,
    clock: Arc<dyn Clock>,
    bookmarks: bool,
    initial_bookmark: bool,
    columns_sent: bool,
    /// Everything up to here was delivered.
    delivered: Option<Revision>,
}

impl Frames {
    /// Writes an item; true where the watch ends with it.
    fn write(&mut self, item: WatchItem, out: &mut BytesMut) -> bool {
        match item {
            WatchItem::Initial(entries) => entries.iter().any(|entry| self.entry("ADDED", entry, out)),
            WatchItem::InitialEnd(revision) => {
                self.delivered = Some(revision);
                if std::mem::take(&mut self.initial_bookmark) {
                    self.bookmark(revision, true, out);
                }
                false
            }
            WatchItem::Batch(batch) => {
                self.delivered = Some(batch.revision);
                batch.events.iter().any(|event| self.event(event, out))
            }
            WatchItem::Progress(revision) => {
                self.delivered = Some(revision);
                if self.bookmarks {
                    self.bookmark(revision, false, out);
                }
                false
            }
            _ => false,
        }
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) -> bool {
        let kind = match event.kind {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        };
        match &event.object {
            Some(entry) => self.entry(kind, entry, out),
            None => {
                // The store lost the last state: the client learns that something went, not what.
                let text = format!("the last state of {} is not known", event.key);
                self.error(&ApiError::internal(text), out);
                true
            }
        }
    }

    /// Writes one object; an unreadable one is named and ends the watch (`storage-api/WATCH-32`).
    fn entry(&mut self, kind: &str, entry: &Entry, out: &mut BytesMut) -> bool {
        let json = match entry.json() {
            Ok(json) => self.model.served(json),
            Err(error) => Err(self.api_error(error)),
        };
        let shown = json.and_then(|json| match self.representation.shape {
            Shape::Plain => Ok(json),
            shape => self.shaped(&json, shape),
        });
        match shown {
            Ok(json) => {
                frame(kind, &json, out);
                false
            }
            Err(error) => {
                self.error(&error, out);
                true
            }
        }
    }

    fn shaped(&mut self, json: &Bytes, shape: Shape) -> Result<Bytes, ApiError> {
        let value: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
        Ok(match shape {
            Shape::Table(version) => self.table(&value, version, self.clock.now()),
            Shape::Metadata(version) | Shape::MetadataList(version) => {
                respond::to_bytes(&table::partial_object_metadata(&value, version))
            }
            Shape::Plain => json.clone(),
        })
    }

    fn table(&mut self, object: &Value, version: &str, now: SystemTime) -> Bytes {
        let columns = (!std::mem::replace(&mut self.columns_sent, true)).then(|| self.model.columns());
        let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
        let row = respond::row(object, &*self.model, version, self.include, now);
        respond::to_bytes(&table::table(version, metadata, columns, vec![row]))
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool, out: &mut BytesMut) {
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if let (true, Some(metadata)) = (initial_end, metadata.as_object_mut()) {
            metadata.insert("annotations".into(), json!({ "k8s.io/initial-events-end": "true" }));
        }
        let object = json!({ "kind": self.kind, "apiVersion": self.api_version, "metadata": metadata });
        let json = match self.representation.shape {
            Shape::Plain => respond::to_bytes(&object),
            Shape::Table(version) => {
                // The row keeps its metadata whatever the client includes (`apiserver-http/TABH-10`).
                let columns = (!std::mem::replace(&mut self.columns_sent, true)).then(|| self.model.columns());
                let row = json!({
                    "cells": self.model.cells(&object, self.clock.now()),
                    "object": table::partial_object_metadata(&object, version),
                });
                let metadata = json!({ "resourceVersion": revision.to_string() });
                respond::to_bytes(&table::table(version, metadata, columns, vec![row]))
            }
            Shape::Metadata(version) | Shape::MetadataList(version) => {
                respond::to_bytes(&table::partial_object_metadata(&object, version))
            }
        };
        frame("BOOKMARK", &json, out);
    }

    fn last_bookmark(&mut self, out: &mut BytesMut) {
        if let (true, Some(revision)) = (self.bookmarks, self.delivered) {
            self.bookmark(revision, false, out);
        }
    }

    fn error(&self, error: &ApiError, out: &mut BytesMut) {
        frame("ERROR", &error.status().to_bytes(), out);
    }

    fn api_error(&self, error: StorageError) -> ApiError {
        from_watch_error(error, self.resource.info())
    }
}

fn frame(kind: &str, object: &[u8], out: &mut BytesMut) {
    out.reserve(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object.trim_ascii_end());
    out.extend_from_slice(b"}\n");
}
