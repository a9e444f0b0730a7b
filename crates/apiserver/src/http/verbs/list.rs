//! List: what records are shown as, joined and streamed; nothing is decoded that was decoded for somebody before.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use apiserver_registry::{ApiError, from_list_error, unreadable_entries};
use apiserver_resources::table::{self, IncludeObject};
use apiserver_resources::types::Gvk;
use apiserver_resources::wire::protobuf::{ListFrame, item_prefix};
use apiserver_storage_api::codec::json::write_string;
use apiserver_storage_api::{BoxError, Entry, ListEnd, OnUnreadable, Page, Revision, StorageError};

use crate::http::body::{self, Body};
use crate::http::list_writer::derived::{Derived, Shown, View, no_protobuf};
use crate::http::list_writer::{Frame, ListWriter, MADE_AT_ONCE};
use crate::http::negotiate::{Format, Shape, accepts_gzip};
use crate::http::options::ListParameters;
use crate::http::pretty::Indenter;
use crate::http::respond;
use crate::http::verbs::Call;

/// Bytes that are gathered before they go out.
const CHUNK: usize = 128 * 1024;
/// So many bytes of a list are read before its answer begins: a list that is not longer is refused by a Status where
/// something of it cannot be read, and only a longer one may break off.
const READ_AHEAD: usize = 4 * 1024 * 1024;
/// Bytes of messages that are kept from when they were measured until they are sent; others are looked up again.
const KEPT: usize = 8 * 1024 * 1024;
/// The most unreadable objects that are named, and one more to say that there are more.
const NAMED: usize = 101;

type Pages = BoxStream<'static, Result<Page, StorageError>>;

pub(crate) async fn list(call: Call) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    if let Shape::Metadata(_) = representation.shape {
        return Err(ApiError::not_acceptable(format!(
            "you requested PartialObjectMetadata, but the requested object is a list ({})",
            call.list_kind
        )));
    }
    let parameters = ListParameters::parse(&call.query, false, None, &|field| call.model.check_field(field))?;
    let include = match representation.shape {
        Shape::Table(_) => respond::include_object(&call.query)?,
        _ => IncludeObject::Metadata,
    };
    let mut options = parameters.list_options()?;
    options.unreadable = OnUnreadable::Include;
    let paged = options.limit.is_some();
    let list = call.resource.list(&call.context, options).await?;
    let revision = list.revision();
    let mut pages = list.into_pages();
    // The metadata of a page, the length of a message and YAML are known when everything is.
    let json = representation.format == Format::Json;
    let enough = if json && !paged { READ_AHEAD } else { usize::MAX };
    let read = Read::begin(&call, &mut pages, enough).await?;
    let view = View::of(representation, include);
    let derived = Derived {
        model: Arc::clone(&call.model),
        forms: Arc::clone(&call.forms),
        view,
    };
    if view.is_protobuf() {
        return in_protobuf(&call, derived, representation.shape, revision, read).await;
    }
    let metadata = metadata(revision, read.end.as_ref().unwrap_or(&ListEnd::default()));
    let frame = frame(&call, view, &metadata);
    if !json {
        // A document of a person's size.
        let now = call.context.clock().now();
        let mut writer = ListWriter::new(derived, frame, now, false);
        for entry in &read.entries {
            writer.item(entry).map_err(ApiError::internal)?;
        }
        let document = writer.end();
        return Ok(respond::document(
            StatusCode::OK,
            &document,
            representation,
            &call.headers,
        ));
    }
    streamed(&call, derived, frame, read, pages, representation.pretty)
}

fn list_error(call: &Call, error: StorageError) -> ApiError {
    from_list_error(error, call.resource.info())
}

/// What was read of a list before its answer begins. Everything of it can be read.
struct Read {
    entries: Vec<Entry>,
    /// Bytes of the entries.
    size: usize,
    /// How the list ends, where its end was reached.
    end: Option<ListEnd>,
}

impl Read {
    /// Reads pages until there is enough.
    async fn begin(call: &Call, pages: &mut Pages, enough: usize) -> Result<Self, ApiError> {
        let mut read = Self {
            entries: Vec::new(),
            size: 0,
            end: None,
        };
        while read.size < enough {
            let Some(page) = pages.next().await else {
                read.end = Some(ListEnd::default());
                break;
            };
            let mut page = page.map_err(|error| list_error(call, error))?;
            for entry in &page.entries {
                match entry.json() {
                    Ok(json) => read.size += json.len(),
                    Err(_) => {
                        drop(read);
                        return Err(unreadable(call, page, pages).await);
                    }
                }
            }
            if read.entries.is_empty() {
                read.entries = page.entries;
            } else {
                read.entries.append(&mut page.entries);
            }
            read.end = page.end;
            if read.end.is_some() {
                break;
            }
        }
        Ok(read)
    }

    /// Whether the answer is longer than this. Of what is not only the records' bytes no more is made than tells.
    fn exceeds(&self, limit: usize, derived: &Derived) -> Result<bool, ApiError> {
        if self.end.is_none() || derived.view == View::Json {
            return Ok(self.end.is_none() || self.size > limit);
        }
        let mut size = 0;
        for entry in &self.entries {
            size += derived.show(entry, &mut 0)?.len();
            if size > limit {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The answer of a list with objects that cannot be read: names them, up to a number. Of the others nothing is kept.
async fn unreadable(call: &Call, first: Page, pages: &mut Pages) -> ApiError {
    let mut named: Vec<Entry> = Vec::new();
    let mut page = first;
    loop {
        let unreadable = page
            .entries
            .into_iter()
            .filter(|entry| entry.unreadable_reason().is_some());
        named.extend(unreadable.take(NAMED - named.len()));
        if page.end.is_some() || named.len() == NAMED {
            break;
        }
        page = match pages.next().await {
            Some(Ok(page)) => page,
            // What is known is worth more than what went wrong while looking for more.
            Some(Err(error)) => {
                tracing::warn!(%error, "a list with unreadable objects could not be read to its end");
                break;
            }
            None => break,
        };
    }
    unreadable_entries(&named, call.resource.info())
        .unwrap_or_else(|| ApiError::internal("objects of the list cannot be read"))
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

/// What stands around the items in JSON.
fn frame(call: &Call, view: View, metadata: &Value) -> Frame {
    let (empty, items) = match view {
        View::Row(version, _) => {
            let columns = Some(call.model.columns());
            let empty = table::table(version, metadata.clone(), columns, Vec::new());
            (respond::to_bytes(&empty), "\"rows\":[")
        }
        View::Metadata(version) => {
            let empty = table::partial_object_metadata_list(metadata.clone(), [], version);
            (respond::to_bytes(&empty), "\"items\":[")
        }
        View::Json | View::Protobuf | View::MetadataProtobuf => {
            return Frame {
                head: head(call, metadata),
                tail: b"]}\n".to_vec(),
            };
        }
    };
    // Behind the columns, whose texts come from definitions, there is nothing that could look like the items.
    let at = empty
        .windows(items.len())
        .rposition(|window| window == items.as_bytes())
        .map_or(empty.len(), |at| at + items.len());
    let (head, tail) = empty.split_at(at);
    Frame {
        head: head.to_vec(),
        tail: [tail, b"\n"].concat(),
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

/// A plain list in one document.
pub(super) fn whole(call: &Call, revision: Revision, entries: &[Entry], end: &ListEnd) -> Result<Bytes, ApiError> {
    let derived = Derived {
        model: Arc::clone(&call.model),
        forms: Arc::clone(&call.forms),
        view: View::Json,
    };
    let mut out = head(call, &metadata(revision, end));
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        entry.record().map_err(|error| list_error(call, error))?;
        out.extend_from_slice(&derived.json(entry)?);
    }
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

/// A list in JSON, sent as its pages come.
fn streamed(
    call: &Call,
    derived: Derived,
    frame: Frame,
    read: Read,
    pages: Pages,
    pretty: bool,
) -> Result<Response<Body>, ApiError> {
    let gzip = accepts_gzip(&call.headers) && read.exceeds(respond::GZIP_FROM, &derived)?;
    // Indentation is made anew for each answer, so there are no segments of it.
    let now = call.context.clock().now();
    let writer = ListWriter::new(derived, frame, now, gzip && !pretty);
    let parts = chunks(
        writer,
        read.entries.into_iter().map(Item::Entry),
        pages,
        read.end.is_some(),
    );
    let body = match (pretty, gzip) {
        (false, _) => body::stream(parts),
        (true, false) => body::stream(indented(parts)),
        (true, true) => body::stream(compress(indented(parts))),
    };
    Ok(answer(Format::Json, body, gzip))
}

/// A list as one message. Its length stands at its beginning, so all items are measured before the first one goes out.
async fn in_protobuf(
    call: &Call,
    derived: Derived,
    shape: Shape,
    revision: Revision,
    read: Read,
) -> Result<Response<Body>, ApiError> {
    let end = read.end.unwrap_or_default();
    let mut items = Vec::with_capacity(read.entries.len());
    let (mut length, mut kept, mut made) = (0, 0, 0);
    for entry in read.entries {
        let shown = derived.show(&entry, &mut made)?;
        length += item_prefix(shown.len()).len() + shown.len();
        items.push(if kept + shown.len() <= KEPT {
            kept += shown.len();
            Item::Measured(entry, shown.len(), Some(shown))
        } else {
            Item::Measured(entry, shown.len(), None)
        });
        if made >= MADE_AT_ONCE {
            made = 0;
            tokio::task::yield_now().await;
        }
    }
    let gvk = match shape {
        Shape::MetadataList(version) | Shape::Metadata(version) | Shape::Table(version) => {
            Gvk::new("meta.k8s.io", version, "PartialObjectMetadataList")
        }
        Shape::Plain => Gvk::of(&call.api_version, &call.list_kind),
    };
    let frame = ListFrame::new(gvk, &metadata(revision, &end), length).map_err(|_| no_protobuf())?;
    let gzip = accepts_gzip(&call.headers) && length + frame.head.len() > respond::GZIP_FROM;
    let frame = Frame {
        head: frame.head,
        tail: frame.tail,
    };
    let writer = ListWriter::new(derived, frame, call.context.clock().now(), gzip);
    let nothing_more = futures::stream::empty().boxed();
    let body = body::stream(chunks(writer, items.into_iter(), nothing_more, true));
    Ok(answer(Format::Protobuf, body, gzip))
}

fn answer(format: Format, body: Body, gzip: bool) -> Response<Body> {
    let mut response = respond::plain(StatusCode::OK, format.media_type(), body);
    if gzip {
        respond::gzip_headers(response.headers_mut());
    }
    response
}

/// An item to be written.
enum Item {
    Entry(Entry),
    /// Its length is promised already; what is shown of it may be at hand.
    Measured(Entry, usize, Option<Shown>),
}

impl Item {
    fn write(self, writer: &mut ListWriter) -> Result<(), BoxError> {
        let (entry, length, shown) = match self {
            Self::Entry(entry) => return writer.item(&entry),
            Self::Measured(entry, length, shown) => (entry, length, shown),
        };
        writer.measured(&entry, length, shown)
    }
}

/// The bytes of a list in pieces.
fn chunks(
    writer: ListWriter,
    first: impl Iterator<Item = Item> + Send + 'static,
    pages: Pages,
    complete: bool,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    struct State<I> {
        writer: ListWriter,
        first: I,
        pages: Pages,
        entries: std::vec::IntoIter<Entry>,
        last_page: bool,
    }
    let state = State {
        writer,
        first,
        pages,
        entries: Vec::new().into_iter(),
        last_page: complete,
    };
    futures::stream::try_unfold(Some(state), |state| async move {
        let Some(mut state) = state else { return Ok(None) };
        loop {
            for item in state.first.by_ref().chain(state.entries.by_ref().map(Item::Entry)) {
                // The answer has begun: all that is left is to break it off. The log names the object.
                item.write(&mut state.writer)
                    .inspect_err(|error| tracing::error!(%error, "a list breaks off"))?;
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
