//! `cargo xtask vectors FILE...`: replays recorded vectors of stored values and encryption configurations.
//!
//! One line per failing case, then the count over all files. Exit status 0 when no case failed, 1 when one did, 2 when a
//! file cannot be read or is not a vector file; no case is run then.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use apiserver_storage_transform::vectors::{Counts, Report, Verdict, replay};

/// Replays every file.
///
/// # Errors
///
/// None that the exit status does not already say; the signature is that of all tasks.
pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    if files.is_empty() {
        eprintln!("error: no vector file given");
        return Ok(ExitCode::from(2));
    }
    let mut reports = Vec::new();
    for file in files {
        match read(file) {
            Ok(report) => reports.push((file, report)),
            Err(error) => {
                eprintln!("error: {error:#}");
                return Ok(ExitCode::from(2));
            }
        }
    }
    let mut counts = Counts::default();
    for (file, report) in &reports {
        for case in &report.cases {
            if let Verdict::Failed(reason) = &case.verdict {
                println!(
                    "FAIL {} {}/{}: {}",
                    file.display(),
                    case.list,
                    case.name,
                    one_line(reason)
                );
            }
        }
        counts += report.counts();
    }
    println!("{counts}");
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn read(file: &PathBuf) -> anyhow::Result<Report> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    replay(&text).with_context(|| format!("{} is not a vector file", file.display()))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
