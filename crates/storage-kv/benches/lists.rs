//! What lists cost above the backend: the store beside a bare read of the same range, over a backend in memory:
//! `cargo bench -p apiserver-storage-kv --bench lists`.

use std::hint::black_box;
use std::num::NonZeroU64;
use std::sync::Arc;

use apiserver_storage_api::{
    CreateOptions, Encoded, LabelSelector, ListAt, ListOptions, ResourceInfo, ResourceScope, Scope, SelectionPredicate,
    Storage,
};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{Kv, KvStore, KvStoreConfig, RangeRequest};
use apiserver_storage_testing::ReferenceKv;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tokio::runtime::Runtime;

const OBJECTS: usize = 5_000;
const PAYLOAD: usize = 2_048;
/// Of the objects, how many the selector takes.
const PICKS: [usize; 5] = [50, 500, 1_000, 2_500, 5_000];

fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced).with_selectable_field("spec.nodeName")
}

async fn filled() -> KvStore<ReferenceKv> {
    let config = KvStoreConfig::new("/registry", Arc::new(Identity));
    let store = KvStore::new(Arc::new(ReferenceKv::new()), pods(), config);
    for number in 0..OBJECTS {
        let name = format!("pod-{number:05}");
        let key = store.resource().object_key(Some("ns"), &name).expect("a good name");
        let labels: serde_json::Map<_, _> = PICKS
            .into_iter()
            .filter(|pick| number.is_multiple_of(OBJECTS / pick))
            .map(|pick| (format!("picks-{pick}"), json!("yes")))
            .collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "annotations": { "payload": "x".repeat(PAYLOAD) }, "labels": labels, "name": name, "namespace": "ns" },
            "spec": { "nodeName": format!("node-{}", number % 100) },
        });
        let pod = Encoded::of(&pod).expect("it encodes");
        store
            .create(&key, pod, CreateOptions::default())
            .await
            .expect("it is new");
    }
    store
}

async fn list(store: &KvStore<ReferenceKv>, mut options: ListOptions) -> usize {
    let scope = Scope::all(store.resource().prefix());
    let mut objects = 0;
    loop {
        let list = store.list(&scope, options.clone()).await.expect("it lists");
        let list = list.collect().await.expect("all can be read");
        objects += list.entries.len();
        match list.next {
            Some(token) => options.at = ListAt::Continue(token),
            None => return objects,
        }
    }
}

// measures: storage-api/BENCH-04, storage-api/BENCH-05
fn lists(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let store = runtime.block_on(filled());
    let mut group = criterion.benchmark_group("list_5k");
    group.throughput(Throughput::Elements(OBJECTS as u64));
    group.bench_function("baseline_range", |bencher| {
        bencher.iter(|| {
            let range = store.kv().range(RangeRequest::prefix("/registry/pods/"));
            black_box(runtime.block_on(range).expect("it is there"))
        });
    });
    group.bench_function("whole", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(list(&store, ListOptions::default()))));
    });
    group.bench_function("pages_of_500", |bencher| {
        bencher.iter(|| {
            let options = ListOptions {
                limit: NonZeroU64::new(500),
                ..ListOptions::default()
            };
            black_box(runtime.block_on(list(&store, options)))
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("list_5k_filtered");
    group.throughput(Throughput::Elements(OBJECTS as u64));
    for pick in PICKS {
        let labels = LabelSelector::default().with_equal(&format!("picks-{pick}"), "yes");
        let predicate = SelectionPredicate::new(labels, Default::default());
        group.bench_function(pick.to_string(), |bencher| {
            bencher.iter(|| {
                let options = ListOptions {
                    predicate: predicate.clone(),
                    ..ListOptions::default()
                };
                assert_eq!(runtime.block_on(list(&store, options)), pick);
            });
        });
    }
    group.finish();

    criterion.bench_function("stats_5k", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(store.stats()).expect("it counts")));
    });
}

criterion_group!(benches, lists);
criterion_main!(benches);
