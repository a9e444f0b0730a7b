//! Stored values that cannot be read, or that are odd: each is answered as a real server answered it, names its key, and
//! stands in nobody else's way.

use bytes::Bytes;
use serde_json::{Value, json};

use apiserver_storage_testing::damaged::{Damaged, Instead};

use crate::client::{Answer, Client};
use crate::cluster::{Cluster, decode};
use crate::scenario::read;

/// The recorded configuration, with the providers that are built in.
const ENCRYPTION: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aesgcm: {keys: [{name: k, secret: /ZnfFgtLb2CNFDuRtdG9pTkEg/1rh7V9OkOwVEEpP4g=}]}
  - identity: {}
";

/// One damaged value in a namespace of its own, between two good neighbours.
struct Case<'a> {
    damaged: Damaged<'a>,
    name: &'a str,
    key: String,
    collection: String,
    /// What replaced the recorded namespace.
    namespace: String,
}

impl Case<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.collection)
    }

    /// The key without the prefix of the cluster, which not every layer knows.
    fn short_key(&self) -> &str {
        self.key.strip_prefix("/registry").unwrap_or(&self.key)
    }

    /// The object as it is in the namespace of this case; `None` where the recording has none.
    fn object(&self) -> Option<Value> {
        let mut object = self.damaged.object()?;
        let metadata = object["metadata"].as_object_mut()?;
        if metadata.get("namespace").is_some_and(|namespace| namespace == "ns") {
            metadata.insert("namespace".into(), self.namespace.clone().into());
        }
        Some(object)
    }

    /// The names in the list of the collection.
    fn listed(&self) -> Value {
        match self.damaged.answer("list") {
            Some(list) if list["status"] == 200 => list["body"]["item_names"].clone(),
            _ => json!(["aaa", "victim", "zzz"]),
        }
    }
}

/// A value as it would be in another namespace, whose name is as long.
fn moved(value: &[u8], namespace: &str) -> Bytes {
    let mut value = value.to_vec();
    let mut at = 0;
    while let Some(found) = find(&value[at..], b"namespace") {
        at += found + b"namespace".len();
        let end = value.len().min(at + 6);
        if let Some(name) = find(&value[at..end], b"ns") {
            value[at + name..at + name + 2].copy_from_slice(namespace.as_bytes());
        }
    }
    value.into()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

async fn check(setup: &str, encryption: Option<&str>, watch_cache: bool) {
    let recordings = read("stored/errors.json");
    let setups = recordings["setups"].as_array().expect("setups");
    let recorded = setups.iter().find(|own| own["name"] == setup).expect("the setup");
    let text = |name: &str| recorded[name].as_str().expect("a text");
    let good = String::from_utf8(decode(&recorded["plain_json_value"]).into()).unwrap();
    let (mut values, mut cases) = (definitions(), Vec::new());
    for (at, case) in recorded["cases"].as_array().expect("cases").iter().enumerate() {
        let namespace = format!(
            "{}{}",
            char::from(b'c' + (at / 26) as u8),
            char::from(b'a' + (at % 26) as u8)
        );
        let place = |name: &str| text(name).replace("/ns/", &format!("/{namespace}/"));
        let case = Case {
            damaged: Damaged::new(text("kind"), case),
            name: case["name"].as_str().expect("a name"),
            key: place("key"),
            collection: place("collection"),
            namespace,
        };
        values.push((
            case.key.clone(),
            moved(&decode(&case.damaged.recorded["value"]), &case.namespace),
        ));
        for neighbour in ["aaa", "zzz"] {
            let value = good.replace("\"victim\"", &format!("\"{neighbour}\""));
            let key = case.key.replace("victim", neighbour);
            values.push((key, moved(value.as_bytes(), &case.namespace)));
        }
        let namespace = json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": case.namespace } });
        values.push((
            format!("/registry/namespaces/{}", case.namespace),
            namespace.to_string().into(),
        ));
        cases.push(case);
    }
    let cluster = Cluster::with(values).await;
    let (server, client) = cluster.serve(watch_cache, encryption).await;
    let mut wrong = Vec::new();
    for case in &cases {
        let mut faults = Vec::new();
        reads(&client, case, &mut faults).await;
        writes(&client, case, &mut faults).await;
        wrong.extend(faults.into_iter().map(|fault| format!("{}: {fault}", case.name)));
    }
    let ready = client.get("/readyz?verbose").await;
    assert_eq!(ready.status, 200, "{:?}", ready.body);
    server.shutdown().await;
    println!("{setup}, watch cache {watch_cache}: {} values", cases.len());
    assert!(
        cases.len() > 5 && wrong.is_empty(),
        "{setup}, watch cache {watch_cache}:\n{}",
        wrong.join("\n")
    );
}

/// The definitions of the custom kinds.
fn definitions() -> Vec<(String, Bytes)> {
    let file = read("stored/objects-customresourcedefinitions.json");
    let cases = file["cases"].as_array().expect("cases").iter();
    cases
        .map(|case| {
            (
                case["key"].as_str().expect("a key").to_owned(),
                decode(&case["stored"][0]["value"]),
            )
        })
        .collect()
}

/// Notes an answer that does not fit.
fn expect(case: &Case<'_>, request: &str, good: bool, answer: &Answer, faults: &mut Vec<String>) {
    if !good {
        let recorded = case.damaged.answer(request).map(Value::to_string).unwrap_or_default();
        faults.push(format!(
            "{request}: {} {}\n    recorded {recorded}",
            answer.status,
            answer.json()
        ));
    }
}

async fn reads(client: &Client, case: &Case<'_>, faults: &mut Vec<String>) {
    let get = client.get(&case.path("victim")).await;
    let body = get.json();
    let good = if case.damaged.is_readable() {
        let mut served = body.clone();
        if let Some(metadata) = served["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        get.status == 200 && case.object().is_none_or(|object| object == served)
    } else {
        let named = body["message"]
            .as_str()
            .is_some_and(|text| text.contains(case.short_key()));
        get.status == 500 && body["reason"] == "InternalError" && named
    };
    expect(case, "get", good, &get, faults);

    let list = client.get(&case.collection).await;
    let body = list.json();
    let good = if case.damaged.is_readable() {
        let names = body["items"].as_array().into_iter().flatten();
        let names: Value = names.map(|item| item["metadata"]["name"].clone()).collect();
        list.status == 200 && names == case.listed()
    } else {
        let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
        let named = |cause: &Value| {
            cause["field"]
                .as_str()
                .is_some_and(|field| field.ends_with(case.short_key()))
        };
        list.status == 500 && body["reason"] == "StorageReadError" && causes.len() == 1 && causes.iter().all(named)
    };
    expect(case, "list", good, &list, faults);

    let page = client.get(&format!("{}?limit=1", case.collection)).await;
    let body = page.json();
    let good = page.status == 200 && body["items"][0]["metadata"]["name"] == "aaa" && body["items"][1].is_null();
    expect(case, "list_page_before", good, &page, faults);
    for neighbour in ["aaa", "zzz"] {
        let answer = client.get(&case.path(neighbour)).await;
        let good = answer.status == 200 && answer.json()["metadata"]["name"] == neighbour;
        expect(case, "neighbour", good, &answer, faults);
    }
}

async fn writes(client: &Client, case: &Case<'_>, faults: &mut Vec<String>) {
    let path = case.path("victim");
    let send = async |method: &str, path: &str, media: &str, body: Option<Bytes>| {
        let headers = [("content-type".to_owned(), format!("application/{media}"))];
        client.send(method, path, &headers, body).await.unwrap()
    };
    let mut object: Value = client.get(&case.path("aaa")).await.json();
    object["metadata"] = json!({ "name": "victim" });
    let body = || Some(Bytes::from(object.to_string()));

    let create = send("POST", &case.collection, "json", body()).await;
    let good = create.status == 409 && create.json()["reason"] == "AlreadyExists";
    expect(case, "create", good, &create, faults);
    if case.damaged.is_readable() {
        let unchanged = client.get(&path).await.body;
        let update = send("PUT", &path, "json", Some(unchanged)).await;
        let recorded = match case.damaged.otherwise {
            Some(Instead::Readable) => json!(200),
            _ => case
                .damaged
                .answer("update_unchanged")
                .map(|answer| answer["status"].clone())
                .unwrap_or_default(),
        };
        expect(case, "update_unchanged", recorded == update.status, &update, faults);
        let unsafely = format!("{path}?ignoreStoreReadErrorWithClusterBreakingPotential=true");
        let refused = send("DELETE", &unsafely, "json", None).await;
        expect(case, "delete_unsafe", refused.status == 422, &refused, faults);
        let delete = send("DELETE", &path, "json", None).await;
        expect(case, "delete", delete.status == 200, &delete, faults);
    } else {
        let patch = Some(Bytes::from_static(br#"{"metadata":{"labels":{"patched":"yes"}}}"#));
        for (request, method, media, body) in [
            ("update", "PUT", "json", body()),
            ("patch", "PATCH", "merge-patch+json", patch),
            ("delete", "DELETE", "json", None),
        ] {
            let answer = send(method, &path, media, body).await;
            expect(case, request, answer.status == 500, &answer, faults);
        }
        let unsafely = format!("{path}?ignoreStoreReadErrorWithClusterBreakingPotential=true");
        let delete = send("DELETE", &unsafely, "json", None).await;
        expect(case, "delete_unsafe", delete.status == 200, &delete, faults);
    }
    let gone = client.get(&path).await;
    expect(case, "gone", gone.status == 404, &gone, faults);
    let list = client.get(&case.collection).await;
    let left = list.json()["items"].as_array().map(Vec::len);
    expect(case, "left", left == Some(2), &list, faults);
}

// covers: storage-api/GET-10, storage-api/LIST-45, storage-api/DEL-14, storage-api/DEL-15, storage-api/DEL-16
// covers: storage-api/KEY-14, registry/R-LST-15, registry/R-UNS-02
#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_of_a_built_in_kind() {
    check("plain-configmap-unsafe-delete", None, true).await;
    check("plain-configmap-unsafe-delete", None, false).await;
}

// covers: storage-api/GET-10, storage-api/LIST-45, storage-api/DEL-14, storage-api/DEL-15
#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_of_an_encrypted_kind() {
    check("encrypted-secret", Some(ENCRYPTION), true).await;
    check("encrypted-secret", Some(ENCRYPTION), false).await;
}

// covers: storage-api/GET-10, storage-api/LIST-45, storage-api/DEL-14, storage-api/DEL-15, apiserver-http/BODY-04
#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_of_a_custom_kind() {
    check("custom-resource", None, true).await;
    check("custom-resource", None, false).await;
}
