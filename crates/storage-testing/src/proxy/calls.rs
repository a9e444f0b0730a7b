//! A proxy that sees calls (gRPC over HTTP/2 without TLS), and decides the fate of each after the server has handled it.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// Room for answers that nobody has taken yet.
const WINDOW: u32 = 4 << 20;
/// Between bytes and the message in them: whether it is compressed, and its length.
const FRAME_HEAD: usize = 5;

/// What becomes of a call, or of a message of a stream.
///
/// TCP neither loses nor repeats anything within a connection, so what a client can meet is this: an answer that does
/// not come (because the connection or the stream broke, or something on the way is silent), one that comes late, and a
/// call that was repeated by something on the way that ends HTTP/2 itself, as this proxy does. (One that repeats a call
/// and then hands out the second answer instead of the first tells the client something wrong; gRPC forbids it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// The client gets the answer.
    Pass,
    /// The server has handled it, but the connection breaks before the answer is through, and takes all other calls on
    /// it along.
    Cut,
    /// The server has handled it, but the stream breaks before the answer is through.
    Reset,
    /// The server has handled it, and the client never hears of it.
    Silence,
    /// The client gets the answer so much later.
    Delay(Duration),
    /// The server is called twice, one after the other; the client gets the first answer.
    Twice,
    /// The server never hears of it; the connection breaks.
    Drop,
}

/// A call on its way.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call {
    /// Service and method: `/etcdserverpb.KV/Txn`.
    pub path: String,
    /// The message that the client sent; of a stream nothing.
    pub message: Bytes,
    /// Which message of a stream from the server this is, from 1 on; zero for a call with one answer.
    pub number: u64,
}

impl Call {
    /// The method alone: `Txn`.
    pub fn method(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether the client's message has this text in it: a key, or a part of a value.
    pub fn mentions(&self, text: &str) -> bool {
        text.is_empty() || self.message.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

type Decide = Arc<dyn Fn(&Call) -> Fate + Send + Sync>;

struct Shared {
    server: u16,
    decide: Mutex<Decide>,
    faults: AtomicU64,
    /// Cuts all connections.
    cut: Notify,
}

impl Shared {
    fn fate(&self, call: &Call) -> Fate {
        let decide = Arc::clone(&*self.decide.lock());
        let fate = decide(call);
        if fate != Fate::Pass {
            self.faults.fetch_add(1, Ordering::SeqCst);
        }
        fate
    }
}

/// The proxy. Calls pass until a test decides otherwise.
pub struct CallProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl fmt::Debug for CallProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallProxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl CallProxy {
    /// A proxy in front of the server at this port of the loopback interface.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            server,
            decide: Mutex::new(Arc::new(|_: &Call| Fate::Pass)),
            faults: AtomicU64::new(0),
            cut: Notify::new(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on calls, and messages of streams, have the fate that this gives them.
    pub fn decide(&self, fate: impl Fn(&Call) -> Fate + Send + Sync + 'static) {
        *self.shared.decide.lock() = Arc::new(fate);
    }

    /// From now on everything passes.
    pub fn pass(&self) {
        self.decide(|_| Fate::Pass);
    }

    /// How many calls and messages did not just pass so far.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::SeqCst)
    }

    /// All connections break.
    pub fn cut(&self) {
        self.shared.cut.notify_waiters();
    }
}

impl Drop for CallProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // They end with the proxy.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A connection that fails is just over, for both sides.
            let _ = connection(client, shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) -> Result<(), h2::Error> {
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server)).await else {
        return Ok(());
    };
    // Small frames must not wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let (calls, upstream) = builder.handshake::<_, Bytes>(server).await?;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let mut downstream = builder.handshake::<_, Bytes>(client).await?;
    let cut = Arc::new(Notify::new());
    let mut running = JoinSet::new();
    running.spawn(async move {
        let _ = upstream.await;
        true
    });
    loop {
        tokio::select! {
            () = cut.notified() => return Ok(()),
            () = shared.cut.notified() => return Ok(()),
            Some(ended) = running.join_next() => {
                // The server's side is over, and so is this one.
                if matches!(ended, Ok(true)) {
                    return Ok(());
                }
            }
            request = downstream.accept() => {
                let Some(request) = request else { return Ok(()) };
                let (request, answer) = request?;
                let exchange = Exchange { shared: Arc::clone(&shared), calls: calls.clone(), cut: Arc::clone(&cut) };
                running.spawn(async move {
                    let _ = exchange.run(request, answer).await;
                    false
                });
            }
        }
    }
}

/// One call.
struct Exchange {
    shared: Arc<Shared>,
    calls: SendRequest<Bytes>,
    /// Cuts the connection of this call.
    cut: Arc<Notify>,
}

/// An answer in one piece.
struct Answer {
    head: Response<()>,
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Exchange {
    async fn run(self, request: Request<RecvStream>, answer: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        if is_stream(head.uri().path()) {
            self.stream(head, body, answer).await
        } else {
            self.call(head, body, answer).await
        }
    }

    /// A call with one message, which the server handles as a whole before anything else happens.
    async fn call(
        self,
        head: Request<()>,
        mut body: RecvStream,
        mut answer: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let mut message = BytesMut::new();
        while let Some(data) = received(&mut body).await? {
            message.extend_from_slice(&data);
        }
        let message = message.freeze();
        let call = Call {
            path: head.uri().path().to_owned(),
            message: message.slice(FRAME_HEAD.min(message.len())..),
            number: 0,
        };
        let fate = self.shared.fate(&call);
        if fate == Fate::Drop {
            self.cut.notify_one();
            return Ok(());
        }
        let handled = self.ask(&head, message.clone()).await?;
        if fate == Fate::Twice {
            self.ask(&head, message).await?;
        }
        match fate {
            Fate::Cut => self.cut.notify_one(),
            Fate::Reset => answer.send_reset(Reason::INTERNAL_ERROR),
            // The stream stays open until the client gives up.
            Fate::Silence => {
                let _ = poll_fn(|cx| answer.poll_reset(cx)).await;
            }
            Fate::Delay(time) => {
                tokio::time::sleep(time).await;
                handled.pass(&mut answer).await?;
            }
            _ => handled.pass(&mut answer).await?,
        }
        Ok(())
    }

    /// Has a call handled by the server.
    async fn ask(&self, head: &Request<()>, message: Bytes) -> Result<Answer, h2::Error> {
        let mut calls = self.calls.clone().ready().await?;
        let (response, mut stream) = calls.send_request(head.clone(), false)?;
        sent(&mut stream, message).await?;
        stream.send_data(Bytes::new(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut data = Vec::new();
        while let Some(part) = received(&mut body).await? {
            data.push(part);
        }
        let trailers = body.trailers().await?;
        Ok(Answer {
            head: Response::from_parts(head, ()),
            data,
            trailers,
        })
    }

    /// A stream in both directions, passed on piece by piece.
    async fn stream(
        self,
        head: Request<()>,
        mut body: RecvStream,
        mut answer: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let path = head.uri().path().to_owned();
        let mut calls = self.calls.clone().ready().await?;
        let (response, mut there) = calls.send_request(head, false)?;
        let up = async move {
            while let Some(data) = received(&mut body).await? {
                sent(&mut there, data).await?;
            }
            there.send_data(Bytes::new(), true)?;
            Ok::<_, h2::Error>(())
        };
        let down = async {
            let (head, mut body) = response.await?.into_parts();
            let mut back = answer.send_response(Response::from_parts(head, ()), false)?;
            let mut number = 0;
            while let Some(data) = received(&mut body).await? {
                number += 1;
                let call = Call {
                    path: path.clone(),
                    message: data.clone(),
                    number,
                };
                match self.shared.fate(&call) {
                    Fate::Cut | Fate::Drop => self.cut.notify_one(),
                    Fate::Reset => {
                        back.send_reset(Reason::INTERNAL_ERROR);
                        return Ok(());
                    }
                    // Nothing comes any more, and nobody says so.
                    Fate::Silence => std::future::pending().await,
                    Fate::Delay(time) => tokio::time::sleep(time).await,
                    _ => {}
                }
                sent(&mut back, data).await?;
            }
            let trailers = body.trailers().await?;
            back.send_trailers(trailers.unwrap_or_default())
        };
        // The client closes its half when it likes; the stream is over when the server's half is, or either breaks.
        tokio::pin!(down);
        tokio::select! {
            ended = &mut down => ended,
            ended = up => match ended {
                Ok(()) => down.await,
                broken => broken,
            },
        }
    }
}

impl Answer {
    async fn pass(self, answer: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
        let Some(trailers) = self.trailers else {
            // An error without a message is a head only.
            let over = self.data.is_empty();
            let mut stream = answer.send_response(self.head, over)?;
            for data in self.data {
                sent(&mut stream, data).await?;
            }
            return if over {
                Ok(())
            } else {
                stream.send_data(Bytes::new(), true)
            };
        };
        let mut stream = answer.send_response(self.head, false)?;
        for data in self.data {
            sent(&mut stream, data).await?;
        }
        stream.send_trailers(trailers)
    }
}

/// Methods whose client goes on sending: their messages are passed on as they come.
fn is_stream(path: &str) -> bool {
    path.ends_with("/Watch") || path.ends_with("/LeaseKeepAlive")
}

/// The next piece of a body.
async fn received(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(data) = body.data().await.transpose()? else {
        return Ok(None);
    };
    body.flow_control().release_capacity(data.len())?;
    Ok(Some(data))
}

/// Sends as the other side takes it.
async fn sent(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let part = data.split_to(room?.min(data.len()));
        stream.send_data(part, false)?;
    }
    Ok(())
}
