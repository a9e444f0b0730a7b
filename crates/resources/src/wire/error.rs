//! What can be wrong with a document. The texts name fields and types, never show values.

use std::fmt;

/// One step of the way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A field of a type.
    Field(&'static str),
    /// A key of a map.
    Key(String),
    /// A place in a list.
    Index(usize),
}

/// A field holds something else than its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError {
    /// From the field up to the root.
    reversed: Vec<Segment>,
    /// What belongs there.
    expected: &'static str,
    /// What is there.
    found: &'static str,
}

impl ShapeError {
    pub(crate) fn new(expected: &'static str, found: &'static str) -> Self {
        Self {
            reversed: Vec::new(),
            expected,
            found,
        }
    }

    /// The error as seen from one level further up.
    #[must_use]
    pub(crate) fn under(mut self, segment: Segment) -> Self {
        self.reversed.push(segment);
        self
    }

    /// The way from the root to the field.
    pub fn path(&self) -> impl Iterator<Item = &Segment> {
        self.reversed.iter().rev()
    }

    /// What belongs there.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        self.expected
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.path().enumerate() {
            match segment {
                Segment::Field(name) if index == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Key(key) => write!(f, "[{key:?}]")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        if !self.reversed.is_empty() {
            f.write_str(": ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for ShapeError {}

/// Why a document cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The kind is not built in.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// Group and version.
        api_version: String,
        /// The kind.
        kind: String,
    },
    /// A field holds something else than its type.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The text is no JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// The bytes are no protobuf message of this type.
    #[error("not a protobuf message: {0}")]
    Protobuf(String),
}
