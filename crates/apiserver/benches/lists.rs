//! What a compressed list costs whose parts are at hand, beside compressing the same bytes as a whole at the same level:
//! `cargo bench -p apiserver`. Through HTTP, one client on loopback that throws the bytes away.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tokio::runtime::Runtime;

const PODS: usize = 20_000;
const NODES: usize = 5_000;
const LIST: &str = "GET /api/v1/pods";

/// Sends one request, and reads the answer to its end.
fn exchange(server: SocketAddr, request: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    let head = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept-Encoding: {encoding}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    stream.write_all(body).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert!(
        answer.starts_with(b"HTTP/1.1 20"),
        "{}",
        String::from_utf8_lossy(&answer[..200.min(answer.len())])
    );
    answer
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

async fn filled() -> (Server, SocketAddr) {
    let server = Server::start(ServerConfig::new(Storage::memory()))
        .await
        .expect("it starts");
    let address = server.insecure_address().expect("it listens");
    tokio::task::spawn_blocking(move || {
        for at in 0..PODS {
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
    let (server, address) = runtime.block_on(filled());
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
        bencher.iter(|| black_box(exchange(address, LIST, "gzip", b"").len()));
    });
    group.bench_function("plain", |bencher| {
        bencher.iter(|| black_box(exchange(address, LIST, "identity", b"").len()));
    });
    group.finish();
    runtime.block_on(server.shutdown());
}

criterion_group!(benches, compressed_lists);
criterion_main!(benches);
