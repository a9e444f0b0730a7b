//! `cargo xtask edges`: which crate may know which.
//!
//! The table is law: a new arrow is an architecture change, made here first. Dev-dependencies are apart (the conformance suite
//! is one everywhere), but those on our own crates must have no version, otherwise nothing can be packaged.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// Crate, and what it may depend on; `?` marks what must stay behind a feature.
const TABLE: &[(&str, &[&str])] = &[
    ("apiserver-storage-api", &[]),
    ("apiserver-storage-transform", &[]),
    (
        "apiserver-storage-kv",
        &["apiserver-storage-api", "apiserver-storage-transform"],
    ),
    (
        "apiserver-storage-etcd3",
        &[
            "apiserver-storage-kv",
            "apiserver-storage-api",
            "apiserver-storage-transform",
        ],
    ),
    (
        "apiserver-storage-embedded",
        &[
            "apiserver-storage-kv",
            "apiserver-storage-api",
            "apiserver-storage-transform",
        ],
    ),
    ("apiserver-storage-cacher", &["apiserver-storage-api"]),
    (
        "apiserver-storagebackend",
        &[
            "apiserver-storage-api",
            "apiserver-storage-transform",
            "apiserver-storage-kv",
            "apiserver-storage-cacher",
            "apiserver-storage-embedded",
            "apiserver-storage-etcd3?",
        ],
    ),
    ("apiserver-registry", &["apiserver-storage-api"]),
    ("apiserver-resources", &["apiserver-registry", "apiserver-storage-api"]),
    (
        "apiserver",
        &[
            "apiserver-registry",
            "apiserver-resources",
            "apiserver-storagebackend",
            "apiserver-storage-api",
            "apiserver-storage-transform",
        ],
    ),
    (
        "apiserver-storage-testing",
        &["apiserver-storage-api", "apiserver-storage-kv"],
    ),
    ("xtask", &["apiserver-storage-transform"]),
];

/// Needs protoc to build, so nothing that is built on a fresh machine may reach it.
const NEEDS_PROTOC: &str = "etcd-client";

/// `cargo xtask edges`
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let metadata = workspace.metadata(&[])?;
    let mut wrong = check(&metadata);
    wrong.extend(check_reach(&metadata));
    if wrong.is_empty() {
        println!("edges: {} crates, all arrows allowed", TABLE.len());
        return Ok(());
    }
    for line in &wrong {
        println!("edges: {line}");
    }
    bail!("{} wrong edges", wrong.len())
}

/// The direct edges against the table.
fn check(metadata: &Value) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let members: BTreeSet<&str> = packages(metadata)
        .filter(|p| is_member(p, metadata))
        .filter_map(name)
        .collect();
    let mut wrong = Vec::new();
    for package in packages(metadata).filter(|package| is_member(package, metadata)) {
        let Some(from) = name(package) else { continue };
        let Some(allowed) = table.get(from) else {
            wrong.push(format!("{from} is not in the table of xtask/src/edges.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(to) = name(dependency).filter(|to| members.contains(to)) else {
                continue;
            };
            if let Some(reason) = judge(dependency, to, allowed) {
                wrong.push(format!("{from} -> {to}: {reason}"));
            }
        }
    }
    wrong
}

/// What is wrong with one edge between two of our crates, if anything.
fn judge(dependency: &Value, to: &str, allowed: &[&str]) -> Option<&'static str> {
    if !dependency["rename"].is_null() {
        return Some("renamed; a crate has one name everywhere");
    }
    if dependency["kind"] == "dev" {
        let versioned = dependency["req"] != "*";
        return versioned.then_some("a dev-dependency on our own crate has a version; give it a path only");
    }
    let optional = dependency["optional"] == true;
    let behind_feature = allowed.iter().any(|name| name.strip_suffix('?') == Some(to));
    match (allowed.contains(&to), behind_feature, optional) {
        (true, _, false) | (_, true, true) => None,
        (true, _, true) => Some("optional, but the table has it unconditional"),
        (_, true, false) => Some("must be behind a feature"),
        (false, false, _) => Some("not allowed"),
    }
}

/// Crates that a fresh machine builds must not reach what needs protoc, whatever lies between.
fn check_reach(metadata: &Value) -> Vec<String> {
    let ids: BTreeMap<&str, &str> = packages(metadata)
        .filter_map(|p| Some((p["id"].as_str()?, name(p)?)))
        .collect();
    let edges: BTreeMap<&str, Vec<&str>> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, built_with(node))))
        .collect();
    let mut wrong = Vec::new();
    for member in metadata["workspace_default_members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let mut seen = BTreeSet::from([member]);
        let mut open = vec![(member, ids.get(member).copied().unwrap_or(member).to_owned())];
        while let Some((id, path)) = open.pop() {
            if ids.get(id) == Some(&NEEDS_PROTOC) {
                wrong.push(format!(
                    "{path}: a default member reaches {NEEDS_PROTOC}, which needs protoc"
                ));
                break;
            }
            for next in edges.get(id).into_iter().flatten().filter(|next| seen.insert(next)) {
                open.push((next, format!("{path} -> {}", ids.get(next).copied().unwrap_or(next))));
            }
        }
    }
    wrong
}

/// What a node of the resolve graph is built with: all but its dev-dependencies.
fn built_with(node: &Value) -> Vec<&str> {
    let is_built = |dependency: &&Value| {
        dependency["dep_kinds"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|kind| kind["kind"] != "dev")
    };
    node["deps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(is_built)
        .filter_map(|d| d["pkg"].as_str())
        .collect()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn is_member(package: &Value, metadata: &Value) -> bool {
    metadata["workspace_members"]
        .as_array()
        .is_some_and(|members| members.contains(&package["id"]))
}

fn name(value: &Value) -> Option<&str> {
    value["name"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata_with(from: &str, dependency: Value) -> Value {
        let mut packages: Vec<_> = TABLE
            .iter()
            .map(|(name, _)| json!({ "id": name, "name": name, "dependencies": [] }))
            .collect();
        for package in &mut packages {
            if package["name"] == from {
                package["dependencies"] = json!([dependency]);
            }
        }
        let members: Vec<_> = TABLE.iter().map(|row| row.0).collect();
        json!({ "packages": packages, "workspace_members": members })
    }

    #[test]
    fn a_planted_wrong_edge_is_named() {
        let plain = |to: &str| json!({ "name": to, "kind": null, "optional": false, "rename": null, "req": "^0.1.0" });
        let with = |to: &str, field: &str, value: Value| {
            let mut dependency = plain(to);
            dependency[field] = value;
            dependency
        };
        let etcd = "apiserver-storage-etcd3";
        let table = [
            ("apiserver-registry", plain("apiserver-storage-api"), None),
            ("apiserver-registry", plain(etcd), Some("not allowed")),
            (
                "apiserver-registry",
                with(etcd, "kind", json!("build")),
                Some("not allowed"),
            ),
            (
                "apiserver-registry",
                with(etcd, "optional", json!(true)),
                Some("not allowed"),
            ),
            ("apiserver-storagebackend", with(etcd, "optional", json!(true)), None),
            ("apiserver-storagebackend", plain(etcd), Some("behind a feature")),
            (
                "apiserver-storage-kv",
                with("apiserver-storage-api", "rename", json!("api")),
                Some("renamed"),
            ),
            (
                "apiserver-storage-kv",
                with("apiserver-storage-testing", "kind", json!("dev")),
                Some("has a version"),
            ),
            ("apiserver-storage-kv", plain("serde"), None),
        ];
        for (from, dependency, want) in table {
            let wrong = check(&metadata_with(from, dependency.clone()));
            match want {
                None => assert!(wrong.is_empty(), "{from} {dependency}: {wrong:?}"),
                Some(text) => {
                    assert_eq!(wrong.len(), 1, "{from} {dependency}: {wrong:?}");
                    assert!(wrong[0].starts_with(from) && wrong[0].contains(text), "{wrong:?}");
                }
            }
        }
    }

    #[test]
    fn a_crate_outside_the_table_is_named() {
        let metadata = json!({
            "packages": [{ "id": "apiserver-new", "name": "apiserver-new", "dependencies": [] }],
            "workspace_members": ["apiserver-new"],
        });
        assert_eq!(check(&metadata).len(), 1);
    }

    #[test]
    fn a_hidden_way_to_protoc_is_named() {
        let node = |id: &str, to: &str, kind: Value| json!({ "id": id, "deps": [{ "pkg": to, "dep_kinds": [{ "kind": kind }] }] });
        let metadata = |kind: Value| {
            json!({
                "packages": [{ "id": "a", "name": "xtask" }, { "id": "b", "name": "between" }, { "id": "c", "name": NEEDS_PROTOC }],
                "workspace_default_members": ["a"],
                "resolve": { "nodes": [node("a", "b", Value::Null), node("b", "c", kind)] },
            })
        };
        let wrong = check_reach(&metadata(Value::Null));
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with("xtask -> between -> etcd-client"), "{wrong:?}");
        assert!(check_reach(&metadata(json!("dev"))).is_empty());
    }
}
