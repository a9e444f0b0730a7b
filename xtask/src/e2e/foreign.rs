//! Values that somebody else put into etcd: normalised, or named as unreadable without taking their kind down.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::backend;
use super::etcd::Etcd;
use super::http::Http;
use super::report::{contains, same};
use super::server::Server;
use super::{Report, World};

/// Runs the scenario: first with values that are there when the server starts, then with values that come later.
pub(super) fn run(world: &World<'_>, report: &mut Report) -> Result<()> {
    let etcd = report.need("start etcd", || backend::etcd(world, 1, None))?;
    report.need("store foreign values before the server starts", || {
        store(&etcd, "before")
    })?;
    let server = report.need("start the server", || {
        Server::start(world.server, &world.folder, "server", etcd.flags())
    })?;
    let http = server.http();
    check(report, http, &etcd, "before");
    report.need("store foreign values while the server runs", || store(&etcd, "later"))?;
    check(report, http, &etcd, "later");
    Ok(())
}

/// Stores one value of each sort in a namespace.
fn store(etcd: &Etcd, namespace: &str) -> Result<()> {
    let metadata = |name: &str| {
        format!(
            r#"{{"name":"{name}","namespace":"{namespace}","uid":"0f1a2b3c-0000-4000-8000-000000000001","creationTimestamp":"2024-01-02T03:04:05Z"}}"#
        )
    };
    let configmap = |name: &str, data: &str| {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{},{data}}}"#,
            metadata(name)
        )
    };
    let put =
        |plural: &str, name: &str, value: &[u8]| etcd.put(&format!("/registry/{plural}/{namespace}/{name}"), value);
    etcd.put(
        &format!("/registry/namespaces/{namespace}"),
        namespace_object(namespace).to_string().as_bytes(),
    )?;
    let value: Value = serde_json::from_str(&configmap("pretty", r#""data":{"a":"1"}"#))?;
    put("configmaps", "pretty", serde_json::to_string_pretty(&value)?.as_bytes())?;
    put(
        "configmaps",
        "twice",
        configmap("twice", r#""data":{"a":"1"},"data":{"a":"2"}"#).as_bytes(),
    )?;
    put("configmaps", "protobuf", &protobuf_configmap("protobuf", namespace))?;
    let spec = r#"{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}"#;
    let deployment = format!(
        r#"{{"kind":"Deployment","apiVersion":"apps/v1","metadata":{},"spec":{spec}}}"#,
        metadata("bare")
    );
    put("deployments", "bare", deployment.as_bytes())
}

fn namespace_object(name: &str) -> Value {
    json!({
        "kind": "Namespace", "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": "0f1a2b3c-0000-4000-8000-000000000002", "creationTimestamp": "2024-01-02T03:04:05Z",
        },
        "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
    })
}

fn check(report: &mut Report, http: Http, etcd: &Etcd, namespace: &str) {
    let configmaps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let get = |name: &str| http.get(&format!("{configmaps}/{name}"));
    let step = |name: &str| format!("{namespace}: {name}");
    report.step(&step("a pretty-printed value is served compact"), || {
        let answer = get("pretty")?.expect(200)?;
        same(answer.json()?["data"].clone(), json!({ "a": "1" }))?;
        ensure!(
            !answer.text().trim_end().contains('\n'),
            "it has raw newlines: {}",
            answer.text()
        );
        Ok(())
    });
    report.step(&step("of duplicate keys the last one counts"), || {
        let answer = get("twice")?.expect(200)?;
        same(answer.json()?["data"].clone(), json!({ "a": "2" }))?;
        same(answer.text().matches("\"data\"").count(), 1)
    });
    report.step(&step("a value without today's defaults is served with them"), || {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/bare");
        let spec = http.get(&path)?.expect(200)?.json()?["spec"].clone();
        same(
            (&spec["replicas"], &spec["strategy"]["type"]),
            (&json!(1), &json!("RollingUpdate")),
        )
    });
    report.step(&step("protobuf is normalised, or named as unreadable"), || {
        let answer = get("protobuf")?;
        match answer.status {
            200 => same(answer.json()?["data"].clone(), json!({ "a": "1" })),
            _ => names_the_key(&answer.expect(500)?.text(), namespace, "protobuf"),
        }
    });
    let protobuf_is_readable = get("protobuf").is_ok_and(|answer| answer.status == 200);
    report.step(&step("garbage is named; the rest of the kind goes on"), || {
        if !protobuf_is_readable {
            etcd.ctl(&["del", &format!("/registry/configmaps/{namespace}/protobuf")])?;
        }
        etcd.put(
            &format!("/registry/configmaps/{namespace}/garbage"),
            b"\x00\x01 not an object",
        )?;
        names_the_key(&get("garbage")?.expect(500)?.text(), namespace, "garbage")?;
        get("pretty")?.expect(200)?;
        http.get("/api/v1/namespaces/default/configmaps")?.expect(200)?;
        names_the_key(&http.get(&configmaps)?.expect(500)?.text(), namespace, "garbage")?;
        let body = json!({ "metadata": { "name": "new" } });
        http.post(&configmaps, &body)?.expect(201)?;
        get("new")?.expect(200).map(drop)
    });
    report.step(&step("once the garbage is gone the list is whole again"), || {
        etcd.ctl(&["del", &format!("/registry/configmaps/{namespace}/garbage")])?;
        let list = http.get(&configmaps)?.expect(200)?.json()?;
        let names: Vec<_> = list["items"]
            .as_array()
            .context("no items")?
            .iter()
            .map(|i| i["metadata"]["name"].clone())
            .collect();
        let mut expected = vec!["new", "pretty", "protobuf", "twice"];
        expected.retain(|name| protobuf_is_readable || *name != "protobuf");
        same(names, expected.into_iter().map(Value::from).collect())
    });
}

fn names_the_key(text: &str, namespace: &str, name: &str) -> Result<()> {
    contains(text, &format!("configmaps/{namespace}/{name}"))
}

/// A configmap as a Kubernetes server with its default media type stores it.
fn protobuf_configmap(name: &str, namespace: &str) -> Vec<u8> {
    let metadata = [
        field(1, name.as_bytes()),
        field(3, namespace.as_bytes()),
        field(5, b"0f1a2b3c-0000-4000-8000-000000000003"),
    ];
    let entry = [field(1, b"a"), field(2, b"1")].concat();
    let object = [field(1, &metadata.concat()), field(2, &entry)].concat();
    let kind = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    [
        b"k8s\0".to_vec(),
        field(1, &kind),
        field(2, &object),
        field(3, b""),
        field(4, b""),
    ]
    .concat()
}

/// A length-delimited field. Everything here is shorter than 16 KiB.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    match value.len() {
        length @ 0..128 => bytes.push(length as u8),
        length => bytes.extend([(length & 127) as u8 | 128, (length >> 7) as u8]),
    }
    bytes.extend(value);
    bytes
}
