//! Both ways of reading come to the same, and the short one is taken wherever it can be.

use super::*;
use crate::crd::Schema;
use crate::validation::FieldPath;

fn normalizer(schema: &Value) -> CustomNormalizer {
    let kind = CustomKind::parse(&json!({
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    }));
    let kind = Arc::new(kind.expect("a sound definition"));
    let version = kind.storage_version().expect("one is stored").clone();
    CustomNormalizer::new(kind, version, 1)
}

/// Every construct that pruning and defaults know.
fn schema() -> Value {
    let known = json!({ "type": "object", "properties": { "a": { "type": "integer" }, "b": { "type": "string", "nullable": true } } });
    json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "a": { "type": "string" },
                    "any": { "type": "object", "additionalProperties": true },
                    "b": { "type": "object", "default": {}, "properties": { "c": { "type": "integer", "default": 3 } } },
                    "c": { "type": "array", "items": { "type": "string", "nullable": true } },
                    "color": { "type": "string", "default": "green" },
                    "e": { "x-kubernetes-int-or-string": true },
                    "each": { "type": "object", "additionalProperties": known },
                    "embedded": {
                        "type": "object", "x-kubernetes-embedded-resource": true,
                        "properties": { "spec": known },
                    },
                    "free": { "x-kubernetes-preserve-unknown-fields": true },
                    "half": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        "properties": { "a": { "type": "integer" }, "b": known, "c": { "type": "string", "default": "x" } },
                    },
                    "items": { "type": "array", "items": known },
                    "list": { "type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": known },
                    "odd": {
                        "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
                        "properties": { "metadata": known },
                    },
                },
            },
            "status": { "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true },
        },
    })
}

fn fields() -> Vec<SelectableField> {
    vec![SelectableField::new("spec.color"), SelectableField::new("spec.b.c")]
}

/// Whether a value is read without being decoded; in any case as decoding has it.
#[track_caller]
fn is_verified(normalizer: &CustomNormalizer, stored: &[u8]) -> bool {
    let shown = String::from_utf8_lossy(stored);
    let whole = Part::of(&normalizer.version.schema).expect("plain metadata");
    let verified = normalizer
        .canonical
        .verify_guided(stored, Revision::MAX, &fields(), whole);
    let Some(verified) = verified else { return false };
    let decoded = normalizer.rewrite(stored, Revision::MAX, &fields());
    let decoded = decoded.unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(
        String::from_utf8_lossy(&verified.json),
        String::from_utf8_lossy(&decoded.json),
        "{shown}"
    );
    assert_eq!(verified.resource_version, decoded.resource_version, "{shown}");
    assert_eq!(verified.attributes, decoded.attributes, "{shown}");
    let object = Encoded::from_json(stored.to_vec());
    let encoded = normalizer
        .encode_value(&object, MediaType::Json)
        .expect("it can be stored");
    assert_eq!(
        normalizer.encode(&object, MediaType::Json).as_ref(),
        Ok(&encoded),
        "{shown}"
    );
    let both = normalizer.encode_and_normalize(&object, MediaType::Json, Revision::MAX, &fields());
    let (both, read) = both.expect("it can be stored");
    assert_eq!((both, read.json), (encoded, verified.json), "{shown}");
    true
}

/// Whether decoding leaves a value as it is, but for the revision.
fn is_complete(normalizer: &CustomNormalizer, stored: &[u8]) -> bool {
    let Ok(read) = normalizer.rewrite(stored, Revision::MAX, &fields()) else {
        return false;
    };
    let object = Encoded::from_json(read.json);
    normalizer
        .encode_value(&object, MediaType::Json)
        .is_ok_and(|encoded| encoded == stored)
}

const METADATA: &str = r#"{"annotations":{"a":"\u003cb\u003e"},"creationTimestamp":"2026-01-05T08:12:01Z","finalizers":["x.example.com/y"],"generation":2,"labels":{"app":"x"},"managedFields":[{"apiVersion":"example.com/v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{".":{},"k:{\"type\":\"Ready\"}":{}}},"manager":"kubectl","operation":"Update","time":"2026-01-05T08:12:01Z"}],"name":"a","namespace":"ns","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Pod","name":"p","uid":"u"}],"uid":"u"}"#;

fn document(metadata: &str, spec: &str) -> String {
    format!("{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"metadata\":{metadata},\"spec\":{spec}}}\n")
}

#[test]
fn pruned_and_complete_values_are_read_without_being_decoded() {
    let normalizer = normalizer(&schema());
    for spec in [
        r#"{"b":{"c":1},"color":"red"}"#,
        r#"{"a":"x","any":{"k":1,"l":[null,{}],"m":{}},"b":{"c":0},"c":["x",null],"color":"red","e":"50%"}"#,
        r#"{"b":{"c":1},"color":"red","e":7,"each":{"\u003c":{},"k":{"a":1,"b":null}},"items":[{"a":1},{}]}"#,
        r#"{"b":{"c":1},"color":"red","embedded":{"apiVersion":"v1","kind":"X","metadata":{"q":null},"spec":{"a":1}}}"#,
        r#"{"b":{"c":1},"color":"red","free":{"x":{"y":[null,1.5]}},"half":{"a":1,"c":"","z":{"a":null}},"list":[{"b":""}]}"#,
    ] {
        for metadata in [METADATA, r#"{"generation":1,"name":"a"}"#] {
            let stored = document(metadata, spec);
            assert!(is_complete(&normalizer, stored.as_bytes()), "{stored}");
            assert!(is_verified(&normalizer, stored.as_bytes()), "{stored}");
        }
    }
}

#[test]
fn everything_else_is_left_to_the_decoder() {
    let normalizer = normalizer(&schema());
    let whole = r#"{"b":{"c":1},"color":"red"}"#;
    assert!(is_verified(&normalizer, document(METADATA, whole).as_bytes()));
    for spec in [
        "{}",
        r#"{"b":{"c":1}}"#,
        r#"{"b":{},"color":"red"}"#,
        r#"{"b":{"c":1},"color":null}"#,
        r#"{"a":null,"b":{"c":1},"color":"red"}"#,
        r#"{"any":{"k":{"x":1}},"b":{"c":1},"color":"red"}"#,
        r#"{"b":{"c":1},"color":"red","each":{"k":{"x":1}}}"#,
        r#"{"b":{"c":1},"color":"red","each":{"k":null}}"#,
        r#"{"b":{"c":1},"color":"red","embedded":{"x":1}}"#,
        r#"{"b":{"c":1},"color":"red","half":{"a":1}}"#,
        r#"{"b":{"c":1},"color":"red","half":{"b":{"x":1},"c":""}}"#,
        r#"{"b":{"c":1},"color":"red","items":[{"x":1}]}"#,
        r#"{"b":{"c":1},"color":"red","unknown":1}"#,
    ] {
        assert!(!is_verified(&normalizer, document(METADATA, spec).as_bytes()), "{spec}");
    }
    for metadata in [
        "{}",
        r#"{"generation":0}"#,
        r#"{"creationTimestamp":null,"generation":1}"#,
        r#"{"creationTimestamp":"2026-02-30T08:12:01Z","generation":1}"#,
        r#"{"creationTimestamp":"2026-01-05T08:12:01+01:00","generation":1}"#,
        r#"{"generation":1,"labels":{"a":null}}"#,
        r#"{"generation":1,"name":null}"#,
        r#"{"generation":1,"managedFields":[{"fieldsV1":null}]}"#,
        r#"{"generation":1,"managedFields":[{"other":1}]}"#,
        r#"{"generation":1,"ownerReferences":[{"controller":"x"}]}"#,
        r#"{"generation":1,"unknown":1}"#,
    ] {
        assert!(
            !is_verified(&normalizer, document(metadata, whole).as_bytes()),
            "{metadata}"
        );
    }
    let odd = json!({ "type": "object", "properties": { "metadata": {
        "type": "object", "properties": { "name": { "type": "string", "default": "x" } } } } });
    assert!(Part::of(&Schema::parse(&odd, &FieldPath::root()).expect("it is structural")).is_none());
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// A value of the names that the schema has and some that it has not.
    fn value(&mut self, depth: usize) -> Value {
        const NAMES: [&str; 22] = [
            "a",
            "any",
            "b",
            "c",
            "color",
            "e",
            "each",
            "embedded",
            "free",
            "half",
            "items",
            "list",
            "odd",
            "spec",
            "apiVersion",
            "kind",
            "metadata",
            "status",
            "<",
            "\"é",
            "z",
            "default",
        ];
        match self.below(if depth == 0 { 6 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.below(1000)),
            3 => json!(self.below(1000) as f64 / 7.0),
            4 => json!("red"),
            5 => json!({}),
            6 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let members =
                    (0..self.below(7)).map(|_| (NAMES[self.below(NAMES.len())].to_owned(), self.value(depth - 1)));
                Value::Object(members.collect())
            }
        }
    }
}

#[test]
fn random_values_are_read_the_same_both_ways() {
    let normalizer = normalizer(&schema());
    let mut random = Random(7);
    let (mut complete, mut verified, mut as_they_came) = (0, 0, 0);
    for _ in 0..2000 {
        let mut object =
            json!({ "apiVersion": "example.com/v1", "kind": "Widget", "spec": {}, "status": random.value(3) });
        object["metadata"] = serde_json::from_str(METADATA).expect("JSON");
        for (name, _) in schema()["properties"]["spec"]["properties"]
            .as_object()
            .expect("properties")
        {
            if random.below(4) == 0 {
                object["spec"][name] = random.value(4);
            }
        }
        if random.below(9) == 0 {
            object["spec"] = random.value(5);
        }
        let came = encode_untyped(&object, MediaType::Json).expect("JSON");
        as_they_came += usize::from(is_verified(&normalizer, &came));
        // What decoding made of it is complete, so that it is not decoded again.
        let read = normalizer.normalize(&came, Revision::MAX, &fields());
        let Ok(read) = read else { continue };
        let settled = normalizer
            .encode_value(&Encoded::from_json(read.json), MediaType::Json)
            .expect("JSON");
        if !is_complete(&normalizer, &settled) {
            continue;
        }
        complete += 1;
        verified += usize::from(is_verified(&normalizer, &settled));
        let mut damaged = settled.to_vec();
        let at = random.below(damaged.len());
        damaged[at] = b"\"\\{}[]:,0-nx<\xe2"[random.below(14)];
        is_verified(&normalizer, &damaged);
    }
    assert!(as_they_came > 20, "{as_they_came}");
    // Only those with parts that the scan knows nothing of are left.
    assert!(
        verified * 10 > complete * 6 && verified > 800,
        "{verified} of {complete}"
    );
}
