//! The front door, seen from outside: headers that every answer has, deadlines, health, authentication, documents, and
//! what becomes of clients when the server stops.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "recorded/client.rs"]
mod client;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use serde_json::{Value, json};

use apiserver::storage::api::time::{Clock, ManualClock, SystemClock};
use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};

use client::{Answer, Client, Collect};

async fn start(change: impl FnOnce(&mut ServerConfig)) -> (Server, Client) {
    let mut config = ServerConfig::new(Storage::memory());
    change(&mut config);
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.insecure_address().unwrap());
    (server, client)
}

async fn config_map(client: &Client, name: &str) -> Answer {
    let body = json!({ "metadata": { "name": name }, "data": { "k": "v" } });
    let answer = client
        .ask("POST", "/api/v1/namespaces/default/configmaps", &[], Some(body))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    answer
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

// covers: apiserver-http/CHN-02, apiserver-http/CHN-05, apiserver-http/CHN-06, apiserver-http/STAT-26
// covers: apiserver-http/RGET-03
#[tokio::test]
async fn every_answer_has_an_audit_id_and_is_not_cached() {
    let (server, client) = start(|_| {}).await;
    config_map(&client, "a").await;
    for (target, status) in [
        ("/api/v1/namespaces/default/configmaps/a", 200),
        ("/api/v1/namespaces/default/configmaps/b", 404),
        ("/api/v1/nothing", 404),
        ("/nothing", 404),
        ("/healthz", 200),
        ("/api/v1/watch/", 500),
    ] {
        let answer = client.get(target).await;
        assert_eq!(answer.status, status, "{target}");
        assert_eq!(answer.header("cache-control"), Some("no-cache, private"), "{target}");
        assert_eq!(answer.header("audit-id").map(str::len), Some(36), "{target}");
        let own = client.ask("GET", target, &[("audit-id", "mine")], None).await;
        assert_eq!(own.header("audit-id"), Some("mine"), "{target}");
        assert!(answer.json().pointer("/metadata/selfLink").is_none(), "{target}");
    }
    assert_eq!(
        client.get("/api/v1/watch/").await.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    server.shutdown().await;
}

// covers: apiserver-http/LIM-01, apiserver-http/LIM-02, apiserver-http/LIM-03, apiserver-http/LIM-09
#[tokio::test]
async fn a_request_has_a_deadline() {
    let (server, client) = start(|_| {}).await;
    let created = config_map(&client, "a").await.json();
    let version: u64 = created["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    // A version that is not there yet is waited for, longer than this.
    let future = format!(
        "/api/v1/namespaces/default/configmaps/a?resourceVersion={}",
        version + 1000
    );
    let late = client.get(&format!("{future}&timeout=50ms")).await;
    assert_eq!(
        (late.status, late.json()["reason"].as_str()),
        (504, Some("Timeout")),
        "{}",
        late.json()
    );
    assert_eq!(late.header("content-type"), Some("application/json"));
    let bad = client.get("/api/v1/namespaces/default/configmaps?timeout=soon").await;
    assert_eq!(bad.status, 400, "{}", bad.json());
    let fine = client.get("/api/v1/namespaces/default/configmaps?timeout=32s").await;
    assert_eq!(fine.status, 200);
    server.shutdown().await;
}

// covers: apiserver-http/HLTH-06, apiserver-http/HLTH-13, apiserver-http/HLTH-14, apiserver-http/MTRX-01
// covers: apiserver-http/MTRX-05, apiserver-http/MTRX-07
#[tokio::test]
async fn health_and_metrics_are_where_probes_look_for_them() {
    let (server, client) = start(|_| {}).await;
    for (target, lines) in [
        ("/livez?verbose", vec!["[+]ping ok", "livez check passed"]),
        (
            "/readyz?verbose",
            vec![
                "[+]ping ok",
                "[+]storage ok",
                "[+]storage-readiness ok",
                "[+]poststarthook/bootstrap ok",
                "[+]shutdown ok",
                "readyz check passed",
            ],
        ),
    ] {
        let answer = client.get(target).await;
        assert_eq!((answer.status, text(&answer).lines().collect::<Vec<_>>()), (200, lines));
    }
    let index = client.get("/").await.json();
    let paths: Vec<_> = index["paths"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        paths.is_sorted() && paths.contains(&"/apis/apps/v1") && paths.contains(&"/readyz"),
        "{paths:?}"
    );

    client.get("/api/v1/namespaces/default/configmaps").await;
    client.get("/api/v1/namespaces/default/strange").await;
    let metrics = text(&client.get("/metrics").await);
    let counted = metrics.lines().find(|line| {
        line.starts_with("apiserver_request_total{") && line.contains("configmaps") && line.contains("\"LIST\"")
    });
    assert!(counted.is_some(), "{metrics}");
    assert!(!metrics.contains("strange"), "a client cannot make series");
    server.shutdown().await;
}

// covers: apiserver-http/AUTN-01, apiserver-http/AUTN-05, apiserver-http/CHN-14, apiserver-http/KCT-52
#[tokio::test]
async fn with_a_token_file_everybody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.csv");
    std::fs::write(&file, "secret,ann,1,\"system:masters,dev\"\n").unwrap();
    let (server, client) = start(|config| config.token_auth_file = Some(file)).await;
    let list = "/api/v1/namespaces";
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer wrong")], 401),
        (vec![("authorization", "Basic c2VjcmV0")], 401),
        (vec![("authorization", "Bearer secret")], 200),
        (
            vec![("authorization", "Bearer secret"), ("impersonate-user", "bob")],
            403,
        ),
    ] {
        let answer = client.ask("GET", list, &headers, None).await;
        assert_eq!(answer.status, status, "{headers:?}");
        if status != 200 {
            assert_eq!(answer.json()["kind"], "Status", "{headers:?}");
        }
    }
    assert_eq!(client.get("/readyz").await.status, 200, "probes have no token");
    assert_eq!(client.get("/metrics").await.status, 401);
    server.shutdown().await;
}

// covers: apiserver-http/PATH-02, apiserver-http/PATH-10, apiserver-http/QRY-04
// covers: apiserver-http/QRY-07, apiserver-http/RINF-06, apiserver-http/RCOL-03, apiserver-http/RCOL-04
#[tokio::test]
async fn parameters_mean_what_they_mean_and_nothing_else() {
    let (server, client) = start(|_| {}).await;
    config_map(&client, "a").await;
    config_map(&client, "b").await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let count = async |target: &str| client.get(target).await.json()["items"].as_array().map(Vec::len);
    assert_eq!(count("/api/v1/configmaps?namespace=kube-system").await, Some(2));
    assert_eq!(count(&format!("{maps}?fieldSelector=metadata.name%3Da")).await, Some(1));
    assert_eq!(count(&format!("{maps}?limit=1")).await, Some(1));

    for (target, status) in [(format!("{maps}/a"), 405), ("/apis".to_owned(), 200)] {
        let head = client.ask("HEAD", &target, &[], None).await;
        assert!(head.status == status && head.body.is_empty(), "{head:?}");
    }

    let other = client
        .get("/api/v1/watch/namespaces/default/configmaps/a?fieldSelector=metadata.name%3Db")
        .await;
    assert_eq!(other.status, 400, "{}", other.json());

    let unsafely = format!("{maps}?ignoreStoreReadErrorWithClusterBreakingPotential=true");
    let refused = client.ask("DELETE", &unsafely, &[], None).await;
    assert_eq!(refused.status, 422, "{}", refused.json());
    let gone = client
        .ask(
            "DELETE",
            &format!("{maps}?watch=true&fieldSelector=metadata.name%3Da"),
            &[],
            None,
        )
        .await;
    assert_eq!(gone.status, 200, "{}", gone.json());
    assert_eq!(count(maps).await, Some(1));
    server.shutdown().await;
}

// covers: apiserver-http/ENC-05, apiserver-http/NEG-12, apiserver-http/NEG-13, apiserver-http/RLST-08
#[tokio::test]
async fn long_answers_are_compressed_for_who_takes_it() {
    let (server, client) = start(|_| {}).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for at in 0..4 {
        let body = json!({ "metadata": { "name": format!("m{at}") }, "data": { "k": "x".repeat(50_000) } });
        assert_eq!(client.ask("POST", maps, &[], Some(body)).await.status, 201);
    }
    let gzip = ("accept-encoding", "gzip");
    let table = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    for (target, headers, compressed) in [
        (maps.to_owned(), vec![gzip], true),
        (maps.to_owned(), vec![], false),
        (format!("{maps}?limit=3"), vec![gzip], true),
        (format!("{maps}?includeObject=Object"), vec![gzip, table], true),
        (format!("{maps}/m0"), vec![gzip], false),
    ] {
        let answer = client.ask("GET", &target, &headers, None).await;
        assert_eq!(
            answer.header("content-encoding") == Some("gzip"),
            compressed,
            "{target} {headers:?}"
        );
        assert_eq!(
            answer.header("vary") == Some("Accept-Encoding"),
            compressed,
            "{target} {headers:?}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.json().is_object(), "{target} {headers:?}");
    }
    server.shutdown().await;
}

// covers: storage-cacher/LIST-23, storage-cacher/MEM-13
#[tokio::test]
async fn a_compressed_list_says_the_same_whether_its_parts_were_made_before_or_not() {
    // Room for some of the parts, so that others are made again each time.
    let (server, client) = start(|config| config.form_bytes = 8_192).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let body = |at: usize, text: &str| {
        let data = json!({ "k": text.repeat(3_000), "n": at.to_string() });
        json!({ "metadata": { "name": format!("m{at:02}") }, "data": data })
    };
    for at in 0..60 {
        let created = client.ask("POST", maps, &[], Some(body(at, "abc"))).await;
        assert_eq!(created.status, 201);
    }
    for round in 0..4 {
        for target in [maps.to_owned(), format!("{maps}?limit=50")] {
            let plain = client.ask("GET", &target, &[], None).await;
            let zipped = client.ask("GET", &target, &[("accept-encoding", "gzip")], None).await;
            assert_eq!(zipped.header("content-encoding"), Some("gzip"), "{target} {round}");
            assert!(zipped.body == plain.body, "{target} {round}");
        }
        let changed = body(round * 7, "xyz");
        let put = client
            .ask("PUT", &format!("{maps}/m{:02}", round * 7), &[], Some(changed))
            .await;
        assert_eq!(put.status, 200);
    }
    server.shutdown().await;
}

// covers: apiserver-http/DISC-11, apiserver-http/OAPI-09, apiserver-http/OAPI-10, apiserver-http/OAPI-11
#[tokio::test]
async fn documents_are_there_or_404() {
    let (server, client) = start(|_| {}).await;
    let accept = async |target: &str, accept: &str| {
        let answer = client.ask("GET", target, &[("accept", accept)], None).await;
        (
            answer.status,
            answer.header("content-type").unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(
        accept("/apis", "application/yaml").await,
        (200, "application/yaml".into())
    );
    assert_eq!(accept("/apis/apps/v1", "image/png").await.0, 406);
    assert_eq!(accept("/openapi/v3/apis/none/v1", "*/*").await.0, 404);
    assert_eq!(accept("/openapi/v2", "*/*").await.0, 404);
    let first = client.get("/openapi/v3/apis/apps/v1").await;
    let tag = first.header("etag").unwrap().to_owned();
    let again = client
        .ask("GET", "/openapi/v3/apis/apps/v1", &[("if-none-match", &tag)], None)
        .await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    server.shutdown().await;
}

// covers: apiserver-http/SHUT-01, apiserver-http/SHUT-06, apiserver-http/SHUT-07, apiserver-http/SHUT-08
// covers: apiserver-http/RWAT-23, apiserver-http/NET-08
#[tokio::test(flavor = "multi_thread")]
async fn watches_end_cleanly_when_the_server_stops() {
    let (server, client) = start(|_| {}).await;
    config_map(&client, "a").await;
    let maps = "/api/v1/namespaces/default/configmaps";
    // A deadline of requests does not end a watch.
    let mut answer = client
        .watch("GET", &format!("{maps}?watch=true&timeout=1ms"), &[])
        .await
        .unwrap();
    let watch = answer.watch.as_mut().unwrap();
    let all = Collect {
        count: Some(1),
        within: Duration::from_secs(10),
        settle: None,
        until_end: false,
        bookmarks: false,
    };
    let events = watch.collect(all).await;
    assert_eq!(events[0]["object"]["metadata"]["name"], "a");
    let (rest, ()) = tokio::join!(watch.collect(Collect { until_end: true, ..all }), server.shutdown());
    assert_eq!((rest.len(), watch.ended.as_deref()), (0, Some("clean")));
    assert!(watch.started.elapsed() < Duration::from_secs(30));
    assert!(
        client.send("GET", maps, &[], None).await.is_err(),
        "nobody listens any more"
    );
}

// covers: apiserver-http/FVAL-12, apiserver-http/FVAL-13
#[tokio::test]
async fn warnings_stay_within_what_clients_take() {
    let (server, client) = start(|_| {}).await;
    let mut body = json!({ "metadata": { "name": "a" } });
    for at in 0..90 {
        body[format!("unknown{at:0100}")] = json!(1);
    }
    let answer = client
        .ask("POST", "/api/v1/namespaces/default/configmaps", &[], Some(body))
        .await;
    let warnings = answer.headers.get_all("warning");
    let size: usize = warnings.iter().map(|value| value.len()).sum();
    assert!(
        answer.status == 201 && warnings.iter().count() > 20 && size < 6000,
        "{size}"
    );
    server.shutdown().await;
}

/// A clock whose time of day is moved; who sleeps, sleeps as ever.
#[derive(Debug)]
struct Shifted(Arc<dyn Clock>, ManualClock);

impl Clock for Shifted {
    fn now(&self) -> SystemTime {
        self.1.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

// covers: storage-api/UPD-12, storage-api/UPD-29
#[tokio::test]
async fn an_event_that_is_written_back_as_it_is_keeps_its_end() {
    for watch_cache in [true, false] {
        let time = Arc::new(Shifted(SystemClock::shared(), ManualClock::new(SystemTime::now())));
        let storage = Storage::memory().with_watch_cache(watch_cache);
        let storage = storage.with_clock(Arc::clone(&time) as Arc<dyn Clock>);
        let (server, client) = start(|config| config.storage = storage).await;
        let events = "/api/v1/namespaces/default/events";
        let event = json!({
            "metadata": { "name": "e" },
            "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p" },
            "reason": "R",
            "type": "Normal",
        });
        let created = client.ask("POST", events, &[], Some(event)).await;
        assert_eq!(created.status, 201, "{}", created.json());
        let (path, created) = (format!("{events}/e"), created.json());
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        for _ in 0..3 {
            time.1.advance(Duration::from_secs(15 * 60));
            let put = client.ask("PUT", &path, &[], Some(created.clone())).await;
            assert_eq!(
                (put.status, version(&put.json())),
                (200, version(&created)),
                "{}",
                put.json()
            );
            let merge = [("content-type", "application/merge-patch+json")];
            let same = Some(json!({ "type": "Normal" }));
            let patch = client.ask("PATCH", &path, &merge, same).await;
            assert_eq!(
                (patch.status, version(&patch.json())),
                (200, version(&created)),
                "{}",
                patch.json()
            );
        }
        // A change is written.
        let merge = [("content-type", "application/merge-patch+json")];
        let changed = client
            .ask("PATCH", &path, &merge, Some(json!({ "count": 2 })))
            .await
            .json();
        assert_ne!(version(&changed), version(&created), "{changed}");
        server.shutdown().await;
    }
}
