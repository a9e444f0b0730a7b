//! What the store itself takes of a write or a read, over a backend in memory, beside the backend's own share of it:
//! `cargo bench -p apiserver-storage-kv`.

use std::sync::Arc;

use apiserver_storage_api::{
    Change, CreateOptions, Encoded, Entry, GetOptions, Key, ResourceInfo, ResourceScope, Storage, UpdateOptions,
};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{Expected, Kv, KvStore, KvStoreConfig, Lease, WriteOutcome};
use apiserver_storage_testing::ReferenceKv;
use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use serde_json::json;
use tokio::runtime::Runtime;

/// One store with one object in it.
struct Bench {
    kv: Arc<ReferenceKv>,
    store: KvStore<ReferenceKv>,
    key: Key,
    /// Two objects of the same size that differ.
    objects: [Encoded; 2],
    round: usize,
}

/// A pod of about so many bytes, shaped like one: many small members, few long texts.
fn object(size: usize, mark: &str) -> Encoded {
    let containers: Vec<_> = (0..size / 450)
        .map(|n| {
            json!({
                "name": format!("container-{n}"), "image": format!("registry.example.com/team/image-{n}:v1.2.3"),
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "two"}],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m"}},
                "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
            })
        })
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "a", "namespace": "ns", "uid": "4c8f4a1e-9d2b-4a35-8f6c-2f1f8f3f7e11",
            "labels": {"app": "web", "mark": mark},
        },
        "spec": {"nodeName": "node-1", "containers": containers},
    });
    Encoded::of(&pod).expect("it encodes")
}

impl Bench {
    fn new(runtime: &Runtime, size: usize) -> Self {
        let pods = ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
            .with_selectable_field("spec.nodeName");
        let key = pods.object_key(Some("ns"), "a").expect("a good name");
        let kv = Arc::new(ReferenceKv::new());
        let config = KvStoreConfig::new("/registry", Arc::new(Identity));
        let bench = Self {
            store: KvStore::new(Arc::clone(&kv), pods, config),
            kv,
            key,
            objects: [object(size, "even"), object(size, "odd")],
            round: 0,
        };
        runtime
            .block_on(
                bench
                    .store
                    .create(&bench.key, bench.objects[1].clone(), CreateOptions::default()),
            )
            .expect("it is new");
        bench
    }

    /// The object of the next round, and no history.
    fn next(&mut self) -> Encoded {
        self.round += 1;
        if self.round.is_multiple_of(64)
            && let Some(pair) = self.kv.raw_get("/registry/pods/ns/a")
        {
            self.kv.compact_now(pair.revision);
        }
        self.objects[self.round % 2].clone()
    }

    async fn put(&self, value: &Encoded, suggestion: Option<Entry>) -> Entry {
        let options = UpdateOptions {
            suggestion,
            ..UpdateOptions::default()
        };
        let mut update = |_| {
            let change = Ok(Change::put(value.clone()));
            async { change }
        };
        let updated = self.store.guaranteed_update(&self.key, options, &mut update).await;
        updated.expect("it is stored")
    }
}

fn bare_update(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, size: usize) {
    let mut bench = Bench::new(runtime, size);
    group.bench_function("bare update", |b| {
        b.iter(|| {
            let value = Bytes::copy_from_slice(bench.next().json());
            runtime.block_on(async {
                let (pair, _) = bench.kv.get("/registry/pods/ns/a", None).await.expect("it answers");
                let expected = pair.map_or(Expected::Absent, |pair| Expected::At(pair.revision));
                let written = bench
                    .kv
                    .put_if("/registry/pods/ns/a", value, expected, Lease::Keep)
                    .await;
                assert!(matches!(written, Ok(WriteOutcome::Applied(_))));
            });
        });
    });
}

fn writes(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    for (name, size) in [("1 KB", 1_000), ("9 KB", 9_000)] {
        let mut group = criterion.benchmark_group(name);
        bare_update(&mut group, &runtime, size);
        let mut bench = Bench::new(&runtime, size);
        group.bench_function("update", |b| {
            b.iter(|| {
                let value = bench.next();
                runtime.block_on(bench.put(&value, None))
            });
        });
        let mut bench = Bench::new(&runtime, size);
        let mut last = runtime
            .block_on(bench.store.get(&bench.key, GetOptions::default()))
            .ok();
        group.bench_function("update with a suggestion", |b| {
            b.iter(|| {
                let value = bench.next();
                last = Some(runtime.block_on(bench.put(&value, last.take())));
            });
        });
        let bench = Bench::new(&runtime, size);
        group.bench_function("update that changes nothing", |b| {
            b.iter(|| runtime.block_on(bench.put(&bench.objects[1], None)));
        });
        let mut bench = Bench::new(&runtime, size);
        group.bench_function("create", |b| {
            b.iter(|| {
                bench.kv.raw_delete("/registry/pods/ns/a");
                let value = bench.next();
                let created = bench.store.create(&bench.key, value, CreateOptions::default());
                runtime.block_on(created).expect("it is new")
            });
        });
        let bench = Bench::new(&runtime, size);
        group.bench_function("get", |b| {
            b.iter(|| {
                runtime
                    .block_on(bench.store.get(&bench.key, GetOptions::default()))
                    .expect("stored")
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = writes
}
criterion_main!(benches);
