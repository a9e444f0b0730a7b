//! What it costs to read a stored object and to make its stored form, beside decoding the same bytes: `cargo bench -p
//! apiserver-storage-api`. Objects of a list differ in names (`read_list`); those that differ in their keys as well
//! (`read_mixed`) are read without what is known of the one before.

use std::hint::black_box;

use apiserver_storage_api::{Encoded, Entry, MediaType, ResourceInfo, ResourceScope, Revision, digest};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};

fn pods() -> ResourceInfo {
    ["spec.nodeName", "spec.restartPolicy", "status.phase"]
        .into_iter()
        .fold(
            ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced),
            ResourceInfo::with_selectable_field,
        )
}

/// A pod with so many containers.
fn pod(containers: usize) -> Value {
    let container = |number: usize| {
        json!({
            "args": ["--listen", format!(":{}", 8000 + number), "--verbose=2"],
            "env": [
                { "name": "POD_NAME", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } },
                { "name": "REGION", "value": "eu-central-1" },
            ],
            "image": format!("registry.example.com/team/service-{number}:v1.27.3"),
            "livenessProbe": { "failureThreshold": 3, "httpGet": { "path": "/livez", "port": 8000 + number } },
            "name": format!("service-{number}"),
            "resources": { "limits": { "cpu": "500m" }, "requests": { "cpu": "100m", "memory": "128Mi" } },
            "volumeMounts": [{ "mountPath": "/var/run/secrets", "name": "kube-api-access", "readOnly": true }],
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "annotations": { "example.com/note": "made for a measurement" },
            "creationTimestamp": "2026-01-05T08:12:01Z",
            "labels": { "app": "service", "tier": "backend" },
            "name": "pod-0042", "namespace": "bench", "uid": "0f4c2b6e-5d0a-4a53-9d0c-6f3b1c2a7e11",
        },
        "spec": {
            "containers": (0..containers).map(container).collect::<Vec<_>>(),
            "nodeName": "node-0042", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
        },
        "status": { "phase": "Running", "podIP": "10.42.0.17" },
    })
}

fn objects(criterion: &mut Criterion) {
    let info = pods();
    let key = info.object_key(Some("bench"), "pod-0042").expect("a good name");
    let mut group = criterion.benchmark_group("object");
    for containers in [1, 14] {
        let pod = pod(containers);
        let canonical = Encoded::from_json(pod.to_string());
        let pretty = serde_json::to_vec_pretty(&pod).expect("it encodes");
        let (stored, entry) = (format!("{pod}\n").into_bytes(), Revision::MAX);
        group.throughput(Throughput::Bytes(stored.len() as u64));
        let mut bench = |name: &str, run: &mut dyn FnMut()| {
            group.bench_function(BenchmarkId::new(name, stored.len()), |bencher| bencher.iter(&mut *run));
        };
        bench("baseline_decode", &mut || {
            black_box(serde_json::from_slice::<Value>(&stored).expect("it decodes"));
        });
        let text = String::from_utf8_lossy(&stored);
        let variants = |change: &dyn Fn(usize) -> String| (0..64).map(|n| change(n).into_bytes()).collect::<Vec<_>>();
        let list = variants(&|n| {
            let named = text.replace("pod-0042", &format!("pod-{n:04}"));
            named
                .replace("node-0042", &format!("node-{:04}", n % 9))
                .replace("0f4c2b6e", &format!("{n:08x}"))
        });
        let mixed = variants(&|n| text.replace("example.com/note", &format!("example.com/{n:04}")));
        for (name, objects) in [("read_list", &list), ("read_mixed", &mixed)] {
            let mut next = 0;
            bench(name, &mut || {
                next += 1;
                let stored = &objects[next % objects.len()];
                black_box(Entry::read(&info, key.clone(), entry, stored, false));
            });
        }
        bench("read_pretty", &mut || {
            black_box(Entry::read(&info, key.clone(), entry, &pretty, false));
        });
        bench("encode_canonical", &mut || {
            let encoded = info.normalizer().encode(&canonical, MediaType::Json);
            black_box(encoded.expect("it encodes"));
        });
        bench("digest", &mut || {
            black_box(digest(&stored));
        });
    }
    group.finish();
}

criterion_group!(benches, objects);
criterion_main!(benches);
