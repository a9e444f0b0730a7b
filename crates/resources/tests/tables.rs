//! The cells of built-in kinds against what a real server showed for the same objects (ages are not compared).

use apiserver_resources::table::{
    IncludeObject, TablePrinter, partial_object_metadata, partial_object_metadata_list, row, table,
};
use apiserver_resources::types::TypeRegistry;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Kinds whose cells are known to differ, with the column: what is not shown is empty, never wrong.
const EMPTY: [(&str, &str); 1] = [("horizontalpodautoscalers", "Targets")];

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

// covers: apiserver-http/TABH-02, apiserver-http/TABH-04
#[test]
fn cells_are_those_of_a_real_server() {
    let recorded: Vec<Value> = serde_json::from_str(include_str!("data/tables.json")).expect("the recording is JSON");
    let mut differences = Vec::new();
    for case in &recorded {
        let (group, version, resource) = (text(case, "group"), text(case, "version"), text(case, "resource"));
        let entry = TypeRegistry::builtin()
            .resource(group, version, resource)
            .expect("a built-in resource");
        let printer = TablePrinter::builtin(entry);
        let cells = printer.cells(&case["object"], Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), printer.columns().len());
        for ((column, got), want) in printer
            .columns()
            .iter()
            .zip(&cells)
            .zip(case["cells"].as_array().expect("cells"))
        {
            let name = text(column, "name");
            let age = *want == "<age>" || want.as_str().is_some_and(|text| text.ends_with(" ago)"));
            if !age && got != want && !EMPTY.contains(&(resource, name)) {
                differences.push(format!(
                    "{group}/{resource} {}: {name}: {got}, expected {want}",
                    case["object"]["metadata"]["name"]
                ));
            }
            assert!(
                !EMPTY.contains(&(resource, name)) || got == "",
                "{resource} {name} is not empty any more"
            );
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(recorded.len() > 80);
}

// covers: apiserver-http/TABH-04
#[test]
fn ages_are_taken_against_the_given_time() {
    let entry = TypeRegistry::builtin().resource("", "v1", "pods").expect("pods");
    let pod = json!({"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"containers": [{}]},
        "status": {"phase": "Running", "containerStatuses": [{"restartCount": 2, "state": {"running": {}}, "ready": true,
            "lastState": {"terminated": {"finishedAt": "2024-01-01T00:03:00Z"}}}]}});
    let now: Timestamp = "2024-01-01T00:05:00Z".parse().expect("a time");
    let cells = TablePrinter::builtin(entry).cells(&pod, now);
    assert_eq!(
        cells[..5],
        [
            json!("a"),
            json!("1/1"),
            json!("Running"),
            json!("2 (2m ago)"),
            json!("5m")
        ]
    );
}

// covers: apiserver-http/TABH-03, apiserver-http/TABH-05, apiserver-http/TABH-09, apiserver-http/TABH-12, apiserver-http/TABH-14
#[test]
fn rows_hold_as_much_of_the_object_as_is_wanted() {
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}, "data": {"k": "v"}});
    let printer = TablePrinter::default();
    let cells = printer.cells(&object, Timestamp::UNIX_EPOCH);
    assert_eq!(cells, [json!("a"), json!("2024-01-01T00:00:00Z")]);
    let metadata =
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
    assert_eq!(partial_object_metadata(&object, "v1"), metadata);
    assert_eq!(
        row(cells.clone(), &object, IncludeObject::None, "v1")["object"],
        Value::Null
    );
    assert_eq!(
        row(cells.clone(), &object, IncludeObject::Metadata, "v1")["object"],
        metadata
    );
    assert_eq!(
        row(cells.clone(), &object, IncludeObject::Object, "v1")["object"],
        object
    );
    let document = table(
        "v1beta1",
        json!({"resourceVersion": "7"}),
        None,
        vec![row(cells, &object, IncludeObject::None, "v1beta1")],
    );
    assert_eq!(
        (text(&document, "apiVersion"), &document["columnDefinitions"]),
        ("meta.k8s.io/v1beta1", &Value::Null)
    );
    let list = partial_object_metadata_list(json!({"resourceVersion": "7"}), [], "v1");
    assert_eq!(list["items"], json!([]));
    assert_eq!("".parse(), Ok(IncludeObject::Metadata));
    assert!("Some".parse::<IncludeObject>().is_err());
}

// covers: apiserver-http/TABH-02, apiserver-http/TABH-03, apiserver-http/TABH-04
#[test]
fn custom_kinds_have_the_columns_they_declare() {
    use apiserver_resources::crd::CustomKind;
    let definition: Value = serde_json::from_str(include_str!("data/gizmo.json")).expect("JSON");
    let kind = CustomKind::parse(&definition).expect("a sound definition");
    let mut version = kind.versions[0].clone();
    let now: Timestamp = "2024-01-01T00:00:09Z".parse().expect("a time");
    let object = json!({"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"size": 5, "color": "green", "ratio": 0.5}});
    let printer = TablePrinter::custom(&version).expect("sound paths");
    assert_eq!(
        printer.cells(&object, now),
        [
            json!("a"),
            json!(5),
            json!("green"),
            Value::Null,
            json!(0.5),
            json!("9s")
        ]
    );
    let names: Vec<_> = printer.columns().iter().map(|c| text(c, "name")).collect();
    assert_eq!(names, ["Name", "Size", "Color", "Phase", "Ratio", "Age"]);
    version.columns.clear();
    let printer = TablePrinter::custom(&version).expect("the default");
    assert_eq!(printer.cells(&object, now), [json!("a"), json!("9s")]);
}
