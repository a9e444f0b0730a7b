//! Replays recorded test vectors of the format `kubernetes-storage-transform-vectors`.
//!
//! A file holds lists of cases: stored values to read and write, configurations with the errors they must give,
//! defaults, hashes and grace periods. Each case passes, fails with a reason, or is skipped because this build does not
//! have what it needs. A skipped case never counts as passed. Nothing here knows a case by its name.

mod case;
mod config_case;
mod feed;
mod file;
mod value_case;

use std::fmt;

pub use self::file::FormatError;

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Everything the case expects was compared and is so.
    Passed,
    /// Something is not as expected.
    Failed(String),
    /// This build cannot run the case.
    Skipped(String),
}

/// One case and what became of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CaseReport {
    /// The list the case stands in.
    pub list: String,
    /// The name of the case.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of all cases of a file.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The cases, in the order of the file's lists.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// How many cases passed, failed and were skipped.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for case in &self.cases {
            match case.verdict {
                Verdict::Passed => counts.passed += 1,
                Verdict::Failed(_) => counts.failed += 1,
                Verdict::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }
}

/// How many cases ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped.
    pub skipped: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs every case of a vector file.
///
/// # Errors
///
/// The text is not a vector file; no case is reported then. A single malformed case is reported as failed.
pub fn replay(text: &[u8]) -> Result<Report, FormatError> {
    file::replay(text)
}
