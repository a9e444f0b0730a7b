//! A wire between client and server that a test cuts, or lets swallow what is sent.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what is sent over the connections that are open. New ones pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Pass,
    /// What the server says is lost.
    LoseAnswers,
    /// Everything is lost, and nobody is told.
    LoseAll,
    Cut,
}

/// The wire.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    wire: watch::Sender<watch::Sender<Wire>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A wire to the server at this port.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (wire, current) = watch::channel(watch::Sender::new(Wire::Pass));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = current.borrow().subscribe();
                tokio::spawn(connection(client, port, state));
            }
        });
        Self { address, wire, task }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn set(&self, state: Wire) {
        self.wire.borrow().send_replace(state);
    }

    /// What the server says on the open connections is lost from now on.
    pub(crate) fn lose_answers(&self) {
        self.set(Wire::LoseAnswers);
    }

    /// The open connections are cut.
    pub(crate) fn cut(&self) {
        self.set(Wire::Cut);
        self.wire.send_replace(watch::Sender::new(Wire::Pass));
    }

    /// The open connections swallow everything for ever; new ones pass.
    pub(crate) fn swallow(&self) -> impl Sized + use<> {
        self.set(Wire::LoseAll);
        // Kept by the caller: dropping it would cut them.
        self.wire.send_replace(watch::Sender::new(Wire::Pass))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, port: u16, state: watch::Receiver<Wire>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = copy(from_client, to_server, state.clone(), &[Wire::Pass, Wire::LoseAnswers]);
    let back = copy(from_server, to_client, state, &[Wire::Pass]);
    // One end that goes takes the other with it.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Wire>,
    passes: &[Wire],
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let cut = state.wait_for(|wire| *wire == Wire::Cut);
        let read = tokio::select! {
            _ = cut => return,
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        let passing = passes.contains(&*state.borrow());
        if read == 0 || (passing && to.write_all(&buffer[..read]).await.is_err()) {
            return;
        }
    }
}
