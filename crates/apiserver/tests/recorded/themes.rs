//! The recorded scenarios, theme by theme, against a server in this process.
//!
//! The files under `tests/data/http` were recorded from a real kube-apiserver; what a server may answer otherwise is
//! described by placeholders in them. Server-side apply is not served, so its theme is not here.

use std::time::Duration;

use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};

use crate::client::Client;
use crate::replay::play;
use crate::scenario;

/// The time for one scenario.
const LIMIT: Duration = Duration::from_secs(60);

/// Scenarios that are known not to pass: theme, name, and why.
const KNOWN: [(&str, &str, &str); 1] = [(
    "built-in-kinds",
    "a service gets a cluster IP that cannot be changed",
    "services get no addresses: nothing here would route to them",
)];

/// Plays all scenarios of a theme, one after the other.
async fn replay(theme: &str) {
    let mut config = ServerConfig::new(Storage::memory());
    config.custom_resource_definitions = Some(scenario::data("http/custom-resource-definitions.yaml"));
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.insecure_address().unwrap());
    let scenarios = scenario::theme(theme);
    let (mut wrong, mut messages, mut known) = (Vec::new(), 0, 0);
    for (number, scenario) in scenarios.iter().enumerate() {
        let name = &scenario.name;
        let Ok(report) = tokio::time::timeout(LIMIT, play(&client, scenario, number)).await else {
            wrong.push(format!("{name}: no end in time"));
            continue;
        };
        messages += report.messages.len();
        for message in report.messages {
            println!("{theme}: {name}: other words: {message}");
        }
        let reason = KNOWN
            .iter()
            .find(|(of, known, _)| *of == theme && known == name)
            .map(|(_, _, reason)| reason);
        match (reason, report.failures.is_empty()) {
            (Some(_), true) => wrong.push(format!("{name}: passes now, take it off the list")),
            (Some(reason), false) => {
                known += 1;
                println!("{theme}: {name}: known not to pass: {reason}");
            }
            (None, _) => wrong.extend(report.failures.into_iter().map(|failure| format!("{name}: {failure}"))),
        }
    }
    server.shutdown().await;
    println!(
        "{theme}: {} scenarios, {known} known not to pass, {messages} messages in other words",
        scenarios.len()
    );
    assert!(wrong.is_empty(), "{theme}:\n{}", wrong.join("\n"));
}

// covers: apiserver-http/BODY-04, apiserver-http/BODY-14, apiserver-http/STAT-07, registry/R-RES-01
// covers: registry/R-RES-09, registry/R-RES-12, registry/R-RES-16, registry/R-RES-17, registry/R-RES-18
// covers: registry/R-RES-22
#[tokio::test(flavor = "multi_thread")]
async fn built_in_kinds() {
    replay("built-in-kinds").await;
}

// covers: apiserver-http/KCT-10, apiserver-http/KCT-13, apiserver-http/KCT-20, apiserver-http/KCT-30
// covers: apiserver-http/KCT-33, apiserver-http/KCT-35, apiserver-http/KCT-40, apiserver-http/KCT-41
// covers: apiserver-http/KCT-42, apiserver-http/KRS-10, apiserver-http/KRS-14, apiserver-http/KRS-15
// covers: apiserver-http/KRS-25, apiserver-http/MIN-03, apiserver-http/MISS-04, apiserver-http/MISS-05
// covers: apiserver-http/RUPD-02, apiserver-http/STAT-03
#[tokio::test(flavor = "multi_thread")]
async fn clients() {
    replay("clients").await;
}

// covers: apiserver-http/BODY-01, apiserver-http/BODY-03, apiserver-http/BODY-04, apiserver-http/BODY-05
// covers: apiserver-http/BODY-06, apiserver-http/BODY-07, apiserver-http/BODY-08, apiserver-http/BODY-10
// covers: apiserver-http/BODY-11, apiserver-http/BODY-12, apiserver-http/KCT-31, apiserver-http/NEG-08
// covers: apiserver-http/PAT-12, apiserver-http/PATH-03, apiserver-http/PATH-07, apiserver-http/RCRE-01
// covers: apiserver-http/RCRE-02, apiserver-http/RCRE-08, apiserver-http/STAT-02, apiserver-http/STAT-04
// covers: apiserver-http/STAT-07, apiserver-http/STAT-14, apiserver-http/STAT-15, registry/R-CRE-01
// covers: registry/R-CRE-02, registry/R-CRE-08, registry/R-CRE-09, registry/R-CRE-12, registry/R-CRE-18
// covers: registry/R-CRE-19, registry/R-CRE-23, registry/R-CRE-26, registry/R-CRE-27, registry/R-CRE-32
// covers: registry/R-GET-04, registry/R-META-01, registry/R-META-02, registry/R-META-04, registry/R-STR-08
// covers: registry/R-STR-09, storage-api/CREATE-02
#[tokio::test(flavor = "multi_thread")]
async fn create() {
    replay("create").await;
}

// covers: apiserver-http/BODY-07, apiserver-http/BODY-14, apiserver-http/FVAL-02, apiserver-http/FVAL-03
// covers: apiserver-http/FVAL-08, apiserver-http/JPAT-07, apiserver-http/PAT-13, apiserver-http/QRY-06
// covers: apiserver-http/RSUB-01, apiserver-http/STAT-07, apiserver-http/TABH-02, apiserver-http/TABH-03
// covers: apiserver-http/TABH-04, apiserver-http/TABH-16, registry/R-SUB-01, registry/R-SUB-05
#[tokio::test(flavor = "multi_thread")]
async fn custom_resources() {
    replay("custom-resources").await;
}

// covers: apiserver-http/PATH-03, apiserver-http/RCOL-01, apiserver-http/RCOL-02, apiserver-http/RCOL-05
// covers: registry/R-COL-01, registry/R-COL-14, registry/R-COL-15, registry/R-COL-17
#[tokio::test(flavor = "multi_thread")]
async fn delete_collection() {
    replay("delete-collection").await;
}

// covers: apiserver-http/FLOW-05, apiserver-http/KCT-40, apiserver-http/KRS-21, apiserver-http/MISS-10
// covers: apiserver-http/PATH-07, apiserver-http/QRY-18, apiserver-http/RDEL-01, apiserver-http/RDEL-02
// covers: apiserver-http/RDEL-03, apiserver-http/RDEL-05, apiserver-http/RDEL-06, apiserver-http/RDEL-07
// covers: apiserver-http/RDEL-08, apiserver-http/RDEL-09, apiserver-http/RSUB-01, apiserver-http/STAT-21
// covers: registry/R-DEL-01, registry/R-DEL-03, registry/R-DEL-04, registry/R-DEL-05, registry/R-DEL-07
// covers: registry/R-DEL-11, registry/R-DEL-12, registry/R-DEL-13, registry/R-DEL-19, registry/R-DEL-20
// covers: registry/R-DEL-26, registry/R-DEL-27, registry/R-DRY-06, registry/R-GRC-13, registry/R-RES-01
// covers: registry/R-UPD-16
#[tokio::test(flavor = "multi_thread")]
async fn delete() {
    replay("delete").await;
}

// covers: apiserver-http/AGD-01, apiserver-http/AGD-02, apiserver-http/AGD-03, apiserver-http/AGD-04
// covers: apiserver-http/AGD-09, apiserver-http/AGD-10, apiserver-http/AGD-17, apiserver-http/AUTN-03
// covers: apiserver-http/AUTN-06, apiserver-http/DISC-01, apiserver-http/DISC-02, apiserver-http/DISC-03
// covers: apiserver-http/DISC-04, apiserver-http/DISC-05, apiserver-http/DISC-06, apiserver-http/DISC-08
// covers: apiserver-http/DISC-12, apiserver-http/HLTH-01, apiserver-http/HLTH-15, apiserver-http/KCT-01
// covers: apiserver-http/MIN-01, apiserver-http/MISS-01, apiserver-http/MISS-02, apiserver-http/OAPI-01
// covers: apiserver-http/OAPI-02, apiserver-http/OAPI-03, apiserver-http/OAPI-07, apiserver-http/OAPI-08
// covers: apiserver-http/RSUB-01, apiserver-http/STAT-09
#[tokio::test(flavor = "multi_thread")]
async fn discovery() {
    replay("discovery").await;
}

// covers: apiserver-http/BODY-14, apiserver-http/QRY-15, apiserver-http/RCRE-04, apiserver-http/RCRE-08
// covers: registry/R-DRY-02, registry/R-DRY-03, registry/R-DRY-05, registry/R-DRY-10
#[tokio::test(flavor = "multi_thread")]
async fn dry_run() {
    replay("dry-run").await;
}

// covers: apiserver-http/BODY-01, apiserver-http/BODY-03, apiserver-http/BODY-04, apiserver-http/BODY-05
// covers: apiserver-http/BODY-08, apiserver-http/BODY-09, apiserver-http/MISS-11, apiserver-http/PAT-03
// covers: apiserver-http/PATH-06, apiserver-http/PATH-07, apiserver-http/PATH-08, apiserver-http/PATH-18
// covers: apiserver-http/QRY-14, apiserver-http/QRY-15, apiserver-http/QRY-16, apiserver-http/QRY-17
// covers: apiserver-http/QRY-22, apiserver-http/STAT-01, apiserver-http/STAT-03, apiserver-http/STAT-14
// covers: apiserver-http/STAT-15, registry/R-RES-17
#[tokio::test(flavor = "multi_thread")]
async fn errors() {
    replay("errors").await;
}

// covers: apiserver-http/FVAL-01, apiserver-http/FVAL-02, apiserver-http/FVAL-03, apiserver-http/FVAL-04
// covers: apiserver-http/FVAL-05, apiserver-http/FVAL-07, apiserver-http/FVAL-08, apiserver-http/FVAL-09
// covers: apiserver-http/FVAL-10, apiserver-http/MISS-12, apiserver-http/QRY-22
#[tokio::test(flavor = "multi_thread")]
async fn field_validation() {
    replay("field-validation").await;
}

// covers: apiserver-http/RCRE-02, apiserver-http/RCRE-04, registry/R-CRE-02, registry/R-DRY-03, registry/R-STR-08
#[tokio::test(flavor = "multi_thread")]
async fn generate_name() {
    replay("generate-name").await;
}

// covers: apiserver-http/PATH-01, apiserver-http/QRY-11, apiserver-http/QRY-21, apiserver-http/RGET-01
// covers: apiserver-http/RGET-02, apiserver-http/RGET-04, apiserver-http/RGET-05, apiserver-http/STAT-02
// covers: apiserver-http/STAT-03, apiserver-http/STAT-18, registry/R-GET-04, registry/R-GET-05, registry/R-GET-06
// covers: storage-api/GET-03, storage-api/GET-04, storage-api/GET-08
#[tokio::test(flavor = "multi_thread")]
async fn get() {
    replay("get").await;
}

// covers: apiserver-http/KCT-10, apiserver-http/KRS-02, apiserver-http/KRS-10, apiserver-http/MISS-14
// covers: apiserver-http/PATH-03, apiserver-http/PATH-05, apiserver-http/PATH-06, apiserver-http/PATH-08
// covers: apiserver-http/QRY-01, apiserver-http/QRY-05, apiserver-http/QRY-06, apiserver-http/QRY-08
// covers: apiserver-http/QRY-11, apiserver-http/QRY-12, apiserver-http/QRY-13, apiserver-http/RLST-01
// covers: apiserver-http/RLST-02, apiserver-http/RLST-03, apiserver-http/RLST-04, apiserver-http/RLST-05
// covers: apiserver-http/RLST-07, apiserver-http/STAT-18, apiserver-http/TABH-02, apiserver-http/TABH-05
// covers: apiserver-http/TABH-12, registry/R-LST-02, registry/R-LST-04, registry/R-LST-05, registry/R-LST-06
// covers: registry/R-LST-07, storage-api/CONT-04, storage-api/CONT-11, storage-api/CONT-14, storage-api/CONT-16
// covers: storage-api/CONT-17, storage-api/CONT-19, storage-api/CONT-20, storage-api/LIST-02, storage-api/LIST-03
// covers: storage-api/LIST-04, storage-api/LIST-05, storage-api/LIST-08, storage-api/LIST-10, storage-api/LIST-11
// covers: storage-api/LIST-14, storage-api/LIST-15, storage-api/LIST-20, storage-api/LIST-22, storage-api/LIST-24
// covers: storage-api/LIST-25, storage-api/LIST-26, storage-api/LIST-28, storage-api/LIST-29, storage-api/LIST-36
// covers: storage-api/SEL-12
#[tokio::test(flavor = "multi_thread")]
async fn list() {
    replay("list").await;
}

// covers: apiserver-http/STAT-07, registry/R-CRE-12, registry/R-CRE-13, registry/R-RES-17, registry/R-UPD-19
#[tokio::test(flavor = "multi_thread")]
async fn metadata_validation() {
    replay("metadata-validation").await;
}

// covers: apiserver-http/MIN-02, apiserver-http/PATH-17, apiserver-http/RCRE-08, apiserver-http/RGET-02
// covers: apiserver-http/STAT-04, registry/R-LST-04, registry/R-RES-15, registry/R-SUB-08
#[tokio::test(flavor = "multi_thread")]
async fn namespaces() {
    replay("namespaces").await;
}

// covers: apiserver-http/BODY-13, apiserver-http/ENC-01, apiserver-http/ENC-02, apiserver-http/ENC-04
// covers: apiserver-http/ENC-10, apiserver-http/FLOW-10, apiserver-http/KCT-10, apiserver-http/KCT-22
// covers: apiserver-http/KRS-02, apiserver-http/MISS-06, apiserver-http/MISS-07, apiserver-http/NEG-01
// covers: apiserver-http/NEG-02, apiserver-http/NEG-03, apiserver-http/NEG-04, apiserver-http/NEG-05
// covers: apiserver-http/NEG-06, apiserver-http/NEG-07, apiserver-http/NEG-10, apiserver-http/NEG-11
// covers: apiserver-http/NEG-15, apiserver-http/QRY-19, apiserver-http/STAT-15, apiserver-http/TABH-05
// covers: apiserver-http/TABH-08, apiserver-http/TABH-11, apiserver-http/TABH-12, apiserver-http/TABH-13
// covers: apiserver-http/TABH-16
#[tokio::test(flavor = "multi_thread")]
async fn negotiation() {
    replay("negotiation").await;
}

// covers: apiserver-http/JPAT-01, apiserver-http/JPAT-02, apiserver-http/JPAT-03, apiserver-http/JPAT-05
// covers: apiserver-http/KRS-25, apiserver-http/PAT-01, apiserver-http/PAT-03, apiserver-http/PAT-04
// covers: apiserver-http/PAT-05, apiserver-http/PAT-06, apiserver-http/PAT-11
#[tokio::test(flavor = "multi_thread")]
async fn patch_json() {
    replay("patch-json").await;
}

// covers: apiserver-http/BODY-09, apiserver-http/JPAT-07, apiserver-http/JPAT-08, apiserver-http/KCT-35
// covers: apiserver-http/PAT-01, apiserver-http/PAT-02, apiserver-http/PAT-03, apiserver-http/PAT-04
// covers: apiserver-http/PAT-05, apiserver-http/PAT-06, apiserver-http/PAT-07, apiserver-http/PAT-08
// covers: apiserver-http/PAT-11, apiserver-http/PAT-12, apiserver-http/PAT-13, apiserver-http/PAT-16
// covers: apiserver-http/PATH-07, apiserver-http/RUPD-09, registry/R-UPD-15
#[tokio::test(flavor = "multi_thread")]
async fn patch_merge() {
    replay("patch-merge").await;
}

// covers: apiserver-http/KCT-30, apiserver-http/MISS-05, apiserver-http/PAT-03, apiserver-http/PAT-04
// covers: apiserver-http/PAT-11, apiserver-http/PAT-16, apiserver-http/SMP-01, apiserver-http/SMP-03
// covers: apiserver-http/SMP-04, apiserver-http/SMP-05, apiserver-http/SMP-06, apiserver-http/SMP-07
// covers: apiserver-http/SMP-08, apiserver-http/SMP-09, apiserver-http/SMP-11, apiserver-http/SMP-13
#[tokio::test(flavor = "multi_thread")]
async fn patch_strategic() {
    replay("patch-strategic").await;
}

// covers: apiserver-http/KCT-36, apiserver-http/PAT-16, apiserver-http/PATH-05, apiserver-http/PATH-06
// covers: apiserver-http/RSUB-01, apiserver-http/RUPD-02, apiserver-http/RUPD-09, apiserver-http/SMP-05
// covers: registry/R-RES-01, registry/R-RES-02, registry/R-RES-03, registry/R-RES-11, registry/R-RES-22
// covers: registry/R-SUB-01, registry/R-SUB-02, registry/R-SUB-03, registry/R-SUB-05, registry/R-SUB-06
#[tokio::test(flavor = "multi_thread")]
async fn subresources() {
    replay("subresources").await;
}

// covers: apiserver-http/QRY-20, apiserver-http/RLST-04, apiserver-http/TABH-02, apiserver-http/TABH-04
// covers: apiserver-http/TABH-05
#[tokio::test(flavor = "multi_thread")]
async fn tables() {
    replay("tables").await;
}

// covers: apiserver-http/BODY-05, apiserver-http/BODY-06, apiserver-http/BODY-08, apiserver-http/BODY-09
// covers: apiserver-http/PATH-07, apiserver-http/RUPD-01, apiserver-http/RUPD-02, apiserver-http/RUPD-04
// covers: apiserver-http/RUPD-06, apiserver-http/RUPD-08, apiserver-http/STAT-05, registry/R-COU-01
// covers: registry/R-RES-01, registry/R-RES-12, registry/R-RES-16, registry/R-RES-17, registry/R-UPD-02
// covers: registry/R-UPD-03, registry/R-UPD-04, registry/R-UPD-07, registry/R-UPD-08, registry/R-UPD-09
// covers: registry/R-UPD-13, registry/R-UPD-14, registry/R-UPD-15, registry/R-UPD-16, registry/R-UPD-26
// covers: registry/R-UPD-27, storage-api/CREATE-11
#[tokio::test(flavor = "multi_thread")]
async fn update() {
    replay("update").await;
}

// covers: apiserver-http/KCT-13, apiserver-http/KCT-41, apiserver-http/KRS-02, apiserver-http/KRS-11
// covers: apiserver-http/KRS-13, apiserver-http/MIN-03, apiserver-http/MIN-04, apiserver-http/MISS-03
// covers: apiserver-http/MISS-04, apiserver-http/MISS-08, apiserver-http/PAT-11, apiserver-http/PATH-03
// covers: apiserver-http/QRY-02, apiserver-http/QRY-05, apiserver-http/QRY-06, apiserver-http/QRY-09
// covers: apiserver-http/QRY-10, apiserver-http/QRY-11, apiserver-http/RINF-05, apiserver-http/RUPD-06
// covers: apiserver-http/RWAT-01, apiserver-http/RWAT-02, apiserver-http/RWAT-03, apiserver-http/RWAT-04
// covers: apiserver-http/RWAT-05, apiserver-http/RWAT-06, apiserver-http/RWAT-07, apiserver-http/RWAT-08
// covers: apiserver-http/RWAT-09, apiserver-http/RWAT-10, apiserver-http/RWAT-11, apiserver-http/RWAT-12
// covers: apiserver-http/RWAT-13, apiserver-http/RWAT-14, apiserver-http/RWAT-18, apiserver-http/RWAT-25
// covers: apiserver-http/RWAT-28, apiserver-http/TABH-09, apiserver-http/TABH-12, registry/R-DEL-20
// covers: registry/R-WCH-02, storage-api/LIST-20, storage-api/WATCH-01, storage-api/WATCH-02, storage-api/WATCH-03
// covers: storage-api/WATCH-04, storage-api/WATCH-05, storage-api/WATCH-08
#[tokio::test(flavor = "multi_thread")]
async fn watch() {
    replay("watch").await;
}

#[test]
fn every_file_is_played_and_every_claim_is_in_its_file() {
    let source = include_str!("themes.rs");
    let mut files: Vec<_> = std::fs::read_dir(scenario::data("http"))
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()?
                .strip_suffix(".json")
                .map(str::to_owned)
        })
        .collect();
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    for theme in files {
        let call = format!("    replay(\"{theme}\").await;");
        let before = source
            .split_once(&call)
            .unwrap_or_else(|| panic!("{theme} is not played"))
            .0;
        let test = before.rsplit("\n\n").next().unwrap_or_default();
        let mut claimed: Vec<_> = test
            .lines()
            .filter_map(|line| line.strip_prefix("// covers: "))
            .flat_map(|list| list.split(", "))
            .map(|id| id.split_once('/').expect("a full ID").1)
            .collect();
        claimed.sort();
        let scenarios = scenario::theme(&theme);
        let passing = scenarios
            .iter()
            .filter(|one| !KNOWN.iter().any(|(of, name, _)| *of == theme && *name == one.name));
        let mut recorded: Vec<_> = passing.flat_map(|scenario| &scenario.ids).map(String::as_str).collect();
        recorded.sort();
        recorded.dedup();
        assert_eq!(claimed, recorded, "{theme}");
    }
}
