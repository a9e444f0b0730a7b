//! One connection to a member, and the calls on it: gRPC as it is, straight over HTTP/2.
//!
//! Each call opens its stream itself, in the task of its caller; only reading and writing the socket is left to a task of
//! its own. A general client has three more tasks and queues in between (for balancing, for other versions of HTTP, for
//! bodies of any kind), which cost a small call more than all the rest of it
//! (`docs/decisions/0008-calls-go-straight-over-http2.md`).
//!
//! A connection is made when somebody needs it, once for all who do, and made anew when it is gone. A call that is
//! dropped resets its stream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, WeakShared};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, StatusCode, Version};
use parking_lot::Mutex;
use percent_encoding::percent_decode;
use prost::Message;
use tonic::{Code, Status};

use apiserver_storage_api::BoxError;

use crate::connect::{Connector, Heard, Line};
use crate::tls::Reach;

/// Bytes before each message: whether it is compressed, and its length.
pub(crate) const HEAD: usize = 5;
/// Room for what came in pieces is made at once up to here; beyond it, as it comes.
pub(crate) const RESERVED: usize = 4 << 20;

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
const TOKEN: HeaderName = HeaderName::from_static("token");
const LEADER: HeaderName = HeaderName::from_static("hasleader");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Those of a request, and a token.
const HEADERS: usize = 5;

/// A connection to a member, and how to make it.
pub(crate) struct Transport {
    connector: Connector,
    /// Where to, and as what.
    dial: Uri,
    origin: Uri,
    windows: Windows,
    keepalive: Keepalive,
    state: Mutex<State>,
}

/// Bytes that may be on their way here before they are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) stream: u32,
    pub(crate) connection: u32,
}

/// When a server that says nothing is asked for a sign of life, and how long it has for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepalive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

enum State {
    None,
    /// Whoever waits for it drives it, so that one that nobody waits for any more is no more.
    Dialing(WeakShared<Dial>),
    Open(Open),
}

type Dial = BoxFuture<'static, Result<Open, Arc<NotSent>>>;

#[derive(Clone)]
struct Open {
    /// Tells this connection from those before and after it.
    mark: Arc<()>,
    requests: SendRequest<Bytes>,
}

/// Why a request surely did nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotSent(#[source] BoxError);

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("dial", &self.dial)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Touches no network.
    pub(crate) fn new(reach: &Reach, connector: Connector, windows: Windows, keepalive: Keepalive) -> Self {
        Self {
            connector,
            dial: reach.dial.clone(),
            origin: reach.origin.clone(),
            windows,
            keepalive,
            state: Mutex::new(State::None),
        }
    }

    // concerns: storage-etcd3/RCLI-08: all calls ask for a leader: a member without one says so at once, and the next one
    // is tried.
    /// Sends a request of one message, and awaits the begin of the answer.
    ///
    /// Fails with the server's status if that is all of the answer, and with one whose source is [`NotSent`] if nothing
    /// was sent.
    pub(crate) async fn call(
        &self,
        path: &'static str,
        token: Option<HeaderValue>,
        message: &impl Message,
    ) -> Result<Answer, Status> {
        let message = framed(message)?;
        let mut requests = self.requests().await?;
        let (answer, mut body) = requests
            .send_request(self.request(path, token)?, false)
            .map_err(|error| not_sent(error.into()))?;
        // What the server's window has no room for waits in the connection; nothing is copied for that.
        let answer = match body.send_data(message, true) {
            Ok(()) => answer.await,
            // The stream has ended between the two, and its end says more: an answer, or that the call was refused.
            Err(error) => answer.now_or_never().unwrap_or(Err(error)),
        };
        let (head, body) = answer.map_err(failed)?.into_parts();
        // An answer without a message has its status here.
        match status_of(&head.headers) {
            good @ (Some(Ok(())) | None) if head.status == StatusCode::OK => Ok(Answer {
                body,
                rest: Bytes::new(),
                good: good.is_some(),
            }),
            Some(Err(status)) => Err(status),
            _ => Err(Status::new(
                code_of(head.status),
                format!("HTTP status {}", head.status),
            )),
        }
    }

    fn request(&self, path: &'static str, token: Option<HeaderValue>) -> Result<Request<()>, Status> {
        let mut uri = self.origin.clone().into_parts();
        uri.path_and_query = Some(PathAndQuery::from_static(path));
        let mut headers = HeaderMap::with_capacity(HEADERS);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(LEADER, HeaderValue::from_static("true"));
        if let Some(token) = token {
            headers.insert(TOKEN, token);
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| not_sent(error.into()))?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// A connection that takes a request now.
    async fn requests(&self) -> Result<SendRequest<Bytes>, Status> {
        let open = self.open().await?;
        match open.requests.ready().await {
            Ok(requests) => return Ok(requests),
            // It is gone since somebody last used it.
            Err(_) => self.forget(&open.mark),
        }
        let open = self.open().await?;
        let ready = open.requests.ready().await;
        ready.map_err(|error| {
            self.forget(&open.mark);
            not_sent(error.into())
        })
    }

    async fn open(&self) -> Result<Open, Status> {
        let dial = {
            let mut state = self.state.lock();
            match &*state {
                State::Open(open) => return Ok(open.clone()),
                State::Dialing(dial) => dial.upgrade(),
                State::None => None,
            }
            .unwrap_or_else(|| {
                let dial = self.dial().shared();
                // There is one: it is not polled yet.
                *state = dial.downgrade().map_or(State::None, State::Dialing);
                dial
            })
        };
        let made = dial.clone().await;
        {
            let mut state = self.state.lock();
            if matches!(&*state, State::Dialing(other) if other.upgrade().is_some_and(|other| other.ptr_eq(&dial))) {
                *state = match &made {
                    Ok(open) => State::Open(open.clone()),
                    Err(_) => State::None,
                };
            }
        }
        made.map_err(not_sent_because)
    }

    fn forget(&self, mark: &Arc<()>) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Open(open) if Arc::ptr_eq(&open.mark, mark)) {
            *state = State::None;
        }
    }

    fn dial(&self) -> Dial {
        let (line, Windows { stream, connection }) = (self.connector.connect(self.dial.clone()), self.windows);
        let keepalive = self.keepalive;
        let dial = async move {
            let line = line.await?;
            let heard = line.heard();
            let mut builder = h2::client::Builder::new();
            builder
                .enable_push(false)
                .initial_window_size(stream)
                .initial_connection_window_size(connection);
            let (requests, connection) = builder.handshake(line).await?;
            tokio::spawn(drive(connection, keepalive, heard));
            Ok(Open {
                mark: Arc::default(),
                requests,
            })
        };
        dial.map(|made| made.map_err(|error: BoxError| Arc::new(NotSent(error))))
            .boxed()
    }
}

/// Reads and writes a connection until it ends, or nobody uses it any more, or the server shows no sign of life. What
/// waits on it then fails.
async fn drive(mut connection: Connection<Line, Bytes>, keepalive: Keepalive, heard: Arc<Heard>) {
    let pings = connection.ping_pong();
    let silence = async {
        match pings {
            Some(pings) => silence(pings, keepalive, &heard).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        end = connection => if let Err(error) = end {
            tracing::debug!(%error, "a connection to etcd ended");
        },
        () = silence => tracing::debug!("a connection to etcd ended: no sign of life"),
    }
}

/// Ends when a server that was silent for a while does not answer a ping either.
async fn silence(mut pings: PingPong, keepalive: Keepalive, heard: &Heard) {
    loop {
        tokio::time::sleep(keepalive.interval).await;
        if heard.since_ping() {
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            // The connection is ending by itself.
            return std::future::pending().await;
        }
        loop {
            let pong = std::future::poll_fn(|context| pings.poll_pong(context));
            match tokio::time::timeout(keepalive.timeout, pong).await {
                Ok(Ok(_)) => break,
                Ok(Err(_)) => return std::future::pending().await,
                // The answer stands behind much that comes slowly.
                Err(_) if heard.since_ping() => {}
                Err(_) => return,
            }
        }
    }
}

/// An answer that has begun. Its stream is reset when it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Answer {
    body: RecvStream,
    /// What came and is of the next message.
    rest: Bytes,
    /// Its head says already that it ends well, as one without messages does.
    good: bool,
}

impl Answer {
    /// What came next, as it came over the wire; `None` after the end, if that is a good one.
    pub(crate) async fn data(&mut self) -> Result<Option<Bytes>, Status> {
        match self.body.data().await {
            Some(data) => {
                let data = data.map_err(failed)?;
                // An error says that there is nothing to make room for.
                let _ = self.body.flow_control().release_capacity(data.len());
                Ok(Some(data))
            }
            None => {
                let trailers = self.body.trailers().await.map_err(failed)?;
                match trailers.as_ref().and_then(status_of) {
                    Some(status) => status.map(|()| None),
                    None if self.good => Ok(None),
                    None => Err(Status::unknown("an answer without a status")),
                }
            }
        }
    }

    /// The next message; `None` after the last one, if the answer has a good end.
    pub(crate) async fn message<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        let Some(head) = self.exactly(HEAD).await? else {
            return Ok(None);
        };
        let length = length_of(&head).map_err(Status::internal)?;
        let message = self.exactly(length).await?.ok_or_else(cut_short)?;
        let message = A::decode(message).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(message))
    }

    /// The only message.
    pub(crate) async fn only<A: Message + Default>(mut self) -> Result<A, Status> {
        let message = self.message().await?.ok_or_else(cut_short)?;
        match self.exactly(1).await? {
            None => Ok(message),
            Some(_) => Err(Status::internal("more than one message in an answer")),
        }
    }

    /// So many bytes: a slice of what came, where they came together. `None`: the answer ended before the first of them.
    async fn exactly(&mut self, bytes: usize) -> Result<Option<Bytes>, Status> {
        while self.rest.is_empty() && bytes > 0 {
            match self.data().await? {
                Some(data) => self.rest = data,
                None => return Ok(None),
            }
        }
        if self.rest.len() >= bytes {
            return Ok(Some(self.rest.split_to(bytes)));
        }
        let mut whole = BytesMut::with_capacity(bytes.min(RESERVED).max(self.rest.len()));
        whole.extend_from_slice(&std::mem::take(&mut self.rest));
        while whole.len() < bytes {
            let mut data = self.data().await?.ok_or_else(cut_short)?;
            let missing = (bytes - whole.len()).min(data.len());
            whole.extend_from_slice(&data.split_to(missing));
            self.rest = data;
        }
        Ok(Some(whole.freeze()))
    }
}

/// The length of a message, by its head.
pub(crate) fn length_of(head: &[u8]) -> Result<usize, &'static str> {
    match head {
        [0, length @ ..] => {
            let length = length.try_into().map(u32::from_be_bytes);
            let length = length.ok().and_then(|length| usize::try_from(length).ok());
            length.ok_or("the head of a message is none")
        }
        _ => Err("a message is compressed, which nobody asked for"),
    }
}

/// A message as it goes over the wire, in a buffer of just its size.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let bytes = message.encoded_len();
    let length = u32::try_from(bytes).map_err(|_| not_sent("a message of more than 4 GiB".into()))?;
    let mut wire = BytesMut::with_capacity(HEAD + bytes);
    wire.put_u8(0);
    wire.put_u32(length);
    message.encode_raw(&mut wire);
    Ok(wire.freeze())
}

/// What the server says of a call, if it says it here.
fn status_of(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = headers
        .get(GRPC_STATUS)?
        .to_str()
        .ok()
        .and_then(|code| code.parse::<i32>().ok());
    // What is no number is no code that anybody knows.
    let code = code.map_or(Code::Unknown, Code::from);
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = headers
        .get(GRPC_MESSAGE)
        .map(|message| percent_decode(message.as_bytes()));
    let message = message.map(|message| message.decode_utf8_lossy().into_owned());
    Some(Err(Status::new(code, message.unwrap_or_default())))
}

/// What a status of HTTP means, where something else than the server answers
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

fn not_sent(error: BoxError) -> Status {
    not_sent_because(Arc::new(NotSent(error)))
}

fn not_sent_because(error: Arc<NotSent>) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(error);
    status
}

/// A call that was begun broke off.
fn failed(error: h2::Error) -> Status {
    // By RFC 9113 (6.8, 8.7) neither was looked at: a stream that was refused, and one that is younger than the last one
    // that a server on its way down says it will look at.
    let refused = error.reason() == Some(Reason::REFUSED_STREAM) && error.is_remote();
    if refused || (error.is_go_away() && error.is_remote()) {
        return not_sent(error.into());
    }
    // Nobody knows what became of any other, so that it has no code that is taken for an answer of etcd's.
    let code = match error.reason() {
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(_) => Code::Internal,
        None => Code::Unavailable,
    };
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

fn cut_short() -> Status {
    Status::internal("an answer that is cut short")
}

#[cfg(test)]
mod tests;
