//! Bodies of answers: bytes that are there, or a stream of them; and the bounded reading of bodies of requests.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;

use apiserver_registry::ApiError;
use apiserver_storage_api::BoxError;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The largest body of a request, in bytes (`apiserver-http/BODY-01`).
pub(crate) const MAX_REQUEST: usize = 3 * 1024 * 1024;

/// A body that is there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without bytes.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is made as it is sent. An error resets the stream: the client sees a broken answer, not a short one.
pub(crate) fn stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Reads the body of a request, at most [`MAX_REQUEST`] bytes whatever Content-Length says.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("error reading request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = first.as_ref().map_or(0, Bytes::len) + more.len() + data.len();
        if size > MAX_REQUEST {
            return Err(ApiError::request_entity_too_large(format!("limit is {MAX_REQUEST}")));
        }
        // Most bodies come in one frame and need no copy.
        match &first {
            None => first = Some(data),
            Some(_) => more.extend_from_slice(&data),
        }
    }
    Ok(match first {
        None => Bytes::new(),
        Some(first) if more.is_empty() => first,
        Some(first) => {
            let mut all = BytesMut::with_capacity(first.len() + more.len());
            all.extend_from_slice(&first);
            all.extend_from_slice(&more);
            all.freeze()
        }
    })
}
