//! The paths of a document: every route of every resource, with its query parameters and bodies.

use serde_json::{Map, Value, json};

use crate::discovery::{ServedResource, ServedSubresource};
use crate::types::Gvk;

use super::schemas::Schemas;
use super::{OpenApi, group_version_path};

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const LIST: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE: [&str; 4] = ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

/// A query parameter, with what it is for.
fn query(name: &str) -> Value {
    let (kind, description) = match name {
        "allowWatchBookmarks" => (
            "boolean",
            "Send bookmarks to a watch, so that it can be resumed from a recent version.",
        ),
        "continue" => ("string", "The token of the previous page of a list."),
        "dryRun" => ("string", "All: go through the whole request and store nothing."),
        "fieldManager" => (
            "string",
            "Who makes the change, at most 128 printable characters. An apply must say.",
        ),
        "fieldSelector" => ("string", "Only objects with these field values."),
        "fieldValidation" => (
            "string",
            "What to do about unknown and repeated fields: Ignore, Warn (default) or Strict.",
        ),
        "force" => ("boolean", "Take fields from other managers. For apply only."),
        "gracePeriodSeconds" => ("integer", "Seconds until the object is deleted; 0 is at once."),
        "labelSelector" => ("string", "Only objects with these labels."),
        "limit" => ("integer", "The most items of one page of a list."),
        "orphanDependents" => ("boolean", "Keep dependent objects. Use propagationPolicy instead."),
        "pretty" => ("string", "Indent the answer."),
        "propagationPolicy" => (
            "string",
            "What happens to dependent objects: Orphan, Background or Foreground.",
        ),
        "resourceVersion" => ("string", "The version to read at or to watch from."),
        "resourceVersionMatch" => ("string", "How resourceVersion is meant: Exact or NotOlderThan."),
        "sendInitialEvents" => ("boolean", "Start a watch with what exists, closed by a bookmark."),
        "timeoutSeconds" => ("integer", "Ends a watch after this time."),
        "watch" => ("boolean", "Watch for changes instead of listing."),
        _ => ("string", ""),
    };
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn in_path(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "description": description, "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

/// What an operation is made of.
struct Operation<'o> {
    /// The first word of the id: `read`, `create`.
    verb: &'o str,
    /// What the operation does, as other programs name it: `get`, `deletecollection`.
    action: &'o str,
    /// What of the id comes between group version and kind: `Namespaced`, `Collection`.
    scope: String,
    /// What of the id comes after the kind: the subresource, `ForAllNamespaces`.
    tail: String,
    parameters: Vec<&'o str>,
    body: Option<Value>,
    answers: Vec<(&'o str, Value)>,
}

/// Collects the paths of one document.
pub(super) struct Paths<'a> {
    input: &'a OpenApi<'a>,
    /// `/apis/apps/v1`
    root: String,
    /// `AppsV1`
    id: String,
    /// `apps_v1`
    tag: String,
    paths: Map<String, Value>,
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

impl<'a> Paths<'a> {
    pub(super) fn new(input: &'a OpenApi<'a>, group: &str, version: &str) -> Self {
        let group_name = if group.is_empty() {
            "core"
        } else {
            group.strip_suffix(".k8s.io").unwrap_or(group)
        };
        let words = group_name.split(['.', '-']).map(capital).collect::<String>();
        let mut lower = words.chars();
        let camel: String = lower
            .next()
            .map_or_else(String::new, |first| first.to_lowercase().chain(lower).collect());
        Self {
            input,
            root: format!("/{}", group_version_path(group, version)),
            id: format!("{words}{}", capital(version)),
            tag: format!("{camel}_{version}"),
            paths: Map::new(),
        }
    }

    /// All paths, with the one of the group version itself.
    pub(super) fn finish(mut self, schemas: &mut Schemas<'_>) -> Value {
        let list = schemas.meta("APIResourceList");
        let item = json!({"get": {
            "tags": [self.tag],
            "description": "get available resources",
            "operationId": format!("get{}APIResources", self.id),
            "responses": {"200": answer("OK", list, false), "401": {"description": "Unauthorized"}},
        }});
        self.paths.insert(format!("{}/", self.root), item);
        Value::Object(self.paths)
    }

    /// Adds the routes of a resource.
    pub(super) fn add(&mut self, resource: &ServedResource, schemas: &mut Schemas<'_>) {
        let own = if resource.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{}{own}/{}", self.root, resource.name);
        let item = self.collection(resource, schemas);
        self.insert(&collection, item, resource, false);
        if resource.namespaced && has(resource, "list") {
            let path = format!("{}/{}", self.root, resource.name);
            let list = self.list(resource, String::new(), "ForAllNamespaces".to_owned(), schemas);
            let mut item = json!({"get": list});
            item["parameters"] = json!([query("pretty")]);
            self.paths.insert(path, item);
        }
        let path = format!("{collection}/{{name}}");
        let item = self.item(resource, schemas);
        self.insert(&path, item, resource, true);
        for sub in &resource.subresources {
            let item = self.subresource(resource, sub, schemas);
            self.insert(&format!("{path}/{}", sub.name), item, resource, true);
        }
    }

    fn insert(&mut self, path: &str, mut item: Map<String, Value>, resource: &ServedResource, named: bool) {
        if item.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        if named {
            parameters.push(in_path("name", &format!("name of the {}", resource.kind)));
        }
        if resource.namespaced {
            parameters.push(in_path("namespace", "the namespace of the object"));
        }
        parameters.push(query("pretty"));
        item.insert("parameters".to_owned(), Value::Array(parameters));
        self.paths.insert(path.to_owned(), Value::Object(item));
    }

    fn operation(&self, resource: &ServedResource, gvk: Gvk<'_>, operation: Operation<'_>) -> Value {
        let Operation {
            verb,
            action,
            scope,
            tail,
            parameters,
            body,
            answers,
        } = operation;
        let mut responses: Map<_, _> = answers
            .into_iter()
            .map(|(code, schema)| (code.to_owned(), answer(phrase(code), schema, action == "list")))
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut document = json!({
            "tags": [self.tag],
            "operationId": format!("{verb}{}{scope}{}{tail}", self.id, resource.kind),
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
        });
        if !parameters.is_empty() {
            document["parameters"] = parameters.into_iter().map(query).collect();
        }
        if let Some(body) = body {
            document["requestBody"] = body;
        }
        document
    }

    fn list(&self, resource: &ServedResource, scope: String, tail: String, schemas: &mut Schemas<'_>) -> Value {
        let gvk = Gvk::new(&resource.group, &resource.version, &resource.kind);
        let custom = self
            .input
            .custom
            .iter()
            .find(|kind| kind.group == resource.group && kind.names.plural == resource.name);
        let list_kind = custom.map_or_else(|| format!("{}List", resource.kind), |kind| kind.names.list_kind.clone());
        let list = schemas.kind(Gvk::new(&resource.group, &resource.version, &list_kind));
        let (verb, action, body) = ("list", "list", None);
        let parameters = LIST.to_vec();
        self.operation(
            resource,
            gvk,
            Operation {
                verb,
                action,
                scope,
                tail,
                parameters,
                body,
                answers: vec![("200", list)],
            },
        )
    }

    fn collection(&self, resource: &ServedResource, schemas: &mut Schemas<'_>) -> Map<String, Value> {
        let gvk = Gvk::new(&resource.group, &resource.version, &resource.kind);
        let scope = namespaced(resource);
        let mut item = Map::new();
        if has(resource, "list") {
            item.insert(
                "get".to_owned(),
                self.list(resource, scope.clone(), String::new(), schemas),
            );
        }
        if has(resource, "create") {
            let of = schemas.kind(gvk);
            let operation = Operation {
                verb: "create",
                action: "post",
                scope: scope.clone(),
                tail: String::new(),
                parameters: WRITE.to_vec(),
                body: Some(body(of.clone(), true)),
                answers: vec![("200", of.clone()), ("201", of.clone()), ("202", of)],
            };
            item.insert("post".to_owned(), self.operation(resource, gvk, operation));
        }
        if has(resource, "deletecollection") {
            let mut parameters: Vec<_> = LIST
                .iter()
                .filter(|n| !matches!(**n, "allowWatchBookmarks" | "watch"))
                .copied()
                .collect();
            parameters.extend(DELETE);
            parameters.sort_unstable();
            let operation = Operation {
                verb: "delete",
                action: "deletecollection",
                scope: format!("Collection{scope}"),
                tail: String::new(),
                parameters,
                body: Some(body(schemas.meta("DeleteOptions"), false)),
                answers: vec![("200", schemas.meta("Status"))],
            };
            item.insert("delete".to_owned(), self.operation(resource, gvk, operation));
        }
        item
    }

    fn item(&self, resource: &ServedResource, schemas: &mut Schemas<'_>) -> Map<String, Value> {
        let gvk = Gvk::new(&resource.group, &resource.version, &resource.kind);
        let mut item = self.reads_and_writes(resource, gvk, "", &|verb| has(resource, verb), schemas);
        if has(resource, "delete") {
            let status = schemas.meta("Status");
            let operation = Operation {
                verb: "delete",
                action: "delete",
                scope: namespaced(resource),
                tail: String::new(),
                parameters: DELETE.to_vec(),
                body: Some(body(schemas.meta("DeleteOptions"), false)),
                answers: vec![("200", status.clone()), ("202", status)],
            };
            item.insert("delete".to_owned(), self.operation(resource, gvk, operation));
        }
        item
    }

    fn subresource(
        &self,
        resource: &ServedResource,
        sub: &ServedSubresource,
        schemas: &mut Schemas<'_>,
    ) -> Map<String, Value> {
        let gvk = Gvk::new(&sub.group, &sub.version, &sub.kind);
        let can = |verb: &str| sub.verbs.iter().any(|known| known == verb);
        let tail = capital(&sub.name);
        let mut item = self.reads_and_writes(resource, gvk, &tail, &can, schemas);
        if can("create") {
            let of = schemas.kind(gvk);
            let operation = Operation {
                verb: "create",
                action: "post",
                scope: namespaced(resource),
                tail,
                parameters: WRITE.to_vec(),
                body: Some(body(of.clone(), true)),
                answers: vec![("200", of.clone()), ("201", of.clone()), ("202", of)],
            };
            item.insert("post".to_owned(), self.operation(resource, gvk, operation));
        }
        item
    }

    fn reads_and_writes(
        &self,
        resource: &ServedResource,
        gvk: Gvk<'_>,
        tail: &str,
        can: &dyn Fn(&str) -> bool,
        schemas: &mut Schemas<'_>,
    ) -> Map<String, Value> {
        let of = schemas.kind(gvk);
        let mut item = Map::new();
        let mut add = |method: &str, verb: &str, parameters: Vec<&str>, body: Option<Value>, codes: &[&'static str]| {
            let answers = codes.iter().map(|code| (*code, of.clone())).collect();
            let (scope, tail) = (namespaced(resource), tail.to_owned());
            let operation = Operation {
                verb,
                action: method,
                scope,
                tail,
                parameters,
                body,
                answers,
            };
            item.insert(method.to_owned(), self.operation(resource, gvk, operation));
        };
        if can("get") {
            add("get", "read", Vec::new(), None, &["200"]);
        }
        if can("update") {
            add(
                "put",
                "replace",
                WRITE.to_vec(),
                Some(body(of.clone(), true)),
                &["200", "201"],
            );
        }
        if can("patch") {
            let patch = schemas.meta("Patch");
            let custom = self
                .input
                .registry
                .by_kind(&resource.group, &resource.version, &resource.kind)
                .is_none();
            let mut types = vec!["application/json-patch+json", "application/merge-patch+json"];
            if !custom {
                types.push("application/strategic-merge-patch+json");
            }
            if self.input.apply {
                types.push("application/apply-patch+yaml");
            }
            let content: Map<_, _> = types
                .into_iter()
                .map(|t| (t.to_owned(), json!({"schema": patch})))
                .collect();
            let parameters = WRITE.iter().copied().chain(["force"]).collect();
            add(
                "patch",
                "patch",
                parameters,
                Some(json!({"content": content, "required": true})),
                &["200", "201"],
            );
        }
        item
    }
}

fn has(resource: &ServedResource, verb: &str) -> bool {
    resource.verbs.iter().any(|known| known == verb)
}

fn namespaced(resource: &ServedResource) -> String {
    if resource.namespaced {
        "Namespaced".to_owned()
    } else {
        String::new()
    }
}

fn phrase(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

fn body(schema: Value, required: bool) -> Value {
    let mut body = json!({"content": {"*/*": {"schema": schema}}});
    if required {
        body["required"] = json!(true);
    }
    body
}

fn answer(description: &str, schema: Value, stream: bool) -> Value {
    let mut types = vec!["application/json", "application/yaml"];
    if stream {
        types.push("application/json;stream=watch");
    }
    let content: Map<_, _> = types
        .into_iter()
        .map(|t| (t.to_owned(), json!({"schema": schema})))
        .collect();
    json!({"description": description, "content": content})
}
