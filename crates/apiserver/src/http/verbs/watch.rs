//! Watch: one frame per event around what is shown of its object, which is made once for all watchers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use apiserver_registry::{ApiError, from_watch_error};
use apiserver_resources::table::{self, IncludeObject};
use apiserver_resources::types::Gvk;
use apiserver_resources::wire::protobuf;
use apiserver_storage_api::time::{Clock, OsRng, jitter};
use apiserver_storage_api::{
    BoxError, Entry, Event, EventKind, ResourceInfo, Revision, StorageError, Watch, WatchItem, WatchStart,
};

use crate::http::body::{self, Body};
use crate::http::list_writer::derived::{Derived, Shown, View, publish};
use crate::http::negotiate::{Format, Representation, Shape};
use crate::http::options::ListParameters;
use crate::http::respond;
use crate::http::verbs::Call;
use crate::kinds::model::timestamp;

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
    let media_type = match representation.format {
        Format::Json => Format::Json.media_type(),
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        // deviates: apiserver-http/RWAT-15: no client reads a stream of YAML documents; one that asks for it is told.
        Format::Yaml => {
            let text = "watches are served as application/json;stream=watch and, where the kind has that form, as \
                        application/vnd.kubernetes.protobuf;stream=watch";
            return Err(ApiError::not_acceptable(text));
        }
    };
    let timeout = match parameters.timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => MIN_TIMEOUT + jitter(&OsRng, MIN_TIMEOUT / 2),
    };
    let mut options = parameters.watch_options()?;
    options.deadline = Some(timeout);
    let start = match options.start {
        WatchStart::After(revision) => Some(revision),
        _ => None,
    };
    let mut frames = Frames::new(&call, representation, include);
    frames.bookmarks = parameters.allow_bookmarks;
    frames.initial_bookmark = parameters.wants_initial_bookmark();
    frames.delivered = start;
    let watch = match call.resource.watch(&call.context, options).await {
        // Clients look for a version that is too old in the stream; upstream says it there too.
        Err(error) if error.is_expired() => {
            let mut only = Vec::new();
            frames.error(&error, &mut only);
            let only = futures::stream::once(std::future::ready(Ok(only.into())));
            return Ok(respond::plain(StatusCode::OK, media_type, body::stream(only)));
        }
        other => other?,
    };
    metrics::counter!("apiserver_watch_started_total", "resource" => call.path.resource.clone()).increment(1);
    let deadline = call.context.clock().sleep(timeout);
    let chunks = events(watch, frames, deadline, call.draining.clone());
    let mut response = respond::plain(StatusCode::OK, media_type, body::stream(chunks));
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
            let mut buffer = Vec::new();
            let mut ended = false;
            loop {
                let item = if buffer.is_empty() {
                    tokio::select! {
                        biased;
                        // A last bookmark lets the client go on from here, however little happened.
                        () = draining.cancelled() => {
                            frames.last_bookmark(&mut buffer);
                            None
                        }
                        () = &mut deadline => {
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
            frames.publish();
            Some((Ok(buffer.into()), (watch, frames, deadline, draining, ended)))
        },
    )
}

/// Writes the frames of one watch.
struct Frames {
    derived: Derived,
    info: ResourceInfo,
    /// What a bookmark is: the kind without content.
    kind: String,
    api_version: String,
    shape: Shape,
    /// What envelopes begin with, in protobuf.
    envelope: Vec<u8>,
    clock: Arc<dyn Clock>,
    bookmarks: bool,
    initial_bookmark: bool,
    columns_sent: bool,
    /// Everything up to here was delivered.
    delivered: Option<Revision>,
    /// Forms that had to be made, and those of them that were published.
    made: usize,
    published: usize,
}

impl Frames {
    fn new(call: &Call, representation: Representation, include: IncludeObject) -> Self {
        let view = View::of(representation, include);
        let envelope = match representation.shape {
            Shape::Plain => protobuf::envelope_head(Gvk::of(&call.api_version, &call.kind)),
            Shape::Table(version) | Shape::Metadata(version) | Shape::MetadataList(version) => {
                protobuf::envelope_head(Gvk::new("meta.k8s.io", version, "PartialObjectMetadata"))
            }
        };
        Self {
            derived: Derived {
                model: Arc::clone(&call.model),
                forms: Arc::clone(&call.forms),
                view,
            },
            info: call.resource.info().clone(),
            kind: call.kind.clone(),
            api_version: call.api_version.clone(),
            shape: representation.shape,
            envelope,
            clock: Arc::clone(call.context.clock()),
            bookmarks: false,
            initial_bookmark: false,
            columns_sent: false,
            delivered: None,
            made: 0,
            published: 0,
        }
    }

    /// Writes an item; true where the watch ends with it.
    fn write(&mut self, item: WatchItem, out: &mut Vec<u8>) -> bool {
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

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> bool {
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
    fn entry(&mut self, kind: &str, entry: &Entry, out: &mut Vec<u8>) -> bool {
        let shown = match entry.record() {
            Ok(_) => self.derived.show(entry, &mut self.made),
            Err(error) => Err(self.api_error(error)),
        };
        match shown {
            Ok(Shown::Bytes(message)) if self.derived.view.is_protobuf() => {
                protobuf::write_watch_frame(kind, &self.envelope, &message, out);
            }
            Ok(Shown::Bytes(json)) => frame(kind, &json, out),
            Ok(Shown::Row(row)) => {
                let now = timestamp(self.clock.now());
                self.table(kind, entry.revision(), row.text_len(), out, |out| row.write(now, out));
            }
            Err(error) => {
                self.error(&error, out);
                return true;
            }
        }
        false
    }

    /// Writes a Table of one row, with the columns in the first one only.
    fn table(
        &mut self,
        kind: &str,
        revision: Revision,
        size: usize,
        out: &mut Vec<u8>,
        row: impl FnOnce(&mut Vec<u8>),
    ) {
        let Shape::Table(version) = self.shape else { return };
        out.reserve(size + 256);
        begin_frame(kind, out);
        if std::mem::replace(&mut self.columns_sent, true) {
            // As below, written out: this is most of what a watcher costs.
            for part in [
                "{\"apiVersion\":\"meta.k8s.io/",
                version,
                "\",\"columnDefinitions\":null,\"kind\":\"Table\",\"metadata\":{\"resourceVersion\":\"",
                &revision.to_string(),
                "\"},\"rows\":[",
            ] {
                out.extend_from_slice(part.as_bytes());
            }
        } else {
            let (columns, metadata) = (
                Some(self.derived.model.columns()),
                json!({ "resourceVersion": revision.to_string() }),
            );
            let empty = respond::to_bytes(&table::table(version, metadata, columns, Vec::new()));
            // The rows come last.
            out.extend_from_slice(empty.strip_suffix(b"]}").unwrap_or(&empty));
        }
        row(out);
        out.extend_from_slice(b"]}}\n");
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if let (true, Some(metadata)) = (initial_end, metadata.as_object_mut()) {
            metadata.insert("annotations".into(), json!({ "k8s.io/initial-events-end": "true" }));
        }
        let object = json!({ "kind": self.kind, "apiVersion": self.api_version, "metadata": metadata });
        let kind = "BOOKMARK";
        match self.shape {
            Shape::Plain if self.derived.view.is_protobuf() => {
                let message = self.derived.model.message(&object).unwrap_or_default();
                protobuf::write_watch_frame(kind, &self.envelope, &message, out);
            }
            Shape::Plain => frame(kind, &respond::to_bytes(&object), out),
            Shape::Table(version) => {
                // The row keeps its metadata whatever the client includes (`apiserver-http/TABH-10`).
                let row = respond::to_bytes(&json!({
                    "cells": respond::cells(&object, &*self.derived.model, self.clock.now()),
                    "object": table::partial_object_metadata(&object, version),
                }));
                self.table(kind, revision, row.len(), out, |out| out.extend_from_slice(&row));
            }
            Shape::Metadata(_) | Shape::MetadataList(_) if self.derived.view.is_protobuf() => {
                // Nothing but texts is in there, so it has a message.
                let message = protobuf::encode_metadata(&object).unwrap_or_default();
                protobuf::write_watch_frame(kind, &self.envelope, &message, out);
            }
            Shape::Metadata(version) | Shape::MetadataList(version) => {
                let metadata = table::partial_object_metadata(&object, version);
                frame(kind, &respond::to_bytes(&metadata), out);
            }
        }
    }

    fn last_bookmark(&mut self, out: &mut Vec<u8>) {
        if let (true, Some(revision)) = (self.bookmarks, self.delivered) {
            self.bookmark(revision, false, out);
        }
    }

    fn error(&self, error: &ApiError, out: &mut Vec<u8>) {
        if !self.derived.view.is_protobuf() {
            return frame("ERROR", &error.status().to_bytes(), out);
        }
        let gvk = Gvk::new("", "v1", "Status");
        let status: Value = error.to_status_json();
        let message = protobuf::encode_message(gvk, &status).unwrap_or_default();
        protobuf::write_watch_frame("ERROR", &protobuf::envelope_head(gvk), &message, out);
    }

    fn api_error(&self, error: StorageError) -> ApiError {
        from_watch_error(error, &self.info)
    }

    /// Publishes what was made, if anything was.
    fn publish(&mut self) {
        if self.made != self.published {
            self.published = self.made;
            publish(&self.derived.forms);
        }
    }
}

fn begin_frame(kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

fn frame(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    out.reserve(object.len() + 40);
    begin_frame(kind, out);
    out.extend_from_slice(object.trim_ascii_end());
    out.extend_from_slice(b"}\n");
}
