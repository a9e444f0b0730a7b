//! The recorded vectors against this build, and the runner against vectors that must not pass.

use apiserver_storage_transform::vectors::{Counts, Report, Verdict, replay};

const RECORDED: &str = include_str!("data/transform.json");

fn counts(report: &Report) -> (usize, usize, usize) {
    let Counts {
        passed,
        failed,
        skipped,
        ..
    } = report.counts();
    (passed, failed, skipped)
}

// covers: storage-transform/GCM-08, storage-transform/BLD-02, storage-transform/BLD-07, storage-transform/CFG-07, storage-transform/CFG-08, storage-transform/VAL-11, storage-transform/VAL-12, storage-transform/VAL-20, storage-transform/VAL-23, storage-transform/VAL-25, storage-transform/VAL-26, storage-transform/MET-01
#[test]
fn recorded_vectors_hold() {
    let report = replay(RECORDED.as_bytes()).expect("a vector file");
    let failed: Vec<String> = report
        .cases
        .iter()
        .filter_map(|case| match &case.verdict {
            Verdict::Failed(reason) => Some(format!("{}/{}: {reason}", case.list, case.name)),
            _ => None,
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // The rest needs providers that this build has no code for, and says so.
    assert!(report.counts().passed >= 126, "{}", report.counts());
    for case in &report.cases {
        if let Verdict::Skipped(reason) = &case.verdict {
            assert!(
                reason.contains("not supported by this build"),
                "{}: {reason}",
                case.name
            );
        }
    }
}

/// A file with one case whose outcome is known.
fn file(list: &str, case: &str) -> String {
    format!(r#"{{"format":"kubernetes-storage-transform-vectors","version":1,"{list}":[{case}]}}"#)
}

fn value_case(op: &str, stored: &str, expect: &str) -> String {
    let config = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":
        [{"resources":["secrets"],"providers":[{"aesgcm":{"keys":[{"name":"legacy","secret":
        "c25vcmxheF9hd2Vzb21lcw=="}]}},{"identity":{}}]}]}"#;
    let case = format!(
        r#"{{"name":"c","op":"{op}","resource":"secrets","storage_key":"bamboo","config":{config},
        "inputs":{{"nonce":"9f27c8fcea8a58c467d8e437"}},"plaintext_hex":"{PLAIN}",
        "stored_hex":"{stored}","expect":{expect}}}"#
    );
    file("cases", &case)
}

const STORED: &str = "6b38733a656e633a61657367636d3a76313a6c65676163793a9f27c8fcea8a58c467d8e437dbf2d85955f9b4bd912f4ef967\
                      d788a0cb07797dac0a3f0a0845605ca85ac8562b4ae1";
const PLAIN: &str = "70616e64617320617265207468652062657374";

#[test]
fn every_expectation_of_a_value_is_compared() {
    let changed = STORED.replace("2b4ae1", "2b4ae2");
    for (name, op, stored, expect, passes) in [
        ("right", "roundtrip", STORED, r#"{"outcome":"ok"}"#, true),
        ("other stored bytes", "write", &changed, r#"{"outcome":"ok"}"#, false),
        ("staleness too much", "read", STORED, r#"{"outcome":"stale"}"#, false),
        ("staleness too little", "read", PLAIN, r#"{"outcome":"ok"}"#, false),
        ("stale", "read", PLAIN, r#"{"outcome":"stale"}"#, true),
        ("other plaintext", "read", "70", r#"{"outcome":"stale"}"#, false),
        ("error instead of value", "read", &changed, r#"{"outcome":"ok"}"#, false),
        (
            "refusing is allowed",
            "read",
            &changed,
            r#"{"outcome":"ok","compat":"may_reject"}"#,
            true,
        ),
        (
            "value instead of error",
            "read",
            STORED,
            r#"{"outcome":"error","error_kind":"auth_failed"}"#,
            false,
        ),
        (
            "value instead of error, writing",
            "write",
            STORED,
            r#"{"outcome":"error","error_kind":"auth_failed"}"#,
            false,
        ),
        (
            "the error",
            "read",
            &changed,
            r#"{"outcome":"error","error_kind":"auth_failed"}"#,
            true,
        ),
        (
            "another error",
            "read",
            &changed,
            r#"{"outcome":"error","error_kind":"too_short"}"#,
            false,
        ),
        (
            "too few errors",
            "read",
            &changed,
            r#"{"outcome":"error","error_kind":"auth_failed","errors":["auth_failed","auth_failed"]}"#,
            false,
        ),
        ("unknown outcome", "read", STORED, r#"{"outcome":"fine"}"#, false),
        ("unknown operation", "delete", STORED, r#"{"outcome":"ok"}"#, false),
        (
            "unknown exception",
            "read",
            STORED,
            r#"{"outcome":"ok","compat":"may_pass"}"#,
            false,
        ),
    ] {
        let report = replay(value_case(op, stored, expect).as_bytes()).expect("a vector file");
        let want = if passes { (1, 0, 0) } else { (0, 1, 0) };
        assert_eq!(counts(&report), want, "{name}: {:?}", report.cases);
    }
}

#[test]
fn every_expectation_of_a_configuration_is_compared() {
    let case = |providers: &str, expect: &str| {
        let case = format!(
            r#"{{"name":"c","reload":false,"kmsv1_enabled":false,"config":{{"kind":"EncryptionConfiguration",
            "apiVersion":"apiserver.config.k8s.io/v1","resources":[{{"resources":["secrets"],
            "providers":[{providers}]}}]}},"expect":{expect}}}"#
        );
        file("config_cases", &case)
    };
    let keys = r#"{"aesgcm":{"keys":[]}}"#;
    let expect = |stage: &str, field: &str, kind: &str, detail: &str| {
        format!(
            r#"{{"outcome":"error","stage":"{stage}","errors":[{{"field":"{field}","type":"{kind}",
            "detail":"{detail}"}}]}}"#
        )
    };
    let field = "resources[0].providers[0].aesgcm.keys";
    let text = "at least one keys";
    for (name, providers, expect, want) in [
        ("right", keys, expect("validate", field, "required", text), (1, 0, 0)),
        (
            "other field",
            keys,
            expect("validate", "resources", "required", text),
            (0, 1, 0),
        ),
        (
            "other type",
            keys,
            expect("validate", field, "invalid", text),
            (0, 1, 0),
        ),
        (
            "other text",
            keys,
            expect("validate", field, "required", "one keys"),
            (0, 1, 0),
        ),
        ("other stage", keys, expect("build", field, "required", text), (0, 1, 0)),
        (
            "one error too many",
            &format!("{keys},{keys}"),
            expect("validate", field, "required", text),
            (0, 1, 0),
        ),
        ("error instead of ok", keys, r#"{"outcome":"ok"}"#.to_owned(), (0, 1, 0)),
        (
            "ok instead of error",
            r#"{"identity":{}}"#,
            expect("validate", field, "required", text),
            (0, 1, 0),
        ),
        ("ok", r#"{"identity":{}}"#, r#"{"outcome":"ok"}"#.to_owned(), (1, 0, 0)),
        (
            "without code",
            r#"{"kms":{"apiVersion":"v2","name":"n","endpoint":"unix:///s"}}"#,
            r#"{"outcome":"ok"}"#.to_owned(),
            (0, 0, 1),
        ),
    ] {
        let report = replay(case(providers, &expect).as_bytes()).expect("a vector file");
        assert_eq!(counts(&report), want, "{name}: {:?}", report.cases);
    }
}

#[test]
fn smaller_lists_are_compared_and_unknown_ones_skipped() {
    let sha = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    let hash = |out: &str| format!(r#"{{"name":"h","input_utf8":"1","kind":"metric_label","out":"{out}"}}"#);
    let period = |seconds: u8| {
        format!(
            r#"{{"name":"g","providers":[{{"apiVersion":"v2","timeout":"3s"}}],"timeout_sum_seconds":3,
            "close_grace_period_seconds":{seconds}}}"#
        )
    };
    let default = |size: u16| {
        format!(
            r#"{{"name":"d","in":{{"name":"p","endpoint":"unix:///p"}},"out":{{"apiVersion":"v1","name":"p",
            "endpoint":"unix:///p","timeout":"3000ms","cachesize":{size}}}}}"#
        )
    };
    for (list, case, want) in [
        ("hash_cases", hash(sha), (1, 0, 0)),
        ("hash_cases", hash("sha256:00"), (0, 1, 0)),
        ("grace_period_cases", period(6), (1, 0, 0)),
        ("grace_period_cases", period(7), (0, 1, 0)),
        ("config_default_cases", default(1000), (1, 0, 0)),
        ("config_default_cases", default(999), (0, 1, 0)),
        ("config_default_cases", r#"{"name":"d","in":{}}"#.to_owned(), (0, 1, 0)),
        ("status_cases", r#"{"name":"s"}"#.to_owned(), (0, 0, 1)),
        ("future_cases", r#"{"name":"f"}"#.to_owned(), (0, 0, 1)),
    ] {
        let report = replay(file(list, &case).as_bytes()).expect("a vector file");
        assert_eq!(counts(&report), want, "{list}: {:?}", report.cases);
    }
}

#[test]
fn what_is_no_vector_file_is_an_error() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"format":"other","version":1,"cases":[]}"#,
        r#"{"format":"kubernetes-storage-transform-vectors","version":2,"cases":[]}"#,
        r#"{"format":"kubernetes-storage-transform-vectors","version":1}"#,
        r#"{"format":"kubernetes-storage-transform-vectors","version":1,"cases":{}}"#,
        r#"{"format":"kubernetes-storage-transform-vectors","version":1,"cases":[{"op":"read"}]}"#,
    ] {
        assert!(replay(text.as_bytes()).is_err(), "{text}");
    }
}
