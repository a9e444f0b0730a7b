//! The file: its header, and which runner each list of cases goes to.

use serde_json::{Map, Value};

use super::case::Case;
use super::{CaseReport, Report, Verdict, config_case, value_case};

const FORMAT: &str = "kubernetes-storage-transform-vectors";
const VERSION: u64 = 1;

/// A file is not of the format.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct FormatError {
    place: String,
    problem: String,
}

impl FormatError {
    pub(super) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

type Runner = fn(&Case<'_>) -> Result<Verdict, FormatError>;

/// The lists this runner knows; other lists of cases are reported as skipped.
const RUNNERS: [(&str, Runner); 6] = [
    ("cases", value_case::run),
    ("config_cases", config_case::run),
    ("config_default_cases", config_case::run_defaults),
    ("hash_cases", config_case::run_hash),
    ("grace_period_cases", config_case::run_grace_period),
    ("status_cases", |_| {
        Ok(Verdict::Skipped(
            "key services are not supported by this build".to_owned(),
        ))
    }),
];

pub(super) fn replay(text: &[u8]) -> Result<Report, FormatError> {
    let file: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| FormatError::new("file", error.to_string()))?;
    if file.get("format").and_then(Value::as_str) != Some(FORMAT) {
        return Err(FormatError::new("format", format!("expected {FORMAT:?}")));
    }
    if file.get("version").and_then(Value::as_u64) != Some(VERSION) {
        return Err(FormatError::new("version", format!("expected {VERSION}")));
    }
    let mut report = Report::default();
    for (list, cases) in file.iter().filter(|(list, _)| list.ends_with("cases")) {
        let Value::Array(cases) = cases else {
            return Err(FormatError::new(list, "expected a list"));
        };
        let runner = RUNNERS
            .iter()
            .find(|(known, _)| known == list)
            .map(|(_, runner)| *runner);
        for (index, value) in cases.iter().enumerate() {
            let case = Case::new(list, index, value)?;
            let verdict = match runner {
                // One malformed case fails alone: the others still say what they have to say.
                Some(runner) => runner(&case).unwrap_or_else(|error| Verdict::Failed(format!("malformed: {error}"))),
                None => Verdict::Skipped(format!("no runner for {list}")),
            };
            report.cases.push(CaseReport {
                list: list.clone(),
                name: case.name().to_owned(),
                verdict,
            });
        }
    }
    if report.cases.is_empty() {
        return Err(FormatError::new("file", "there is no case in it"));
    }
    Ok(report)
}
