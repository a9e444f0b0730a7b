//! Objects that a real cluster stored are served as that cluster served them, in whichever form they were stored, and
//! writing them back unchanged writes nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::client::Client;
use crate::cluster::{Cluster, decode};
use crate::scenario::read;

const FILES: [&str; 14] = [
    "customresourcedefinitions",
    "namespaces",
    "configmaps",
    "secrets",
    "pods",
    "services",
    "nodes",
    "events",
    "serviceaccounts",
    "deployments",
    "replicasets",
    "endpoints",
    "leases",
    "custom-resources",
];

/// One object, in one stored form.
struct Case {
    key: String,
    value: Bytes,
    /// What is served at each path, without its version.
    served: BTreeMap<String, Value>,
    /// The form that was asked for; others are there only because something refers to them.
    in_form: bool,
    /// The real server stored another value when it got its own answer back.
    rewritten: bool,
}

/// All objects, in this form where they have it and else as JSON.
fn cases(form: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for file in FILES {
        let file = read(&format!("stored/objects-{file}.json"));
        for case in file["cases"].as_array().expect("cases") {
            let forms = case["stored"].as_array().expect("forms");
            let is = |name: &str| forms.iter().find(|stored| stored["configuration"] == name);
            let stored = is(form).or_else(|| is("json")).expect("every object has a JSON form");
            let object = stored.get("object").unwrap_or(&case["object"]);
            let path = case["path"].as_str().expect("a path").to_owned();
            let also = case["also_served_as"].as_object().into_iter().flatten();
            let also = also.map(|(path, object)| (path.clone(), object.clone()));
            let served = std::iter::once((path, object.clone())).chain(also);
            cases.push(Case {
                key: case["key"].as_str().expect("a key").to_owned(),
                value: decode(&stored["value"]),
                // The newer API of events is not served.
                served: served
                    .filter(|(path, _)| !path.starts_with("/apis/events.k8s.io/"))
                    .map(|(path, object)| (path, without_version(object)))
                    .collect(),
                in_form: is(form).is_some(),
                rewritten: case.get("put_unchanged").is_some(),
            });
        }
    }
    cases
}

fn without_version(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// Serves objects in one form and reads them, alone and in lists, then writes the answers back.
async fn check(form: &str, watch_cache: bool) {
    let cases = cases(form);
    let cluster = Cluster::with(cases.iter().map(|case| (case.key.clone(), case.value.clone()))).await;
    let (server, client) = cluster.serve(watch_cache, None).await;
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in cases.iter().filter(|case| case.in_form) {
        let version = cluster.revisions[&case.key].to_string();
        for (path, object) in &case.served {
            count += 1;
            if let Err(error) = check_one(&client, path, object, &version).await {
                wrong.push(format!("{path}: {error}"));
            }
        }
    }
    server.shutdown().await;
    let now = cluster.revisions_now().await;
    for case in cases.iter().filter(|case| !case.rewritten) {
        if now[&case.key] != Some(cluster.revisions[&case.key]) {
            wrong.push(format!("{} was written although nothing changed", case.key));
        }
    }
    println!("{form}, watch cache {watch_cache}: {count} answers");
    assert!(
        count > 3 && wrong.is_empty(),
        "{form}, watch cache {watch_cache}:\n{}",
        wrong.join("\n")
    );
}

async fn check_one(client: &Client, path: &str, want: &Value, version: &str) -> Result<(), String> {
    let answer = client.get(path).await;
    let got = answer.json();
    if answer.status != 200 || got["metadata"]["resourceVersion"] != version {
        return Err(format!("expected version {version}, got {} {got}", answer.status));
    }
    same("get", &without_version(got), want)?;
    let (collection, name) = path.rsplit_once('/').ok_or("no collection")?;
    let list = client.get(collection).await.json();
    let items = list["items"].as_array().ok_or_else(|| format!("the list is {list}"))?;
    let item = items
        .iter()
        .find(|item| item["metadata"]["name"] == name)
        .ok_or("not in the list")?;
    same("list", &without_version(item.clone()), want)?;
    let json = [("content-type".to_owned(), "application/json".to_owned())];
    let written = client.send("PUT", path, &json, Some(answer.body)).await?;
    if written.status != 200 {
        return Err(format!("put: {} {}", written.status, written.json()));
    }
    same("put", &without_version(written.json()), want)
}

fn same(what: &str, got: &Value, want: &Value) -> Result<(), String> {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what}:\n  expected {want}\n  got      {got}"))
    }
}

// covers: storage-api/UPD-12, storage-api/UPD-29
#[tokio::test(flavor = "multi_thread")]
async fn objects_in_json_are_served_as_they_were() {
    check("json", true).await;
    check("json", false).await;
}

// covers: storage-api/UPD-12
#[tokio::test(flavor = "multi_thread")]
async fn objects_in_protobuf_are_served_as_they_were() {
    check("protobuf", true).await;
    check("protobuf", false).await;
}

// covers: storage-api/UPD-12
#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_in_cbor_are_served_as_they_were() {
    check("cbor", true).await;
    check("cbor", false).await;
}
