//! A wire to a server that counts what the server sends, stops at a number of bytes, or breaks there.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens when so many bytes came from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Nothing.
    Never,
    /// No more goes through until told otherwise.
    Stop(u64),
    /// The connection breaks, once.
    Break(u64),
}

#[derive(Debug)]
struct State {
    sent: watch::Sender<u64>,
    at: watch::Sender<At>,
}

/// The wire.
#[derive(Debug)]
pub(crate) struct Meter {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Meter {
    /// A wire to the server at this port.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            sent: watch::Sender::new(0),
            at: watch::Sender::new(At::Never),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, port, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that the server has sent.
    pub(crate) fn sent(&self) -> u64 {
        *self.state.sent.borrow()
    }

    /// Nothing goes through after so many more bytes.
    pub(crate) fn stop_after(&self, bytes: u64) {
        self.state.at.send_replace(At::Stop(self.sent() + bytes));
    }

    /// The connection that is in use then breaks after so many more bytes.
    pub(crate) fn break_after(&self, bytes: u64) {
        self.state.at.send_replace(At::Break(self.sent() + bytes));
    }

    /// Whether what was asked for has happened.
    pub(crate) async fn reached(&self) {
        let mut sent = self.state.sent.subscribe();
        let at = *self.state.at.borrow();
        if let At::Stop(at) | At::Break(at) = at {
            sent.wait_for(|sent| *sent >= at).await.expect("the wire is there");
        }
    }

    /// Everything goes through again.
    pub(crate) fn go_on(&self) {
        self.state.at.send_replace(At::Never);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, port: u16, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let back = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let mut at = state.at.subscribe();
            let now = *at.borrow_and_update();
            match now {
                At::Stop(limit) if *state.sent.borrow() >= limit => {
                    at.changed().await.expect("the wire is there");
                    continue;
                }
                At::Break(limit) if *state.sent.borrow() >= limit => {
                    state.at.send_replace(At::Never);
                    return Ok(());
                }
                At::Never | At::Stop(_) | At::Break(_) => {}
            }
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            state.sent.send_modify(|sent| *sent += read as u64);
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    // One end that goes takes the other with it.
    let _: std::io::Result<()> = tokio::select! {
        ended = there => ended,
        ended = back => ended,
    };
}
