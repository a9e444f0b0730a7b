//! Strategic merge patch: a merge patch in which lists of a known type merge by key instead of being replaced.
//!
//! The rules for a field come from its type: strategy `merge` with a merge key for lists of objects, `merge` without a key for
//! sets of scalars, `replace` or nothing for everything that is replaced whole. Directives inside the patch change a single
//! request: `$patch`, `$retainKeys`, `$setElementOrder/<field>`, `$deleteFromPrimitiveList/<field>`; none of them survives.

use serde_json::{Map, Value};

use crate::types::{Form, Shape, Type, TypeRegistry};

use super::PatchError;
use super::order::{arrange, check};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// What a patch must know of a type.
pub trait PatchSchema: Copy {
    /// The member of that name. `None` for a struct that has no such field: whatever it holds is treated as plain JSON.
    fn member(self, name: &str) -> Option<Member<Self>>;

    /// What errors call the type.
    fn name(self) -> String;
}

/// One field of a type, as strategic merge patch sees it.
#[derive(Debug, Clone, Copy)]
pub struct Member<S> {
    /// The type of the field; of a list, the type of its items.
    pub schema: S,
    /// The field is replaced whole although it is an object (strategy `replace`, or free-form content).
    pub replace: bool,
    /// The field is a list that merges.
    pub merge: bool,
    /// The key by which items match, for lists of objects.
    pub merge_key: Option<&'static str>,
}

/// The merge metadata of a built-in type.
#[derive(Debug, Clone, Copy)]
struct BuiltinSchema<'a> {
    registry: &'a TypeRegistry,
    shape: &'a Shape,
}

impl PatchSchema for BuiltinSchema<'_> {
    fn member(self, name: &str) -> Option<Member<Self>> {
        let plain = |shape| Member {
            schema: Self {
                registry: self.registry,
                shape,
            },
            replace: false,
            merge: false,
            merge_key: None,
        };
        match self.shape {
            Shape::Map(item) => Some(plain(item)),
            Shape::Type(id) => {
                let field = self.registry.get(*id)?.field(name)?;
                let shape = match &field.shape {
                    Shape::List { item, .. } => item,
                    other => other,
                };
                let free = matches!(&field.shape, Shape::Type(id) if self.registry[*id].form != Form::Struct);
                Some(Member {
                    replace: field.patch.replace || free,
                    merge: field.patch.merge,
                    merge_key: field.merge_key,
                    ..plain(shape)
                })
            }
            _ => None,
        }
    }

    fn name(self) -> String {
        let name = self
            .shape
            .type_id()
            .and_then(|id| self.registry.get(id))
            .map_or("", |of| of.name);
        name.rsplit('.').next().unwrap_or_default().to_owned()
    }
}

/// Applies a strategic merge patch to an object of a built-in type.
///
/// The result may hold fields that the type does not have and values of the wrong type: it is decoded and defaulted like a
/// request body afterwards.
///
/// # Errors
/// [`PatchError::Malformed`] for a directive of the wrong form, [`PatchError::NotApplicable`] where items cannot be matched.
///
/// ```
/// use apiserver_resources::{merge, types::TypeRegistry};
/// use serde_json::json;
///
/// let registry = TypeRegistry::builtin();
/// let pod = registry.by_kind("", "v1", "Pod").expect("a built-in kind");
/// let live = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
/// let patch = merge::parse_strategic(br#"{"spec":{"containers":[{"name":"a","image":"x:2"}]}}"#)?.patch;
/// let patched = merge::strategic(registry, pod, live, &patch)?;
/// assert_eq!(patched["spec"]["containers"][0]["image"], "x:2");
/// # Ok::<(), merge::PatchError>(())
/// ```
pub fn strategic(
    registry: &TypeRegistry,
    of: &Type,
    original: Value,
    patch: &Map<String, Value>,
) -> Result<Value, PatchError> {
    strategic_with(
        BuiltinSchema {
            registry,
            shape: &Shape::Type(of.id),
        },
        original,
        patch,
    )
}

/// Applies a strategic merge patch with the rules of `schema` to `original`.
///
/// # Errors
/// [`PatchError::Malformed`] for a directive of the wrong form, [`PatchError::NotApplicable`] where items cannot be matched.
pub fn strategic_with<S: PatchSchema>(
    schema: S,
    original: Value,
    patch: &Map<String, Value>,
) -> Result<Value, PatchError> {
    let original = match original {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    merge_map(original, patch.clone(), Some(schema)).map(Value::Object)
}

pub(super) fn no_merge_key(item: &Value, key: &str) -> PatchError {
    let text = match item {
        Value::Object(_) => {
            format!(
                "map: {} does not contain declared merge key: {key}",
                crate::gofmt::plain(item)
            )
        }
        other => format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(other)
        ),
    };
    PatchError::NotApplicable(text)
}

/// What reflection calls a decoded JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> PatchError {
    let map = crate::gofmt::plain(&Value::Object(map.clone()));
    PatchError::NotApplicable(format!(
        "unknown patch type: {} in map: {map}",
        crate::gofmt::plain(directive)
    ))
}

fn merge_map<S: PatchSchema>(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    schema: Option<S>,
) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                match fresh(Value::Object(patch)) {
                    Some(Value::Object(map)) => Ok(map),
                    _ => Ok(Map::new()),
                }
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM_LIST) {
            Some(field) => (field.to_owned(), true),
            None if key.starts_with("$deleteFromPrimitiveList") => {
                return Err(PatchError::Malformed(
                    "invalid patch format of primitive list".to_owned(),
                ));
            }
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        merge_member(&mut original, key, value, deletes, schema)?;
    }
    Ok(original)
}

fn merge_member<S: PatchSchema>(
    original: &mut Map<String, Value>,
    key: String,
    value: Value,
    deletes: bool,
    schema: Option<S>,
) -> Result<(), PatchError> {
    let member = schema.and_then(|s| s.member(&key));
    let merged = match (original.remove(&key), value) {
        (current, _) if deletes && !matches!(current, Some(Value::Array(_))) => current,
        (Some(Value::Object(current)), Value::Object(inner)) => {
            if member.is_some_and(|m| m.replace) {
                Some(Value::Object(inner))
            } else {
                Some(Value::Object(merge_map(current, inner, member.map(|m| m.schema))?))
            }
        }
        (Some(Value::Array(current)), Value::Array(items)) => {
            if deletes {
                Some(Value::Array(
                    current.into_iter().filter(|item| !items.contains(item)).collect(),
                ))
            } else {
                Some(Value::Array(merge_list(current, items, member)?))
            }
        }
        (current @ Some(Value::Array(_)), _) if deletes => current,
        (_, value) => fresh(value),
    };
    if let Some(merged) = merged {
        original.insert(key, merged);
    }
    Ok(())
}

/// A value that is new to the object: without nulls and without directives. `None` when the value itself is a directive.
fn fresh(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(PATCH) {
                return None;
            }
            let map = map.into_iter().filter(|(_, v)| !v.is_null());
            Some(Value::Object(
                map.filter(|(k, _)| !is_directive(k))
                    .filter_map(|(k, v)| fresh(v).map(|v| (k, v)))
                    .collect(),
            ))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(fresh).collect())),
        other => Some(other),
    }
}

fn is_directive(key: &str) -> bool {
    key == RETAIN_KEYS || key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER)
}

/// Honours `$retainKeys`: what the directive does not list leaves the object, and the patch may set only what it lists.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let malformed = || PatchError::Malformed("invalid patch format of retainKeys".to_owned());
    let kept = directive.as_array().ok_or_else(malformed)?;
    let keeps = |key: &str| kept.iter().any(|entry| entry.as_str() == Some(key));
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with(DELETE_FROM_LIST) && !key.starts_with(ELEMENT_ORDER) && !keeps(key) {
            return Err(malformed());
        }
    }
    original.retain(|key, _| keeps(key));
    Ok(())
}

/// Merges the lists that come with an order directive, and takes both out of the patch.
fn ordered_lists<S: PatchSchema>(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    schema: Option<S>,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with("$setElementOrder"))
        .cloned()
        .collect();
    for directive in directives {
        let malformed = || PatchError::Malformed("invalid patch format of setElementOrder list".to_owned());
        let Some(field) = directive.strip_prefix(ELEMENT_ORDER) else {
            return Err(malformed());
        };
        let order = list(patch.remove(&directive).unwrap_or_default())?;
        let changes = patch.remove(field).map(list).transpose()?;
        let server = original.remove(field).map(list).transpose()?;
        let member = schema.and_then(|s| s.member(field));
        let merge_key = member.and_then(|m| m.merge_key);
        check(changes.as_deref().unwrap_or_default(), &order, merge_key)?;
        if let (Some(schema), None) = (schema, member) {
            let (name, field) = (schema.name(), crate::gofmt::quote(field));
            let text = format!("unable to find api field in struct {name} for the json field {field}");
            return Err(PatchError::NotApplicable(text));
        }
        let mut positions = server.clone().unwrap_or_default();
        if let (Some(changes), Some(key)) = (&changes, merge_key) {
            shift_positions(&mut positions, changes, key);
        }
        let merged = match (server, changes) {
            (None, None) => continue,
            (Some(server), None) => server,
            (None, Some(changes)) => changes.into_iter().filter_map(fresh).collect(),
            (Some(server), Some(changes)) => merge_list(server, changes, member)?,
        };
        let arranged = arrange(merged, &order, &positions, merge_key)?;
        original.insert(field.to_owned(), Value::Array(arranged));
    }
    Ok(())
}

/// Brings the live list into the state in which its positions decide where items go that only the server has.
///
/// Upstream deletes and appends in the memory of the live list: the items behind a deleted one move up, and new items take the
/// places that became free. Where `kubectl apply` puts containers depends on it, so it is kept.
fn shift_positions(positions: &mut [Value], changes: &[Value], key: &str) {
    let mut length = positions.len();
    for change in changes
        .iter()
        .filter(|change| change.get(PATCH).and_then(Value::as_str) == Some("delete"))
    {
        while let Some(at) = positions[..length]
            .iter()
            .position(|item| item.get(key) == change.get(key))
        {
            for index in at + 1..length {
                positions[index - 1] = positions[index].clone();
            }
            length -= 1;
        }
    }
    let replaced = changes
        .iter()
        .any(|change| change.get(PATCH).and_then(Value::as_str) == Some("replace"));
    for change in changes.iter().filter(|change| !replaced && change.get(PATCH).is_none()) {
        let known = positions[..length].iter().any(|item| item.get(key) == change.get(key));
        if !known && length < positions.len() {
            positions[length] = change.clone();
            length += 1;
        }
    }
}

fn list(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(PatchError::NotApplicable(format!(
            "expected a []interface {{}}, but received a {}",
            go_type(&other)
        ))),
    }
}

fn merge_list<S: PatchSchema>(
    original: Vec<Value>,
    patch: Vec<Value>,
    member: Option<Member<S>>,
) -> Result<Vec<Value>, PatchError> {
    let Some(member) = member.filter(|m| m.merge) else {
        return Ok(patch);
    };
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !of_one_kind(original.iter().chain(&patch))? {
        let mut merged: Vec<Value> = Vec::new();
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return arrange(merged, &patch, &original, None);
    }
    let Some(key) = member.merge_key else {
        return Err(PatchError::NotApplicable(
            "cannot merge lists without merge key for struct".to_owned(),
        ));
    };
    let (server, changes) = special_items(original, patch, key)?;
    let mut merged = server.clone();
    for change in &changes {
        let Value::Object(change) = change else { continue };
        let wanted = change
            .get(key)
            .ok_or_else(|| no_merge_key(&Value::Object(change.clone()), key))?;
        let found = merged.iter_mut().find(|item| item.get(key) == Some(wanted));
        match found {
            Some(Value::Object(current)) => {
                *current = merge_map(std::mem::take(current), change.clone(), Some(member.schema))?;
            }
            // The nulls of a new item go, as they do everywhere; upstream keeps them, and its decoder drops them later.
            _ => merged.extend(fresh(Value::Object(change.clone()))),
        }
    }
    arrange(merged, &changes, &server, Some(key))
}

/// Whether the items are objects (true) or scalars (false).
fn of_one_kind<'a>(items: impl Iterator<Item = &'a Value>) -> Result<bool, PatchError> {
    let mut kind = None;
    for item in items {
        if item.is_array() {
            return Err(PatchError::NotApplicable("lists of lists are not supported".to_owned()));
        }
        let mine = go_type(item);
        if *kind.get_or_insert(mine) != mine {
            return Err(PatchError::NotApplicable(
                "list element types are not identical".to_owned(),
            ));
        }
    }
    Ok(kind == Some(go_type(&Value::Object(Map::new()))))
}

/// Honours `$patch` in items of a list: removes what is deleted, and with `replace` drops what the server has.
fn special_items(mut server: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut changes = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(PATCH) else {
            changes.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                server.retain(|other| other.get(key) != Some(gone));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                let text = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::NotApplicable(text.to_owned()));
            }
            _ => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(directive, &map));
            }
        }
    }
    if replace {
        return Ok((changes.into_iter().filter_map(fresh).collect(), Vec::new()));
    }
    Ok((server, changes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn patched(kind: (&str, &str, &str), original: Value, patch: Value) -> Result<Value, PatchError> {
        let registry = TypeRegistry::builtin();
        let of = registry.by_kind(kind.0, kind.1, kind.2).expect("a built-in kind");
        strategic(registry, of, original, patch.as_object().expect("an object"))
    }

    #[track_caller]
    fn check_pod(name: &str, spec: Value, patch: Value, want: Result<Value, &str>) {
        let got = patched(("", "v1", "Pod"), json!({"spec": spec}), json!({"spec": patch}));
        let got = got.map(|v| v["spec"].clone()).map_err(|e| e.to_string());
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{name}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{name}: {got}"),
            (got, want) => panic!("{name}: {got:?}, expected {want:?}"),
        }
    }

    fn containers(names: &[&str]) -> Value {
        names.iter().map(|name| json!({"name": name, "image": "i"})).collect()
    }

    // covers: apiserver-http/SMP-05, apiserver-http/SMP-09
    #[test]
    fn items_match_by_merge_key() {
        let env = json!([{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]);
        check_pod(
            "merge into one, keep the other",
            json!({"containers": [{"name": "a", "image": "i", "env": env}, {"name": "b", "image": "i"}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "new"}, {"name": "Z", "value": "3"}]}]}),
            Ok(json!({"containers": [
                {"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "new"}, {"name": "Z", "value": "3"}]},
                {"name": "b", "image": "i"}]})),
        );
        check_pod(
            "an unknown name goes in front",
            json!({"containers": containers(&["a", "b"])}),
            json!({"containers": containers(&["c"])}),
            Ok(json!({"containers": containers(&["c", "a", "b"])})),
        );
        check_pod(
            "without the key",
            json!({"containers": containers(&["a"])}),
            json!({"containers": [{"image": "i"}]}),
            Err("map: map[image:i] does not contain declared merge key: name"),
        );
        let port = |port: u16, target: u16| json!({"port": port, "targetPort": target});
        let got = patched(
            ("", "v1", "Service"),
            json!({"spec": {"ports": [port(80, 8080), port(443, 8443)]}}),
            json!({"spec": {"ports": [port(80, 9090), port(81, 9091)]}}),
        );
        assert_eq!(
            got.unwrap()["spec"]["ports"],
            json!([port(80, 9090), port(81, 9091), port(443, 8443)])
        );
    }

    // covers: apiserver-http/SMP-02, apiserver-http/SMP-06, apiserver-http/SMP-13
    #[test]
    fn directives_change_items_and_maps() {
        check_pod(
            "delete removes every item with the key",
            json!({"containers": containers(&["a", "b", "b"])}),
            json!({"containers": [{"name": "b", "$patch": "delete"}]}),
            Ok(json!({"containers": containers(&["a"])})),
        );
        check_pod(
            "replace drops the live items",
            json!({"containers": containers(&["a", "b"])}),
            json!({"containers": [{"name": "only", "image": "i"}, {"$patch": "replace"}]}),
            Ok(json!({"containers": containers(&["only"])})),
        );
        check_pod(
            "merge is refused in a list",
            json!({"containers": containers(&["a"])}),
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            Err("merging lists cannot yet be specified in the patch"),
        );
        check_pod(
            "another directive",
            json!({"containers": containers(&["a"])}),
            json!({"containers": [{"name": "a", "$patch": "eat"}]}),
            Err("unknown patch type: eat in map: map[$patch:eat name:a]"),
        );
        check_pod(
            "maps",
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}, "nodeSelector": {"a": "1"}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3, "fsGroup": null}, "nodeSelector": {"$patch": "delete"}}),
            Ok(json!({"securityContext": {"runAsUser": 3}, "nodeSelector": {}})),
        );
        check_pod(
            "inside values that are new",
            json!({}),
            json!({"securityContext": {"$patch": "delete"}, "containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "image": "i"}]}),
            Ok(json!({"containers": containers(&["b"])})),
        );
    }

    // covers: apiserver-http/SMP-01, apiserver-http/SMP-03, apiserver-http/SMP-10, apiserver-http/SMP-12
    #[test]
    fn maps_merge_and_other_lists_are_replaced() {
        check_pod(
            "lists without strategy",
            json!({"tolerations": [{"key": "k"}], "containers": [{"name": "a", "args": ["x", "y"]}]}),
            json!({"tolerations": [{"key": "l"}], "containers": [{"name": "a", "args": ["z"]}]}),
            Ok(json!({"tolerations": [{"key": "l"}], "containers": [{"name": "a", "args": ["z"]}]})),
        );
        let got = patched(
            ("", "v1", "ConfigMap"),
            json!({"data": {"k": "1", "gone": "x"}, "metadata": {"labels": {"x": "y", "z": "1"}}, "odd": {"a": 1}}),
            json!({"data": {"k": "2", "gone": null, "never": null}, "metadata": {"labels": {"z": null}, "annotations": {"n": null}},
                   "odd": {"b": {"c": null}}, "immutable": "no"}),
        );
        assert_eq!(
            got.unwrap(),
            json!({"data": {"k": "2"}, "metadata": {"labels": {"x": "y"}, "annotations": {}}, "odd": {"a": 1, "b": {}}, "immutable": "no"})
        );
    }

    // covers: apiserver-http/SMP-07
    #[test]
    fn lists_of_scalars_unite_and_lose_what_is_named() {
        let meta = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
        let check = |original: Value, patch: Value, want: Value| {
            assert_eq!(
                patched(("", "v1", "ConfigMap"), meta(original), json!({"metadata": patch})).unwrap(),
                meta(want)
            );
        };
        check(
            json!(["a", "b"]),
            json!({"finalizers": ["b", "c"]}),
            json!(["a", "b", "c"]),
        );
        check(
            json!(["a", "b", "a"]),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"]}),
            json!(["b"]),
        );
        check(
            json!(["a", "b"]),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}),
            json!(["c", "b"]),
        );
        let bad = patched(
            ("", "v1", "ConfigMap"),
            meta(json!(["a"])),
            json!({"metadata": {"$deleteFromPrimitiveList": []}}),
        );
        assert_eq!(
            bad,
            Err(PatchError::Malformed(
                "invalid patch format of primitive list".to_owned()
            ))
        );
    }

    // covers: apiserver-http/SMP-08
    #[test]
    fn an_order_directive_orders_what_it_lists() {
        check_pod(
            "all listed",
            json!({"containers": containers(&["a", "b", "c"])}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}], "containers": [{"name": "a", "image": "j"}]}),
            Ok(
                json!({"containers": [{"name": "c", "image": "i"}, {"name": "a", "image": "j"}, {"name": "b", "image": "i"}]}),
            ),
        );
        check_pod(
            "server-only items stay near their neighbours",
            json!({"containers": containers(&["a", "s", "b"])}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "n"}, {"name": "b"}], "containers": containers(&["n"])}),
            Ok(json!({"containers": containers(&["a", "n", "s", "b"])})),
        );
        check_pod(
            "order alone",
            json!({"containers": containers(&["a", "b"])}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            Ok(json!({"containers": containers(&["b", "a"])})),
        );
        check_pod(
            "patch in another order than its list",
            json!({"containers": containers(&["a", "b"])}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": containers(&["a", "b"])}),
            Err("doesn't match $setElementOrder list"),
        );
        check_pod(
            "not a list",
            json!({"containers": containers(&["a"])}),
            json!({"$setElementOrder/containers": "a"}),
            Err("expected a []interface {}, but received a string"),
        );
    }

    // covers: apiserver-http/SMP-04
    #[test]
    fn retain_keys_removes_what_it_does_not_list() {
        let live = || json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        check_pod(
            "another source",
            live(),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
            Ok(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})),
        );
        for directive in [json!(["name"]), json!("name")] {
            let patch = json!({"volumes": [{"name": "v", "$retainKeys": directive, "configMap": {"name": "c"}}]});
            check_pod("malformed", live(), patch, Err("invalid patch format of retainKeys"));
        }
    }

    // covers: apiserver-http/SMP-11
    #[test]
    fn lists_of_lists_are_refused() {
        check_pod(
            "lists of lists",
            json!({"containers": [[]]}),
            json!({"containers": [[]]}),
            Err("lists of lists are not supported"),
        );
    }

    // covers: apiserver-http/SMP-05
    #[test]
    fn kinds_outside_the_core_group_have_their_merge_keys() {
        let hook = |name: &str, effects: &str| json!({"name": name, "sideEffects": effects});
        let got = patched(
            ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
            json!({"webhooks": [hook("a.x", "None"), hook("b.x", "None")]}),
            json!({"webhooks": [hook("b.x", "Some")]}),
        );
        assert_eq!(
            got.unwrap()["webhooks"],
            json!([hook("a.x", "None"), hook("b.x", "Some")])
        );
    }

    // covers: apiserver-http/SMP-15
    #[test]
    fn embedded_objects_are_replaced() {
        let got = patched(
            ("apps", "v1", "ControllerRevision"),
            json!({"data": {"a": 1, "b": 2}}),
            json!({"data": {"a": 3}}),
        );
        assert_eq!(got.unwrap()["data"], json!({"a": 3}));
    }
}
