//! `cases`: stored values to read and plaintext to write.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::Verdict;
use super::case::Case;
use super::feed::Feed;
use super::file::FormatError;
use crate::config::{BuildError, ConfigError, ConfigOptions, GroupResource, Transformers};
use crate::error::TransformError;
use crate::transformer::{DataContext, Decrypted, Outcome, Transformer};

/// The inputs that writers draw from the random source, in the order in which they do.
const DRAWN: [&str; 3] = ["info", "iv", "nonce"];

pub(super) fn run(case: &Case<'_>) -> Result<Verdict, FormatError> {
    let feed = Arc::new(Feed::new(drawn(case)?));
    let config = case.require("config")?.to_string();
    let options = ConfigOptions::default()
        .with_kms_v1(true)
        .with_random(Arc::<Feed>::clone(&feed));
    let transformers = match Transformers::parse(Path::new(case.name()), config.as_bytes(), &options) {
        Ok(transformers) => transformers,
        Err(ConfigError::Build(error @ BuildError::Unsupported { .. })) => {
            return Ok(Verdict::Skipped(error.to_string()));
        }
        Err(error) => return Ok(Verdict::Failed(format!("the configuration was refused: {error}"))),
    };
    let expected = Expected::read(case)?;
    let resource = GroupResource::parse(case.text("resource")?);
    let transformer = transformers.for_resource(&resource.group, &resource.resource);
    let key = case.text("storage_key")?;
    let op = case.text("op")?;
    let outcome = match op {
        "read" => read(case, transformer.as_ref(), key, &expected)?,
        "write" => write(case, transformer.as_ref(), key, &expected)?,
        "roundtrip" => match write(case, transformer.as_ref(), key, &expected.written_fresh())? {
            Ok(()) => read(case, transformer.as_ref(), key, &expected)?,
            failure => failure,
        },
        other => return Err(case.error("op", format!("unknown operation {other:?}"))),
    };
    Ok(match outcome {
        Err(reason) => Verdict::Failed(reason),
        Ok(()) if op != "read" && feed.has_rest() && !expected.is_error() => {
            Verdict::Failed("a prescribed random value was not used".to_owned())
        }
        Ok(()) => Verdict::Passed,
    })
}

/// What was compared: `Err` says what is not as expected.
type Comparison = Result<(), String>;

fn drawn(case: &Case<'_>) -> Result<Vec<Vec<u8>>, FormatError> {
    if case.get("inputs").is_none() {
        return Ok(Vec::new());
    }
    let inputs = case.object("inputs")?;
    DRAWN
        .iter()
        .filter_map(|name| inputs.optional_bytes(name).transpose())
        .collect()
}

fn read(
    case: &Case<'_>,
    transformer: &dyn Transformer,
    key: &str,
    expected: &Expected,
) -> Result<Comparison, FormatError> {
    let stored = stored(case)?;
    let ctx = DataContext::new(key);
    let result = finish(transformer.transform_from_storage(Bytes::from(stored), &ctx));
    Ok(match (&expected.outcome, result) {
        (_, Err(error)) => expected.check_error("read", &error),
        (Wanted::Error { .. }, Ok(_)) => Err("read: succeeded, an error was expected".to_owned()),
        (Wanted::Value { stale }, Ok(Decrypted { bytes, stale: got, .. })) => {
            let want = case.bytes("plaintext_hex")?;
            compare("read: plaintext", &bytes, &want).and_then(|()| match (stale, got) {
                (true, false) => Err("read: not stale, stale was expected".to_owned()),
                (false, true) => Err("read: stale, not stale was expected".to_owned()),
                _ => Ok(()),
            })
        }
    })
}

fn write(
    case: &Case<'_>,
    transformer: &dyn Transformer,
    key: &str,
    expected: &Expected,
) -> Result<Comparison, FormatError> {
    let plaintext = case.bytes("plaintext_hex")?;
    let ctx = DataContext::new(key);
    let result = finish(transformer.transform_to_storage(Bytes::from(plaintext), &ctx));
    Ok(match (&expected.outcome, result) {
        (_, Err(error)) => expected.check_error("write", &error),
        (Wanted::Error { .. }, Ok(_)) => Err("write: succeeded, an error was expected".to_owned()),
        (Wanted::Value { .. }, Ok(bytes)) if case.get("stored_hex").is_some() => {
            compare("write: stored bytes", &bytes, &stored(case)?)
        }
        // Without bytes to compare with, what was written must at least be read back, and be fresh.
        (Wanted::Value { .. }, Ok(bytes)) => match finish(transformer.transform_from_storage(bytes, &ctx)) {
            Ok(back) if back.stale => Err("write: what was written is stale".to_owned()),
            Ok(back) => compare("write: read back", &back.bytes, &case.bytes("plaintext_hex")?),
            Err(error) => Err(format!("write: what was written cannot be read: {error}")),
        },
    })
}

fn stored(case: &Case<'_>) -> Result<Vec<u8>, FormatError> {
    let stored = case.bytes("stored_hex")?;
    match case.get("stored_len").map(serde_json::Value::as_u64) {
        Some(len) if len != Some(stored.len() as u64) => {
            Err(case.error("stored_len", "is not the length of stored_hex"))
        }
        _ => Ok(stored),
    }
}

/// Only the place of the difference: the bytes of a case are as long as an object.
fn compare(what: &str, got: &[u8], want: &[u8]) -> Comparison {
    if got == want {
        return Ok(());
    }
    let at = got.iter().zip(want).take_while(|(a, b)| a == b).count();
    Err(format!(
        "{what}: {} bytes instead of {}, different from byte {at}",
        got.len(),
        want.len()
    ))
}

/// The answer of a transformer. Stub key services answer at once, so a future that waits is a failure of the case.
fn finish<T>(outcome: Outcome<'_, Result<T, TransformError>>) -> Result<T, TransformError> {
    match pin!(outcome.into_future()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(TransformError::with_message(
            crate::ErrorKind::Unavailable,
            "the transformer waits for something that never comes",
        )),
    }
}

/// What a case expects of its operation.
struct Expected {
    outcome: Wanted,
    /// Refusing the value is as good as reading it.
    may_reject: bool,
}

enum Wanted {
    Value { stale: bool },
    Error { kind: String, kinds: Option<Vec<String>> },
}

impl Expected {
    fn read(case: &Case<'_>) -> Result<Self, FormatError> {
        let expect = case.object("expect")?;
        let outcome = match expect.text("outcome")? {
            "ok" => Wanted::Value { stale: false },
            "stale" => Wanted::Value { stale: true },
            "error" => {
                let text = |value: &serde_json::Value| {
                    value
                        .as_str()
                        .map(str::to_owned)
                        .ok_or_else(|| expect.error("errors", "expected strings"))
                };
                let kinds = match expect.get("errors") {
                    None => None,
                    Some(_) => Some(expect.list("errors")?.iter().map(text).collect::<Result<_, _>>()?),
                };
                Wanted::Error {
                    kind: expect.text("error_kind")?.to_owned(),
                    kinds,
                }
            }
            other => return Err(expect.error("outcome", format!("unknown outcome {other:?}"))),
        };
        let may_reject = match expect.optional_text("compat")? {
            None => false,
            Some("may_reject") => true,
            Some(other) => return Err(expect.error("compat", format!("unknown value {other:?}"))),
        };
        Ok(Self { outcome, may_reject })
    }

    fn is_error(&self) -> bool {
        matches!(self.outcome, Wanted::Error { .. })
    }

    /// What the write half of a round trip expects: the stored bytes, whatever the read half expects.
    fn written_fresh(&self) -> Self {
        Self {
            outcome: Wanted::Value { stale: false },
            may_reject: false,
        }
    }

    fn check_error(&self, what: &str, error: &TransformError) -> Comparison {
        let got = error.kind().as_str();
        match &self.outcome {
            Wanted::Value { .. } if self.may_reject => Ok(()),
            Wanted::Value { .. } => Err(format!("{what}: failed with {got}: {error}")),
            Wanted::Error { kind, .. } if kind != got => Err(format!("{what}: error {got} instead of {kind}")),
            Wanted::Error { kinds: Some(kinds), .. } => {
                let got: Vec<&str> = error.causes().iter().map(|cause| cause.kind().as_str()).collect();
                if got == *kinds {
                    Ok(())
                } else {
                    Err(format!("{what}: errors {got:?} instead of {kinds:?}"))
                }
            }
            Wanted::Error { .. } => Ok(()),
        }
    }
}
