//! `config_cases`, `config_default_cases`, `hash_cases` and `grace_period_cases`: the configuration file.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Verdict;
use super::case::Case;
use super::file::FormatError;
use crate::config::{
    BuildError, ConfigError, ConfigOptions, ConfigStage, EncryptionConfiguration, FieldError, FieldErrorKind,
    GoDuration, KmsConfiguration, Transformers,
};
use crate::hash;

/// The path under which cases are read. It must not happen to contain a text that a case expects in an error.
const PATH: &str = "vector.yaml";

pub(super) fn run(case: &Case<'_>) -> Result<Verdict, FormatError> {
    let expected = Expected::read(case)?;
    let text = match case.optional_text("raw")? {
        Some(raw) => raw.to_owned(),
        None => case.require("config")?.to_string(),
    };
    let options = ConfigOptions::default()
        .with_reload(case.flag("reload")?)
        .with_kms_v1(case.flag("kmsv1_enabled")?);
    Ok(
        match (
            Transformers::parse(Path::new(PATH), text.as_bytes(), &options),
            expected,
        ) {
            (
                Err(ConfigError::Build(error @ BuildError::Unsupported { .. })),
                Expected::Ok | Expected::Error(ConfigStage::Build, _),
            ) => Verdict::Skipped(error.to_string()),
            (Ok(_), Expected::Ok) => Verdict::Passed,
            (Ok(_), Expected::Error(..)) => Verdict::Failed("accepted, an error was expected".to_owned()),
            (Err(error), Expected::Ok) => Verdict::Failed(format!("refused: {error}")),
            (Err(error), Expected::Error(stage, wanted)) => verdict(compare(&error, stage, &wanted)),
        },
    )
}

fn verdict(comparison: Result<(), String>) -> Verdict {
    comparison.map_or_else(Verdict::Failed, |()| Verdict::Passed)
}

fn compare(error: &ConfigError, stage: ConfigStage, wanted: &[WantedError]) -> Result<(), String> {
    if error.stage() != stage {
        return Err(format!(
            "failed at stage {:?} instead of {stage:?}: {error}",
            error.stage()
        ));
    }
    let ConfigError::Invalid(errors) = error else {
        // Before and after validation there is one error with one text, of which a case gives a part.
        let text = error.to_string();
        return match wanted {
            [only] if only.field.is_none() && text.contains(&only.detail) => Ok(()),
            _ => Err(format!("error {text:?} instead of {wanted:?}")),
        };
    };
    let all_match = errors.len() == wanted.len() && errors.iter().zip(wanted).all(|(got, want)| want.matches(got));
    if all_match {
        Ok(())
    } else {
        Err(format!("errors {errors} instead of {wanted:?}"))
    }
}

enum Expected {
    Ok,
    Error(ConfigStage, Vec<WantedError>),
}

#[derive(Debug)]
struct WantedError {
    field: Option<String>,
    kind: Option<FieldErrorKind>,
    detail: String,
}

impl WantedError {
    fn read(error: &Case<'_>) -> Result<Self, FormatError> {
        let kind = match error.optional_text("type")? {
            None => None,
            Some("required") => Some(FieldErrorKind::Required),
            Some("invalid") => Some(FieldErrorKind::Invalid),
            Some(other) => return Err(error.error("type", format!("unknown type {other:?}"))),
        };
        Ok(Self {
            field: error.optional_text("field")?.map(str::to_owned),
            kind,
            detail: error.text("detail")?.to_owned(),
        })
    }

    fn matches(&self, got: &FieldError) -> bool {
        self.field.as_ref().is_none_or(|field| *field == got.field)
            && self.kind.is_none_or(|kind| kind == got.kind)
            && got.detail.starts_with(&self.detail)
    }
}

impl Expected {
    fn read(case: &Case<'_>) -> Result<Self, FormatError> {
        let expect = case.object("expect")?;
        match expect.text("outcome")? {
            "ok" => Ok(Self::Ok),
            "error" => {
                let stage = match expect.text("stage")? {
                    "load" => ConfigStage::Load,
                    "decode" => ConfigStage::Decode,
                    "validate" => ConfigStage::Validate,
                    "build" => ConfigStage::Build,
                    other => return Err(expect.error("stage", format!("unknown stage {other:?}"))),
                };
                let errors = expect
                    .objects("errors")?
                    .iter()
                    .map(WantedError::read)
                    .collect::<Result<_, _>>()?;
                Ok(Self::Error(stage, errors))
            }
            other => Err(expect.error("outcome", format!("unknown outcome {other:?}"))),
        }
    }
}

/// Reads the configuration that has these key services and nothing else.
fn read_services(case: &Case<'_>, services: Vec<Value>) -> Result<EncryptionConfiguration, FormatError> {
    let providers: Vec<Value> = services.into_iter().map(|kms| json!({ "kms": kms })).collect();
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{ "resources": ["secrets"], "providers": providers }],
    })
    .to_string();
    EncryptionConfiguration::parse(Path::new(PATH), text.as_bytes()).map_err(|error| case.error("provider", error))
}

pub(super) fn run_defaults(case: &Case<'_>) -> Result<Verdict, FormatError> {
    let out = case.object("out")?;
    let config = read_services(case, vec![case.require("in")?.clone()])?;
    let Some(got) = config
        .resources
        .first()
        .and_then(|entry| entry.providers.first())
        .and_then(|p| p.kms.as_ref())
    else {
        return Ok(Verdict::Failed("the provider was lost".to_owned()));
    };
    let KmsConfiguration {
        api_version,
        name,
        cachesize,
        endpoint,
        timeout,
    } = got;
    let wanted_timeout: GoDuration = out
        .text("timeout")?
        .parse()
        .map_err(|error| out.error("timeout", error))?;
    let wanted_cachesize = match out.get("cachesize") {
        None => None,
        Some(size) => Some(
            size.as_i64()
                .ok_or_else(|| out.error("cachesize", "expected a number"))?,
        ),
    };
    let as_wanted = api_version == out.text("apiVersion")?
        && name == out.text("name")?
        && endpoint == out.text("endpoint")?
        && *timeout == wanted_timeout
        && cachesize.map(i64::from) == wanted_cachesize;
    Ok(if as_wanted {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("defaults to {got:?}"))
    })
}

pub(super) fn run_hash(case: &Case<'_>) -> Result<Verdict, FormatError> {
    let input = case.text("input_utf8")?;
    let got = match case.text("kind")? {
        "metric_label" => hash::metric_label(input),
        "config_hash" => hash::content_hash(input.as_bytes()),
        other => return Ok(Verdict::Skipped(format!("no hash of kind {other:?}"))),
    };
    let want = case.text("out")?;
    Ok(if got == want {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("{got} instead of {want}"))
    })
}

pub(super) fn run_grace_period(case: &Case<'_>) -> Result<Verdict, FormatError> {
    let config = read_services(case, case.list("providers")?.to_vec())?;
    let got = config.close_grace_period();
    let want = Duration::from_secs(case.seconds("close_grace_period_seconds")?);
    let sum = Duration::from_secs(case.seconds("timeout_sum_seconds")?);
    // The period is twice the sum of the timeouts, so that comparing both also checks the case itself.
    let as_wanted = got == want && got == sum * 2;
    Ok(if as_wanted {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("{got:?} instead of {want:?}"))
    })
}
