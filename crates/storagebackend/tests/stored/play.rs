//! What recorded requests are to a storage: their queries as options, their revisions as ours, their statuses as errors.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use apiserver_registry::{StorageVerb, from_storage_error};
use apiserver_storage_api::{
    Collected, FieldSelector, KeyPrefix, LabelSelector, ListAt, ListOptions, ResourceInfo, Revision, Scope,
    SelectionPredicate, Storage, StorageError,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::data::text;

/// Recorded revisions that are no revision of anybody, but far ahead.
const FAR_AHEAD: u64 = 1_000_000_000;

/// Which of our revisions is the same point as a recorded one.
#[derive(Default)]
pub(crate) struct Points(BTreeMap<u64, Revision>);

impl Points {
    /// The recorded revision happened here at ours.
    pub(crate) fn note(&mut self, recorded: u64, ours: Revision) {
        self.0.insert(recorded, ours);
    }

    /// Ours for a recorded one: the same point, or the last one before it.
    pub(crate) fn at(&self, recorded: u64) -> Revision {
        let (_, ours) = self.0.range(..=recorded).next_back().expect("not before the beginning");
        *ours
    }

    /// The last point.
    pub(crate) fn last(&self) -> (u64, Revision) {
        let (recorded, ours) = self.0.last_key_value().expect("something happened");
        (*recorded, *ours)
    }

    /// A recorded resourceVersion as a client would send ours. What is no revision of that server stays what it is.
    pub(crate) fn version(&self, recorded: &str) -> String {
        let digits = recorded.trim_start_matches('0');
        match digits.parse::<u64>() {
            Ok(number) if number < FAR_AHEAD && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let zeros = &recorded[..recorded.len() - digits.len()];
                format!("{zeros}{}", self.at(number))
            }
            _ => recorded.to_owned(),
        }
    }

    /// A recorded token with our revision in it; what is no token stays what it is.
    pub(crate) fn token(&self, recorded: &str) -> String {
        let fields = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text)
                .ok()
                .and_then(|json| String::from_utf8(json).ok())
        };
        let Some(json) = fields(recorded) else {
            return recorded.to_owned();
        };
        let token: Value = serde_json::from_str(&json).unwrap_or_default();
        let version = token.get("rv").or(token.get("RV")).and_then(Value::as_u64);
        let json = match version.filter(|version| (1..FAR_AHEAD).contains(version)) {
            Some(version) => json.replace(&version.to_string(), &self.at(version).to_string()),
            None => json,
        };
        URL_SAFE_NO_PAD.encode(json)
    }
}

/// The query of a recorded request.
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Of a path with a query.
    pub(crate) fn of(path: &str) -> Self {
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (name.to_owned(), unescape(value)))
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What its selectors select.
    pub(crate) fn predicate(&self) -> SelectionPredicate {
        let labels = LabelSelector::parse(self.get("labelSelector").unwrap_or_default()).unwrap();
        let fields = FieldSelector::parse(self.get("fieldSelector").unwrap_or_default()).unwrap();
        SelectionPredicate::new(labels, fields)
    }

    /// The options of a list, with our revisions; `token` replaces the recorded one.
    pub(crate) fn list(&self, points: &Points, token: Option<&str>) -> Result<ListOptions, StorageError> {
        let limit = self
            .get("limit")
            .and_then(|limit| limit.parse().ok())
            .and_then(NonZeroU64::new);
        let version = points.version(self.get("resourceVersion").unwrap_or_default());
        let own = self.get("continue").map(|token| points.token(token));
        let token = token.map(str::to_owned).or(own);
        Ok(ListOptions {
            at: ListAt::parse(
                &version,
                self.get("resourceVersionMatch"),
                limit,
                token.as_deref(),
                true,
            )?,
            limit,
            predicate: self.predicate(),
            ..ListOptions::default()
        })
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// A text in hexadecimal digits.
pub(crate) fn unhex(digits: &str) -> String {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    String::from_utf8((0..digits.len()).step_by(2).map(byte).collect()).unwrap()
}

/// Namespace and name that a recorded path of a namespaced kind has.
pub(crate) fn place<'p>(info: &ResourceInfo, path: &'p str) -> (Option<&'p str>, Option<&'p str>) {
    let path = path.split('?').next().unwrap_or_default();
    let (before, name) = path
        .split_once(&format!("/{}", info.resource()))
        .expect("a path of the kind");
    let namespace = before.split_once("/namespaces/").map(|(_, namespace)| namespace);
    (namespace, name.strip_prefix('/'))
}

/// What a recorded path of a collection covers.
pub(crate) fn scope(info: &ResourceInfo, path: &str) -> Scope {
    match place(info, path).0 {
        None => Scope::all(info.prefix()),
        Some(namespace) => {
            let prefix = format!("{}{namespace}", info.prefix().as_str());
            Scope::Under(KeyPrefix::new(info.prefix(), &prefix).unwrap())
        }
    }
}

/// The list that a recorded request asks for.
pub(crate) async fn list(
    store: &dyn Storage,
    path: &str,
    points: &Points,
    token: Option<&str>,
) -> Result<Collected, StorageError> {
    let options = Query::of(path).list(points, token)?;
    store
        .list(&scope(store.resource(), path), options)
        .await?
        .collect()
        .await
}

/// Whether our error is what a recorded answer says: the same status, and the same reason where there is one.
#[track_caller]
pub(crate) fn expect_error(name: &str, error: StorageError, verb: StorageVerb, info: &ResourceInfo, answer: &Value) {
    let shown = format!("{error:?}");
    let error = from_storage_error(error, verb, info, "x");
    assert_eq!(answer["status"], error.code(), "{name}: {shown}");
    if let Some(reason) = answer["body"]["reason"].as_str() {
        assert_eq!(error.reason(), reason, "{name}: {shown}");
    }
}

/// What reads requests refuses this one before any storage is asked: a combination that makes no sense, or a limit that
/// is no number.
pub(crate) fn is_refused_above(recorded: &Value) -> bool {
    let query = Query::of(recorded["request"]["path"].as_str().unwrap_or_default());
    let limit = query.get("limit").is_some_and(|limit| limit.parse::<i64>().is_err());
    recorded["status"] == 422 || recorded["status"] == 400 && limit
}

/// A recorded number in a text or as itself.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| text(value).parse().expect("a number"))
}
