//! Lists of objects of which some cannot be read, and lists that are longer than what is kept of them at a time.

use bytes::Bytes;
use serde_json::json;

use apiserver::resources::types::Gvk;
use apiserver::resources::wire::protobuf;

use crate::reference::forms;
use crate::{Cluster, get, serve};

/// Stores objects of which some are unreadable.
async fn with_unreadable(names: impl Iterator<Item = (String, bool, usize)>) -> Cluster {
    let value = |name: &str, size: usize| {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "ns"},
            "data": {"k": "x".repeat(size)}});
        Bytes::from(object.to_string())
    };
    let values = names.map(|(name, readable, size)| {
        let key = format!("/registry/configmaps/ns/{name}");
        (
            key,
            if readable {
                value(&name, size)
            } else {
                Bytes::from_static(b"{\"kind\":")
            },
        )
    });
    Cluster::with(values.collect::<Vec<_>>()).await
}

// covers: storage-api/LIST-45, storage-api/LIST-48, registry/R-LST-15
#[tokio::test(flavor = "multi_thread")]
async fn a_list_names_everything_that_cannot_be_read_in_every_form() {
    // Far behind the first page of a store without a cache.
    let bad = [3, 700, 1_199];
    let names = (0..1_200).map(|at| (format!("m-{at:04}"), !bad.contains(&at), 10));
    let cluster = with_unreadable(names).await;
    for watch_cache in [true, false] {
        let (server, client) = serve(&cluster, watch_cache, 64 << 20).await;
        for form in forms() {
            let target = form.target("/api/v1/namespaces/ns/configmaps");
            let got = get(&client, &target, form.accept, true).await;
            let status = match form.is_yaml() {
                true => continue,
                false => got.json(),
            };
            assert_eq!(
                (got.status, &status["reason"]),
                (500, &json!("StorageReadError")),
                "{status}"
            );
            let causes = status["details"]["causes"].as_array().unwrap();
            let keys: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
            assert_eq!(keys.len(), 3, "{status}");
            for (key, at) in keys.iter().zip(bad) {
                assert!(key.ends_with(&format!("/configmaps/ns/m-{at:04}")), "{status}");
            }
        }
        // Pages that do not touch them are pages.
        let page = client.get("/api/v1/namespaces/ns/configmaps?limit=3").await;
        assert_eq!(
            (page.status, page.json()["items"].as_array().map(Vec::len)),
            (200, Some(3))
        );
        server.shutdown().await;
    }
}

// covers: storage-api/LIST-48, registry/R-LST-15
#[tokio::test(flavor = "multi_thread")]
async fn a_list_names_a_hundred_unreadable_objects_and_says_that_there_are_more() {
    let cluster = with_unreadable((0..150).map(|at| (format!("m-{at:04}"), at >= 120, 10))).await;
    let (server, client) = serve(&cluster, true, 0).await;
    let got = client.get("/api/v1/namespaces/ns/configmaps").await;
    let status = got.json();
    let causes = status["details"]["causes"].as_array().unwrap();
    assert_eq!((got.status, causes.len()), (500, 101));
    assert!(
        causes[99]["field"].as_str().is_some_and(|key| key.ends_with("m-0099")),
        "{status}"
    );
    assert_eq!(causes[100]["reason"], "FieldValueTooMany", "{status}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_that_meets_an_unreadable_object_breaks_off_and_is_no_shorter_list() {
    // Longer than one page below.
    let cluster = with_unreadable((0..1_000).map(|at| (format!("m-{at:04}"), at != 999, 30_000))).await;
    let (server, client) = serve(&cluster, false, 0).await;
    for gzip in [false, true] {
        let mut headers = Vec::new();
        if gzip {
            headers.push(("accept-encoding".to_owned(), "gzip".to_owned()));
        }
        let got = client.send("GET", "/api/v1/configmaps", &headers, None).await;
        assert!(got.is_err(), "{got:?}");
    }
    // What has to be known as a whole is refused as a whole.
    let accept = "application/vnd.kubernetes.protobuf";
    assert_eq!(get(&client, "/api/v1/configmaps", accept, false).await.status, 500);
    server.shutdown().await;
}

/// A list in protobuf that is longer than what is kept of it between measuring and sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_in_protobuf_is_whole_with_forms_and_without() {
    let cluster = with_unreadable((0..1_000).map(|at| (format!("m-{at:04}"), true, 12_000))).await;
    for form_bytes in [64 << 20, 0] {
        let (server, client) = serve(&cluster, true, form_bytes).await;
        let plain = client.get("/api/v1/configmaps").await;
        let want = protobuf::encode(Gvk::new("", "v1", "ConfigMapList"), &plain.json()).unwrap();
        for gzip in [false, true] {
            let got = get(
                &client,
                "/api/v1/configmaps",
                "application/vnd.kubernetes.protobuf",
                gzip,
            )
            .await;
            assert!(
                got.body == want,
                "gzip {gzip}: {} bytes of {}",
                got.body.len(),
                want.len()
            );
        }
        server.shutdown().await;
    }
}
