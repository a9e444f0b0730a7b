//! The configuration file: what is accepted, what is refused, and in which words.

use std::path::Path;
use std::time::Duration;

use apiserver_storage_transform::{
    BuildError, ConfigError, ConfigOptions, ConfigStage, EncryptionConfiguration, FieldErrorKind, Transformers,
};

const HEADER: &str = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n";
const GCM: &str = "{aesgcm: {keys: [{name: a, secret: A/j5CnrWGB83ylcPkuUhm/6TSyrQtsNJtDPwPHNOj4Q=}]}}";

fn parse(text: &str) -> Result<EncryptionConfiguration, String> {
    EncryptionConfiguration::parse(Path::new("P"), text.as_bytes()).map_err(|error| {
        assert_eq!(
            error.stage(),
            if text.is_empty() {
                ConfigStage::Load
            } else {
                ConfigStage::Decode
            }
        );
        error.to_string()
    })
}

fn one_entry(resources: &str, providers: &str) -> String {
    format!("{HEADER}resources:\n- resources: [{resources}]\n  providers: [{providers}]\n")
}

/// The field, the kind and the text of each problem, in order.
fn problems(text: &str, reload: bool) -> Vec<(String, FieldErrorKind, String)> {
    match parse(text).expect("decodes").validate(reload) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .iter()
            .map(|error| (error.field.clone(), error.kind, error.detail.clone()))
            .collect(),
    }
}

// covers: storage-transform/CFG-01, storage-transform/CFG-03
#[test]
fn yaml_json_and_the_old_kind_are_accepted() {
    let json = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":
        [{"resources":["secrets"],"providers":[{"identity":{}}]}]}"#;
    let yaml = "# comment\n---\nkind: EncryptionConfig\napiVersion: v1\nresources:\n  - resources:\n    - secrets\n    \
                providers:\n    - identity: {}\n";
    let flow = "{kind: EncryptionConfiguration, apiVersion: apiserver.config.k8s.io/v1, resources: [{resources: \
                [secrets], providers: [{identity: {}}]}]}";
    for text in [json, yaml, flow] {
        let config = parse(text).expect("accepted");
        assert_eq!(config.resources[0].resources, ["secrets"], "{text}");
        assert!(config.resources[0].providers[0].identity, "{text}");
    }
}

// covers: storage-transform/CFG-02, storage-transform/CFG-04, storage-transform/CFG-06
#[test]
fn what_is_no_encryption_configuration_is_refused() {
    let decoding = "error while parsing file: error decoding encryption provider configuration file \"P\": ";
    for (text, want) in [
        (
            "",
            "error while parsing file: encryption provider configuration file \"P\" is empty".to_owned(),
        ),
        (
            "# only a comment\n",
            format!("{decoding}Object 'Kind' is missing: the document is null"),
        ),
        ("apiVersion: v1\n", format!("{decoding}Object 'Kind' is missing")),
        (
            "kind: EncryptionConfiguration\n",
            format!("{decoding}Object 'apiVersion' is missing"),
        ),
        (
            "kind: EncryptionConfigurations\napiVersion: apiserver.config.k8s.io/v1\n",
            format!(
                "{decoding}no kind \"EncryptionConfigurations\" is registered for version \
                 \"apiserver.config.k8s.io/v1\""
            ),
        ),
        (
            "kind: TracingConfiguration\napiVersion: apiserver.config.k8s.io/v1\n",
            format!("{decoding}got unexpected config type: apiserver.config.k8s.io/v1, Kind=TracingConfiguration"),
        ),
    ] {
        assert_eq!(parse(text).expect_err("refused"), want, "{text:?}");
    }
    let missing = Transformers::load(Path::new("/nonexistent/P"), &ConfigOptions::default()).expect_err("no file");
    assert_eq!(missing.stage(), ConfigStage::Load);
    assert!(
        missing
            .to_string()
            .contains("error reading encryption provider configuration file \"/nonexistent/P\"")
    );
}

// covers: storage-transform/CFG-05
#[test]
fn unknown_and_repeated_fields_are_all_named() {
    let json = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[],
        "resources":[]}"#;
    for (text, want) in [
        (
            one_entry("secrets", "{kms: {name: a, pandas: 1}}"),
            "unknown field \"resources[0].providers[0].kms.pandas\"",
        ),
        (
            one_entry("secrets", "{aesgcm: {Keys: []}}"),
            "unknown field \"resources[0].providers[0].aesgcm.Keys\"",
        ),
        (
            one_entry("secrets", "{identity: {a: 1}}"),
            "unknown field \"resources[0].providers[0].identity.a\"",
        ),
        (
            format!("{HEADER}resources: []\nresources: []\nextra: 1\n"),
            "duplicate field \"resources\", unknown field \"extra\"",
        ),
        (json.to_owned(), "duplicate field \"resources\""),
    ] {
        let error = parse(&text).expect_err("refused");
        assert!(
            error.ends_with(&format!(": strict decoding error: {want}")),
            "{text}: {error}"
        );
    }
}

#[test]
fn values_of_the_wrong_type_are_refused_by_their_place() {
    for (providers, want) in [
        (
            "{aesgcm: []}",
            "resources[0].providers[0].aesgcm: expected an object, found a list",
        ),
        (
            "{aesgcm: {keys: {}}}",
            "resources[0].providers[0].aesgcm.keys: expected a list, found an object",
        ),
        (
            "{aesgcm: {keys: [{name: 1}]}}",
            "resources[0].providers[0].aesgcm.keys[0].name: expected a string, found a number",
        ),
        (
            "{kms: {cachesize: 4294967296}}",
            "resources[0].providers[0].kms.cachesize: 4294967296 does not fit into a 32-bit integer",
        ),
        (
            "{kms: {cachesize: 1.5}}",
            "resources[0].providers[0].kms.cachesize: expected an integer, found a number",
        ),
        (
            "{kms: {timeout: 3}}",
            "resources[0].providers[0].kms.timeout: expected a duration such as \"3s\", found a number",
        ),
        (
            "{kms: {timeout: soon}}",
            "resources[0].providers[0].kms.timeout: time: invalid duration \"soon\"",
        ),
    ] {
        let error = parse(&one_entry("secrets", providers)).expect_err("refused");
        assert!(error.ends_with(want), "{providers}: {error}");
    }
}

// covers: storage-transform/CFG-09
#[test]
fn no_error_quotes_a_secret() {
    let secret = "c3VwZXItc2VjcmV0LWtleQ";
    for broken in [
        format!("secret: '{secret}"),
        format!("secret: \"{secret}"),
        format!("secret: *{secret}"),
        format!("secret: {secret}: x"),
        format!("secret: [{secret}"),
        format!("secret: {secret}\n\tname: x"),
        format!("secret: !{secret}%zz x"),
        format!("secret: \"\\q{secret}\""),
        format!("secret: [{secret}]"),
        format!("secret: {{a: {secret}}}"),
    ] {
        let text = format!(
            "{HEADER}resources:\n- resources: [secrets]\n  providers:\n  - aesgcm:\n      keys:\n      - {broken}\n"
        );
        let error = parse(&text).expect_err(&broken);
        assert!(!error.contains(secret), "{error}");
    }
    for key in [
        format!("{{name: a, secret: {secret}}}"),
        format!("{{secret: {secret}==}}"),
    ] {
        let config = parse(&one_entry("secrets", &format!("{{aesgcm: {{keys: [{key}]}}}}"))).expect("decodes");
        let errors = config.validate(false).expect_err("the key is no good");
        let shown = format!("{config:?} {errors} {errors:?}");
        assert!(!shown.contains(secret), "{shown}");
        assert!(shown.contains("REDACTED"), "{shown}");
    }
}

// covers: storage-transform/VAL-01, storage-transform/VAL-02, storage-transform/VAL-03, storage-transform/VAL-04, storage-transform/VAL-05, storage-transform/VAL-06
#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    use FieldErrorKind::{Invalid, Required};
    assert_eq!(
        problems(&format!("{HEADER}resources: []\n"), false),
        [(
            "resources".to_owned(),
            Required,
            "at least one resources is required".to_owned()
        )]
    );
    let text = format!(
        "{HEADER}resources:\n- {{}}\n- resources: [Pods, '*']\n  providers: [{{}}, {{identity: null}}, \
         {{identity: {{}}, aesgcm: {{}}}}]\n"
    );
    let found = problems(&text, false);
    let places: Vec<(&str, FieldErrorKind)> = found.iter().map(|(field, kind, _)| (field.as_str(), *kind)).collect();
    assert_eq!(
        places,
        [
            ("resources[0].resources", Required),
            ("resources[0].providers", Required),
            ("resources[1].resources", Invalid),
            ("resources[1].resources[0]", Invalid),
            ("resources[1].resources[1]", Invalid),
            ("resources[1].providers[0]", Invalid),
            ("resources[1].providers[1]", Invalid),
            ("resources[1].providers[2]", Invalid),
            ("resources[1].providers[2].aesgcm.keys", Required),
        ],
        "{found:?}"
    );
}

// covers: storage-transform/VAL-13, storage-transform/VAL-14
#[test]
fn secrets_are_read_as_go_reads_base64() {
    for (secret, good) in [
        ("AAAAAAAAAAAAAAAAAAAAAA==", true),
        ("\"AAAAAAAAAAAA\\nAAAAAAAAAA=\\r\\n=\"", true),
        ("AAAAAAAAAAAAAAAAAAAAAB==", true),
        ("AAAAAAAAAAAAAAAAAAAAAA", false),
        ("AAAAAAAAAAAAAAAAAAAAAA=", false),
        ("AAAAAAAAAAAAAAAAAAAA_w==", false),
        ("\"AAAAAAAAAAAAAAAAAAAAAA== \"", false),
        ("\"\\n\"", false),
    ] {
        let found = problems(
            &one_entry("a", &format!("{{aesgcm: {{keys: [{{name: k, secret: {secret}}}]}}}}")),
            false,
        );
        assert_eq!(found.is_empty(), good, "{secret}: {found:?}");
    }
}

// covers: storage-transform/VAL-36, storage-transform/VAL-37
#[test]
fn duplicates_and_overlaps_are_reported_once_each() {
    for (names, want) in [
        ("a, a, a, a", &["the same resource"][..]),
        ("secrets, 'secrets.'", &["the same resource"]),
        ("'*.*', secrets", &["using overlapping"]),
        ("'*.', secrets, pods", &["using overlapping"]),
        ("'*.', '*.'", &["the same resource", "using overlapping"]),
        ("'*.apps', '*.'", &[]),
        ("deployments.apps, '*.'", &[]),
    ] {
        let found = problems(&one_entry(names, GCM), false);
        let matches =
            found.len() == want.len() && found.iter().zip(want).all(|((_, _, got), want)| got.starts_with(want));
        assert!(matches, "{names}: {found:?}");
    }
}

// covers: storage-transform/VAL-30, storage-transform/VAL-31, storage-transform/VAL-32, storage-transform/VAL-33, storage-transform/VAL-34, storage-transform/VAL-35, storage-transform/VAL-38
#[test]
fn each_resource_name_breaks_at_most_one_rule() {
    for (name, want) in [
        (
            "Events.events.k8s.io",
            Some("resource name should not contain capital letters"),
        ),
        ("'*'", Some("use '*.' to encrypt all the resources")),
        ("serviceipallocations", Some("resources which do not have REST API/s")),
        ("serviceipallocations.apps", None),
        ("'*.events.k8s.io'", Some("'*.events.k8s.io' objects are stored")),
        ("x.extensions", Some("'extensions' group has been removed")),
        ("'foo.*'", Some("encrypting the same resource across groups")),
        ("'*.*'", None),
        ("''", None),
        ("no-such-thing", None),
    ] {
        let found = problems(&one_entry(name, GCM), false);
        match want {
            None => assert!(found.is_empty(), "{name}: {found:?}"),
            Some(want) => {
                assert!(found.len() == 1 && found[0].2.starts_with(want), "{name}: {found:?}");
                assert_eq!(found[0].0, "resources[0].resources[0]");
            }
        }
    }
}

// covers: storage-transform/VAL-21, storage-transform/VAL-22, storage-transform/VAL-24, storage-transform/VAL-27
#[test]
fn key_services_are_checked_in_file_order() {
    let kms = |version: &str, name: &str| {
        format!("{{kms: {{apiVersion: {version}, name: '{name}', endpoint: 'unix:///run/kms.sock'}}}}")
    };
    let duplicate = "duplicate KMS provider name n, names must be unique";
    for (first, second, reload, want) in [
        ("v1", "v2", false, Some(duplicate)),
        ("v2", "v1", false, None),
        ("v2", "v1", true, Some(duplicate)),
        ("v1", "v1", false, None),
        ("v1", "v1", true, Some(duplicate)),
    ] {
        let text = format!(
            "{}- resources: [b]\n  providers: [{}]\n",
            one_entry("a", &kms(first, "n")),
            kms(second, "n")
        );
        let found = problems(&text, reload);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(field, _, text)| (field.as_str(), text.as_str()))
            .collect();
        let want: Vec<_> = want
            .into_iter()
            .map(|text| ("resources[1].providers[0].kms.name", text))
            .collect();
        assert_eq!(found, want, "{first} then {second}, reload {reload}");
    }
    let bad = "{kms: {apiVersion: v3, name: 'a:b', endpoint: 'unix:///foo%zz', timeout: -1s, cachesize: 5}}";
    let found = problems(&one_entry("a", bad), false);
    let fields: Vec<&str> = found
        .iter()
        .filter_map(|(field, ..)| field.rsplit('.').next())
        .collect();
    assert_eq!(fields, ["name", "timeout", "endpoint", "cachesize", "apiVersion"]);
    assert!(
        found[2].2.starts_with("invalid endpoint for kms provider, error: "),
        "{found:?}"
    );
}

// covers: storage-transform/CFG-08, storage-transform/CFG-10
#[test]
fn the_content_hash_is_that_of_the_raw_text() {
    let load = |text: &str| {
        let set = Transformers::parse(Path::new("P"), text.as_bytes(), &ConfigOptions::default()).expect("valid");
        set.content_hash().map(str::to_owned)
    };
    let text = one_entry("secrets", "{identity: {}}");
    assert_eq!(
        load(&text),
        Some(apiserver_storage_transform::content_hash(text.as_bytes()))
    );
    assert_ne!(load(&text), load(&format!("{text}# comment\n")));
    assert_eq!(Transformers::identity().content_hash(), None);
}

// covers: storage-transform/BLD-03, storage-transform/BLD-07, storage-transform/VAL-10
#[test]
fn providers_without_code_are_valid_and_refused_when_built() {
    let keys = "{keys: [{name: k, secret: A/j5CnrWGB83ylcPkuUhm/6TSyrQtsNJtDPwPHNOj4Q=}]}";
    let kms = |version: &str| format!("{{apiVersion: {version}, name: vault, endpoint: 'unix:///s', timeout: 5s}}");
    for (provider, config) in [
        ("aescbc", keys.to_owned()),
        ("secretbox", keys.to_owned()),
        ("kms", kms("v2")),
        ("kms", kms("v1")),
    ] {
        let text = one_entry("a", &format!("{{identity: {{}}}}, {{{provider}: {config}}}"));
        let options = ConfigOptions::default().with_kms_v1(true);
        let error = Transformers::parse(Path::new("P"), text.as_bytes(), &options).expect_err("no code for it");
        let field = format!("resources[0].providers[1].{provider}");
        assert_eq!(
            error.to_string(),
            format!("error while building transformers: {field}: provider {provider:?} is not supported by this build")
        );
        assert!(matches!(error, ConfigError::Build(BuildError::Unsupported { .. })));
    }
    let v1 = one_entry("a", &format!("{{kms: {}}}", kms("v1")));
    let error = Transformers::parse(Path::new("P"), v1.as_bytes(), &ConfigOptions::default()).expect_err("off");
    assert!(
        matches!(error, ConfigError::Build(BuildError::KmsV1Disabled)),
        "{error}"
    );
    assert_eq!(
        parse(&v1).expect("decodes").close_grace_period(),
        Duration::from_secs(20)
    );
}
