//! A cell of a row: a value, or a text that tells how long ago something was.

use jiff::Timestamp;
use serde_json::Value;

use super::human_duration;
use crate::fieldvalidation::parse_time;

/// One cell, whatever the time.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A value that stays.
    Fixed(Value),
    /// A text with a duration in it: that from a time until whoever reads it.
    Since {
        /// What stands before the duration.
        before: String,
        /// The time, in seconds since 1970.
        at: i64,
        /// What stands behind the duration.
        after: &'static str,
    },
}

impl Cell {
    pub(super) const NULL: Self = Self::Fixed(Value::Null);

    /// The duration since a time.
    pub(super) fn since(at: Timestamp) -> Self {
        Self::Since {
            before: String::new(),
            at: at.as_second(),
            after: "",
        }
    }

    /// Puts texts around a duration; a value stays as it is.
    pub(super) fn between(self, before: String, after: &'static str) -> Self {
        match self {
            Self::Since { at, .. } => Self::Since { before, at, after },
            fixed @ Self::Fixed(_) => fixed,
        }
    }

    /// What is shown at a time.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Since { before, at, after } => {
                let duration = human_duration(now.as_second() - at);
                format!("{before}{duration}{after}").into()
            }
        }
    }
}

/// The age at a time in text form; `<unknown>` without one.
pub(super) fn age(time: &str) -> Cell {
    match parse_time(time) {
        Some(at) if !time.starts_with("0001-01-01T00:00:00") => Cell::since(at),
        _ => "<unknown>".into(),
    }
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        Self::Fixed(value)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Fixed(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Fixed(text.into())
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Fixed(number.into())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Fixed(number.into())
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Fixed(flag.into())
    }
}
