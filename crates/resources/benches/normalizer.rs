//! What it costs to read a stored pod: as a server stores it, without the defaults, in another layout, and for comparison
//! to decode the same bytes: `cargo bench -p apiserver-resources`. Pods of a list differ in names, nodes and settings; those
//! that differ in their keys as well (`mixed`) are read without what is known of the one before.

use std::hint::black_box;

use apiserver_resources::normalizer::resource_info;
use apiserver_resources::types::{Gvk, TypeRegistry};
use apiserver_resources::wire;
use apiserver_storage_api::{Entry, Revision};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};

/// A pod with so many containers, without defaults.
fn pod(containers: usize) -> Value {
    let container = |number: usize| {
        let settings = (0..8).map(|setting| {
            let value = (number * 8 + setting).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            json!({ "name": format!("SETTING_{setting}"), "value": format!("value-{value:032x}") })
        });
        json!({
            "name": format!("c{number}"),
            "image": format!("registry.example.com/team/app-{number}@sha256:{number:064x}"),
            "env": settings.collect::<Vec<_>>(),
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
        })
    };
    json!({
        "metadata": {
            "name": "app-0000042", "namespace": "ns-042", "uid": "0000002a-0000-4000-8000-00000000002a",
            "creationTimestamp": "2025-10-09T08:53:20Z", "labels": { "app": "app-42", "tier": "web" },
        },
        "spec": {
            "containers": (0..containers).map(container).collect::<Vec<_>>(),
            "serviceAccountName": "default", "nodeName": "node-00042",
        },
        "status": { "phase": "Running", "hostIP": "10.1.0.1", "podIP": "10.0.0.1" },
    })
}

fn reading(criterion: &mut Criterion) {
    let registry = TypeRegistry::builtin();
    let pods = resource_info(registry.resource("", "v1", "pods").expect("pods are built in"));
    let key = pods.object_key(Some("ns-042"), "app-0000042").expect("a good name");
    let mut group = criterion.benchmark_group("read_pod");
    for containers in [1, 10] {
        let gvk = Gvk::new("", "v1", "Pod");
        let bare = pod(containers);
        let mut full = bare.clone();
        apiserver_resources::defaults::apply_defaults(gvk, &mut full);
        let stored = |object: &Value| wire::encode_stored(gvk, object).expect("a pod");
        let (canonical, bare) = (stored(&full), stored(&bare));
        let decoded: Value = serde_json::from_slice(&canonical).expect("JSON");
        let pretty = serde_json::to_vec_pretty(&decoded).expect("it encodes");
        group.throughput(Throughput::Bytes(canonical.len() as u64));
        for (name, bytes) in [
            ("complete", &canonical),
            ("mixed", &canonical),
            ("without_defaults", &bare),
            ("pretty", &pretty),
        ] {
            let text = String::from_utf8_lossy(bytes);
            let like = |n: usize| {
                let named = text
                    .replace("app-0000042", &format!("app-{n:07}"))
                    .replace("0000002a", &format!("{n:08x}"));
                let named = named.replace("value-0000", &format!("value-{n:04x}"));
                match name {
                    "mixed" => named.replace("\"tier\"", &format!("\"tier{n:02}\"")),
                    _ => named.replace("node-00042", &format!("node-{n:05}")),
                }
            };
            let list: Vec<Vec<u8>> = (0..64).map(|n| like(n).into_bytes()).collect();
            let mut next = 0;
            group.bench_function(BenchmarkId::new(name, bytes.len()), |bencher| {
                bencher.iter(|| {
                    next += 1;
                    let bytes = &list[next % list.len()];
                    let entry = Entry::read(&pods, key.clone(), Revision::MAX, bytes, false);
                    assert!(black_box(entry).unreadable_reason().is_none());
                });
            });
        }
        group.bench_function(BenchmarkId::new("baseline_decode", canonical.len()), |bencher| {
            bencher.iter(|| black_box(serde_json::from_slice::<Value>(&canonical).expect("JSON")));
        });
    }
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
