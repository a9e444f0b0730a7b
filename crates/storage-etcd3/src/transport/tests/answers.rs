//! Requests and answers as they go over the wire.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join;
use h2::Reason;
use http::header::HeaderValue;
use tonic::Code;

use super::server::{Call, GOOD, Headers, KEEPALIVE, Server, WINDOWS, end, plain, transport, within};
use super::{PATH, Text, all, asked, begin, dialled, given_up, is_lost, is_served, text, wire};
use crate::tls::Reach;
use crate::transport::{HEAD, Windows};

#[tokio::test]
async fn a_status_is_found_wherever_it_is() {
    type Row<'a> = (u16, Headers<'a>, Option<Headers<'a>>, Code, &'a str);
    let rows: &[Row<'_>] = &[
        // Alone in the head, and behind an answer.
        (
            200,
            &[("grpc-status", b"5"), ("grpc-message", b"none")],
            None,
            Code::NotFound,
            "none",
        ),
        (
            200,
            &[],
            Some(&[("grpc-status", b"5"), ("grpc-message", b"none")]),
            Code::NotFound,
            "none",
        ),
        (200, &[], Some(&[("grpc-status", b"14")]), Code::Unavailable, ""),
        // Messages in their encoding, well and badly done, and not done.
        (
            200,
            &[("grpc-status", b"3"), ("grpc-message", b"a%20b%3A%25")],
            None,
            Code::InvalidArgument,
            "a b:%",
        ),
        (
            200,
            &[("grpc-status", b"3"), ("grpc-message", b"gr%C3%BCn %E2%82%AC")],
            None,
            Code::InvalidArgument,
            "grün €",
        ),
        (
            200,
            &[("grpc-status", b"3"), ("grpc-message", b"100% of %zz %4")],
            None,
            Code::InvalidArgument,
            "100% of %zz %4",
        ),
        (
            200,
            &[("grpc-status", b"3"), ("grpc-message", b"%ff!")],
            None,
            Code::InvalidArgument,
            "\u{fffd}!",
        ),
        (
            200,
            &[("grpc-status", b"3"), ("grpc-message", "grün".as_bytes())],
            None,
            Code::InvalidArgument,
            "grün",
        ),
        (
            200,
            &[("grpc-status", b"3"), ("grpc-message", b"\xff!")],
            None,
            Code::InvalidArgument,
            "\u{fffd}!",
        ),
        // Codes that nobody knows.
        (
            200,
            &[("grpc-status", b"17"), ("grpc-message", b"new")],
            None,
            Code::Unknown,
            "new",
        ),
        (200, &[("grpc-status", b"-1")], None, Code::Unknown, ""),
        (
            200,
            &[("grpc-status", b"99999999999999999999")],
            None,
            Code::Unknown,
            "",
        ),
        (200, &[("grpc-status", b"five")], None, Code::Unknown, ""),
        (200, &[("grpc-status", b"")], None, Code::Unknown, ""),
        (200, &[("grpc-status", b"\xff")], Some(GOOD), Code::Unknown, ""),
        // None at all.
        (200, &[], None, Code::Unknown, "an answer without a status"),
        (
            200,
            &[],
            Some(&[("grpc-message", b"none")]),
            Code::Unknown,
            "an answer without a status",
        ),
        // Something that is no etcd.
        (400, &[], None, Code::Internal, "HTTP status 400 Bad Request"),
        (401, &[], None, Code::Unauthenticated, "HTTP status 401 Unauthorized"),
        (403, &[], None, Code::PermissionDenied, "HTTP status 403 Forbidden"),
        (404, &[], None, Code::Unimplemented, "HTTP status 404 Not Found"),
        (429, &[], None, Code::Unavailable, "HTTP status 429 Too Many Requests"),
        (500, &[], None, Code::Unknown, "HTTP status 500 Internal Server Error"),
        (502, &[], None, Code::Unavailable, "HTTP status 502 Bad Gateway"),
        (
            503,
            &[],
            Some(&[]),
            Code::Unavailable,
            "HTTP status 503 Service Unavailable",
        ),
        (504, &[], None, Code::Unavailable, "HTTP status 504 Gateway Timeout"),
        // Good for gRPC, and not for HTTP; and the other way round.
        (
            503,
            &[("grpc-status", b"0")],
            None,
            Code::Unavailable,
            "HTTP status 503 Service Unavailable",
        ),
        (
            503,
            &[("grpc-status", b"8"), ("grpc-message", b"full")],
            None,
            Code::ResourceExhausted,
            "full",
        ),
        // Details that are none.
        (
            200,
            &[("grpc-status", b"9"), ("grpc-status-details-bin", b"!no base64!")],
            None,
            Code::FailedPrecondition,
            "",
        ),
        (
            200,
            &[],
            Some(&[("grpc-status", b"9"), ("grpc-status-details-bin", b"\xff%=")]),
            Code::FailedPrecondition,
            "",
        ),
    ];
    let server = Server::bind().await;
    let transport = server.transport();
    let open = |(status, head, trailers, ..): Row<'_>, call: &mut Call| {
        let mut stream = call.begin(status, head, trailers.is_none());
        if let Some(trailers) = trailers {
            // Data may come before a bad end.
            stream.send_data(wire(&text("!")).into(), false).expect("sent");
            end(stream, trailers);
        }
    };
    let mut peer = dialled(&server, &transport).await;
    for &row in rows {
        let (.., code, message) = row;
        let status = asked(&transport, &mut peer, |mut call| open(row, &mut call)).await;
        let status = status.expect_err("no good end");
        assert_eq!((status.code(), status.message()), (code, message), "{row:?}");
        // The same for a stream of messages.
        let (opened, ()) = join(begin(&transport), async { open(row, &mut peer.call().await) }).await;
        let status = match opened {
            Ok(answer) => all(answer).await.expect_err("no good end"),
            Err(status) => status,
        };
        assert_eq!((status.code(), status.message()), (code, message), "{row:?}");
    }
    // Good ends: of a message, of no message.
    is_served(&transport, &mut peer).await;
    for trailers in [None, Some(GOOD)] {
        let head: Headers<'_> = if trailers.is_none() { GOOD } else { &[] };
        let serve = async {
            let stream = peer.call().await.begin(200, head, trailers.is_none());
            if let Some(trailers) = trailers {
                end(stream, trailers);
            }
        };
        let opened = join(begin(&transport), serve).await.0;
        let messages = all(opened.expect("begun")).await;
        assert_eq!(messages.expect("a good end"), [], "{trailers:?}");
        let short = asked(&transport, &mut peer, |mut call| {
            let stream = call.begin(200, head, trailers.is_none());
            if let Some(trailers) = trailers {
                end(stream, trailers);
            }
        });
        assert_eq!(short.await.expect_err("no message").code(), Code::Internal);
    }
}

/// An answer in three pieces of any length, in two with nothing somewhere in it, and byte by byte.
fn cuts(wire: &[u8]) -> Vec<Vec<Bytes>> {
    let piece = |from: usize, to: usize| Bytes::copy_from_slice(&wire[from..to]);
    let inner = 1..wire.len();
    let three = inner
        .clone()
        .flat_map(|first| (first + 1..wire.len()).map(move |second| (first, second)));
    let three = three.map(|(first, second)| vec![piece(0, first), piece(first, second), piece(second, wire.len())]);
    // Few of these: the library ends a connection at the 101st of them.
    let nothing = inner.map(|at| vec![piece(0, at), Bytes::new(), piece(at, wire.len())]);
    let around = vec![Bytes::new(), piece(0, wire.len()), Bytes::new()];
    let bytes = (0..wire.len()).map(|at| piece(at, at + 1)).collect();
    three.chain(nothing).chain([around, bytes]).collect()
}

#[tokio::test]
async fn messages_are_the_same_wherever_they_are_cut() {
    let server = Server::bind().await;
    let transport = server.transport();
    let mut peer = dialled(&server, &transport).await;
    let messages = [text("ab"), text(""), text("c")];
    let whole: Vec<u8> = messages.iter().flat_map(wire).collect();
    for pieces in cuts(&whole) {
        let serve = async { peer.call().await.give(pieces.clone()) };
        let opened = join(begin(&transport), serve).await.0;
        let came = all(opened.expect("begun")).await;
        assert_eq!(came.expect("sound"), messages, "{pieces:?}");
    }
    for message in [text("abc"), text("")] {
        for pieces in cuts(&wire(&message)) {
            let came = asked(&transport, &mut peer, |call| call.give(pieces.clone())).await;
            assert_eq!(came.expect("sound"), message, "{pieces:?}");
        }
    }
    // An end in a frame of its own with nothing in it, where the status came before.
    let last = |call: &mut Call, messages: &[Text]| {
        let mut stream = call.begin(200, GOOD, false);
        for message in messages {
            stream.send_data(wire(message).into(), false).expect("sent");
        }
        stream.send_data(Bytes::new(), true).expect("sent");
    };
    for messages in [vec![], vec![text("abc")]] {
        let serve = async { last(&mut peer.call().await, &messages) };
        let opened = join(begin(&transport), serve).await.0;
        let came = all(opened.expect("begun")).await;
        assert_eq!(came.expect("a good end"), messages);
    }
    let came = asked(&transport, &mut peer, |mut call| last(&mut call, &[text("abc")])).await;
    assert_eq!(came.expect("a good end"), text("abc"));
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    let server = Server::bind().await;
    let transport = server.transport();
    let mut peer = dialled(&server, &transport).await;
    let good = wire(&text("abc"));
    let (compressed, long) = (
        [&[1][..], &good[1..]].concat(),
        [&[0, 0xff, 0xff, 0xff, 0xff][..], b"abc"].concat(),
    );
    let broken = [&good[..HEAD], b"\x0a\x05abc"].concat();
    let mut unsound = vec![compressed, long, broken];
    unsound.extend((1..good.len()).map(|short| good[..short].to_vec()));
    for bad in unsound {
        // At once and in pieces, alone and behind a good one.
        for step in [1, 3, bad.len()] {
            let pieces = || bad.chunks(step).map(Bytes::copy_from_slice);
            let status = asked(&transport, &mut peer, |call| call.give(pieces())).await;
            is_lost(&status.expect_err("no message"), &format!("{bad:?}"));
            let serve = async {
                let good = [Bytes::from(good.clone())];
                peer.call().await.give(good.into_iter().chain(pieces()));
            };
            let mut answer = join(begin(&transport), serve).await.0.expect("begun");
            assert_eq!(within(answer.message()).await.expect("sound"), Some(text("abc")));
            is_lost(&all(answer).await.expect_err("no message"), &format!("{bad:?}"));
        }
    }
    // More than one where there has to be one: another one, or the begin of one.
    for more in [good.clone(), wire(&text("")), vec![0]] {
        let both = [&good[..], &more].concat();
        for pieces in [
            vec![both.clone()],
            vec![good.clone(), more.clone()],
            vec![good.clone(), vec![], more],
        ] {
            let status = asked(&transport, &mut peer, |call| call.give(pieces.clone())).await;
            assert!(status.is_err(), "{pieces:?}: {status:?}");
        }
    }
    is_served(&transport, &mut peer).await;
    server.is_spared().await;
}

#[tokio::test]
async fn answers_larger_than_the_windows_flow_and_give_back_what_they_took() {
    const ANSWER: usize = 1 << 20;
    for (stream, connection) in [(16 << 10, 128 << 10), (1 << 20, 80 << 10), (1000, 65_535)] {
        let server = Server::bind().await;
        let windows = Windows { stream, connection };
        let transport = server.transport_with(windows, KEEPALIVE);
        let mut peer = dialled(&server, &transport).await;
        let large = text(vec![b'a'; ANSWER]);
        let whole = Bytes::from(wire(&large));
        for _ in 0..3 {
            let came = asked(&transport, &mut peer, |call| call.give([whole.clone()])).await;
            assert!(came.expect("answered") == large);
        }
        // Nor do those that are dropped keep what they took: together they are larger than the connection's window.
        for _ in 0..20 {
            let serve = async {
                let mut call = peer.call().await;
                let mut stream = call.begin(200, &[], false);
                stream.send_data(whole.clone(), false).expect("sent");
                stream
            };
            let (opened, mut stream) = join(begin(&transport), serve).await;
            let mut answer = opened.expect("begun");
            assert!(within(answer.data()).await.expect("came").is_some());
            drop(answer);
            assert_eq!(given_up(&mut stream).await, Reason::CANCEL);
        }
        let came = asked(&transport, &mut peer, |call| call.give([whole.clone()])).await;
        assert!(came.expect("answered") == large);
        server.is_spared().await;
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_leaves_room_for_others() {
    let server = Server::bind().await;
    let windows = Windows {
        stream: 16 << 10,
        connection: 128 << 10,
    };
    let transport = server.transport_with(windows, KEEPALIVE);
    let mut peer = dialled(&server, &transport).await;
    let large = text(vec![b'a'; 1 << 20]);
    let whole = Bytes::from(wire(&large));
    let serve = async { peer.call().await.give([whole.clone()]) };
    let (unread, ()) = join(begin(&transport), serve).await;
    let came = asked(&transport, &mut peer, |call| call.give([whole.clone()])).await;
    assert!(came.expect("answered") == large);
    let came = within(unread.expect("begun").only::<Text>()).await;
    assert!(came.expect("answered") == large);
}

#[tokio::test]
async fn a_request_is_what_a_server_of_grpc_expects() {
    let server = Server::bind().await;
    let reach = Reach {
        origin: "https://etcd.example:2379".parse().expect("a URI"),
        ..plain(server.address())
    };
    let lines = Arc::default();
    let transport = transport(&reach, &lines, WINDOWS, KEEPALIVE);
    let mut peer = dialled(&server, &transport).await;
    for token in [None, Some("simple.token-1")] {
        let given = token.map(HeaderValue::from_static);
        let call = async { transport.call(PATH, given, &text("what")).await?.only::<Text>().await };
        let serve = async {
            let mut call = peer.call().await;
            let head = &call.request;
            assert_eq!(head.method(), "POST");
            assert_eq!(head.uri().path_and_query().map(|path| path.as_str()), Some(PATH));
            assert_eq!(head.uri().scheme_str(), Some("https"));
            assert_eq!(
                head.uri().authority().map(|name| name.as_str()),
                Some("etcd.example:2379")
            );
            let agent = format!("apiserver-storage-etcd3/{}", env!("CARGO_PKG_VERSION"));
            let mut expected = vec![
                ("content-type", "application/grpc"),
                ("hasleader", "true"),
                ("te", "trailers"),
                ("user-agent", &agent),
            ];
            expected.extend(token.map(|token| ("token", token)));
            let headers = head.headers().iter();
            let mut headers: Vec<_> = headers
                .map(|(name, value)| (name.as_str(), value.to_str().expect("a text")))
                .collect();
            headers.sort_unstable();
            expected.sort_unstable();
            assert_eq!(headers, expected);
            assert_eq!(call.body().await, b"\0\0\0\0\x06\x0a\x04what");
            call.give([wire(&text("!"))]);
        };
        let (answer, ()) = within(join(call, serve)).await;
        assert_eq!(answer.expect("answered"), text("!"));
    }
}

#[tokio::test]
async fn a_large_request_arrives_whole_and_may_be_answered_before() {
    let server = Server::bind().await;
    let transport = server.transport();
    let mut peer = dialled(&server, &transport).await;
    let bytes: Vec<u8> = (0u8..251).cycle().take(2 << 20).collect();
    let large = text(bytes);
    for whole in [true, false, true] {
        let call = async { transport.call(PATH, None, &large).await?.only::<Text>().await };
        let serve = async {
            let mut call = peer.call().await;
            if whole {
                assert!(call.body().await == wire(&large));
                call.give([wire(&text("!"))]);
            } else {
                // The rest is refused with that.
                call.begin(200, &[("grpc-status", b"8"), ("grpc-message", b"too large")], true);
            }
        };
        let (answer, ()) = within(join(call, serve)).await;
        match answer {
            Ok(answer) => assert!(whole && answer == text("!")),
            Err(status) => assert!(!whole && status.message() == "too large", "{status:?}"),
        }
    }
    server.is_spared().await;
}
