//! Every form in which objects are shown, against the same made of the plain answer in one piece: for all kinds that were
//! recorded, with the watch cache and without, with forms that are kept, that are evicted all the time, and that are not
//! kept at all.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "recorded/client.rs"]
mod client;
#[path = "derived/reference.rs"]
mod reference;
#[path = "derived/unreadable.rs"]
mod unreadable;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

use apiserver::resources::wire::protobuf;
use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{Expected, Kv as _, Lease};

use client::{Answer, Client};
use reference::{Kind, StoppedClock, forms};

/// A data directory that holds stored values.
struct Cluster(TempDir);

impl Cluster {
    async fn with(values: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kv = EmbeddedKv::open(EmbeddedConfig::directory(dir.path())).await.unwrap();
        for (key, value) in values {
            kv.put_if(&key, value, Expected::Absent, Lease::None).await.unwrap();
        }
        kv.close().await;
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().into()
    }
}

/// One recorded collection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Collection {
    path: String,
    /// Group, version and resource.
    resource: (String, String, String),
}

/// What was recorded: stored values by key, and the collections that they are in.
fn recorded() -> (BTreeMap<String, Bytes>, BTreeSet<Collection>) {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stored"));
    let (mut values, mut collections) = (BTreeMap::new(), BTreeSet::new());
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if !path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("objects-"))
        {
            continue;
        }
        let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let stored = case["stored"].as_array().unwrap().iter();
            let stored = stored.clone().find(|stored| stored["configuration"] == "json").unwrap();
            values.insert(
                case["key"].as_str().unwrap().to_owned(),
                BASE64_STANDARD
                    .decode(stored["value"].as_str().unwrap())
                    .unwrap()
                    .into(),
            );
            let also = case["also_served_as"].as_object().into_iter().flatten();
            let paths = also.map(|(path, _)| path.as_str()).chain(case["path"].as_str());
            for path in paths.filter(|path| !path.starts_with("/apis/events.k8s.io/")) {
                collections.extend(collections_of(path));
            }
        }
    }
    (values, collections)
}

/// The collections of an object: that of its namespace, and the whole.
fn collections_of(path: &str) -> Vec<Collection> {
    let (collection, _) = path.rsplit_once('/').unwrap();
    let parts: Vec<_> = collection.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        other => panic!("{other:?}"),
    };
    let plural = *rest.last().unwrap();
    let root = if group.is_empty() {
        format!("/api/{version}/{plural}")
    } else {
        format!("/apis/{group}/{version}/{plural}")
    };
    let resource = (group.to_owned(), version.to_owned(), plural.to_owned());
    let of = |path: &str| Collection {
        path: path.to_owned(),
        resource: resource.clone(),
    };
    vec![of(collection), of(&root)]
}

/// Many pods that are like a recorded one, so that lists of them are long enough to be compressed.
fn many_pods(values: &mut BTreeMap<String, Bytes>, count: usize) {
    let model = values
        .iter()
        .find(|(key, _)| key.starts_with("/registry/pods/"))
        .unwrap()
        .1;
    let mut pod: Value = serde_json::from_slice(model).unwrap();
    for at in 0..count {
        let name = format!("many-{at:04}");
        let key = format!("/registry/pods/many/{name}");
        let filler: String = (0..200)
            .map(|n| format!("{:x}-", (n + 1) * (at + 7) * 2_654_435_761_usize))
            .collect();
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["namespace"] = "many".into();
        pod["metadata"]["annotations"] = json!({ "filler<&>": filler.get(..3_000) });
        pod["metadata"]["creationTimestamp"] = format!("2026-0{}-01T00:00:{:02}Z", at % 9 + 1, at % 60).into();
        values.insert(key, pod.to_string().into());
    }
}

async fn serve(cluster: &Cluster, watch_cache: bool, form_bytes: usize) -> (Server, Client) {
    let storage = Storage::embedded(cluster.path()).with_watch_cache(watch_cache);
    let mut config = ServerConfig::new(storage);
    config.form_bytes = form_bytes;
    config.clock = StoppedClock::shared();
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.insecure_address().unwrap());
    (server, client)
}

async fn get(client: &Client, target: &str, accept: &str, gzip: bool) -> Answer {
    let mut headers = vec![("accept".to_owned(), accept.to_owned())];
    if gzip {
        headers.push(("accept-encoding".to_owned(), "gzip".to_owned()));
    }
    client.send("GET", target, &headers, None).await.unwrap()
}

/// The kind of a collection, as the reference knows it.
async fn kind(client: &Client, collection: &Collection) -> Kind {
    let (group, version, plural) = &collection.resource;
    if let Some(kind) = Kind::builtin(group, version, plural) {
        return kind;
    }
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}");
    Kind::custom(&client.get(&path).await.json(), version)
}

/// The plain answer is the objects as each is served alone.
async fn check_plain(client: &Client, collection: &Collection) {
    let plain = client.get(&collection.path).await;
    let objects = plain.json()["items"].as_array().unwrap().clone();
    let mut from = 0;
    for object in &objects {
        let (name, namespace) = (&object["metadata"]["name"], &object["metadata"]["namespace"]);
        let path = match (namespace.as_str(), collection.path.contains("/namespaces/")) {
            (Some(namespace), false) => {
                let (front, plural) = collection.path.rsplit_once('/').unwrap();
                format!("{front}/namespaces/{namespace}/{plural}")
            }
            _ => collection.path.clone(),
        };
        let alone = client.get(&format!("{path}/{}", name.as_str().unwrap())).await;
        let found = plain.body[from..]
            .windows(alone.body.trim_ascii_end().len())
            .position(|window| window == alone.body.trim_ascii_end());
        from += found.unwrap_or_else(|| panic!("{}: {name} is not in the list as it is alone", collection.path));
    }
}

/// Compares every form of a list with the reference; says how many answers were compressed.
async fn check_list(client: &Client, collection: &Collection, query: &str) -> usize {
    let target = format!("{}{query}", collection.path);
    let kind = kind(client, collection).await;
    let plain = get(client, &target, "application/json", false).await;
    assert_eq!(plain.status, 200, "{target}: {}", plain.json());
    let mut compressed = 0;
    for form in forms() {
        let want = form.list(&kind, &plain.json(), &plain.body);
        for (round, gzip) in [(1, false), (1, true), (2, true)] {
            let got = get(client, &form.target(&target), form.accept, gzip).await;
            let place = format!("{target} as {}, round {round}, gzip {gzip}", form.accept);
            let Some(want) = &want else {
                assert_eq!(got.status, 406, "{place}");
                continue;
            };
            assert_eq!(
                (got.status, got.header("content-type")),
                (200, Some(form.media_type())),
                "{place}"
            );
            compressed += usize::from(got.header("content-encoding").is_some());
            assert!(
                got.body == *want,
                "{place}:\n{}\nexpected\n{}",
                String::from_utf8_lossy(&got.body),
                String::from_utf8_lossy(want)
            );
        }
    }
    compressed
}

/// Compares every form of the objects of a collection, one by one and as the initial state of a watch.
async fn check_objects(client: &Client, collection: &Collection) {
    let kind = kind(client, collection).await;
    let plain = get(client, &collection.path, "application/json", false).await.json();
    let objects = plain["items"].as_array().unwrap();
    for form in forms() {
        let watch = format!("{}?watch=true&timeoutSeconds=1", collection.path);
        let got = get(client, &form.target(&watch), form.accept, true).await;
        let place = format!("{watch} as {}", form.accept);
        let Some(want) = form.initial(&kind, objects) else {
            assert_eq!(got.status, 406, "{place}");
            continue;
        };
        assert_eq!(
            (got.status, got.header("content-type")),
            (200, Some(form.watch_type())),
            "{place}"
        );
        if form.is_plain_json() {
            // Byte by byte it is what lists hold, which is compared elsewhere; here it is the event that counts.
            let lines: Vec<Value> = got
                .body
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect();
            let want: Vec<_> = objects
                .iter()
                .map(|object| json!({"type": "ADDED", "object": object}))
                .collect();
            assert_eq!(lines, want, "{place}");
            continue;
        }
        assert!(
            got.body == want,
            "{place}:\n{}\nexpected\n{}",
            String::from_utf8_lossy(&got.body),
            String::from_utf8_lossy(&want)
        );
        for object in objects
            .iter()
            .filter(|_| collection.path.contains("/namespaces/") || !kind.is_namespaced())
        {
            let target = form.target(&format!(
                "{}/{}",
                collection.path,
                object["metadata"]["name"].as_str().unwrap()
            ));
            let want = form.object(&kind, object).unwrap();
            for _ in 0..2 {
                let got = get(client, &target, &form.accept_one(), false).await;
                assert_eq!(got.status, 200, "{target} as {}", form.accept);
                assert!(
                    got.body == want,
                    "{target} as {}:\n{}\nexpected\n{}",
                    form.accept,
                    String::from_utf8_lossy(&got.body),
                    String::from_utf8_lossy(&want)
                );
            }
        }
    }
}

// covers: storage-cacher/OPP-02, apiserver-http/RLST-08, apiserver-http/TABH-05, apiserver-http/TABH-14
#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_every_list_is_its_objects_in_that_form() {
    let (mut values, collections) = recorded();
    many_pods(&mut values, 60);
    let cluster = Cluster::with(values).await;
    for (watch_cache, form_bytes) in [(true, 64 << 20), (true, 100 << 10), (false, 0)] {
        let (server, client) = serve(&cluster, watch_cache, form_bytes).await;
        let mut compressed = 0;
        for collection in &collections {
            // One server shows that alone and in lists objects are the same, in all collections.
            if form_bytes == 64 << 20 {
                check_plain(&client, collection).await;
            } else if collection.path.contains("/namespaces/") {
                continue;
            }
            compressed += check_list(&client, collection, "").await;
        }
        let many = Collection {
            path: "/api/v1/namespaces/many/pods".into(),
            resource: (String::new(), "v1".into(), "pods".into()),
        };
        compressed += check_list(&client, &many, "?limit=50").await;
        assert!(compressed >= 15, "{compressed} answers were compressed");
        server.shutdown().await;
    }
}

// covers: apiserver-http/RWAT-15, apiserver-http/RWAT-18, apiserver-http/RWAT-25, apiserver-http/RWAT-28
// covers: apiserver-http/TABH-09
#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_every_object_is_the_same_alone_and_in_a_watch() {
    let (values, collections) = recorded();
    let cluster = Cluster::with(values).await;
    let (server, client) = serve(&cluster, true, 64 << 20).await;
    // Watches take their second each: all at once.
    let mut checks = tokio::task::JoinSet::new();
    for collection in collections {
        let client = client.clone();
        checks.spawn(async move { check_objects(&client, &collection).await });
    }
    while let Some(done) = checks.join_next().await {
        done.unwrap();
    }
    server.shutdown().await;
}

/// The frames of a watch in protobuf: type, and the object in its envelope.
fn protobuf_frames(mut body: &[u8]) -> Vec<(String, Value)> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = body.split_first_chunk::<4>() {
        let (event, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        body = rest;
        let event = reference::event(event);
        frames.push((event.0, protobuf::decode(&event.1).unwrap()));
    }
    assert!(body.is_empty());
    frames
}

// covers: apiserver-http/RWAT-15
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_in_protobuf_shows_changes_bookmarks_and_errors() {
    let cluster = Cluster::with([]).await;
    let (server, client) = serve(&cluster, true, 64 << 20).await;
    let (maps, json) = ("/api/v1/namespaces/default/configmaps", "application/json");
    let headers = [("content-type".to_owned(), json.to_owned())];
    let send = async |method: &str, target: &str, body: Value| {
        let answer = client
            .send(method, target, &headers, Some(body.to_string().into()))
            .await
            .unwrap();
        assert!(answer.status < 300, "{}", answer.json());
        answer.json()
    };
    let map = |data: &str| json!({"metadata": {"name": "a", "labels": {"l": data}}, "data": {"k": data}});
    let first = send("POST", maps, map("1")).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let second = send("PUT", &format!("{maps}/a"), map("2")).await;
    send("DELETE", &format!("{maps}/a"), json!({})).await;
    let accept = "application/vnd.kubernetes.protobuf,application/json";
    let query = format!("watch=true&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={version}");
    let got = get(&client, &format!("{maps}?{query}"), accept, true).await;
    let frames = protobuf_frames(&got.body);
    let types: Vec<_> = frames.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(types[..2], ["MODIFIED", "DELETED"], "{frames:?}");
    assert!(
        types.len() > 2 && types[2..].iter().all(|kind| *kind == "BOOKMARK"),
        "{frames:?}"
    );
    assert_eq!(frames[0].1, second);
    assert_eq!(
        (&frames[1].1["data"], &frames[1].1["kind"]),
        (&json!({"k": "2"}), &json!("ConfigMap"))
    );
    assert_eq!(frames[2].1["kind"], "ConfigMap");
    // A selection that the object leaves makes a DELETED of the change, of what it was before.
    let selected = get(&client, &format!("{maps}?{query}&labelSelector=l%3D1"), accept, false).await;
    let frames = protobuf_frames(&selected.body);
    assert_eq!(
        (frames[0].0.as_str(), &frames[0].1["data"]),
        ("DELETED", &json!({"k": "1"}))
    );
    // Too old a version is told in the stream.
    let old = get(&client, &format!("{maps}?watch=true&resourceVersion=1"), accept, false).await;
    let frames = protobuf_frames(&old.body);
    assert_eq!(
        (frames[0].0.as_str(), &frames[0].1["code"]),
        ("ERROR", &json!(410)),
        "{frames:?}"
    );
    let metadata = format!(
        "{};as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/vnd.kubernetes.protobuf"
    );
    let frames = protobuf_frames(&get(&client, &format!("{maps}?{query}"), &metadata, false).await.body);
    assert_eq!(
        (&frames[0].1["kind"], &frames[0].1["data"]),
        (&json!("PartialObjectMetadata"), &Value::Null)
    );
    assert_eq!(frames[0].1["metadata"]["name"], "a");
    server.shutdown().await;
}

/// Stored values are written below the server, as another server would.
#[tokio::test(flavor = "multi_thread")]
async fn the_form_of_a_changed_object_is_that_of_the_change() {
    let cluster = Cluster::with([]).await;
    let kv = EmbeddedKv::open(EmbeddedConfig::directory(cluster.path()))
        .await
        .unwrap();
    let other = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "n", "namespace": "ns"}});
    kv.put_if(
        "/registry/configmaps/ns/n",
        other.to_string().into(),
        Expected::Absent,
        Lease::None,
    )
    .await
    .unwrap();
    kv.close().await;
    let (server, client) = serve(&cluster, true, 64 << 20).await;
    let path = "/api/v1/namespaces/ns/configmaps";
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    for at in 0..3 {
        for form in forms().iter().filter(|form| !form.is_yaml()) {
            let plain = client.get(path).await;
            let kind = Kind::builtin("", "v1", "configmaps").unwrap();
            let want = form.list(&kind, &plain.json(), &plain.body).unwrap();
            let got = get(&client, &form.target(path), form.accept, false).await;
            assert!(got.body == want, "{at} {}", form.accept);
        }
        let body = json!({"metadata": {"name": "n", "labels": {"at": at.to_string()}}, "data": {"at": at.to_string()}});
        let put = client
            .send("PUT", &format!("{path}/n"), &headers, Some(body.to_string().into()))
            .await
            .unwrap();
        assert_eq!(put.status, 200, "{}", put.json());
    }
    server.shutdown().await;
}
