//! The objects: pods of about 9 KB, spread over namespaces and nodes as those of a large cluster are.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use apiserver_resources::defaults::apply_defaults;
use apiserver_resources::normalizer;
use apiserver_resources::types::{Gvk, TypeRegistry};
use apiserver_storage_api::{Encoded, Index, Key, ResourceInfo};
use serde_json::{Value, json};

use crate::options::Options;

/// The field that those who look after one machine select by.
pub(crate) const NODE_FIELD: &str = "spec.nodeName";
/// Where a pod says when it was written, as nanoseconds since 1970 of always so many digits.
const STAMP: &str = "\"ts\":\"";
const STAMP_DIGITS: usize = 19;
const ANNOTATIONS: &str = "\"annotations\":{";
/// Settings of a container.
const SETTINGS: usize = 8;

/// Pods as the server has them, with the index by node.
pub(crate) fn kind() -> Result<ResourceInfo> {
    let mut entries = TypeRegistry::builtin().resources().iter();
    let entry = entries.find(|entry| entry.group.is_empty() && entry.resource == "pods");
    let info = normalizer::resource_info(entry.context("no pods among the built-in kinds")?);
    Ok(info.with_indexes(vec![Index::Field(NODE_FIELD.into())]))
}

/// The namespace of a pod.
pub(crate) fn namespace(number: usize, options: &Options) -> String {
    format!("ns-{:03}", number % options.ns)
}

/// The node of a pod.
pub(crate) fn node(number: usize, options: &Options) -> String {
    format!("node-{:05}", number % options.nodes)
}

/// Key and object of a pod.
pub(crate) fn pod(info: &ResourceInfo, number: usize, options: &Options) -> Result<(Key, Encoded)> {
    let (namespace, name) = (namespace(number, options), format!("app-{number:07}"));
    let mut object = object(number, &namespace, &name, options);
    // As they come from a server: it stores them with their defaults.
    apply_defaults(Gvk::new("", "v1", "Pod"), &mut object);
    let json = serde_json::to_vec(&object)?;
    Ok((info.object_key(Some(&namespace), &name)?, Encoded::from_json(json)))
}

fn object(number: usize, namespace: &str, name: &str, options: &Options) -> Value {
    let mut random = Random(number as u64 + 1);
    let containers: Vec<Value> = (0..options.size).map(|at| container(at, number, &mut random)).collect();
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": format!("{number:08x}-0000-4000-8000-{number:012x}"),
            "creationTimestamp": "2025-10-09T08:53:20Z",
            "labels": { "app": format!("app-{}", number % 100), "pod-template-hash": "5d4f8c7b9d", "tier": "web" },
            "annotations": {
                "kubernetes.io/config.source": "api",
                "note": "x".repeat(64),
                "ts": "1760000000000000000",
            },
        },
        "spec": {
            "containers": containers,
            "serviceAccountName": "default",
            "nodeName": node(number, options),
            "schedulerName": "default-scheduler",
        },
        "status": { "phase": "Running", "hostIP": "10.1.0.1", "podIP": "10.0.0.1" },
    })
}

fn container(at: usize, number: usize, random: &mut Random) -> Value {
    let settings: Vec<Value> = (0..SETTINGS)
        .map(
            |setting| json!({ "name": format!("SETTING_{setting}"), "value": format!("value-{:032x}", random.next()) }),
        )
        .collect();
    json!({
        "name": format!("c{at}"),
        "image": format!("registry.example.com/team/app-{at}@sha256:{number:064x}"),
        "env": settings,
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    })
}

/// The same object, written now: the digits of its annotation are replaced, or the annotation is added.
///
/// Bytes are edited because the load is not what is measured; a writer that decodes and encodes costs more than all
/// of what is below.
pub(crate) fn stamped(json: &[u8]) -> Result<Encoded> {
    let now = format!("{:0STAMP_DIGITS$}", nanoseconds());
    if let Some(at) = stamp_place(json) {
        let mut bytes = json.to_vec();
        bytes[at..at + STAMP_DIGITS].copy_from_slice(now.as_bytes());
        return Ok(Encoded::from_json(bytes));
    }
    let begin = find(json, ANNOTATIONS.as_bytes()).context("a pod without annotations")?;
    let end = begin + json[begin..].iter().position(|byte| *byte == b'}').context("no end")?;
    let stamp = format!(",{STAMP}{now}\"");
    let bytes = [&json[..end], stamp.as_bytes(), &json[end..]].concat();
    Ok(Encoded::from_json(bytes))
}

/// How long ago the object was written, in nanoseconds.
pub(crate) fn age(json: &[u8]) -> Option<u64> {
    let at = stamp_place(json)?;
    let written: u64 = std::str::from_utf8(&json[at..at + STAMP_DIGITS]).ok()?.parse().ok()?;
    nanoseconds().checked_sub(written)
}

fn stamp_place(json: &[u8]) -> Option<usize> {
    let at = find(json, STAMP.as_bytes())? + STAMP.len();
    (at + STAMP_DIGITS < json.len()).then_some(at)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Numbers that look random and are the same each time (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) >> 1
    }
}
