//! Accepts connections and serves them with HTTP/1.1 or HTTP/2, plain or over TLS, until told to drain.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::body::Body;
use crate::server::shutdown::Signals;

/// How long a client may take for the TLS handshake and for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(32);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 1 << 20;

/// Where a request came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// The client's address.
    pub(crate) address: SocketAddr,
    /// Whether the connection is encrypted.
    pub(crate) secure: bool,
}

/// What answers requests.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    fn handle(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// Accepts until nothing new is taken; then the listener closes and every connection finishes what it is doing, unless
/// it is cut. Ends when all connections have ended.
pub(crate) async fn serve<H: Handler>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: H,
    signals: Signals,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = signals.draining.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of file descriptors: accepting again at once would spin.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        // Small frames (watch events) must not wait for an acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot switch off Nagle's algorithm");
        }
        let (handler, signals, acceptor) = (handler.clone(), signals.clone(), acceptor.clone());
        let peer = Peer {
            address,
            secure: acceptor.is_some(),
        };
        connections.spawn(async move {
            let draining = signals.draining;
            let served = async {
                match acceptor {
                    None => connection(stream, handler, peer, draining).await,
                    Some(acceptor) => match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, handler, peer, draining).await,
                        Ok(Err(error)) => {
                            metrics::counter!("apiserver_tls_handshake_errors_total").increment(1);
                            tracing::debug!(%error, peer = %peer.address, "TLS handshake failed");
                        }
                        Err(_) => tracing::debug!(peer = %peer.address, "TLS handshake timed out"),
                    },
                }
            };
            tokio::select! {
                () = served => {}
                () = signals.cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<S, H>(stream: S, handler: H, peer: Peer, draining: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .initial_stream_window_size(256 * 1024)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request, peer).await) }
    });
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, peer = %peer.address, "connection ended with an error");
    }
}
