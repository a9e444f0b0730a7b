//! What the transport makes of servers that answer, of those that do not, and of those that do it wrongly.

mod answers;
mod connections;
mod server;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use h2::{Reason, SendStream};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::Status;

use super::{Answer, Open, State, Transport};
use crate::error::{Failure, classify_status};

use server::{Call, Peer, Server, within};

const PATH: &str = "/test.Service/Ask";

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(bytes = "bytes", tag = "1")]
    text: Bytes,
}

fn text(text: impl Into<Bytes>) -> Text {
    Text { text: text.into() }
}

/// A message as it goes over the wire.
fn wire(message: &Text) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a small one");
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

async fn begin(transport: &Transport) -> Result<Answer, Status> {
    within(transport.call(PATH, None, &text("?"))).await
}

async fn ask(transport: &Transport) -> Result<Text, Status> {
    within(begin(transport).await?.only()).await
}

/// All messages of an answer.
async fn all(mut answer: Answer) -> Result<Vec<Text>, Status> {
    let mut messages = Vec::new();
    while let Some(message) = within(answer.message()).await? {
        messages.push(message);
    }
    Ok(messages)
}

/// A call that the server answers so.
async fn asked(transport: &Transport, peer: &mut Peer, answer: impl FnOnce(Call)) -> Result<Text, Status> {
    join(ask(transport), async { answer(peer.call().await) }).await.0
}

/// A call that is answered well.
async fn is_served(transport: &Transport, peer: &mut Peer) {
    let answer = asked(transport, peer, |call| call.give([wire(&text("!"))])).await;
    assert_eq!(answer.expect("answered"), text("!"));
}

#[track_caller]
fn is_not_sent(status: &Status) -> String {
    match classify_status(status) {
        Failure::NotSent(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_lost(status: &Status, about: &str) {
    let failure = classify_status(status);
    assert!(matches!(failure, Failure::Lost(_)), "{about}: {failure:?}");
}

fn spawned(transport: &Arc<Transport>) -> JoinHandle<Result<Text, Status>> {
    let transport = Arc::clone(transport);
    tokio::spawn(async move { ask(&transport).await })
}

async fn ended(call: JoinHandle<Result<Text, Status>>) -> Result<Text, Status> {
    within(call).await.expect("no panic")
}

/// The connection, once it is made by a call.
async fn dialled(server: &Server, transport: &Transport) -> Peer {
    let serve = async {
        let mut peer = server.accept().await;
        peer.call().await.give([wire(&text("!"))]);
        peer
    };
    let (answer, peer) = join(ask(transport), serve).await;
    assert_eq!(answer.expect("answered"), text("!"));
    peer
}

/// Awaits that the client knows of the end of its connection.
async fn is_gone(transport: &Transport) {
    let gone = async {
        loop {
            let open = match &*transport.state.lock() {
                State::Open(open) => open.clone(),
                _ => return,
            };
            let Open { requests, .. } = open;
            if requests.ready().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(gone).await;
}

async fn given_up(stream: &mut SendStream<Bytes>) -> Reason {
    let reset = poll_fn(|context| stream.poll_reset(context));
    within(reset).await.expect("reset by the client")
}
