//! Connections, as they are made and as they are cut.
//!
//! Calls and watches ask here for a new connection whenever one is gone. Each TLS connection uses the files as they are at
//! that moment, and all connections to a member that shows no sign of life can be ended from this side. What waits on them
//! then fails, and goes elsewhere, long before keepalive would see it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tower::Service;

use apiserver_storage_api::BoxError;

use crate::tls::Security;

/// Makes the connections of one member.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    security: Security,
    timeout: Duration,
    lines: Arc<Lines>,
}

impl Connector {
    pub(crate) fn new(security: Security, connect_timeout: Duration, lines: Arc<Lines>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        // Shared among the addresses of a name, so that one of them that swallows everything does not use it up.
        tcp.set_connect_timeout(Some(connect_timeout));
        Self {
            tcp,
            security,
            timeout: connect_timeout,
            lines,
        }
    }

    /// A new connection, ready to be used.
    pub(crate) fn connect(&self, uri: Uri) -> BoxFuture<'static, Result<Line, BoxError>> {
        // Known before it is made: what waits for a connection that does not come up can be told, too.
        let (heard, mut cut) = self.lines.open();
        let (mut tcp, security, timeout) = (self.tcp.clone(), self.security.clone(), self.timeout);
        let lines = Arc::clone(&self.lines);
        let dial = async move {
            // Ready at all times.
            let stream = tcp.call(uri).await?.into_inner();
            security.wrap(stream).await
        };
        async move {
            let stream = tokio::select! {
                biased;
                made = tokio::time::timeout(timeout, dial) => made.map_err(|_| too_long())??,
                _ = &mut cut => return Err(no_sign_of_life().into()),
            };
            lines.made.store(true, Ordering::Relaxed);
            Ok(Line { stream, heard, cut })
        }
        .boxed()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Line>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.connect(uri).map_ok(TokioIo::new).boxed()
    }
}

/// The connections of a member that are open or being made.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    open: Mutex<Vec<Entry>>,
    /// One was made since it was last looked: the server behind it may be another one.
    made: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    heard: Arc<Heard>,
    /// Was there at the last mark.
    marked: bool,
    /// Cuts the connection when dropped. Closed when the connection is gone by itself.
    cut: oneshot::Sender<()>,
}

/// Whether something came in on a connection, for each of those who listen.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    since_mark: AtomicBool,
    since_ping: AtomicBool,
}

impl Heard {
    fn note(&self) {
        self.since_mark.store(true, Ordering::Relaxed);
        self.since_ping.store(true, Ordering::Relaxed);
    }

    /// Since this was last asked.
    pub(crate) fn since_ping(&self) -> bool {
        self.since_ping.swap(false, Ordering::Relaxed)
    }
}

impl Lines {
    fn open(&self) -> (Arc<Heard>, oneshot::Receiver<()>) {
        let heard = Arc::new(Heard::default());
        let (cut, receiver) = oneshot::channel();
        let mut lines = self.open.lock();
        lines.retain(|line| !line.cut.is_closed());
        lines.push(Entry {
            heard: Arc::clone(&heard),
            marked: false,
            cut,
        });
        (heard, receiver)
    }

    /// Whether a connection was made since this was last asked.
    pub(crate) fn take_made(&self) -> bool {
        // Read first: this is asked for each watch, and hardly ever true.
        self.made.load(Ordering::Relaxed) && self.made.swap(false, Ordering::Relaxed)
    }

    /// Begins to listen: see [`silent`](Self::silent) and [`cut_silent`](Self::cut_silent).
    pub(crate) fn mark(&self) {
        for line in &mut *self.open.lock() {
            line.heard.since_mark.store(false, Ordering::Relaxed);
            line.marked = true;
        }
    }

    /// Whether nothing came in since the mark, on any connection, new ones included. A server that lives greets a new
    /// connection at once, however busy it is.
    pub(crate) fn silent(&self) -> bool {
        !self
            .open
            .lock()
            .iter()
            .any(|line| line.heard.since_mark.load(Ordering::Relaxed))
    }

    /// Cuts the connections that were there at the mark and on which nothing came in since.
    pub(crate) fn cut_silent(&self) {
        self.open
            .lock()
            .retain(|line| !line.marked || line.heard.since_mark.load(Ordering::Relaxed));
    }

    /// Cuts all connections.
    pub(crate) fn cut_all(&self) {
        self.open.lock().clear();
    }
}

fn no_sign_of_life() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the server shows no sign of life")
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server takes no connection in time")
}

/// Bytes that are read at once: what is behind it asks for 8 KiB at a time, and a call of the system for each of them
/// costs more than to copy them once more.
const READ_BYTES: usize = 64 * 1024;

/// A connection as the system has it, read in large pieces.
pub(crate) type Tcp = BufReader<TcpStream>;

pub(crate) fn buffered(stream: TcpStream) -> Tcp {
    BufReader::with_capacity(READ_BYTES, stream)
}

/// The two kinds of streams.
pub(crate) enum Stream {
    Plain(Tcp),
    #[cfg(feature = "tls")]
    Secured(Box<tokio_rustls::client::TlsStream<Tcp>>),
}

macro_rules! on {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream {
            Stream::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            #[cfg(feature = "tls")]
            Stream::Secured($io) => {
                let $io = Pin::new(&mut **$io);
                $call
            }
        }
    };
}

/// A connection that can be cut.
pub(crate) struct Line {
    stream: Stream,
    heard: Arc<Heard>,
    cut: oneshot::Receiver<()>,
}

impl Line {
    pub(crate) fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.heard)
    }

    /// What there is to say instead of "not yet".
    fn pending<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let _ = ready!(Pin::new(&mut self.cut).poll(context));
        Poll::Ready(Err(no_sign_of_life()))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = on!(&mut self.stream, io => io.poll_read(context, buffer));
        if read.is_pending() {
            return self.pending(context);
        }
        self.heard.note();
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match on!(&mut self.stream, io => io.poll_write(context, bytes)) {
            Poll::Pending => self.pending(context),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match on!(&mut self.stream, io => io.poll_write_vectored(context, parts)) {
            Poll::Pending => self.pending(context),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(io) => io.is_write_vectored(),
            #[cfg(feature = "tls")]
            Stream::Secured(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match on!(&mut self.stream, io => io.poll_flush(context)) {
            Poll::Pending => self.pending(context),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match on!(&mut self.stream, io => io.poll_shutdown(context)) {
            Poll::Pending => self.pending(context),
            shut => shut,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tower::{Service, ServiceExt};

    use super::{Arc, Connector, Line, Lines, TokioIo};
    use crate::tls::Security;

    /// Both ends of a new connection.
    async fn connection(connector: &mut Connector, server: &TcpListener) -> (TokioIo<Line>, TcpStream) {
        let uri = format!("http://{}", server.local_addr().expect("an address"));
        let uri = uri.parse().expect("a URI");
        let dial = async { connector.ready().await.expect("ready").call(uri).await };
        let (line, accepted) = tokio::join!(dial, server.accept());
        (line.expect("made"), accepted.expect("accepted").0)
    }

    async fn connector() -> (Connector, Arc<Lines>, TcpListener) {
        let lines = Arc::new(Lines::default());
        let connector = Connector::new(Security::Plain, Duration::from_secs(20), Arc::clone(&lines));
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        (connector, lines, server)
    }

    /// What is read: nothing at the end, an error when it was cut.
    async fn read(line: &mut TokioIo<Line>) -> std::io::Result<usize> {
        let mut byte = [0; 1];
        let read = line.inner_mut().read(&mut byte);
        tokio::time::timeout(Duration::from_secs(30), read)
            .await
            .expect("no hang")
    }

    #[tokio::test]
    async fn only_connections_that_say_nothing_are_cut_and_new_ones_are_spared() {
        let (mut connector, lines, server) = connector().await;
        let (mut silent, _quiet) = connection(&mut connector, &server).await;
        let (mut live, mut far) = connection(&mut connector, &server).await;
        far.write_all(b"before").await.expect("sent");
        for _ in 0..6 {
            assert_eq!(read(&mut live).await.expect("alive"), 1);
        }
        lines.mark();
        assert!(lines.silent(), "what came before the mark is no sign");
        far.write_all(b"x").await.expect("sent");
        assert_eq!(read(&mut live).await.expect("alive"), 1);
        assert!(!lines.silent());
        let (mut new, mut new_far) = connection(&mut connector, &server).await;
        lines.cut_silent();
        let error = read(&mut silent).await.expect_err("cut");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        for (line, far) in [(&mut live, &mut far), (&mut new, &mut new_far)] {
            far.write_all(b"x").await.expect("sent");
            assert_eq!(read(line).await.expect("alive"), 1);
        }
        lines.cut_all();
        read(&mut live).await.expect_err("cut");
        read(&mut new).await.expect_err("cut");
    }

    #[tokio::test]
    async fn what_waits_to_read_to_write_or_to_connect_is_woken_by_the_cut() {
        let (mut connector, lines, server) = connector().await;
        let (mut reading, _one) = connection(&mut connector, &server).await;
        let (mut writing, _two) = connection(&mut connector, &server).await;
        let reader = tokio::spawn(async move { read(&mut reading).await });
        let writer = tokio::spawn(async move {
            // More than the system takes on its way to somebody who does not read.
            loop {
                writing.inner_mut().write_all(&[0; 1 << 20]).await?;
            }
            #[expect(unreachable_code, reason = "names the type of the error")]
            Ok::<(), std::io::Error>(())
        });
        // An address that swallows what is sent to it; where there is no route to it, the dial fails by itself.
        let uri = "http://192.0.2.1:2379".parse().expect("a URI");
        let dial = tokio::spawn(connector.ready().await.expect("ready").call(uri));
        while server.local_addr().is_ok() && lines.open.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        lines.cut_all();
        let ended = async { tokio::join!(reader, writer, dial) };
        let (reader, writer, dial) = tokio::time::timeout(Duration::from_secs(15), ended)
            .await
            .expect("no hang");
        reader.expect("no panic").expect_err("cut");
        writer.expect("no panic").expect_err("cut");
        assert!(dial.expect("no panic").is_err(), "cut");
    }
}
