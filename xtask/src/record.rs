//! What ran: the record of a test run, made from what `cargo test` prints.
//!
//! One line per test, `package<TAB>target<TAB>test<TAB>outcome`, in `target/test-run/tests.tsv`; `cargo xtask conformance`
//! reads it. The raw output stays beside it, in `cargo-test.log`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran and passed.
    Ok,
    /// It ran and failed.
    Failed,
    /// It was left out.
    Ignored,
}

/// One test of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    /// The package it belongs to.
    pub(crate) package: String,
    /// The target within the package: a library, a binary or a file of `tests/`.
    pub(crate) target: String,
    /// Its path within the target: `module::name`.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// All tests of a run, and when it ended.
#[derive(Debug)]
pub(crate) struct Record {
    /// The tests, in the order in which they ended.
    pub(crate) tests: Vec<Test>,
    /// Files changed later than this may hold tests that the run could not know.
    pub(crate) written: SystemTime,
}

/// Which package and target an executable belongs to.
pub(crate) type Executables = BTreeMap<PathBuf, (String, String)>;

/// The folder of the record.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join("test-run")
}

fn file(workspace: &Workspace) -> PathBuf {
    folder(workspace).join("tests.tsv")
}

/// Removes what an earlier run left, so that a broken run cannot be mistaken for a good one.
pub(crate) fn clear(workspace: &Workspace) -> Result<()> {
    let path = file(workspace);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::create_dir_all(folder(workspace)).context("cannot create the folder of the record")
}

/// Writes the record.
pub(crate) fn write(workspace: &Workspace, tests: &[Test]) -> Result<()> {
    let mut text = String::new();
    for test in tests {
        let outcome = match test.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Ignored => "ignored",
        };
        text.push_str(&[test.package.as_str(), &test.target, &test.name, outcome].join("\t"));
        text.push('\n');
    }
    std::fs::write(file(workspace), text).context("cannot write the record of the test run")
}

/// Reads the record, if a run left one.
pub(crate) fn read(workspace: &Workspace) -> Result<Option<Record>> {
    let path = file(workspace);
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(None);
    };
    let written = path.metadata()?.modified()?;
    let tests = text.lines().filter_map(|line| {
        let [package, target, name, outcome] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let test = |outcome| Test {
            package: package.into(),
            target: target.into(),
            name: name.into(),
            outcome,
        };
        Some(test(outcome_of(outcome)?))
    });
    Ok(Some(Record {
        tests: tests.collect(),
        written,
    }))
}

fn outcome_of(word: &str) -> Option<Outcome> {
    match word {
        "ok" => Some(Outcome::Ok),
        "FAILED" => Some(Outcome::Failed),
        "ignored" => Some(Outcome::Ignored),
        _ => None,
    }
}

/// Reads what cargo and the test harnesses print, line by line.
#[derive(Debug)]
pub(crate) struct Parser<'a> {
    root: &'a Path,
    executables: &'a Executables,
    current: Option<(String, String)>,
    /// The tests seen so far.
    pub(crate) tests: Vec<Test>,
}

impl<'a> Parser<'a> {
    /// A parser that knows which executable belongs to which package.
    pub(crate) fn new(root: &'a Path, executables: &'a Executables) -> Self {
        Self {
            root,
            executables,
            current: None,
            tests: Vec::new(),
        }
    }

    /// Takes one line.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ") {
            if let Some(path) = rest.rsplit_once('(').and_then(|(_, path)| path.strip_suffix(')')) {
                self.current = self.executables.get(&self.root.join(path)).cloned();
            }
        } else if let Some(library) = line.strip_prefix("Doc-tests ") {
            self.current = Some((library.replace('_', "-"), "doc".into()));
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            // `ignored` may be followed by a reason.
            let outcome = outcome_of(outcome.split([',', ' ']).next().unwrap_or_default());
            if let (Some((package, target)), Some(outcome)) = (&self.current, outcome) {
                let (package, target) = (package.clone(), target.clone());
                self.tests.push(Test {
                    package,
                    target,
                    name: name.into(),
                    outcome,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_attributed_to_the_package_of_their_executable() {
        let executables = Executables::from([
            (
                "/r/target/debug/deps/conformance-1a".into(),
                ("one".into(), "conformance".into()),
            ),
            (
                "/r/target/debug/deps/conformance-2b".into(),
                ("two".into(), "conformance".into()),
            ),
        ]);
        let mut parser = Parser::new(Path::new("/r"), &executables);
        for line in [
            "     Running tests/conformance.rs (target/debug/deps/conformance-2b)",
            "running 3 tests",
            "test a::works ... ok",
            "test a::fails ... FAILED",
            "test a::waits ... ignored, no clock",
            "     Running tests/conformance.rs (/r/target/debug/deps/conformance-1a)",
            "test b::works ... ok",
            "test result: ok. 1 passed; 0 failed",
            "   Doc-tests one_two",
            "test src/lib.rs - Thing (line 3) ... ok",
        ] {
            parser.line(line);
        }
        let seen: Vec<_> = parser
            .tests
            .iter()
            .map(|t| (t.package.as_str(), t.name.as_str(), t.outcome))
            .collect();
        assert_eq!(
            seen,
            [
                ("two", "a::works", Outcome::Ok),
                ("two", "a::fails", Outcome::Failed),
                ("two", "a::waits", Outcome::Ignored),
                ("one", "b::works", Outcome::Ok),
                ("one-two", "src/lib.rs - Thing (line 3)", Outcome::Ok),
            ]
        );
    }
}
