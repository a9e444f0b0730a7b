//! OpenAPI v3: one document per group version, and the index that lists them.
//!
//! A document has the schemas of the kinds that are served, with the extensions that clients read (`kubectl explain`, client-side
//! apply), and a path for every route. What kubectl looks for before it leaves field validation to the server is there: a `patch`
//! operation with `x-kubernetes-group-version-kind` and a query parameter `fieldValidation`. Built-in schemas have no descriptions.
//!
//! Building a document takes a walk over all types that it mentions: build it on first use and keep it until what is served changes.

mod paths;
mod schemas;

use serde_json::{Map, Value, json};

use crate::crd::CustomKind;
use crate::discovery::ServedResource;
use crate::types::{Gvk, TypeRegistry};

pub use schemas::definition_name;

/// What documents are made from.
#[derive(Debug, Clone, Copy)]
pub struct OpenApi<'a> {
    /// The types of built-in kinds.
    pub registry: &'a TypeRegistry,
    /// Everything that is served.
    pub resources: &'a [ServedResource],
    /// The custom kinds among it.
    pub custom: &'a [&'a CustomKind],
    /// The title of the documents.
    pub title: &'a str,
    /// The version of the server.
    pub version: &'a str,
    /// Whether server-side apply is served.
    pub apply: bool,
}

/// The path of a group version in the index: `api/v1`, `apis/apps/v1`.
#[must_use]
pub fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// Reads such a path back: `(group, version)`.
#[must_use]
pub fn parse_group_version_path(path: &str) -> Option<(&str, &str)> {
    match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => Some(("", version)),
        ["apis", group, version] => Some((group, version)),
        _ => None,
    }
}

/// The index at `/openapi/v3`, from pairs of a document's path and hash.
#[must_use]
pub fn index<'p>(documents: impl IntoIterator<Item = (&'p str, &'p str)>) -> Value {
    let paths: Map<_, _> = documents
        .into_iter()
        .map(|(path, hash)| {
            (
                path.to_owned(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            )
        })
        .collect();
    json!({"paths": paths})
}

impl OpenApi<'_> {
    /// The group versions that have a document, in the order of the index.
    #[must_use]
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<_> = self
            .resources
            .iter()
            .map(|r| (r.group.as_str(), r.version.as_str()))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The document of a group version; `None` when nothing of it is served.
    #[must_use]
    pub fn document(&self, group: &str, version: &str) -> Option<Value> {
        let mut served: Vec<_> = self
            .resources
            .iter()
            .filter(|r| r.group == group && r.version == version)
            .collect();
        if served.is_empty() {
            return None;
        }
        served.sort_by(|l, r| l.name.cmp(&r.name));
        let mut schemas = schemas::Schemas::new(self.registry, Gvk::new(group, version, ""));
        for kind in self.custom.iter().filter(|kind| kind.group == group) {
            if let Some(version) = kind.served_version(version) {
                schemas.add_custom(kind, version);
            }
        }
        let mut paths = paths::Paths::new(self, group, version);
        for resource in served {
            paths.add(resource, &mut schemas);
        }
        let paths = paths.finish(&mut schemas);
        Some(json!({
            "openapi": "3.0.0",
            "info": {"title": self.title, "version": self.version},
            "paths": paths,
            "components": {
                "schemas": schemas.finish(),
                "securitySchemes": {
                    "BearerToken": {"type": "apiKey", "description": "Bearer token", "name": "authorization", "in": "header"},
                },
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TypeRegistry;

    fn custom() -> CustomKind {
        let definition = serde_json::from_str::<Value>(include_str!("../../tests/data/gizmo.json")).expect("JSON");
        CustomKind::parse(&definition).expect("a sound definition")
    }

    fn builtin() -> Vec<ServedResource> {
        TypeRegistry::builtin()
            .resources()
            .iter()
            .map(ServedResource::builtin)
            .collect()
    }

    fn document(resources: &[ServedResource], custom: &[&CustomKind], group: &str, version: &str) -> Value {
        let registry = TypeRegistry::builtin();
        let open_api = OpenApi {
            registry,
            resources,
            custom,
            title: "t",
            version: "v",
            apply: true,
        };
        open_api.document(group, version).expect("served")
    }

    /// Every `$ref` of a document.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|inner| references(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    // covers: apiserver-http/OAPI-02, apiserver-http/OAPI-13
    #[test]
    fn every_reference_resolves_and_every_operation_has_its_own_id() {
        let resources = builtin();
        let registry = TypeRegistry::builtin();
        let open_api = OpenApi {
            registry,
            resources: &resources,
            custom: &[],
            title: "t",
            version: "v",
            apply: true,
        };
        for (group, version) in open_api.group_versions() {
            let document = open_api.document(group, version).expect("served");
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(document.pointer(pointer).is_some(), "{group}/{version}: {reference}");
            }
            let mut ids = std::collections::HashSet::new();
            for (path, item) in document["paths"].as_object().expect("paths") {
                for (method, operation) in item
                    .as_object()
                    .expect("a path")
                    .iter()
                    .filter(|(m, _)| *m != "parameters")
                {
                    let id = operation["operationId"].as_str().expect("an id");
                    assert!(ids.insert(id.to_owned()), "{path} {method}: {id}");
                }
            }
        }
    }

    // covers: apiserver-http/OAPI-03, apiserver-http/OAPI-06, apiserver-http/OAPI-14
    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let resources = builtin();
        let apps = document(&resources, &[], "apps", "v1");
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let names: Vec<_> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
        assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
        let kind = custom();
        let resources = [ServedResource::custom(&kind, &kind.versions[0])];
        let golden = document(&resources, &[&kind], "golden.example.dev", "v1");
        let item = &golden["paths"]["/apis/golden.example.dev/v1/namespaces/{namespace}/gizmos/{name}"];
        assert_eq!(
            item["patch"]["x-kubernetes-group-version-kind"],
            json!({"group": "golden.example.dev", "version": "v1", "kind": "Gizmo"})
        );
        assert!(
            item["patch"]["requestBody"]["content"]
                .get("application/strategic-merge-patch+json")
                .is_none()
        );
        let scale = &golden["paths"]["/apis/golden.example.dev/v1/namespaces/{namespace}/gizmos/{name}/scale"];
        assert_eq!(scale["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
    }

    // covers: apiserver-http/OAPI-05, apiserver-http/OAPI-06, apiserver-http/OAPI-12, apiserver-http/OAPI-15
    #[test]
    fn schemas_name_their_kinds_and_merge_rules() {
        let resources = builtin();
        let apps = document(&resources, &[], "apps", "v1");
        let schemas = &apps["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
        assert_eq!(
            deployment["properties"]["spec"],
            json!({"default": {}, "allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]})
        );
        assert_eq!(
            schemas["io.k8s.api.core.v1.Container"]["properties"]["env"],
            json!({
            "type": "array", "items": {"default": {}, "allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.EnvVar"}]},
            "x-kubernetes-list-map-keys": ["name"], "x-kubernetes-list-type": "map",
            "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge"})
        );
        let delete = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
        assert!(
            delete
                .as_array()
                .unwrap()
                .contains(&json!({"group": "apps", "version": "v1", "kind": "DeleteOptions"}))
        );
        let kind = custom();
        let resources = [ServedResource::custom(&kind, &kind.versions[0])];
        let golden = document(&resources, &[&kind], "golden.example.dev", "v1");
        let gizmo = &golden["components"]["schemas"]["dev.example.golden.v1.Gizmo"];
        assert_eq!(
            gizmo["x-kubernetes-group-version-kind"],
            json!([{"group": "golden.example.dev", "version": "v1", "kind": "Gizmo"}])
        );
        assert_eq!(
            gizmo["properties"]["spec"]["properties"]["port"],
            json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true})
        );
        assert!(
            gizmo["properties"]["metadata"]["allOf"][0]["$ref"]
                .as_str()
                .unwrap()
                .ends_with("ObjectMeta")
        );
        assert!(golden["components"]["schemas"]["dev.example.golden.v1.GizmoList"]["properties"]["items"].is_object());
    }

    // covers: apiserver-http/OAPI-01
    #[test]
    fn the_index_lists_documents_with_their_hash() {
        let got = index([("api/v1", "AB"), ("apis/apps/v1", "CD")]);
        assert_eq!(
            got["paths"]["apis/apps/v1"],
            json!({"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=CD"})
        );
        assert_eq!(parse_group_version_path("apis/apps/v1"), Some(("apps", "v1")));
        assert_eq!(
            parse_group_version_path(&group_version_path("", "v1")),
            Some(("", "v1"))
        );
        assert_eq!(parse_group_version_path("apis/apps"), None);
    }
}
