//! Steps: each printed with its time, failures collected.

use std::time::Instant;

use anyhow::{Context, Result, bail};

/// What passed and what failed so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    scenario: String,
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
}

impl Report {
    /// Runs a scenario. An error that it returns means that it could not go on, and counts as a failed step.
    pub(super) fn scenario(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        println!("\n-- {name}");
        name.clone_into(&mut self.scenario);
        let start = Instant::now();
        let failed_before = self.failed.len();
        if let Err(error) = run(self) {
            // A failed `need` has been reported as a step already.
            if self.failed.len() == failed_before {
                self.note("scenario", start, Some(&error));
            }
        }
        let outcome = if self.failed.len() == failed_before {
            "ok"
        } else {
            "FAILED"
        };
        println!("-- {name}: {outcome}, {:.1} s", start.elapsed().as_secs_f64());
    }

    /// Runs a step and goes on whatever comes of it.
    pub(super) fn step(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let error = run().err();
        self.note(name, start, error.as_ref());
    }

    /// Runs a step whose result the rest of the scenario cannot do without.
    pub(super) fn need<T>(&mut self, name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = run();
        self.note(name, start, result.as_ref().err());
        result.with_context(|| name.to_owned())
    }

    /// Says that the rest of the scenario cannot be tried on this machine.
    pub(super) fn skip(&mut self, reason: &str) {
        self.skipped += 1;
        println!("  skipped: {reason}");
    }

    fn note(&mut self, name: &str, start: Instant, error: Option<&anyhow::Error>) {
        let time = start.elapsed().as_secs_f64();
        match error {
            None => {
                self.passed += 1;
                println!("  ok   {time:6.2} s  {name}");
            }
            Some(error) => {
                println!("  FAIL {time:6.2} s  {name}: {error:#}");
                self.failed.push(format!("{}: {name}", self.scenario));
            }
        }
    }

    /// The number of steps, all passed; an error when one failed.
    pub(super) fn finish(&self) -> Result<usize> {
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped);
        println!("\ne2e: {passed} steps passed, {failed} failed, {skipped} scenarios skipped");
        for name in &self.failed {
            println!("  FAILED {name}");
        }
        if !self.failed.is_empty() {
            bail!("{} end-to-end steps failed", self.failed.len());
        }
        Ok(self.passed)
    }
}

/// An error that shows both values, when they differ.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<()> {
    anyhow::ensure!(found == expected, "expected {expected:?}, found {found:?}");
    Ok(())
}

/// An error that shows the text, when it lacks the part.
pub(super) fn contains(text: &str, part: &str) -> Result<()> {
    anyhow::ensure!(text.contains(part), "expected something with {part:?}, found {text:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_run_and_hides_nothing() {
        let mut report = Report::default();
        report.scenario("first", |report| {
            report.step("bad", || bail!("no"));
            report.step("good", || Ok(()));
            Ok(())
        });
        report.scenario("second", |report| {
            report.need("needed", || -> Result<()> { bail!("gone") })?;
            report.step("never reached", || Ok(()));
            Ok(())
        });
        report.scenario("third", |_| bail!("cannot start"));
        assert_eq!(report.failed, ["first: bad", "second: needed", "third: scenario"]);
        assert_eq!(report.passed, 1);
        assert!(report.finish().is_err());
    }

    #[test]
    fn a_run_without_failures_passes() {
        let mut report = Report::default();
        report.scenario("only", |report| {
            report.step("good", || Ok(()));
            Ok(())
        });
        assert_eq!(report.finish().expect("all passed"), 1);
    }
}
