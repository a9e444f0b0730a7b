//! When connections are made, what becomes of the calls on one that ends, and of those that are dropped.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures::future::{join, join_all};
use h2::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::sync::Barrier;
use tokio::time::Instant;

use super::server::{GOOD, KEEPALIVE, Peer, Raw, Server, WINDOWS, end, plain, transport, within};
use super::{
    Text, all, ask, asked, begin, dialled, ended, given_up, is_gone, is_lost, is_not_sent, is_served, spawned, text,
    wire,
};
use crate::transport::{Keepalive, State};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_who_begin_at_once_share_a_connection() {
    const CALLERS: usize = 64;
    let server = Server::bind().await;
    let transport = Arc::new(server.transport());
    for round in 0..5 {
        let barrier = Arc::new(Barrier::new(CALLERS));
        let callers = (0..CALLERS).map(|_| {
            let (transport, barrier) = (Arc::clone(&transport), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                ask(&transport).await
            })
        });
        let callers: Vec<_> = callers.collect();
        let mut peer = server.accept().await;
        for _ in 0..CALLERS {
            peer.call().await.give([wire(&text("!"))]);
        }
        for answer in join_all(callers).await {
            assert_eq!(answer.expect("no panic").expect("answered"), text("!"));
        }
        server.is_spared().await;
        // The next round finds its connection gone. One half of the ends is announced.
        if round % 2 == 0 {
            peer.cut().await;
        } else {
            peer.go_away();
        }
        is_gone(&transport).await;
    }
}

#[tokio::test]
async fn a_dial_goes_on_without_whoever_began_it() {
    let server = Server::bind().await;
    let transport = server.transport();
    // Callers that are not woken: whoever is has to be woken for the dial.
    let mut context = Context::from_waker(Waker::noop());
    let mut first = Box::pin(ask(&transport));
    assert!(first.as_mut().poll(&mut context).is_pending());
    let mut stuck = pin!(ask(&transport));
    assert!(stuck.as_mut().poll(&mut context).is_pending());
    drop(first);
    assert!(matches!(&*transport.state.lock(), State::Dialing(_)));
    let mut peer = dialled(&server, &transport).await;
    server.is_spared().await;
    let answer = join(stuck, async { peer.call().await.give([wire(&text("late"))]) })
        .await
        .0;
    assert_eq!(answer.expect("answered"), text("late"));
    server.is_spared().await;
}

#[tokio::test]
async fn a_dial_that_nobody_waits_for_is_given_up() {
    let server = Server::bind().await;
    let transport = server.transport();
    {
        let mut dropped = pin!(ask(&transport));
        let mut context = Context::from_waker(Waker::noop());
        assert!(dropped.as_mut().poll(&mut context).is_pending());
    }
    let mut first = server.tcp().await;
    let mut said = Vec::new();
    // It may also be reset.
    let _ = within(first.read_to_end(&mut said)).await;
    assert!(said.is_empty(), "nothing was left to say anything");
    dialled(&server, &transport).await;
    server.is_spared().await;
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_sent_and_all_are_told_why() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let (reach, lines) = (plain(socket.local_addr().expect("an address")), Arc::default());
    let transport = transport(&reach, &lines, WINDOWS, KEEPALIVE);
    for status in join_all((0..8).map(|_| ask(&transport))).await {
        let said = is_not_sent(&status.expect_err("nobody listens"));
        assert!(said.to_lowercase().contains("connection refused"), "{said}");
    }
    // It is tried again by the next one.
    let server = Server::of(socket.listen(8).expect("listens"), lines);
    dialled(&server, &transport).await;
}

#[tokio::test]
async fn what_a_reset_says_of_the_request() {
    let server = Server::bind().await;
    let transport = Arc::new(server.transport());
    let mut peer = dialled(&server, &transport).await;
    let status = asked(&transport, &mut peer, |call| call.reset(Reason::REFUSED_STREAM)).await;
    is_not_sent(&status.expect_err("refused"));
    for reason in [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::PROTOCOL_ERROR,
        Reason::FLOW_CONTROL_ERROR,
        Reason::NO_ERROR,
        Reason::ENHANCE_YOUR_CALM,
        Reason::INADEQUATE_SECURITY,
        Reason::HTTP_1_1_REQUIRED,
        Reason::from(4711),
    ] {
        let status = asked(&transport, &mut peer, |call| call.reset(reason)).await;
        is_lost(&status.expect_err("reset"), &format!("{reason:?}"));
        // As late as can be: the message has come, the status has not.
        let middle = async {
            let mut call = peer.call().await;
            let mut stream = call.begin(200, &[], false);
            stream.send_data(wire(&text("!")).into(), false).expect("sent");
            (call, stream)
        };
        let (opened, (_call, mut stream)) = join(begin(&transport), middle).await;
        let mut answer = opened.expect("begun");
        assert_eq!(within(answer.message()).await.expect("came"), Some(text("!")));
        stream.send_reset(reason);
        let status = within(answer.message::<Text>()).await.expect_err("reset");
        is_lost(&status, &format!("{reason:?}, late"));
    }
    is_served(&transport, &mut peer).await;
    // A connection that goes with the calls on it, before their answers and within them.
    let early = spawned(&transport);
    let _early = peer.call().await;
    let middle = async {
        let mut call = peer.call().await;
        let mut stream = call.begin(200, &[], false);
        stream.send_data(wire(&text("!")).into(), false).expect("sent");
        (call, stream)
    };
    let (opened, _late) = join(begin(&transport), middle).await;
    let mut answer = opened.expect("begun");
    assert_eq!(within(answer.message()).await.expect("came"), Some(text("!")));
    peer.cut().await;
    is_lost(&ended(early).await.expect_err("cut"), "before the answer");
    is_lost(&within(answer.message::<Text>()).await.expect_err("cut"), "within it");
}

#[tokio::test]
async fn a_server_on_its_way_down_says_what_it_will_not_look_at() {
    let server = Server::bind().await;
    let transport = Arc::new(server.transport());
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR] {
        let first = spawned(&transport);
        let mut raw = Raw::greet(server.tcp().await).await;
        let number = raw.request().await;
        let second = spawned(&transport);
        assert!(raw.request().await > number);
        raw.go_away(number, reason).await;
        is_not_sent(&ended(second).await.expect_err("not looked at"));
        // The first one may still be answered; nobody knows whether it was looked at when it is not.
        assert!(!first.is_finished(), "{reason:?}");
        drop(raw);
        is_lost(&ended(first).await.expect_err("no answer"), &format!("{reason:?}"));
    }
}

#[tokio::test]
async fn calls_that_a_server_on_its_way_down_has_end_well() {
    let server = Server::bind().await;
    let transport = Arc::new(server.transport());
    let early = spawned(&transport);
    let mut peer = server.accept().await;
    let early_call = peer.call().await;
    let middle = async {
        let mut call = peer.call().await;
        let mut stream = call.begin(200, &[], false);
        stream.send_data(wire(&text("1")).into(), false).expect("sent");
        stream
    };
    let (opened, mut stream) = join(begin(&transport), middle).await;
    let mut answer = opened.expect("begun");
    assert_eq!(within(answer.message()).await.expect("came"), Some(text("1")));
    peer.go_away();
    is_gone(&transport).await;
    let next = spawned(&transport);
    let mut other = server.accept().await;
    other.call().await.give([wire(&text("new"))]);
    assert_eq!(ended(next).await.expect("answered"), text("new"));
    // What was begun goes on where it was.
    early_call.give([wire(&text("old"))]);
    assert_eq!(ended(early).await.expect("answered"), text("old"));
    stream.send_data(wire(&text("2")).into(), false).expect("sent");
    end(stream, GOOD);
    assert_eq!(all(answer).await.expect("a good end"), [text("2")]);
    peer.ended().await;
    is_served(&transport, &mut other).await;
    server.is_spared().await;
}

#[tokio::test]
async fn what_is_dropped_is_reset_and_the_connection_goes_on() {
    let server = Server::bind().await;
    let transport = Arc::new(server.transport());
    let mut peer = dialled(&server, &transport).await;
    let dropped = spawned(&transport);
    let mut call = peer.call().await;
    assert!(!dropped.is_finished());
    dropped.abort();
    assert_eq!(call.given_up().await, Reason::CANCEL);
    is_served(&transport, &mut peer).await;
    // An answer, with nothing of it read, some of it, and all but its end.
    for read in 0..3 {
        let serve = async {
            let mut call = peer.call().await;
            let mut stream = call.begin(200, &[], false);
            for number in ["1", "2"] {
                stream.send_data(wire(&text(number)).into(), false).expect("sent");
            }
            stream
        };
        let (opened, mut stream) = join(begin(&transport), serve).await;
        let mut answer = opened.expect("begun");
        for _ in 0..read {
            assert!(within(answer.message::<Text>()).await.expect("came").is_some());
        }
        drop(answer);
        assert_eq!(given_up(&mut stream).await, Reason::CANCEL);
        is_served(&transport, &mut peer).await;
    }
    server.is_spared().await;
}

#[tokio::test]
async fn calls_that_wait_for_their_turn_can_be_dropped_and_get_it() {
    let server = Server::bind().await;
    let transport = Arc::new(server.transport());
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let first = spawned(&transport);
    let mut peer = Peer::greet(server.tcp().await, &builder).await;
    peer.call().await.give([wire(&text("1"))]);
    // Now the client knows how many calls the server takes at once.
    assert_eq!(ended(first).await.expect("answered"), text("1"));
    let first = spawned(&transport);
    let call = peer.call().await;
    let (dropped, last) = (spawned(&transport), spawned(&transport));
    tokio::task::yield_now().await;
    dropped.abort();
    call.give([wire(&text("1"))]);
    assert_eq!(ended(first).await.expect("answered"), text("1"));
    // The one that is dropped may be begun and reset.
    let serve = async {
        loop {
            let mut call = peer.call().await;
            if !call.is_given_up() {
                call.give([wire(&text("2"))]);
            }
        }
    };
    let answer = tokio::select! {
        answer = ended(last) => answer,
        () = serve => unreachable!("it has no end"),
    };
    assert_eq!(answer.expect("answered"), text("2"));
}

#[tokio::test]
async fn a_server_that_shows_no_sign_of_life_is_given_up() {
    let server = Server::bind().await;
    let keepalive = Keepalive {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(30),
    };
    let transport = Arc::new(server.transport_with(WINDOWS, keepalive));
    // One that never says anything, and one that stopped in the middle.
    for greets in [false, true] {
        let call = spawned(&transport);
        let mut stream = server.tcp().await;
        if greets {
            let mut raw = Raw::greet(stream).await;
            raw.request().await;
            stream = raw.into_inner();
        }
        let (status, read) = join(ended(call), within(stream.read_to_end(&mut Vec::new()))).await;
        is_lost(&status.expect_err("no answer"), "silent");
        read.expect("closed by the client");
        is_gone(&transport).await;
    }
}

#[tokio::test]
async fn a_server_that_is_slow_but_alive_is_waited_for() {
    // A sign of life is given at once, and the answer later than one is waited for.
    let keepalive = Keepalive {
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
    };
    const SLOW: Duration = Duration::from_millis(1500);
    let answers = async {
        let server = Server::bind().await;
        let call = spawned(&Arc::new(server.transport_with(WINDOWS, keepalive)));
        let mut raw = Raw::greet(server.tcp().await).await;
        let (number, begin, mut pings) = (raw.request().await, Instant::now(), 0);
        while begin.elapsed() < SLOW || pings < 10 {
            let frame = raw.frame().await;
            if frame.is_ping() {
                raw.pong(&frame).await;
                pings += 1;
            }
        }
        raw.answer(number, &wire(&text("!"))).await;
        assert_eq!(ended(call).await.expect("waited for"), text("!"));
    };
    // It does not come to answering them, but says something all the time, if not at once.
    let talks = async {
        let server = Server::bind().await;
        let call = spawned(&Arc::new(server.transport_with(WINDOWS, keepalive)));
        let mut raw = Raw::greet(server.tcp().await).await;
        let (number, begin) = (raw.request().await, Instant::now());
        while begin.elapsed() < SLOW {
            raw.ping().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        raw.answer(number, &wire(&text("!"))).await;
        assert_eq!(ended(call).await.expect("waited for"), text("!"));
    };
    join(answers, talks).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_transport_once_its_calls_are_over() {
    let server = Server::bind().await;
    let idle = server.transport();
    let peer = dialled(&server, &idle).await;
    drop(idle);
    peer.ended().await;

    let transport = server.transport();
    let mut peer = dialled(&server, &transport).await;
    let serve = async { peer.call().await.begin(200, &[], false) };
    let (opened, mut stream) = join(begin(&transport), serve).await;
    drop(transport);
    stream.send_data(wire(&text("!")).into(), false).expect("sent");
    let mut answer = opened.expect("begun");
    assert_eq!(within(answer.message()).await.expect("came"), Some(text("!")));
    assert!(peer.is_there(), "a call is on it");
    end(stream, GOOD);
    assert_eq!(all(answer).await.expect("a good end"), []);
    peer.ended().await;
    // One that is dropped before its end is over, too.
    let transport = server.transport();
    let mut peer = dialled(&server, &transport).await;
    let serve = async { peer.call().await.begin(200, &[], false) };
    let (opened, _stream) = join(begin(&transport), serve).await;
    drop((transport, opened));
    peer.ended().await;
}
