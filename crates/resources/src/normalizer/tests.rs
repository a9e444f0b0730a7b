//! The scan against decoding and writing anew: what it takes, the other way would give too.

use apiserver_storage_api::Shape;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;

fn revision() -> Revision {
    Revision::new(4711).expect("not zero")
}

/// Every recorded JSON value of a built-in kind with its normalizer.
fn values() -> Vec<(String, BuiltinNormalizer, Vec<u8>)> {
    let mut values = Vec::new();
    let mut add = |name: &Value, value: &Value| {
        let bytes = STANDARD.decode(value.as_str().expect("text")).expect("base64");
        let Ok(object) = serde_json::from_slice::<Value>(&bytes) else {
            return;
        };
        let text = |name: &str| object[name].as_str().expect("text").to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if let Some(normalizer) = BuiltinNormalizer::of(Gvk::of(&api_version, &kind)) {
            values.push((name.to_string(), normalizer, bytes));
        }
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let text = std::fs::read(entry.expect("readable").path()).expect("readable");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        for key in file["keys"].as_array().into_iter().flatten() {
            add(&key["key"], &key["value"]);
        }
        for case in file["cases"].as_array().into_iter().flatten() {
            for stored in case["stored"].as_array().into_iter().flatten() {
                add(&case["name"], &stored["value"]);
            }
        }
    }
    assert!(values.len() > 250, "{} values", values.len());
    values
}

fn fields_of(normalizer: &BuiltinNormalizer) -> Vec<SelectableField> {
    let entry = TypeRegistry::builtin().resource_of_kind(normalizer.served());
    entry
        .map(|entry| selectable_fields(&entry.group, &entry.resource))
        .unwrap_or_default()
}

/// Whether the scan takes the value; if so, it must say what decoding says.
#[track_caller]
fn check(name: &str, normalizer: &BuiltinNormalizer, stored: &[u8]) -> bool {
    let fields = fields_of(normalizer);
    let Some(scanned) = normalizer.verify(stored, revision(), &fields) else {
        return false;
    };
    let shown = || String::from_utf8_lossy(stored).into_owned();
    let rewritten = normalizer.rewrite(stored, revision(), &fields);
    let rewritten = rewritten.unwrap_or_else(|error| panic!("{name}: {error}: {}", shown()));
    assert_eq!(scanned.attributes, rewritten.attributes, "{name}: {}", shown());
    let parse = |json: &[u8]| serde_json::from_slice::<Value>(json).expect("JSON");
    if scanned.json != rewritten.json {
        // Documents embedded in the object keep the order of their keys and their escapes.
        assert_eq!(parse(&scanned.json), parse(&rewritten.json), "{name}: {}", shown());
        let is_kept = name.contains("controllerrevision") || shown().contains("fieldsV1");
        assert!(is_kept, "{name}: {}", shown());
    } else {
        assert_eq!(scanned.resource_version, rewritten.resource_version, "{name}");
    }
    assert_eq!(&scanned.json[scanned.resource_version.clone()], b"4711", "{name}");
    let served = normalizer.keep(&scanned.json);
    if is_complete(normalizer, stored) {
        assert_eq!(served.as_deref(), Some(stored), "{name}");
        let kept = normalizer.keep(&Bytes::copy_from_slice(stored));
        assert_eq!(kept.as_deref(), Some(stored), "{name}");
    } else {
        // What is served lacks nothing.
        assert!(served.is_some(), "{name}: {}", String::from_utf8_lossy(&scanned.json));
        assert_eq!(normalizer.keep(&Bytes::copy_from_slice(stored)), None, "{name}");
    }
    true
}

/// Whether the scan finds nothing to change.
fn is_complete(normalizer: &BuiltinNormalizer, stored: &[u8]) -> bool {
    scan(normalizer.served_type, normalizer.served, stored, &[], Incomplete::Left).is_some()
}

/// Stored and served form of one scan are those of two.
#[track_caller]
fn check_write(name: &str, normalizer: &BuiltinNormalizer, stored: &[u8]) {
    let fields = fields_of(normalizer);
    let scanned = normalizer.verify(stored, revision(), &fields).expect("canonical");
    for object in [scanned.json.clone(), Bytes::copy_from_slice(stored)] {
        let prepared =
            normalizer.encode_and_normalize(&Encoded::from_json(object), MediaType::Json, revision(), &fields);
        let (kept, served) = prepared.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(kept, stored, "{name}");
        assert_eq!(served.json, scanned.json, "{name}");
        assert_eq!(served.resource_version, scanned.resource_version, "{name}");
        assert_eq!(served.attributes, scanned.attributes, "{name}");
    }
}

#[test]
fn nearly_all_of_what_a_cluster_holds_is_taken() {
    let values = values();
    let (mut taken, mut left) = (0, Vec::new());
    for (name, normalizer, stored) in &values {
        if check(name, normalizer, stored) && is_complete(normalizer, stored) {
            check_write(name, normalizer, stored);
            taken += 1;
        } else {
            left.push(name.as_str());
        }
    }
    assert!(
        taken * 100 > values.len() * 95,
        "{taken} of {}, not {left:?}",
        values.len()
    );
}

/// The same values as a server without Go types stores them, with sorted keys.
#[test]
fn all_of_it_is_read_without_decoding_where_keys_are_sorted() {
    use apiserver_storage_api::{GroupVersionKind, JsonNormalizer, encode_untyped};
    let (mut escaped, mut left) = (0, Vec::new());
    for (name, normalizer, stored) in values() {
        let object: Value = serde_json::from_slice(&stored).expect("JSON");
        let of = normalizer.stored();
        let api_version = object["apiVersion"].as_str().expect("text");
        let version = api_version.rsplit('/').next().expect("a version");
        let sorted = encode_untyped(&object, MediaType::Json).expect("JSON");
        escaped += u32::from(String::from_utf8_lossy(&sorted).contains("\\\":"));
        let plain = JsonNormalizer::new(GroupVersionKind::new(of.group, version, of.kind));
        match plain.keep(&Encoded::from_json(sorted.clone())) {
            Some(kept) => assert_eq!(kept, sorted, "{name}"),
            None => left.push(name),
        }
    }
    assert!(escaped > 20, "{escaped} with keys that have escapes");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_kept_has_no_field_of_the_server() {
    let normalizer = BuiltinNormalizer::of(Gvk::new("", "v1", "ConfigMap")).expect("built in");
    let head = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"#;
    for (metadata, want) in [
        (r#""resourceVersion":"7""#, Some("")),
        (r#""name":"a","resourceVersion":"7""#, Some(r#""name":"a""#)),
        (r#""resourceVersion":"7","generation":1"#, Some(r#""generation":1"#)),
        (
            r#""uid":"u","resourceVersion":"7","generation":1"#,
            Some(r#""uid":"u","generation":1"#),
        ),
        (r#""name":"a""#, Some(r#""name":"a""#)),
        (r#""name":"a","selfLink":"/x""#, None),
        (r#""resourceVersion":"7","resourceVersion":"8""#, None),
        (r#""generation":1,"name":"a""#, None),
    ] {
        let object = Bytes::from(format!("{head}{metadata}}}}}"));
        let kept = normalizer.keep(&object);
        let both = normalizer.keep_and_serve(&object, revision(), &[]);
        assert_eq!(kept, both.as_ref().map(|(kept, _)| kept.clone()), "{metadata}");
        if let (Some(kept), Some((_, served))) = (&kept, both) {
            let read = normalizer.normalize(kept, revision(), &[]).expect("readable");
            assert_eq!(
                (served.json, served.resource_version),
                (read.json, read.resource_version)
            );
        }
        let want = want.map(|metadata| format!("{head}{metadata}}}}}\n"));
        assert_eq!(kept.as_deref(), want.as_ref().map(String::as_bytes), "{metadata}");
    }
}

#[test]
fn damaged_values_are_taken_only_where_decoding_agrees() {
    let (mut taken, mut damaged) = (0, 0);
    for (name, normalizer, stored) in values().iter().filter(|(.., stored)| stored.len() < 4000) {
        for (step, replacement) in [
            (7, b'0'),
            (11, b'"'),
            (13, b'a'),
            (17, b' '),
            (23, b'{'),
            (29, b','),
            (31, b'\\'),
        ] {
            for at in (step..stored.len()).step_by(step * 5) {
                let mut bytes = stored.clone();
                bytes[at] = replacement;
                damaged += 1;
                taken += u32::from(check(name, normalizer, &bytes));
                bytes.remove(at);
                taken += u32::from(check(name, normalizer, &bytes));
            }
        }
    }
    // Most places are in texts, where a changed character is as good as the old one.
    assert!(taken > 100 && damaged > 1000, "{taken} of {damaged}");
}

#[test]
fn fields_taken_out_come_back_where_they_have_a_default() {
    let (mut edited, mut incomplete) = (0, 0);
    for (name, normalizer, stored) in values().iter().filter(|(.., stored)| stored.len() < 6000) {
        let object: Value = serde_json::from_slice(stored).expect("JSON");
        let mut paths = Vec::new();
        paths_in(&object, String::new(), &mut paths);
        for path in paths {
            let mut object = object.clone();
            take_out(&mut object, &path);
            let bytes = wire::encode_stored(normalizer.stored(), &object).expect("still of the kind");
            let is_incomplete = !is_complete(normalizer, &bytes);
            incomplete += u32::from(is_incomplete);
            let taken = check(name, normalizer, &bytes);
            // Of pods nothing is left to the decoder but requests of some of what is limited.
            let is_left = normalizer.served().kind != "Pod" || path.contains("/requests/");
            assert!(taken || is_left, "{name}: {path}");
            edited += u32::from(taken && is_incomplete);
        }
    }
    assert!(edited * 2 > incomplete, "{edited} of {incomplete}");
}

#[test]
fn defaults_that_depend_on_others_are_as_decoding_has_them() {
    let container = |image: &str, resources: Value| json!({"name": "c", "image": image, "resources": resources});
    let limits = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    let pod = |spec: Value| ("v1", "Pod", json!({"metadata": {"name": "a"}, "spec": spec}));
    let service = |spec: Value| ("v1", "Service", json!({"metadata": {"name": "a"}, "spec": spec}));
    let mut cases = vec![
        (true, pod(json!({"containers": [container("a:1", limits.clone())]}))),
        (
            true,
            pod(json!({"initContainers": [container("a:1", limits.clone())], "containers": []})),
        ),
        (
            true,
            pod(json!({"containers": [], "ephemeralContainers": [container("a", limits.clone())]})),
        ),
        (true, pod(json!({"containers": [], "resources": limits}))),
        (
            true,
            pod(json!({"containers": [container("a", json!({"limits": {}, "requests": {"cpu": "1"}}))]})),
        ),
        (
            false,
            pod(json!({"containers": [container("a", json!({"limits": {"x/y": "1"}, "requests": {"cpu": "1"}}))]})),
        ),
        (false, pod(json!({"containers": [], "hostNetwork": true}))),
        (
            true,
            pod(json!({"containers": [], "volumes": [{"name": "v"}, {"name": "w", "secret": {"secretName": "s"}}]})),
        ),
        (
            true,
            pod(json!({"containers": [], "volumes": [{"name": "v", "image": {"reference": "a"}}]})),
        ),
        (
            true,
            (
                "apps/v1",
                "Deployment",
                json!({"spec": {"template": {"spec": {"containers": [container("a", limits)]}}}}),
            ),
        ),
        (
            true,
            (
                "v1",
                "Node",
                json!({"status": {"capacity": {"cpu": "4", "pods": "110"}}}),
            ),
        ),
        (true, ("v1", "Node", json!({}))),
        (
            true,
            (
                "v1",
                "Service",
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"hostname": "h"}]}}}),
            ),
        ),
    ];
    for image in [
        "a",
        "a:latest",
        "a:1",
        "r:5000/a",
        "r:5000/a:latest",
        "a@sha256:00",
        "",
        "A!",
        "a b",
    ] {
        cases.push((true, pod(json!({"containers": [container(image, json!({}))]}))));
    }
    for ty in ["", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] {
        for rest in [
            json!({}),
            json!({"externalIPs": ["1.2.3.4"]}),
            json!({"sessionAffinity": "None"}),
        ] {
            let mut spec = json!({"type": ty, "ports": [{"port": 80}, {"port": 8, "targetPort": "http"}]});
            spec.as_object_mut()
                .expect("an object")
                .extend(rest.as_object().expect("an object").clone());
            cases.push((true, service(spec)));
        }
    }
    for kind in ["User", "Group", "ServiceAccount"] {
        let subjects = json!([{"kind": kind, "name": "x"}]);
        let binding = json!({"subjects": subjects, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
        cases.push((true, ("rbac.authorization.k8s.io/v1", "RoleBinding", binding)));
    }
    for kind in ["Deployment", "DaemonSet"] {
        for strategy in [
            json!({}),
            json!({"type": "RollingUpdate"}),
            json!({"type": "OnDelete"}),
            json!({"type": "Recreate"}),
        ] {
            let spec =
                json!({"strategy": strategy, "updateStrategy": strategy, "template": {"spec": {"containers": []}}});
            cases.push((true, ("apps/v1", kind, json!({"spec": spec}))));
        }
    }
    for (is_taken, (api_version, kind, object)) in cases {
        let normalizer = BuiltinNormalizer::of(Gvk::of(api_version, kind)).expect("built in");
        let stored = wire::encode_stored(normalizer.stored(), &object).expect("of the kind");
        // Ports without a target are written as zero today; that is left to the decoder.
        check(kind, &normalizer, &stored);
        let stored = String::from_utf8(stored).expect("text");
        let stored = stored.replace(",\"targetPort\":0", "").into_bytes();
        assert_eq!(
            check(kind, &normalizer, &stored),
            is_taken,
            "{}",
            String::from_utf8_lossy(&stored)
        );
        // As encoders before 1.34 wrote it.
        let text = String::from_utf8(stored).expect("text");
        let older = text.replacen("\"metadata\":{}", "\"metadata\":{\"creationTimestamp\":null}", 1);
        let older = older.replacen("\"name\":\"a\"}", "\"name\":\"a\",\"creationTimestamp\":null}", 1);
        check(kind, &normalizer, older.as_bytes());
    }
}

/// Numbers that look random and are the same each time.
fn random(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn many_fields_taken_out_or_made_empty_are_as_decoding_has_them() {
    let mut state = 1;
    let (mut edited, mut incomplete) = (0, 0);
    for (name, normalizer, stored) in values().iter().filter(|(.., stored)| stored.len() < 8000) {
        let object: Value = serde_json::from_slice(stored).expect("JSON");
        let mut paths = Vec::new();
        paths_in(&object, String::new(), &mut paths);
        for _ in 0..4 {
            let mut object = object.clone();
            for _ in 0..=random(&mut state) % 8 {
                take_out(&mut object, &paths[random(&mut state) % paths.len()]);
            }
            let mut bytes = wire::encode_stored(normalizer.stored(), &object).expect("still of the kind");
            let is_incomplete = !is_complete(normalizer, &bytes);
            incomplete += u32::from(is_incomplete);
            edited += u32::from(check(name, normalizer, &bytes) && is_incomplete);
            // As older encoders wrote it: members without a value that are left out today.
            for _ in 0..=random(&mut state) % 3 {
                let text = String::from_utf8(bytes.clone()).expect("text");
                let colons: Vec<usize> = text.match_indices("\":").map(|(at, _)| at + 2).collect();
                let from = colons[random(&mut state) % colons.len()];
                let mut cursor = cursor::Cursor::new(&text[from..]);
                if cursor.any(100).is_none() {
                    continue;
                }
                let empty = ["null", "\"\"", "0", "false", "[]", "{}"][random(&mut state) % 6];
                bytes = [&text[..from], empty, &text[from + cursor.at()..]]
                    .concat()
                    .into_bytes();
                check(name, normalizer, &bytes);
            }
        }
    }
    assert!(edited * 2 > incomplete, "{edited} of {incomplete}");
}

/// Whether a value is of a shape; if so, it is read as without it.
#[track_caller]
fn check_alike(name: &str, normalizer: &BuiltinNormalizer, shape: &Shape<Kind>, stored: &[u8]) -> bool {
    let (mut room, mut alike) = (Room::shared(), None);
    let fits = shape.serve(stored, revision(), &mut Vec::new(), &mut room, &mut alike);
    let Some(alike) = fits.and(alike) else {
        return false;
    };
    let shown = || String::from_utf8_lossy(stored).into_owned();
    let scanned = normalizer.verify(stored, revision(), &fields_of(normalizer));
    let scanned = scanned.unwrap_or_else(|| panic!("{name}: {}", shown()));
    assert_eq!(alike.json, scanned.json, "{name}: {}", shown());
    assert_eq!(alike.attributes, scanned.attributes, "{name}: {}", shown());
    assert_eq!(alike.resource_version, scanned.resource_version, "{name}");
    true
}

#[test]
fn values_of_one_shape_are_read_as_without_it() {
    const TEXTS: [&str; 9] = [
        "\"\"",
        "\"x\"",
        "\"a:latest\"",
        "\"2026-01-05T08:12:01Z\"",
        "\"AQ==\"",
        "\"\\u003cé\"",
        "\"5000m\"",
        "null",
        "7",
    ];
    let mut state = 3;
    let (mut alike, mut edited) = (0, 0);
    for (name, normalizer, stored) in values().iter().filter(|(.., stored)| stored.len() < 8000) {
        let object: Value = serde_json::from_slice(stored).expect("JSON");
        let mut paths = Vec::new();
        paths_in(&object, String::new(), &mut paths);
        for round in 0..3 {
            let mut object = object.clone();
            for _ in 0..round * 4 {
                take_out(&mut object, &paths[random(&mut state) % paths.len()]);
            }
            let bytes = wire::encode_stored(normalizer.stored(), &object).expect("still of the kind");
            let fields = fields_of(normalizer);
            if normalizer.verify(&bytes, revision(), &fields).is_none() || normalizer.served().kind == "Event" {
                continue;
            }
            let shape = learn(normalizer.served_type, normalizer.served, &bytes, &fields).expect("a shape");
            assert!(check_alike(name, normalizer, &shape, &bytes), "{name}");
            edited += u32::from(!is_complete(normalizer, &bytes));
            for _ in 0..40 {
                let at = random(&mut state) % bytes.len();
                let mut other = bytes.clone();
                match random(&mut state) % 3 {
                    0 => other[at] = b"0\"a \\<-TZ\xc3"[random(&mut state) % 10],
                    1 => drop(other.remove(at)),
                    _ => other.insert(at, b"0\"a \\<-TZ\xc3"[random(&mut state) % 10]),
                }
                alike += u32::from(check_alike(name, normalizer, &shape, &other));
            }
            let text = String::from_utf8(bytes).expect("text");
            let quotes: Vec<usize> = text.match_indices(":\"").map(|(at, _)| at + 1).collect();
            for &from in &quotes {
                let mut cursor = cursor::Cursor::new(&text[from..]);
                if cursor.any(1).is_some() {
                    let another = TEXTS[random(&mut state) % TEXTS.len()];
                    let other = [&text[..from], another, &text[from + cursor.at()..]].concat();
                    alike += u32::from(check_alike(name, normalizer, &shape, other.as_bytes()));
                }
            }
        }
    }
    assert!(alike > 3000 && edited > 100, "{alike} alike, {edited} edited");
}

#[test]
fn lists_of_like_values_are_read_the_short_way() {
    let pods = resource_info(
        TypeRegistry::builtin()
            .resource("", "v1", "pods")
            .expect("pods are built in"),
    );
    let pod = |number: usize, image: &str| {
        let pod = json!({
            "metadata": { "name": format!("pod-{number}"), "uid": format!("{number:036}"), "labels": { "app": "x" } },
            "spec": {
                "containers": [{ "name": "c", "image": image, "env": [{ "name": "N", "value": format!("v{number}") }] }],
                "nodeName": format!("node-{number}"),
            },
            "status": { "startTime": format!("2026-01-05T08:12:{:02}Z", number % 60) },
        });
        wire::encode_stored(Gvk::new("", "v1", "Pod"), &pod).expect("a pod")
    };
    let normalizer = BuiltinNormalizer::of(Gvk::new("", "v1", "Pod")).expect("built in");
    let fields = pods.selectable_fields();
    let first = pod(0, "image:v1");
    assert!(
        normalizer
            .compare(&first, revision(), fields, &mut Room::apart())
            .is_some()
    );
    let is_known = |stored: &[u8]| {
        let (id, mut room, mut served) = (normalizer.served_type.id, Room::apart(), None);
        let seen =
            SHAPES.with_borrow_mut(|shapes| shapes.serve(id, stored, revision(), fields, &mut room, &mut served));
        matches!(seen, Seen::Served)
    };
    for number in 0..100 {
        assert!(is_known(&pod(number, "image:v1")), "{number}");
    }
    // An image of another tag is pulled in another way, perhaps.
    assert!(!is_known(&pod(1, "image:latest")));
    for image in ["image:v1", "image:latest", "image"] {
        let stored = pod(7, image);
        let (read, want) = (
            normalizer.normalize(&stored, revision(), fields).expect("a pod"),
            normalizer.rewrite(&stored, revision(), fields).expect("a pod"),
        );
        assert_eq!((read.json, read.attributes), (want.json, want.attributes), "{image}");
    }
}

/// Removes what a JSON pointer leads to.
fn take_out(object: &mut Value, path: &str) {
    let (parent, last) = path.rsplit_once('/').expect("a path");
    if let Some(Value::Object(members)) = object.pointer_mut(parent) {
        members.remove(&last.replace("~1", "/").replace("~0", "~"));
    }
}

/// Where the members of all objects are, as JSON pointers, but for managed fields.
fn paths_in(value: &Value, prefix: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter().filter(|(name, _)| *name != "managedFields") {
                let path = format!("{prefix}/{}", name.replace('~', "~0").replace('/', "~1"));
                paths_in(member, path.clone(), paths);
                paths.push(path);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                paths_in(item, format!("{prefix}/{index}"), paths);
            }
        }
        _ => {}
    }
}
