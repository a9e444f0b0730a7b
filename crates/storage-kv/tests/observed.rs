//! What is told of calls: spans, slow ones in the log, how long a request was in storage. Never a value.

mod common;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{Clock, ManualClock};
use apiserver_storage_api::{
    CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, JsonNormalizer, ListAt, ListOptions, Malformed,
    MediaType, NoCheck, Normalized, Normalizer, Revision, SelectableField, Storage, UpdateOptions, WatchOptions,
    WatchStart,
};
use apiserver_storage_kv::transform::{DataContext, Decrypted, Outcome, TransformError, Transformer};
use apiserver_storage_kv::{KvStore, RequestLatency};
use apiserver_storage_testing::ReferenceKv;
use apiserver_storage_testing::fixture::*;
use bytes::Bytes;
use futures::StreamExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber, subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use common::{clocked, config, store};

/// Everything that was told, a line each: `SPAN name fields` and `LEVEL fields in name`.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Told {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let name = attributes.metadata().name();
        self.0.lock().push(format!("SPAN {name}{}", fields.0));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span = context.event_span(event).map_or("nothing", |span| span.name());
        let level = event.metadata().level();
        self.0.lock().push(format!("{level}{} in {span}", fields.0));
    }
}

impl Told {
    /// Listens from now on, on this thread. Each test here does, also one that does not look: what one thread hears for the
    /// first time while it has no listener may be passed over on others too.
    fn listen() -> (Self, subscriber::DefaultGuard) {
        let told = Self::default();
        let listener = tracing_subscriber::registry().with(told.clone());
        (told, subscriber::set_default(listener))
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }

    /// The lines of a level, or the spans.
    fn of(&self, level: &str) -> Vec<String> {
        let lines = self.take();
        lines.into_iter().filter(|line| line.starts_with(level)).collect()
    }
}

const SECRET: &str = "hunter2";

fn secret_pod(name: &str) -> serde_json::Value {
    let mut object = pod("ns", name);
    object["spec"]["secret"] = SECRET.into();
    object
}

// covers: storage-etcd3/OBS-01
#[tokio::test]
async fn every_verb_has_a_span_with_its_key_and_stages_and_no_value() {
    let (_, store) = store();
    let (told, _guard) = Told::listen();
    let a = key("ns", "a");
    create(&store, &a, &secret_pod("a")).await;
    store.get(&a, GetOptions::default()).await.expect("stored");
    change(&store, &a, label("x", SECRET)).await;
    let exact = ListOptions {
        at: ListAt::Exact(now(&store).await),
        limit: limit(7),
        ..ListOptions::default()
    };
    list(&store, &all(), exact).await;
    let one = apiserver_storage_api::Scope::Key(a.clone());
    list(&store, &one, ListOptions::default()).await;
    drop(Watching::all(&store, WatchStart::Now).await);
    store
        .delete(&a, DeleteOptions::default(), &mut NoCheck)
        .await
        .expect("deleted");
    let lines = told.take();
    assert!(!lines.iter().any(|line| line.contains(SECRET)), "{lines:#?}");
    let about = r#"type="Pod" group="" resource="pods""#;
    for (name, key, more) in [
        ("Create etcd3", "/registry/pods/ns/a", ""),
        ("Get etcd3", "/registry/pods/ns/a", ""),
        ("GuaranteedUpdate etcd3", "/registry/pods/ns/a", ""),
        (
            "List(recursive=true) etcd3",
            "/registry/pods/",
            r#" resource_version=3 resource_version_match="Exact" limit=7 continue=false"#,
        ),
        (
            "List(recursive=false) etcd3",
            "/registry/pods/ns/a",
            r#" resource_version_match="" continue=false"#,
        ),
        ("Watch etcd3", "/registry/pods/", ""),
        ("Delete etcd3", "/registry/pods/ns/a", ""),
    ] {
        let want = format!("SPAN {name} key=\"{key}\" {about}{more}");
        assert!(lines.contains(&want), "{want}\nis not in\n{lines:#?}");
    }
    for (stages, span) in [
        (&["encoded", "transformed", "called"][..], "Create etcd3"),
        (&["called", "decoded"], "Get etcd3"),
        (
            &["read", "decided", "encoded", "transformed", "called"],
            "GuaranteedUpdate etcd3",
        ),
        (&["checked", "called"], "Delete etcd3"),
    ] {
        let end = format!(" in {span}");
        let found: Vec<_> = lines.iter().filter(|line| line.ends_with(&end)).collect();
        let mut at = 0;
        for stage in stages {
            let stage = format!("message={stage}");
            let next = found[at..].iter().position(|line| line.contains(&stage));
            at += next.unwrap_or_else(|| panic!("{stage} of {span} is not in {found:#?}")) + 1;
        }
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("DEBUG") && line.contains("bytes=")),
        "stages tell how much it was: {lines:#?}"
    );
}

/// A store whose writes take so long, on its clock.
fn slow_store(clock: &ManualClock, takes: Duration) -> (Arc<ReferenceKv>, KvStore<ReferenceKv>) {
    let (kv, store) = clocked(clock.clone());
    slow_writes(&kv, clock, takes);
    (kv, store)
}

/// The next write takes so long.
fn slow_writes(kv: &ReferenceKv, clock: &ManualClock, takes: Duration) {
    let clock = clock.clone();
    kv.before_write(move |_| clock.advance(takes));
}

// covers: storage-etcd3/OBS-01
#[tokio::test]
async fn a_call_that_takes_long_is_logged_with_its_stages() {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let (kv, store) = slow_store(&clock, Duration::from_millis(500));
    let (told, _guard) = Told::listen();
    let a = key("ns", "a");
    create(&store, &a, &secret_pod("a")).await;
    assert_eq!(told.of("INFO"), [""; 0], "half a second is not too long");
    slow_writes(&kv, &clock, Duration::from_millis(501));
    let mut update = |current: Option<Entry>| {
        clock.advance(Duration::from_millis(70));
        let change = edited(current.as_ref(), label("x", SECRET));
        async { change }
    };
    store
        .guaranteed_update(&a, UpdateOptions::default(), &mut update)
        .await
        .expect("updated");
    let lines = told.of("INFO");
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    for part in [
        "slow storage call: GuaranteedUpdate etcd3",
        r#"key="/registry/pods/ns/a" type="Pod" group="" resource="pods" milliseconds=571"#,
        "bytes +0ms, decided +70ms, encoded ",
        " bytes +0ms, called +501ms",
    ] {
        assert!(line.contains(part), "{part}\nis not in\n{line}");
    }
    assert!(!line.contains(SECRET), "{line}");
    let slow = clock.clone();
    kv.before_range(move |_| slow.advance(Duration::from_secs(1)));
    list(&store, &all(), ListOptions::default()).await;
    let lines = told.of("INFO");
    assert!(
        lines.len() == 1 && lines[0].contains("slow storage call: List(recursive=true) etcd3"),
        "{lines:#?}"
    );
    // Time that a reader takes between pages is its own.
    let pages = store
        .list(&all(), ListOptions::default())
        .await
        .expect("a list")
        .into_pages();
    clock.advance(Duration::from_secs(5));
    pages.for_each(|_| async {}).await;
    assert_eq!(told.of("INFO"), [""; 0]);
}

// covers: storage-etcd3/OBS-05
#[tokio::test]
async fn lost_races_are_told_at_debug_level_only() {
    let (kv, store) = store();
    let created = create_pod(&store, "ns", "a").await;
    let (told, _guard) = Told::listen();
    kv.before_write(|kv| {
        kv.raw_put("/registry/pods/ns/a", pod_on("ns", "a", "n1").to_string());
    });
    change(&store, created.key(), label("x", "1")).await;
    let lines = told.take();
    let lost: Vec<_> = lines.iter().filter(|line| line.contains("trying again")).collect();
    assert!(
        matches!(&lost[..], [line] if line.starts_with("DEBUG") && line.contains("/registry/pods/ns/a")),
        "{lines:#?}"
    );
    assert!(
        !lines
            .iter()
            .any(|line| ["INFO", "WARN", "ERROR"].iter().any(|level| line.starts_with(level)))
    );
}

// covers: storage-etcd3/OBS-04
#[tokio::test]
async fn watches_that_end_are_logged_by_why_they_do() {
    let (told, _guard) = Told::listen();
    // History that is gone is a warning.
    let (kv, pods) = store();
    let created = create_pod(&pods, "ns", "a").await;
    let mut overtaken = Watching::all(&pods, WatchStart::After(created.revision())).await;
    for n in 0..3 {
        change(&pods, created.key(), label("x", &n.to_string())).await;
    }
    kv.compact_now(now(&pods).await);
    told.take();
    while overtaken.item().await.is_some() {}
    let lines = told.take();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("WARN") && line.contains("compacted") && line.ends_with("Watch etcd3")),
        "{lines:#?}"
    );
    // A reader that goes, and a store that closes, are nothing to speak of.
    drop(Watching::all(&pods, WatchStart::Now).await);
    let mut closed = Watching::all(&pods, WatchStart::Now).await;
    kv.close();
    while closed.item().await.is_some() {}
    let lines = told.take();
    let bad = |line: &&String| ["WARN", "ERROR"].iter().any(|level| line.starts_with(level));
    assert_eq!(lines.iter().filter(bad).count(), 0, "{lines:#?}");
    // Anything else is an error: here a key service that does not answer.
    let switch = apiserver_storage_testing::SwitchTransformer::new(Arc::new(apiserver_storage_kv::transform::Identity));
    let (_, sealed) = common::sealed(switch.clone());
    let mut broken = Watching::all(&sealed, WatchStart::Now).await;
    create_pod(&sealed, "ns", "a").await;
    switch.set(apiserver_storage_testing::Faults {
        unavailable: true,
        ..Default::default()
    });
    assert!(broken.item().await.is_some_and(|item| item.is_err()));
    let lines = told.of("ERROR");
    assert!(lines.len() == 1 && lines[0].contains("/registry/pods/"), "{lines:#?}");
}

/// Takes a second for each value, on a clock.
#[derive(Debug)]
struct SlowTransformer(ManualClock);

impl Transformer for SlowTransformer {
    fn transform_from_storage<'a>(
        &'a self,
        data: Bytes,
        _: &DataContext<'a>,
    ) -> Outcome<'a, Result<Decrypted, TransformError>> {
        self.0.advance(Duration::from_secs(1));
        Outcome::Ready(Ok(Decrypted::new(data, false)))
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        _: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        self.0.advance(Duration::from_secs(1));
        Outcome::Ready(Ok(data))
    }
}

/// Takes ten milliseconds to read a value, and as long to write one.
#[derive(Debug)]
struct SlowNormalizer(JsonNormalizer, ManualClock);

impl Normalizer for SlowNormalizer {
    fn normalize(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        self.1.advance(Duration::from_millis(10));
        self.0.normalize(stored, revision, fields)
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        self.1.advance(Duration::from_millis(10));
        self.0.encode(object, media_type)
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// A store where everything takes its time.
fn timed_store(clock: &ManualClock) -> (Arc<ReferenceKv>, KvStore<ReferenceKv>) {
    let kv = Arc::new(ReferenceKv::new());
    let normalizer = SlowNormalizer(JsonNormalizer::new(pods().gvk().clone()), clock.clone());
    let mut config = config().with_clock(Arc::new(clock.clone()));
    config.transformer = Arc::new(SlowTransformer(clock.clone()));
    let info = pods().with_normalizer(Arc::new(normalizer));
    (Arc::clone(&kv), KvStore::new(kv, info, config))
}

// covers: storage-etcd3/TXN-11
#[test]
fn only_the_transaction_counts_as_the_request() {
    let (_told, _guard) = Told::listen();
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime starts");
        runtime.block_on(async {
            let (kv, store) = timed_store(&clock);
            slow_writes(&kv, &clock, Duration::from_millis(250));
            let before = clock.monotonic();
            let options = CreateOptions {
                ttl: Some(Duration::from_secs(60)),
            };
            let value = encoded(&pod("ns", "a"));
            store.create(&key("ns", "a"), value, options).await.expect("created");
            let took = clock.monotonic() - before;
            assert!(
                took > Duration::from_millis(1250),
                "encoding and transforming take their time: {took:?}"
            );
        });
    });
    let text = handle.render();
    let line = r#"etcd_request_duration_seconds_sum{operation="create",group="",resource="pods"} 0.25"#;
    assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
}

// covers: storage-etcd3/OBS-02, storage-etcd3/OBS-03
#[tokio::test]
async fn a_request_knows_how_much_of_its_time_went_into_storage() {
    let (_told, _guard) = Told::listen();
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let (kv, store) = timed_store(&clock);
    let request = RequestLatency::new();
    let spent = || (request.storage().as_millis(), request.decode().as_millis());
    slow_writes(&kv, &clock, Duration::from_millis(100));
    request.scope(create_pod(&store, "ns", "a")).await;
    assert_eq!(spent().0, 100, "neither encoding nor transforming is storage");
    slow_writes(&kv, &clock, Duration::from_millis(30));
    create_pod(&store, "ns", "b").await;
    assert_eq!(spent().0, 100, "that was another request");
    let before = spent();
    let slow = clock.clone();
    kv.before_range(move |_| slow.advance(Duration::from_millis(7)));
    let list = request
        .scope(store.list(&all(), ListOptions::default()))
        .await
        .expect("a list");
    // The pages are written to the client after the handler has returned.
    let other = RequestLatency::new();
    let listed = list.collect().await.expect("a list");
    assert_eq!(listed.entries.len(), 2);
    assert_eq!(spent(), (before.0 + 7, before.1 + 20));
    // Within another scope, inner work counts for the inner one, and for the outer one again afterwards.
    slow_writes(&kv, &clock, Duration::from_millis(1));
    slow_writes(&kv, &clock, Duration::from_millis(2));
    slow_writes(&kv, &clock, Duration::from_millis(4));
    let before = spent();
    request
        .scope(async {
            create_pod(&store, "ns", "c").await;
            other.scope(create_pod(&store, "ns", "d")).await;
            create_pod(&store, "ns", "e").await;
        })
        .await;
    assert_eq!((spent().0 - before.0, other.storage().as_millis()), (5, 2));
    let reads = spent();
    request.scope(get(&store, &key("ns", "a"))).await;
    assert_eq!(spent(), (reads.0, reads.1 + 10));
    let options = WatchOptions::from_start(WatchStart::Now);
    request.scope(store.watch(&all(), options)).await.expect("a watch");
}
