//! A wire between client and server that a test cuts, or lets swallow what is sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what is sent over the connections that are open. New ones pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// What the server says is lost.
    LoseAnswers,
    /// Everything is lost, and nobody is told.
    LoseAll,
    /// So many bytes from the server still come through.
    CutAfter(u64),
    Cut,
}

/// The wire.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    wire: watch::Sender<watch::Sender<Mode>>,
    breaks: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Wire {
    /// A wire to the server at this port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (wire, current) = watch::channel(watch::Sender::new(Mode::Pass));
        let breaks = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&breaks);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = current.borrow().subscribe();
                tokio::spawn(connection(client, port, state, Arc::clone(&counted)));
            }
        });
        Self {
            address,
            wire,
            breaks,
            task,
        }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn set(&self, state: Mode) {
        self.wire.borrow().send_replace(state);
    }

    /// What the server says on the open connections is lost from now on.
    pub fn lose_answers(&self) {
        self.set(Mode::LoseAnswers);
    }

    /// The open connections are cut.
    pub fn cut(&self) {
        self.set(Mode::Cut);
        self.wire.send_replace(watch::Sender::new(Mode::Pass));
    }

    /// Each connection, also those to come, is cut after so many more bytes from the server, wherever that is in what it
    /// says; until [`cut`](Self::cut), after which new ones pass.
    pub fn cut_after(&self, bytes: u64) {
        self.set(Mode::CutAfter(bytes));
    }

    /// How often that happened.
    pub fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::SeqCst)
    }

    /// The open connections swallow everything for ever; new ones pass.
    pub fn swallow(&self) -> impl Sized + use<> {
        self.set(Mode::LoseAll);
        // Kept by the caller: dropping it would cut them.
        self.wire.send_replace(watch::Sender::new(Mode::Pass))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, port: u16, state: watch::Receiver<Mode>, breaks: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = copy(from_client, to_server, state.clone(), |mode, all| match mode {
        Mode::Pass | Mode::LoseAnswers | Mode::CutAfter(_) => Some(all),
        Mode::LoseAll => Some(0),
        Mode::Cut => None,
    });
    let mut came = 0;
    let back = copy(from_server, to_client, state, |mode, all| match mode {
        Mode::Pass => Some(all),
        Mode::CutAfter(bytes) => {
            let through = u64::try_from(all).unwrap_or(u64::MAX).min(bytes - came);
            came += through;
            if came == bytes {
                breaks.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            Some(all)
        }
        Mode::LoseAnswers | Mode::LoseAll => Some(0),
        Mode::Cut => None,
    });
    // One end that goes takes the other with it.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

/// Copies as much of what comes as `through` says; nothing: the connection ends.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Mode>,
    mut through: impl FnMut(Mode, usize) -> Option<usize>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let cut = state.wait_for(|wire| *wire == Mode::Cut);
        let read = tokio::select! {
            _ = cut => return,
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        let mode = *state.borrow();
        let Some(through) = through(mode, read).filter(|_| read > 0) else {
            return;
        };
        if to.write_all(&buffer[..through]).await.is_err() {
            return;
        }
    }
}
