//! The recorded vectors against this build.

use apiserver_storage_transform::vectors::{Verdict, replay};

const RECORDED: &[u8] = include_bytes!("data/transform.json");

#[test]
fn recorded_vectors_hold() {
    let report = replay(RECORDED).expect("a vector file");
    let failed: Vec<String> = report
        .cases
        .iter()
        .filter_map(|case| match &case.verdict {
            Verdict::Failed(reason) => Some(format!("{}/{}: {reason}", case.list, case.name)),
            _ => None,
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    eprintln!("{}", report.counts());
}
