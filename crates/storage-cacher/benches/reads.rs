//! What reads from memory cost, beside a plain copy of the same bytes in the same run: `cargo bench -p
//! apiserver-storage-cacher`.

use std::hint::black_box;
use std::num::NonZeroU64;
use std::sync::Arc;

use apiserver_storage_api::{
    CreateOptions, Encoded, Entry, FieldSelector, GetOptions, Index, LabelSelector, ListAt, ListOptions, ReadAt,
    ResourceInfo, ResourceScope, SelectionPredicate, Storage,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tokio::runtime::Runtime;

const OBJECTS: usize = 10_000;
const NAMESPACES: usize = 50;
const NODES: usize = 1_000;

fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
        .with_selectable_field("spec.nodeName")
        .with_indexes(vec![Index::Field("spec.nodeName".into())])
}

/// A cache over 10,000 pods of about 2 KB in 50 namespaces on 1,000 nodes.
async fn filled() -> Arc<Cacher> {
    let kv = EmbeddedKv::open(EmbeddedConfig::memory())
        .await
        .expect("the store opens");
    let below: Arc<dyn Storage> = Arc::new(Arc::new(kv).store(pods()));
    let info = pods();
    for at in 0..OBJECTS {
        let (namespace, name) = (format!("ns-{}", at % NAMESPACES), format!("pod-{at:05}"));
        let key = info.object_key(Some(&namespace), &name).expect("a good name");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "annotations": { "pad": "x".repeat(1_800) } },
            "spec": { "nodeName": format!("node-{}", at % NODES) },
        });
        let pod = Encoded::of(&pod).expect("it encodes");
        below
            .create(&key, pod, CreateOptions::default())
            .await
            .expect("it is new");
    }
    let cache = Cacher::new(below, CacherConfig::default());
    cache.wait_ready().await.expect("the cache gets ready");
    Arc::new(cache)
}

async fn list(cache: &Cacher, namespace: Option<&str>, options: ListOptions) -> Vec<Entry> {
    let scope = cache.resource().list_scope(namespace).expect("a good namespace");
    let list = cache.list(&scope, options).await.expect("it lists");
    list.collect().await.expect("all can be read").entries
}

fn any() -> ListOptions {
    ListOptions {
        at: ListAt::Any,
        ..ListOptions::default()
    }
}

/// Writes entries into one reused buffer, as a server does.
fn write(entries: &[Entry], buffer: &mut Vec<u8>) {
    buffer.clear();
    for entry in entries {
        if buffer.len() > 64 * 1024 {
            black_box(&buffer);
            buffer.clear();
        }
        buffer.extend_from_slice(entry.json().expect("it can be read"));
    }
}

fn reads(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let cache = runtime.block_on(filled());
    let everything = runtime.block_on(list(&cache, None, any()));
    let bytes: usize = everything
        .iter()
        .map(|entry| entry.json().map_or(0, |json| json.len()))
        .sum();
    let mut buffer = Vec::with_capacity(128 * 1024);

    let mut group = criterion.benchmark_group("list_cached_10k");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("baseline_copy", |bencher| {
        bencher.iter(|| write(&everything, &mut buffer))
    });
    group.bench_function("any_to_bytes", |bencher| {
        bencher.iter(|| write(&runtime.block_on(list(&cache, None, any())), &mut buffer));
    });
    group.bench_function("consistent_to_bytes", |bencher| {
        bencher.iter(|| {
            write(
                &runtime.block_on(list(&cache, None, ListOptions::default())),
                &mut buffer,
            )
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("read_cached_10k");
    group.bench_function("namespace", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(list(&cache, Some("ns-7"), any()))));
    });
    let node = FieldSelector::default().with_equal("spec.nodeName", "node-7");
    let predicate = SelectionPredicate::new(LabelSelector::default(), node);
    group.bench_function("node_by_index", |bencher| {
        bencher.iter(|| {
            let options = ListOptions {
                predicate: predicate.clone(),
                ..any()
            };
            black_box(runtime.block_on(list(&cache, None, options)))
        });
    });
    group.bench_function("page_of_500", |bencher| {
        bencher.iter(|| {
            // Not of any state: who takes any gets all of it, whatever the limit.
            let options = ListOptions {
                limit: NonZeroU64::new(500),
                ..ListOptions::default()
            };
            black_box(runtime.block_on(list(&cache, None, options)))
        });
    });
    let key = cache
        .resource()
        .object_key(Some("ns-7"), "pod-00007")
        .expect("a good name");
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            let options = GetOptions { at: ReadAt::Any };
            black_box(runtime.block_on(cache.get(&key, options)).expect("it is there"))
        });
    });
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
