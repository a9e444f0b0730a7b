//! Headings on the console, and how long what follows them took.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs named parts one after the other, goes on after a failure, and sums up at the end.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    done: Vec<(String, Duration, Option<anyhow::Error>)>,
}

impl Sections {
    /// Runs one part under a heading. Returns whether it went well.
    pub(crate) fn run(&mut self, name: &str, part: impl FnOnce() -> Result<()>) -> bool {
        println!("\n==== {name}");
        let start = Instant::now();
        let error = part().err();
        let time = start.elapsed();
        match &error {
            None => println!("==== {name}: ok, {}", seconds(time)),
            Some(error) => println!("==== {name}: FAILED, {}: {error:#}", seconds(time)),
        }
        let good = error.is_none();
        self.done.push((name.to_owned(), time, error));
        good
    }

    /// Prints the table of all parts; an error when one of them failed.
    pub(crate) fn finish(self, task: &str) -> Result<()> {
        println!("\n==== {task}: summary");
        for (name, time, error) in &self.done {
            println!(
                "{:>6}  {:>9}  {name}",
                if error.is_some() { "FAILED" } else { "ok" },
                seconds(*time)
            );
        }
        let failed: Vec<_> = self
            .done
            .iter()
            .filter(|part| part.2.is_some())
            .map(|part| part.0.as_str())
            .collect();
        anyhow::ensure!(failed.is_empty(), "{task} failed: {}", failed.join(", "));
        Ok(())
    }
}

/// A duration for people.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
