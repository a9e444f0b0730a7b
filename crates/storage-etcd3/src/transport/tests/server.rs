//! Servers of HTTP/2 on the loopback that do what a test tells them: one that speaks it well ([`Peer`]), and one that
//! sends frame by frame what no decent server does, or nothing ([`Raw`]).

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::connect::{Connector, Lines};
use crate::tls::{Reach, Security};
use crate::transport::{Keepalive, Transport, Windows};

/// More than any test takes, so that a hang is an error.
const LONG: Duration = Duration::from_secs(60);

pub(super) const WINDOWS: Windows = Windows {
    stream: 1 << 20,
    connection: 4 << 20,
};

/// Never within a test.
pub(super) const KEEPALIVE: Keepalive = Keepalive {
    interval: Duration::from_secs(3600),
    timeout: Duration::from_secs(3600),
};

/// What the server says beside data.
pub(super) type Headers<'a> = &'a [(&'static str, &'a [u8])];

pub(super) const GOOD: Headers<'static> = &[("grpc-status", b"0")];

pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("no hang")
}

/// How to reach a server without TLS.
pub(super) fn plain(address: SocketAddr) -> Reach {
    let uri: Uri = format!("http://{address}").parse().expect("a URI");
    Reach {
        dial: uri.clone(),
        origin: uri,
        security: Security::Plain,
    }
}

pub(super) fn transport(reach: &Reach, lines: &Arc<Lines>, windows: Windows, keepalive: Keepalive) -> Transport {
    let connector = Connector::new(reach.security.clone(), LONG, Arc::clone(lines));
    Transport::new(reach, connector, windows, keepalive)
}

/// Takes connections, in the order in which they were made.
pub(super) struct Server {
    listener: TcpListener,
    /// Of the client: connections are cut when they are dropped.
    lines: Arc<Lines>,
}

impl Server {
    pub(super) async fn bind() -> Self {
        Self::of(TcpListener::bind("127.0.0.1:0").await.expect("a port"), Arc::default())
    }

    pub(super) fn of(listener: TcpListener, lines: Arc<Lines>) -> Self {
        Self { listener, lines }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport_with(WINDOWS, KEEPALIVE)
    }

    pub(super) fn transport_with(&self, windows: Windows, keepalive: Keepalive) -> Transport {
        transport(&plain(self.address()), &self.lines, windows, keepalive)
    }

    pub(super) async fn tcp(&self) -> TcpStream {
        within(self.listener.accept()).await.expect("a connection").0
    }

    pub(super) async fn accept(&self) -> Peer {
        Peer::greet(self.tcp().await, &h2::server::Builder::new()).await
    }

    /// No connection was made but those that were taken.
    pub(super) async fn is_spared(&self) {
        let marker = within(TcpStream::connect(self.address())).await.expect("connected");
        let (_, next) = within(self.listener.accept()).await.expect("a connection");
        assert_eq!(
            next,
            marker.local_addr().expect("an address"),
            "one connection too many"
        );
    }
}

/// The server's side of a connection.
pub(super) struct Peer {
    calls: mpsc::Receiver<Call>,
    go_away: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), h2::Error>>,
}

impl Peer {
    pub(super) async fn greet(stream: TcpStream, builder: &h2::server::Builder) -> Self {
        stream.set_nodelay(true).expect("set");
        let connection = within(builder.handshake(stream)).await.expect("HTTP/2");
        let (sender, calls) = mpsc::channel(1024);
        let (go_away, going) = oneshot::channel();
        Self {
            calls,
            go_away: Some(go_away),
            task: tokio::spawn(serve(connection, sender, going)),
        }
    }

    pub(super) async fn call(&mut self) -> Call {
        within(self.calls.recv()).await.expect("a call on this connection")
    }

    /// Says that it takes no more calls than those that came.
    pub(super) fn go_away(&mut self) {
        let order = self.go_away.take().expect("said once");
        order.send(()).expect("the connection is there");
    }

    /// Closes the connection, whatever is on it.
    pub(super) async fn cut(self) {
        self.task.abort();
        within(self.task).await.expect_err("it was there");
    }

    /// The client closed the connection.
    pub(super) async fn ended(mut self) {
        assert!(within(self.calls.recv()).await.is_none(), "no more calls");
        within(self.task).await.expect("no panic").expect("a good end");
    }

    pub(super) fn is_there(&self) -> bool {
        !self.task.is_finished()
    }
}

async fn serve(
    mut connection: Connection<TcpStream, Bytes>,
    calls: mpsc::Sender<Call>,
    mut going: oneshot::Receiver<()>,
) -> Result<(), h2::Error> {
    let mut asked = false;
    loop {
        tokio::select! {
            call = connection.accept() => match call {
                Some(call) => {
                    let (request, answer) = call?;
                    calls.try_send(Call { request, answer }).expect("room for calls");
                }
                None => return Ok(()),
            },
            order = &mut going, if !asked => {
                asked = true;
                if order.is_ok() {
                    connection.graceful_shutdown();
                }
            }
        }
    }
}

/// A call that came.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request<RecvStream>,
    answer: SendResponse<Bytes>,
}

impl Call {
    /// All of the request.
    pub(super) async fn body(&mut self) -> Vec<u8> {
        let body = self.request.body_mut();
        let mut whole = Vec::new();
        while let Some(data) = within(body.data()).await {
            let data = data.expect("a whole request");
            body.flow_control().release_capacity(data.len()).expect("released");
            whole.extend_from_slice(&data);
        }
        whole
    }

    /// Begins an answer.
    pub(super) fn begin(&mut self, status: u16, head: Headers<'_>, end: bool) -> SendStream<Bytes> {
        let mut response = Response::builder().status(status).body(()).expect("a head");
        *response.headers_mut() = map(head);
        self.answer.send_response(response, end).expect("begun")
    }

    /// Whether the client does not wait for it any more.
    pub(super) fn is_given_up(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.answer.poll_reset(&mut context).is_ready()
    }

    /// Answers with a good head and end, and these frames between them.
    pub(super) fn give<P: Into<Bytes>>(mut self, pieces: impl IntoIterator<Item = P>) {
        let mut stream = self.begin(200, &[], false);
        for piece in pieces {
            stream.send_data(piece.into(), false).expect("sent");
        }
        end(stream, GOOD);
    }

    pub(super) fn reset(mut self, reason: Reason) {
        self.answer.send_reset(reason);
    }

    /// Awaits that the client does not want the answer any more.
    pub(super) async fn given_up(&mut self) -> Reason {
        let reset = poll_fn(|context| self.answer.poll_reset(context));
        within(reset).await.expect("reset by the client")
    }
}

pub(super) fn end(mut stream: SendStream<Bytes>, trailers: Headers<'_>) {
    stream.send_trailers(map(trailers)).expect("sent");
}

fn map(headers: Headers<'_>) -> HeaderMap {
    let headers = headers.iter().map(|(name, value)| {
        let value = HeaderValue::from_bytes(value).expect("a value");
        (HeaderName::from_static(name), value)
    });
    headers.collect()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
/// Flags: of the last frame of a stream, or of an answer to a ping; and of headers that are not continued.
const END: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection whose frames are written by hand.
pub(super) struct Raw(TcpStream);

pub(super) struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    pub(super) async fn greet(mut stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("set");
        let mut preface = [0; 24];
        within(stream.read_exact(&mut preface)).await.expect("a greeting");
        assert_eq!(&preface[..14], b"PRI * HTTP/2.0");
        let mut raw = Self(stream);
        raw.send(SETTINGS, 0, 0, &[]).await;
        raw
    }

    pub(super) async fn frame(&mut self) -> Frame {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.expect("a frame");
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).expect("a small one")];
        within(self.0.read_exact(&mut payload)).await.expect("a whole frame");
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a small one").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        within(self.0.write_all(&frame)).await.expect("sent");
    }

    /// Awaits a whole request. Its stream.
    pub(super) async fn request(&mut self) -> u32 {
        loop {
            let frame = self.frame().await;
            if frame.kind == DATA && frame.flags & END != 0 {
                return frame.stream;
            }
        }
    }

    pub(super) async fn go_away(&mut self, last: u32, reason: Reason) {
        let payload = [last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat();
        self.send(GO_AWAY, 0, 0, &payload).await;
    }

    pub(super) async fn ping(&mut self) {
        self.send(PING, 0, 0, b"are you?").await;
    }

    pub(super) async fn pong(&mut self, ping: &Frame) {
        self.send(PING, END, 0, &ping.payload).await;
    }

    /// Answers a call: `:status 200`, data, `grpc-status 0`.
    pub(super) async fn answer(&mut self, stream: u32, data: &[u8]) {
        self.send(HEADERS, END_HEADERS, stream, &[0x88]).await;
        self.send(DATA, 0, stream, data).await;
        self.send(HEADERS, END_HEADERS | END, stream, b"\x00\x0bgrpc-status\x010")
            .await;
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.0
    }
}

impl Frame {
    pub(super) fn is_ping(&self) -> bool {
        self.kind == PING && self.flags & END == 0
    }
}
