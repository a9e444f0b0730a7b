//! How the program ends: the real binary and signals; and what can only be seen from inside.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "recorded/client.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod client;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};

use client::{Client, Collect, Watch};

/// No wait is longer; what is waited for comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const EVENTS: &str = "/api/v1/namespaces/default/events";

/// The running program, killed on drop.
struct Program {
    child: Child,
    address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

fn spawn(flags: &[&str]) -> (Child, SocketAddr) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(env!("CARGO_BIN_EXE_apiserver"))
        .arg(format!("--insecure-port={port}"))
        .args(flags)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, SocketAddr::from(([127, 0, 0, 1], port)))
}

impl Program {
    /// Starts it and waits until it says that it is ready.
    fn start(flags: &[&str]) -> Self {
        let (mut child, address) = spawn(flags);
        let log = log(&mut child);
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("apiserver is ready: http://127.0.0.1:"), "{line:?}");
        Self {
            child,
            address,
            log: Some(log),
        }
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    fn terminate(&self) {
        signal(&self.child);
    }

    /// Waits for its end; how it ended and what it logged.
    fn end(mut self) -> (ExitStatus, String) {
        let status = end(&mut self.child);
        (status, self.log.take().unwrap().join().unwrap())
    }

    fn is_accepting(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(child: &mut Child) -> JoinHandle<String> {
    let mut stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    })
}

fn signal(child: &Child) {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

fn end(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(started.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A request of which a part is there: it is under way until the rest comes.
fn half_a_request(address: SocketAddr, name: &str) -> (TcpStream, String) {
    let body = json!({ "metadata": { "name": name } }).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server asks for the body once the request is under way.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    (stream, body)
}

async fn create(client: &Client, collection: &str, object: Value) -> Value {
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    let body = Some(object.to_string().into());
    let answer = client.send("POST", collection, &headers, body).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.json());
    answer.json()
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap();
    text.parse().unwrap()
}

/// A watch as kubectl and client-go open it, with its initial state read.
async fn watch(client: &Client, collection: &str, bookmarks: bool) -> Watch {
    let at = revision(&client.get(collection).await.json());
    let target = format!("{collection}?watch=true&resourceVersion={at}&allowWatchBookmarks={bookmarks}");
    client.watch("GET", &target, &[]).await.unwrap().watch.unwrap()
}

const FIRST: Collect = Collect {
    count: Some(1),
    within: PATIENCE,
    settle: None,
    until_end: false,
    bookmarks: true,
};

fn event(event: &Value) -> (String, u64) {
    (event["type"].as_str().unwrap().to_owned(), revision(&event["object"]))
}

async fn first(watch: &mut Watch) -> (String, u64) {
    event(&watch.collect(FIRST).await[0])
}

/// Everything up to the end, which must be a proper one.
async fn rest(watch: &mut Watch) -> Vec<(String, u64)> {
    let all = Collect {
        until_end: true,
        ..FIRST
    };
    let events = watch.collect(all).await;
    assert_eq!(watch.ended.as_deref(), Some("clean"), "{events:?}");
    events.iter().map(event).collect()
}

// covers: apiserver-http/SHUT-03, apiserver-http/SHUT-06, apiserver-http/SHUT-07, apiserver-http/SHUT-08
// covers: storage-cacher/BKM-14, storage-cacher/CFG-08
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_watches_where_they_are_and_lets_requests_finish() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", dir.path().display());
    let program = Program::start(&[&data]);
    let client = program.client();
    let mut asking = watch(&client, MAPS, true).await;
    let mut quiet = watch(&client, MAPS, false).await;
    let mut uncached = watch(&client, EVENTS, true).await;
    let own = revision(&create(&client, MAPS, json!({ "metadata": { "name": "a" } })).await);
    let (mut stream, body) = half_a_request(program.address, "late");
    let involved = json!({ "kind": "Pod", "namespace": "default", "name": "p" });
    let event = json!({ "metadata": { "name": "e" }, "involvedObject": involved });
    let other = revision(&create(&client, EVENTS, event).await);
    for (watch, at) in [(&mut asking, own), (&mut quiet, own), (&mut uncached, other)] {
        assert_eq!(first(watch).await, ("ADDED".to_owned(), at));
    }
    // What the watches do not show moves the place on where they may be resumed.
    let elsewhere = "/api/v1/namespaces/kube-system/configmaps";
    let moved = revision(&create(&client, elsewhere, json!({ "metadata": { "name": "b" } })).await);
    let fresh = format!("{elsewhere}?resourceVersion={moved}&resourceVersionMatch=NotOlderThan");
    assert_eq!(client.get(&fresh).await.status, 200);
    program.terminate();

    let ended = rest(&mut asking).await;
    assert_eq!(ended.last(), Some(&("BOOKMARK".to_owned(), moved)), "{ended:?}");
    assert!(ended.iter().all(|(kind, _)| kind == "BOOKMARK"), "{ended:?}");
    assert!(rest(&mut quiet).await.is_empty());
    assert!(rest(&mut uncached).await.iter().all(|(kind, _)| kind == "BOOKMARK"));
    assert!(!program.is_accepting(), "nobody listens any more");

    // The request that was under way is answered, and what it wrote is kept.
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    let (status, log) = program.end();
    assert!(status.success(), "{status}");
    let order = ["shutdown was asked for", "no more requests", "have ended", "is closed"];
    let places: Vec<_> = order.iter().map(|step| log.find(step)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{log}");
    let program = Program::start(&[&data]);
    assert_eq!(program.client().get(&format!("{MAPS}/late")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let program = Program::start(&["--storage-backend=memory"]);
    let _never_finished = half_a_request(program.address, "never");
    program.terminate();
    until("it takes nothing more", async || !program.is_accepting()).await;
    let second = Instant::now();
    program.terminate();
    let (status, log) = program.end();
    assert_eq!(status.code(), Some(1), "{log}");
    // Far below the minute that the request had.
    assert!(second.elapsed() < Duration::from_secs(10));
}

// covers: apiserver-http/SHUT-01, apiserver-http/HLTH-10
#[tokio::test(flavor = "multi_thread")]
async fn until_the_delay_is_over_everything_works_but_readiness() {
    let mut config = ServerConfig::new(Storage::memory());
    config.shutdown.delay = Duration::from_secs(5);
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.insecure_address().unwrap());
    assert_eq!(client.get("/readyz").await.status, 200);
    let stopping = tokio::spawn(server.shutdown());
    until("not ready", async || client.get("/readyz").await.status == 500).await;
    assert_eq!(client.get("/readyz/shutdown").await.status, 500);
    assert_eq!(client.get("/livez").await.status, 200);
    create(&client, MAPS, json!({ "metadata": { "name": "a" } })).await;
    assert!(!stopping.is_finished());
    stopping.await.unwrap();
    assert!(client.send("GET", MAPS, &[], None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_is_cut() {
    let mut config = ServerConfig::new(Storage::memory());
    config.shutdown.requests = Duration::from_millis(50);
    let server = Server::start(config).await.unwrap();
    let address = server.insecure_address().unwrap();
    let (mut stream, _) = tokio::task::spawn_blocking(move || half_a_request(address, "never"))
        .await
        .unwrap();
    let stopped = tokio::time::timeout(PATIENCE, server.shutdown()).await;
    assert!(stopped.is_ok(), "it waits for a client that sends nothing");
    // The connection is gone, and not only given up on.
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or_default(), 0);
}

// covers: apiserver-http/SHUT-06
#[tokio::test(flavor = "multi_thread")]
async fn watches_whose_ends_are_spread_all_end_properly() {
    let mut config = ServerConfig::new(Storage::memory());
    config.shutdown.watches = Duration::from_secs(60);
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.insecure_address().unwrap());
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(watch(&client, MAPS, false).await);
    }
    let started = Instant::now();
    let stopping = tokio::spawn(server.shutdown());
    for watch in &mut watches {
        assert!(rest(watch).await.is_empty());
    }
    // 200 end in a second: neither all at once nor as slowly as they might.
    let took = started.elapsed();
    assert!(took > Duration::from_millis(100) && took < PATIENCE, "{took:?}");
    stopping.await.unwrap();
}

/// Something that listens like an etcd and never says a word.
#[cfg(feature = "etcd3")]
#[test]
fn sigterm_while_the_storage_is_waited_for_ends_it() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = format!("--etcd-servers=http://{}", silent.local_addr().unwrap());
    let (mut child, _) = spawn(&[&servers]);
    let log = log(&mut child);
    // It has got as far as asking.
    let _connection = silent.accept().unwrap();
    let asked = Instant::now();
    signal(&child);
    let status = end(&mut child);
    let log = log.join().unwrap();
    assert!(
        status.success() && asked.elapsed() < Duration::from_secs(10),
        "{status} {log}"
    );
}

// covers: storage-etcd3/OBS-02
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_told_with_what_it_spent_its_time_on() {
    let program = Program::start(&["--storage-backend=memory"]);
    let (mut stream, body) = half_a_request(program.address, "slow");
    let (fast, collection) = (json!({ "metadata": { "name": "fast" } }), MAPS);
    create(&program.client(), collection, fast).await;
    // Longer than what is still fast: the body comes late.
    std::thread::sleep(Duration::from_millis(600));
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    program.terminate();
    let (_, log) = program.end();
    let id = answer.lines().find_map(|line| line.strip_prefix("audit-id: ")).unwrap();
    // On a machine that is slow enough the other one is told, too.
    let own = format!("Trace[{id}]");
    let told: Vec<_> = log.lines().filter(|line| line.contains(&own)).collect();
    let [line] = told[..] else { panic!("{log}") };
    assert!(
        line.contains(&format!("Trace[{id}]: \"Create\" (total time: ")),
        "{line}"
    );
    for field in ["resource=\"configmaps\"", "namespace=\"default\"", "status=201"] {
        assert!(line.contains(field), "{field} is not in {line}");
    }
    // The write took some time, and far less than the wait for the body.
    let storage = line.split("storage=").nth(1).unwrap();
    assert!(!storage.starts_with("0ns") && storage.contains('s'), "{line}");
}
