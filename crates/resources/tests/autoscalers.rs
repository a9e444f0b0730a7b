//! Autoscalers of a real server in both versions: what the older one cannot say stands in its annotations.

mod common;

use apiserver_resources::convert::convert;
use apiserver_resources::normalizer::BuiltinNormalizer;
use apiserver_resources::types::Gvk;
use apiserver_resources::wire;
use apiserver_storage_api::{Normalizer, Revision};
use common::assert_same_text;
use serde_json::Value;

const KIND: &str = "HorizontalPodAutoscaler";

fn recorded(list: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("data/autoscalers.json")).expect("JSON");
    let cases = file[list].as_array().expect("a list").clone();
    assert!(cases.len() > 10, "{} cases", cases.len());
    cases
}

fn gvk(version: &'static str) -> Gvk<'static> {
    Gvk::new("autoscaling", version, KIND)
}

fn canonical(version: &'static str, object: &Value) -> Vec<u8> {
    wire::encode_served(gvk(version), object).expect("an autoscaler")
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

#[test]
fn the_newer_version_is_served_as_the_older_one() {
    for case in recorded("served") {
        let have = convert(case["v2"].clone(), gvk("v1")).expect("converts");
        assert_same_text(
            name(&case["v2"]),
            &canonical("v1", &have),
            &canonical("v1", &case["v1"]),
        );
    }
}

#[test]
fn the_older_version_is_read_as_the_newer_one() {
    let normalizer = BuiltinNormalizer::of(gvk("v1")).expect("built in");
    for case in recorded("read") {
        let version = case["v2"]["metadata"]["resourceVersion"].as_str().expect("a version");
        let revision = Revision::parse(version).expect("a number").expect("not zero");
        let stored = serde_json::to_vec(&case["stored"]).expect("JSON");
        let read = normalizer.normalize(&stored, revision, &[]).expect("reads");
        let (want, converted) = (
            &case["v2"],
            convert(case["stored"].clone(), gvk("v2")).expect("converts"),
        );
        let mut converted = converted;
        converted["metadata"]["resourceVersion"] = version.into();
        assert_same_text(name(want), &canonical("v2", &converted), &canonical("v2", want));
        // Behaviour that is not complete gets its defaults once more.
        if name(want) != "raw-d" {
            assert_same_text(name(want), &read.json, &canonical("v2", want));
        }
    }
}

#[test]
fn what_is_no_autoscaler_has_no_form() {
    for (field, value) in [("spec", "x"), ("status", "x"), ("metadata", "x")] {
        let mut object = recorded("served").remove(0)["v2"].clone();
        object[field] = value.into();
        let error = convert(object, gvk("v1")).map_err(|error| error.to_string());
        let want = format!("{field}: has no form in autoscaling/v1, Kind={KIND}");
        assert_eq!(error, Err(want));
    }
}
