//! Discovery documents: what a server serves, in the legacy form (one document per group version) and the aggregated one.
//!
//! The input is one list of [`ServedResource`], from built-in data ([`ServedResource::builtin`]), from a custom kind
//! ([`ServedResource::custom`]) or made by hand; all documents come from it, so they cannot disagree. Groups are ordered by
//! priority and then by name, versions by the Kubernetes order of versions, resources by name.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::crd::{CustomKind, CustomVersion};
use crate::types::{Gvk, ResourceEntry};

/// A subresource that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedSubresource {
    /// The last segment of the path.
    pub name: String,
    /// The group of its kind.
    pub group: String,
    /// The version of its kind.
    pub version: String,
    /// Its kind, which need not be the resource's.
    pub kind: String,
    /// What it can do.
    pub verbs: Vec<String>,
}

/// A resource that is served in one group version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedResource {
    /// The group, empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural name, as in paths.
    pub name: String,
    /// The singular name.
    pub singular: String,
    /// The kind of its objects.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What it can do.
    pub verbs: Vec<String>,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<ServedSubresource>,
    /// The hash of the version in which it is stored ([`storage_version_hash`]); resources that are not stored have none.
    pub storage_version_hash: Option<String>,
}

/// The verbs of a resource that is stored, in order.
pub const STORED_VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// The hash that discovery shows of the kind as which objects are stored.
#[must_use]
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// Group and version in which upstream stores a built-in kind, where that is not the one in which it is served.
fn stored_as(entry: &ResourceEntry) -> (&str, &str) {
    match (entry.group.as_str(), entry.kind.as_str()) {
        ("events.k8s.io", "Event") => ("", "v1"),
        (group @ "autoscaling", "HorizontalPodAutoscaler") => (group, "v2"),
        (group @ "apiextensions.k8s.io", "CustomResourceDefinition") => (group, "v1beta1"),
        (group, "MutatingAdmissionPolicy" | "MutatingAdmissionPolicyBinding") => (group, "v1beta1"),
        (group, _) => (group, &entry.version),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

impl ServedResource {
    /// A built-in resource, with everything it has upstream. Remove from `verbs` and `subresources` what is not served.
    #[must_use]
    pub fn builtin(entry: &ResourceEntry) -> Self {
        let stored = entry.has_verb("watch");
        Self {
            group: entry.group.clone(),
            version: entry.version.clone(),
            name: entry.resource.clone(),
            singular: entry.singular.clone(),
            kind: entry.kind.clone(),
            namespaced: entry.namespaced,
            verbs: entry.verbs.clone(),
            short_names: entry.short_names.clone(),
            categories: entry.categories.clone(),
            subresources: entry
                .subresources
                .iter()
                .map(|sub| ServedSubresource::builtin(entry, sub))
                .collect(),
            storage_version_hash: stored.then(|| {
                let (group, version) = stored_as(entry);
                storage_version_hash(group, version, &entry.kind)
            }),
        }
    }

    /// A version of a custom kind.
    #[must_use]
    pub fn custom(kind: &CustomKind, version: &CustomVersion) -> Self {
        let mut subresources = Vec::new();
        let verbs = owned(&["get", "patch", "update"]);
        if version.scale.is_some() {
            subresources.push(ServedSubresource {
                name: "scale".to_owned(),
                group: "autoscaling".to_owned(),
                version: "v1".to_owned(),
                kind: "Scale".to_owned(),
                verbs: verbs.clone(),
            });
        }
        if version.status {
            subresources.push(ServedSubresource {
                name: "status".to_owned(),
                group: kind.group.clone(),
                version: version.name.clone(),
                kind: kind.names.kind.clone(),
                verbs,
            });
        }
        let stored = kind.storage_version();
        Self {
            group: kind.group.clone(),
            version: version.name.clone(),
            name: kind.names.plural.clone(),
            singular: kind.names.singular.clone(),
            kind: kind.names.kind.clone(),
            namespaced: kind.namespaced,
            verbs: owned(&STORED_VERBS),
            short_names: kind.names.short_names.clone(),
            categories: kind.names.categories.clone(),
            subresources,
            storage_version_hash: stored.map(|v| storage_version_hash(&kind.group, &v.name, &kind.names.kind)),
        }
    }

    /// Group and version as objects have them.
    #[must_use]
    pub fn group_version(&self) -> String {
        Gvk::new(&self.group, &self.version, &self.kind).api_version()
    }
}

impl ServedSubresource {
    fn builtin(entry: &ResourceEntry, sub: &crate::types::Subresource) -> Self {
        let parts: Vec<_> = sub.kind.split('/').collect();
        let (group, version, kind) = match parts.as_slice() {
            [group, version, kind] => (*group, *version, *kind),
            [version, kind] => ("", *version, *kind),
            _ => (entry.group.as_str(), entry.version.as_str(), sub.kind.as_str()),
        };
        Self {
            name: sub.name.clone(),
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            verbs: sub.verbs.clone(),
        }
    }
}

/// The order of versions: stable before beta before alpha, then the higher number; what is no version of that form comes last, by name.
#[must_use]
pub fn compare_versions(left: &str, right: &str) -> Ordering {
    fn rank(version: &str) -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (2, ""),
            suffix => match (suffix.strip_prefix("beta"), suffix.strip_prefix("alpha")) {
                (Some(minor), _) => (1, minor),
                (_, Some(minor)) => (0, minor),
                _ => return None,
            },
        };
        let minor = if stage == 2 { 0 } else { minor.parse().ok()? };
        Some((stage, major, minor))
    }
    match (rank(left), rank(right)) {
        (Some(l), Some(r)) => r.cmp(&l),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => left.cmp(right),
    }
}

/// How far in front a group stands; custom groups stand at 1000.
#[must_use]
pub fn group_priority(group: &str) -> u32 {
    match group {
        "apiregistration.k8s.io" => 20_000,
        "" => 18_000,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" | "resource.k8s.io" => 16_200,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        _ => 1000,
    }
}

/// Groups in order, each with its versions in order.
fn groups(resources: &[ServedResource]) -> Vec<(&str, Vec<&str>)> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in resources {
        let versions = by_name.entry(&resource.group).or_default();
        if !versions.contains(&resource.version.as_str()) {
            versions.push(&resource.version);
        }
    }
    let mut groups: Vec<_> = by_name.into_iter().collect();
    groups.sort_by_key(|(name, _)| std::cmp::Reverse(group_priority(name)));
    for (_, versions) in &mut groups {
        versions.sort_by(|l, r| compare_versions(l, r));
    }
    groups
}

/// `GET /api`: the versions of the core group. `server_address` is host and port under which clients reach the server.
#[must_use]
pub fn api_versions(resources: &[ServedResource], server_address: &str) -> Value {
    let versions = groups(resources)
        .into_iter()
        .find(|(name, _)| name.is_empty())
        .map(|(_, v)| v)
        .unwrap_or_default();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

fn group_document(name: &str, versions: &[&str]) -> Map<String, Value> {
    let version = |version: &str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let mut document = Map::new();
    document.insert("name".to_owned(), name.into());
    document.insert("versions".to_owned(), versions.iter().map(|v| version(v)).collect());
    if let Some(first) = versions.first() {
        document.insert("preferredVersion".to_owned(), version(first));
    }
    document
}

/// `GET /apis`: all groups but the core group.
#[must_use]
pub fn api_group_list(resources: &[ServedResource]) -> Value {
    let groups = groups(resources);
    let documents = groups.iter().filter(|(name, _)| !name.is_empty());
    let documents: Vec<_> = documents
        .map(|(name, versions)| Value::Object(group_document(name, versions)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": documents})
}

/// `GET /apis/<group>`; `None` when nothing of the group is served.
#[must_use]
pub fn api_group(resources: &[ServedResource], group: &str) -> Option<Value> {
    let (name, versions) = groups(resources)
        .into_iter()
        .find(|(name, _)| *name == group && !name.is_empty())?;
    let mut document = group_document(name, &versions);
    document.insert("kind".to_owned(), "APIGroup".into());
    document.insert("apiVersion".to_owned(), "v1".into());
    Some(Value::Object(document))
}

/// `GET /api/<version>` and `GET /apis/<group>/<version>`; `None` when nothing of it is served.
#[must_use]
pub fn api_resource_list(resources: &[ServedResource], group: &str, version: &str) -> Option<Value> {
    let mut served: Vec<_> = resources
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .collect();
    served.sort_by(|l, r| l.name.cmp(&r.name));
    let first = served.first()?;
    let mut entries = Vec::new();
    for resource in &served {
        entries.push((resource.name.clone(), legacy_resource(resource)));
        for sub in &resource.subresources {
            let entry = legacy_subresource(resource, sub);
            entries.push((format!("{}/{}", resource.name, sub.name), entry));
        }
    }
    entries.sort_by(|l, r| l.0.cmp(&r.0));
    let entries: Vec<_> = entries.into_iter().map(|(_, entry)| entry).collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.group_version(), "resources": entries}),
    )
}

fn sorted(verbs: &[String]) -> Vec<&str> {
    let mut verbs: Vec<_> = verbs.iter().map(String::as_str).collect();
    verbs.sort_unstable();
    verbs
}

fn legacy_resource(resource: &ServedResource) -> Value {
    let mut entry = json!({
        "name": resource.name,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": sorted(&resource.verbs),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if let Some(hash) = &resource.storage_version_hash {
        entry["storageVersionHash"] = json!(hash);
    }
    entry
}

fn legacy_subresource(resource: &ServedResource, sub: &ServedSubresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.name, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sorted(&sub.verbs),
    });
    if (&sub.group, &sub.version) != (&resource.group, &resource.version) {
        if !sub.group.is_empty() {
            entry["group"] = json!(sub.group);
        }
        entry["version"] = json!(sub.version);
    }
    entry
}

/// The form of the aggregated document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregatedVersion {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

impl AggregatedVersion {
    /// The version's name, as Accept and Content-Type have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    /// The Content-Type under which clients recognise the document.
    #[must_use]
    pub fn content_type(self) -> String {
        format!(
            "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList",
            self.name()
        )
    }
}

/// The aggregated document: of the core group for `GET /api` (`core`), of all others for `GET /apis`.
#[must_use]
pub fn aggregated(resources: &[ServedResource], core: bool, form: AggregatedVersion) -> Value {
    let groups = groups(resources);
    let items = groups
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let mut served: Vec<_> = resources
                        .iter()
                        .filter(|r| r.group == *name && r.version == **version)
                        .collect();
                    served.sort_by(|l, r| l.name.cmp(&r.name));
                    let served: Vec<_> = served.into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "resources": served, "freshness": "Current"})
                })
                .collect();
            let metadata = if name.is_empty() {
                json!({})
            } else {
                json!({"name": name})
            };
            json!({"metadata": metadata, "versions": versions})
        });
    let items: Vec<_> = items.collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", form.name()),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &ServedResource) -> Value {
    let mut entry = json!({
        "resource": resource.name,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": sorted(&resource.verbs),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let mut subs: Vec<_> = resource.subresources.iter().collect();
        subs.sort_by(|l, r| l.name.cmp(&r.name));
        let subs = subs.into_iter().map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sorted(&sub.verbs),
            })
        });
        entry["subresources"] = subs.collect();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TypeRegistry;

    fn builtin() -> Vec<ServedResource> {
        TypeRegistry::builtin()
            .resources()
            .iter()
            .map(ServedResource::builtin)
            .collect()
    }

    fn custom() -> Vec<ServedResource> {
        let definition = json!({"metadata": {"name": "widgets.golden.example.dev"}, "spec": {
            "group": "golden.example.dev", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["golden"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                          "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        let kind = CustomKind::parse(&definition).expect("a sound definition");
        vec![ServedResource::custom(&kind, &kind.versions[0])]
    }

    fn pick<'v>(document: &'v Value, list: &str, key: &str, name: &str) -> &'v Value {
        let found = document[list]
            .as_array()
            .and_then(|items| items.iter().find(|item| item[key] == name));
        found.unwrap_or(&Value::Null)
    }

    // covers: apiserver-http/DISC-04, apiserver-http/DISC-05, apiserver-http/DISC-06, apiserver-http/DISC-07, apiserver-http/DISC-08
    #[test]
    fn resource_lists_are_those_of_a_real_server() {
        let document = api_resource_list(&builtin(), "", "v1").expect("core is served");
        assert_eq!(document["groupVersion"], "v1");
        assert_eq!(
            pick(&document, "resources", "name", "configmaps"),
            &json!({
            "name": "configmaps", "singularName": "configmap", "namespaced": true, "kind": "ConfigMap", "verbs": STORED_VERBS,
            "shortNames": ["cm"], "storageVersionHash": "qFsyl6wFWjQ="})
        );
        assert_eq!(
            pick(&document, "resources", "name", "pods/eviction"),
            &json!({
            "name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]})
        );
        assert_eq!(
            pick(&document, "resources", "name", "pods/status")["verbs"],
            json!(["get", "patch", "update"])
        );
        let names: Vec<_> = document["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap())
            .collect();
        assert!(names.is_sorted());
        let document = api_resource_list(&custom(), "golden.example.dev", "v1").expect("served");
        assert_eq!(document["resources"][0]["storageVersionHash"], "wqegPM/aSxM=");
        assert_eq!(document["resources"][1]["name"], "widgets/status");
        assert_eq!(api_resource_list(&custom(), "golden.example.dev", "v2"), None);
        let document = api_resource_list(&builtin(), "events.k8s.io", "v1").expect("events are served");
        assert_eq!(document["resources"][0]["storageVersionHash"], "r2yiGXH7wu8=");
    }

    // covers: apiserver-http/DISC-01, apiserver-http/DISC-02, apiserver-http/DISC-03, apiserver-http/AGD-06
    #[test]
    fn groups_and_versions_are_in_order() {
        let mut resources = custom();
        resources.extend(builtin());
        assert_eq!(api_versions(&resources, "h:1")["versions"], json!(["v1"]));
        let document = api_group_list(&resources);
        let names: Vec<_> = document["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| g["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.last(), Some(&"golden.example.dev"));
        let place = |name: &str| names.iter().position(|n| *n == name);
        assert!(place("apps") < place("events.k8s.io") && place("batch") < place("policy") && !names.contains(&""));
        let autoscaling = pick(&document, "groups", "name", "autoscaling");
        assert_eq!(
            autoscaling["preferredVersion"],
            json!({"groupVersion": "autoscaling/v2", "version": "v2"})
        );
        let group = api_group(&resources, "golden.example.dev").expect("served");
        assert_eq!(
            (group["kind"].as_str(), group["name"].as_str()),
            (Some("APIGroup"), Some("golden.example.dev"))
        );
        assert_eq!(api_group(&resources, "nowhere"), None);
        assert_eq!(api_group_list(&[])["groups"], json!([]));
        let mut versions = ["foo", "v1alpha1", "v10", "v2", "v1beta1", "bar", "v2beta1", "v1"];
        versions.sort_by(|l, r| compare_versions(l, r));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v2beta1", "v1beta1", "v1alpha1", "bar", "foo"]
        );
    }

    // covers: apiserver-http/AGD-02, apiserver-http/AGD-04, apiserver-http/AGD-05
    #[test]
    fn the_aggregated_document_has_everything() {
        let mut resources = builtin();
        resources.extend(custom());
        let core = aggregated(&resources, true, AggregatedVersion::V2);
        assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(core["items"][0]["metadata"], json!({}));
        let rest = aggregated(&resources, false, AggregatedVersion::V2Beta1);
        assert_eq!(rest["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        let group = rest["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["metadata"]["name"] == "golden.example.dev")
            .unwrap();
        let kind = json!({"group": "golden.example.dev", "version": "v1", "kind": "Widget"});
        assert_eq!(
            group["versions"],
            json!([{"version": "v1", "freshness": "Current", "resources": [{
            "resource": "widgets", "responseKind": kind, "scope": "Namespaced", "singularResource": "widget", "verbs": STORED_VERBS,
            "shortNames": ["wd"], "categories": ["golden"],
            "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get", "patch", "update"]}]}]}])
        );
        assert_eq!(
            AggregatedVersion::V2.content_type(),
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
    }
}
