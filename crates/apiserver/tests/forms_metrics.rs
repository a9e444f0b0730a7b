//! What was made once is not made again, by the server's own count. One process and one server: the count is of both.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "recorded/client.rs"]
mod client;

use std::time::Duration;

use serde_json::json;

use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};

use client::{Client, Collect};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A representation and its query.
const FORMS: [(&str, &str); 7] = [
    ("application/vnd.kubernetes.protobuf", ""),
    ("application/json;as=Table;v=v1;g=meta.k8s.io", ""),
    ("application/json;as=Table;v=v1;g=meta.k8s.io", "includeObject=None"),
    ("application/json;as=Table;v=v1;g=meta.k8s.io", "includeObject=Object"),
    ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", ""),
    (
        "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
        "",
    ),
    (
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "",
    ),
];

/// A number of `/metrics`.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

async fn made(client: &Client) -> u64 {
    metric(client, "apiserver_derived_forms_made_total").await
}

// covers: storage-cacher/OPP-02, apiserver-http/RWAT-18
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_twice() {
    const OBJECTS: u64 = 40;
    const WATCHERS: usize = 20;
    let server = Server::start(ServerConfig::new(Storage::memory())).await.unwrap();
    let client = Client::new(server.insecure_address().unwrap());
    for at in 0..OBJECTS {
        // Long enough for every form of a list to be compressed, and none to be alike.
        let filler: String = (0..400)
            .map(|n| format!("{:x}-", (n + 1) * (at + 7) * 2_654_435_761))
            .collect();
        let body = json!({"metadata": {"name": format!("a-{at}"), "annotations": {"f": filler}}, "data": {"k": filler.repeat(2)}});
        assert_eq!(client.ask("POST", MAPS, &[], Some(body)).await.status, 201);
    }
    for (accept, query) in FORMS {
        let target = format!("{MAPS}?{query}");
        for encoding in ["identity", "gzip"] {
            let headers = [("accept", accept), ("accept-encoding", encoding)];
            let before = made(&client).await;
            let first = client.ask("GET", &target, &headers, None).await;
            let cold = made(&client).await - before;
            let second = client.ask("GET", &target, &headers, None).await;
            assert_eq!(first.status, 200, "{accept}");
            assert_eq!(first.body.len(), second.body.len());
            // Rows without an object are too short to be worth compressing, and so is the list of them.
            let want = match (encoding, query) {
                ("gzip", "includeObject=None") => 0,
                _ => OBJECTS,
            };
            assert_eq!(cold, want, "{accept} {query} {encoding}");
            assert_eq!(
                made(&client).await - before - cold,
                0,
                "{accept} {query} {encoding}: made again"
            );
        }
    }
    assert!(metric(&client, "apiserver_derived_forms_bytes").await > 100_000);
    assert!(metric(&client, "apiserver_derived_forms_shared_total").await > 500);
    watchers_share(&client, WATCHERS).await;
    server.shutdown().await;
}

/// Watchers of tables and of metadata see the same changes, and each object is made a row and metadata of once.
async fn watchers_share(client: &Client, watchers: usize) {
    let pod = |node: &str| {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "labels": {"node": node}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}})
    };
    let start = client.get(PODS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let before = made(client).await;
    let mut open = Vec::new();
    for accept in [
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    ] {
        for _ in 0..watchers {
            let target = format!("{PODS}?watch=true&resourceVersion={start}");
            let headers = [("accept".to_owned(), accept.to_owned())];
            open.push(client.watch("GET", &target, &headers).await.unwrap().watch.unwrap());
        }
    }
    assert_eq!(client.ask("POST", PODS, &[], Some(pod("a"))).await.status, 201);
    for node in ["b", "c", "d"] {
        let changed = client.ask("PUT", &format!("{PODS}/p"), &[], Some(pod(node))).await;
        assert_eq!(changed.status, 200, "{}", changed.json());
    }
    for watch in &mut open {
        let how = Collect {
            count: Some(4),
            within: Duration::from_secs(20),
            settle: None,
            until_end: false,
            bookmarks: false,
        };
        let events = watch.collect(how).await;
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED"]);
    }
    // Whoever made something published it before it was sent.
    assert_eq!(made(client).await - before, 8, "four states, two forms");
}
