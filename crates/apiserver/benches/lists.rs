//! What lists cost whose parts are at hand: compressed, beside compressing the same bytes as a whole at the same level; and
//! in every other form, beside a server that keeps no forms and beside making the form of the plain list in one piece:
//! `cargo bench -p apiserver`. Through HTTP, one client on loopback that throws the bytes away; the baselines without.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use apiserver::resources::table::{self, IncludeObject, TablePrinter};
use apiserver::resources::types::{Gvk, TypeRegistry};
use apiserver::resources::wire::protobuf;
use apiserver::storage::api::codec::json::to_vec;
use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const PODS: usize = 20_000;
/// Pods of the lists in other forms: these are about what is done for each.
const FEWER_PODS: usize = 4_000;
const NODES: usize = 5_000;
const LIST: &str = "GET /api/v1/pods";
const JSON: &str = "application/json";

/// Sends one request for JSON, and reads the answer to its end.
fn exchange(server: SocketAddr, request: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
    exchange_as(server, request, JSON, encoding, body)
}

/// Sends one request, and reads the answer to its end.
fn exchange_as(server: SocketAddr, request: &str, accept: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut stream = ask(server, request, accept, encoding, body);
    stream.read_to_end(&mut answer).expect("an answer");
    check(&answer);
    answer
}

/// Asks for a list and throws the answer away as it comes. Its bytes.
fn drain(server: SocketAddr, accept: &str, encoding: &str) -> usize {
    let mut stream = ask(server, LIST, accept, encoding, b"");
    let (mut room, mut bytes) = ([0; 64 << 10], 0);
    loop {
        let read = stream.read(&mut room).expect("an answer");
        match (read, bytes) {
            (0, _) => return bytes,
            (_, 0) => check(&room[..read]),
            _ => {}
        }
        bytes += read;
    }
}

fn check(answer: &[u8]) {
    assert!(
        answer.starts_with(b"HTTP/1.1 20"),
        "{}",
        String::from_utf8_lossy(&answer[..200.min(answer.len())])
    );
}

/// Sends one request.
fn ask(server: SocketAddr, request: &str, accept: &str, encoding: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    let head = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    stream.write_all(body).expect("it is sent");
    stream
}

/// A pod of about 9 KB, most of it text that differs from pod to pod.
fn pod(at: usize) -> Vec<u8> {
    let environment: Vec<_> = (0..60)
        .map(|n| json!({ "name": format!("SETTING_{n}"), "value": format!("{:016x}-{:016x}-of-{at}", n * 7_919 + at, at * 104_729 + n) }))
        .collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/team/{name}:1.{}", at % 40), "env": environment,
            "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
        })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{at:06}"),
            "labels": { "app": format!("app-{}", at % 200), "pod-template-hash": format!("{:08x}", at * 2_654_435 % 97_531) },
        },
        "spec": { "nodeName": format!("node-{:04}", at % NODES), "containers": [container("main"), container("side")] },
    });
    serde_json::to_vec(&pod).expect("it encodes")
}

async fn filled(pods: usize, form_bytes: usize) -> (Server, SocketAddr) {
    let mut config = ServerConfig::new(Storage::memory());
    config.form_bytes = form_bytes;
    let server = Server::start(config).await.expect("it starts");
    let address = server.insecure_address().expect("it listens");
    tokio::task::spawn_blocking(move || {
        for at in 0..pods {
            exchange(address, "POST /api/v1/namespaces/default/pods", "identity", &pod(at));
        }
    })
    .await
    .expect("the pods are made");
    (server, address)
}

// measures: storage-cacher/OPP-02
fn compressed_lists(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (server, address) = runtime.block_on(filled(PODS, 128 << 20));
    let plain = exchange(address, LIST, "identity", b"");
    let cold = exchange(address, LIST, "gzip", b"");
    println!("{PODS} pods: {} bytes, {} compressed by parts", plain.len(), cold.len());
    let mut group = criterion.benchmark_group("list_20k_pods");
    group.sample_size(10).throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("baseline_compress_whole", |bencher| {
        bencher.iter(|| {
            let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let mut encoder = black_box(encoder);
            encoder.write_all(&plain).expect("it fits");
            black_box(encoder.finish().expect("it ends").len())
        });
    });
    group.bench_function("gzip_warm", |bencher| {
        bencher.iter(|| black_box(drain(address, JSON, "gzip")));
    });
    group.bench_function("plain", |bencher| {
        bencher.iter(|| black_box(drain(address, JSON, "identity")));
    });
    group.finish();
    runtime.block_on(server.shutdown());
}

/// A form of lists, and how it is made of the plain list in one piece.
struct Form {
    name: &'static str,
    accept: &'static str,
    whole: fn(&[u8]) -> Vec<u8>,
}

fn in_protobuf(plain: &[u8]) -> Vec<u8> {
    let list: Value = serde_json::from_slice(plain).expect("a list");
    protobuf::encode(Gvk::new("", "v1", "PodList"), &list).expect("pods")
}

fn as_table(plain: &[u8]) -> Vec<u8> {
    let list: Value = serde_json::from_slice(plain).expect("a list");
    let printer = TablePrinter::builtin(TypeRegistry::builtin().resource("", "v1", "pods").expect("pods"));
    let now = jiff::Timestamp::now();
    let items = list["items"].as_array().expect("items").iter();
    let rows = items.map(|pod| table::row(printer.cells(pod, now), pod, IncludeObject::Metadata, "v1"));
    to_vec(&table::table(
        "v1",
        list["metadata"].clone(),
        Some(printer.columns()),
        rows.collect(),
    ))
}

fn metadata_only(plain: &[u8]) -> Vec<u8> {
    let list: Value = serde_json::from_slice(plain).expect("a list");
    let items = list["items"].as_array().expect("items");
    to_vec(&table::partial_object_metadata_list(
        list["metadata"].clone(),
        items,
        "v1",
    ))
}

const FORMS: [Form; 3] = [
    Form {
        name: "protobuf",
        accept: "application/vnd.kubernetes.protobuf",
        whole: in_protobuf,
    },
    Form {
        name: "table",
        accept: "application/json;as=Table;v=v1;g=meta.k8s.io",
        whole: as_table,
    },
    Form {
        name: "metadata",
        accept: "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        whole: metadata_only,
    },
];

// measures: storage-cacher/OPP-02
fn other_forms(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (warm_server, warm) = runtime.block_on(filled(FEWER_PODS, 512 << 20));
    let (cold_server, cold) = runtime.block_on(filled(FEWER_PODS, 0));
    let answer = exchange(warm, LIST, "identity", b"");
    let plain = plain_body(&answer);
    for form in FORMS {
        let ask = |server, encoding| drain(server, form.accept, encoding);
        let mut group = criterion.benchmark_group(format!("list_4k_pods_{}", form.name));
        group
            .sample_size(10)
            .throughput(Throughput::Elements(FEWER_PODS as u64));
        group.bench_function("baseline_whole", |bencher| {
            bencher.iter(|| black_box((form.whole)(&plain).len()));
        });
        for encoding in ["identity", "gzip"] {
            println!("{} {encoding}: {} bytes", form.name, ask(warm, encoding));
            group.bench_function(format!("cold_{encoding}"), |bencher| {
                bencher.iter(|| black_box(ask(cold, encoding)));
            });
            group.bench_function(format!("warm_{encoding}"), |bencher| {
                bencher.iter(|| black_box(ask(warm, encoding)));
            });
        }
        group.finish();
    }
    runtime.block_on(warm_server.shutdown());
    runtime.block_on(cold_server.shutdown());
}

/// The body of an answer in chunks.
fn plain_body(answer: &[u8]) -> Vec<u8> {
    let head = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head");
    let (mut rest, mut body) = (&answer[head + 4..], Vec::new());
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a length");
        let length = std::str::from_utf8(&rest[..end]).expect("text");
        let length = usize::from_str_radix(length, 16).expect("a number");
        if length == 0 {
            return body;
        }
        let (chunk, after) = rest[end + 2..].split_at(length);
        body.extend_from_slice(chunk);
        rest = &after[2..];
    }
}

criterion_group!(benches, compressed_lists, other_forms);
criterion_main!(benches);
