//! The real kubectl against one server, with no configuration of the user's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report::contains;
use crate::process::{self, Owned};

const CALL: Duration = Duration::from_secs(60);

/// kubectl with a home of its own.
#[derive(Debug)]
pub(super) struct Kubectl {
    program: PathBuf,
    /// Flags before every command line; without `--server` it goes where a bare kubectl goes.
    flags: Vec<String>,
    home: PathBuf,
}

impl Kubectl {
    /// A kubectl whose caches lie in this folder.
    pub(super) fn new(program: &Path, server: Option<String>, folder: &Path) -> Result<Self> {
        let home = folder.join(format!("home-{}", process::next_number()));
        std::fs::create_dir_all(&home).context("cannot create a home for kubectl")?;
        let flags = server.map(|server| format!("--server={server}")).into_iter().collect();
        Ok(Self {
            program: program.to_owned(),
            flags,
            home,
        })
    }

    /// The same with further flags before every command line.
    pub(super) fn with_flags(mut self, flags: &[String]) -> Self {
        self.flags.extend_from_slice(flags);
        self
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", &self.home).current_dir(&self.home);
        for name in [
            "KUBECONFIG",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_SERVICE_PORT",
            "HTTP_PROXY",
            "http_proxy",
        ] {
            command.env_remove(name);
        }
        command.args(&self.flags);
        command.args(words(line));
        command
    }

    /// Runs it and returns what it prints. The line is split at blanks; quotes keep them.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        self.run_with(line, None)
    }

    /// Runs it with a manifest on standard input (`-f -`).
    pub(super) fn feed(&self, line: &str, manifest: &str) -> Result<String> {
        self.run_with(line, Some(manifest.as_bytes()))
    }

    fn run_with(&self, line: &str, input: Option<&[u8]>) -> Result<String> {
        let finished = process::bounded(&mut self.command(line), input, &self.home, CALL)?;
        ensure!(
            finished.status.success(),
            "kubectl {line}: {}{}",
            finished.stdout,
            finished.stderr.trim()
        );
        Ok(finished.stdout)
    }

    /// Runs it and wants this in what it prints.
    pub(super) fn prints(&self, line: &str, part: &str) -> Result<()> {
        contains(&self.run(line)?, part)
    }

    /// Runs it and wants it to print exactly this, apart from blanks at the ends.
    pub(super) fn prints_exactly(&self, line: &str, text: &str) -> Result<()> {
        super::report::same(self.run(line)?.trim(), text.trim())
    }

    /// Runs it and wants it to fail with this in its message.
    pub(super) fn fails(&self, line: &str, part: &str) -> Result<()> {
        self.fails_with(line, None, part)
    }

    /// Like [`Kubectl::fails`], with a manifest.
    pub(super) fn feed_fails(&self, line: &str, manifest: &str, part: &str) -> Result<()> {
        self.fails_with(line, Some(manifest.as_bytes()), part)
    }

    fn fails_with(&self, line: &str, input: Option<&[u8]>, part: &str) -> Result<()> {
        let finished = process::bounded(&mut self.command(line), input, &self.home, CALL)?;
        ensure!(
            !finished.status.success(),
            "kubectl {line} succeeded: {}",
            finished.stdout
        );
        contains(&finished.stderr, part)
    }

    /// Runs it with `-o json`.
    pub(super) fn json(&self, line: &str) -> Result<Value> {
        serde_json::from_str(&self.run(&format!("{line} -o json"))?).context("kubectl's JSON")
    }

    /// Starts it in the background.
    pub(super) fn spawn(&self, line: &str) -> Result<Background> {
        let path = self.home.join(format!("background-{}", process::next_number()));
        let file = File::create(&path)?;
        let mut command = self.command(line);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start kubectl {line}"))?;
        Ok(Background {
            child: Owned(child),
            path,
            line: line.to_owned(),
        })
    }
}

/// A kubectl in the background; it ends with its owner.
#[derive(Debug)]
pub(super) struct Background {
    child: Owned,
    path: PathBuf,
    line: String,
}

impl Background {
    /// What it has printed so far.
    pub(super) fn printed(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.path)?).into_owned())
    }

    /// Waits until it has printed so many lines, and returns all of them.
    pub(super) fn lines(&self, count: usize) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        process::wait_until(
            &format!("{count} lines of kubectl {}", self.line),
            Duration::from_secs(20),
            || {
                lines = self.printed()?.lines().map(str::to_owned).collect();
                ensure!(lines.len() >= count, "it printed {lines:?}");
                Ok(true)
            },
        )?;
        Ok(lines)
    }

    /// Waits for its end, which must be a success.
    pub(super) fn ends(mut self) -> Result<()> {
        let status = process::wait(&mut self.child.0, CALL).with_context(|| format!("kubectl {}", self.line))?;
        ensure!(status.success(), "kubectl {}: {}", self.line, self.printed()?);
        Ok(())
    }
}

/// Splits at blanks outside of single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_like_a_shell_does() {
        assert_eq!(words("get cm  -l a=b"), ["get", "cm", "-l", "a=b"]);
        assert_eq!(
            words("patch x -p '{\"a\": 1}' -o ''"),
            ["patch", "x", "-p", "{\"a\": 1}", "-o", ""]
        );
        assert_eq!(words("-o jsonpath='{.a b}'"), ["-o", "jsonpath={.a b}"]);
    }
}
