//! `cargo xtask test`: everything. `cargo test` over the whole workspace with a real etcd and kubectl at hand, the tests of
//! the etcd backend again on its other versions and on clusters, then the conformance check over what ran, then the
//! end-to-end scenarios.

mod matrix;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::record::{self, Executables, Outcome, Parser, Test};
use crate::section::Sections;
use crate::tools::{EtcdVersion, Tools};
use crate::workspace::{EVERYTHING, Workspace};
use crate::{conformance, e2e};

/// Options of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Which etcd: 3.4, 3.5 or newest (also: APISERVER_ETCD_VERSION).
    #[arg(long)]
    etcd_version: Option<EtcdVersion>,
}

/// `cargo xtask test`
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut sections = Sections::default();
    sections_of(workspace, options, &mut sections);
    sections.finish("test")
}

/// The parts of the task, for `ci` to include.
pub(crate) fn sections_of(workspace: &Workspace, options: &Options, sections: &mut Sections) {
    let mut tools = None;
    let got = sections.run("tools: protoc, etcd, kubectl", || {
        let found = Tools::obtain(workspace, EtcdVersion::choose(options.etcd_version)?)?;
        println!("etcd {}\nkubectl {}", found.etcd.display(), found.kubectl.display());
        tools = Some(found);
        Ok(())
    });
    let Some(tools) = tools.filter(|_| got) else { return };
    let mut built = None;
    let compiled = sections.run("build: all tests and the server", || {
        built = Some(build(workspace, &tools)?);
        Ok(())
    });
    let Some(built) = built.filter(|_| compiled) else {
        return;
    };
    let mut tests = Vec::new();
    sections.run("tests", || run_tests(workspace, &tools, &built.executables, &mut tests));
    matrix::sections_of(workspace, &tools, &built.executables, &mut tests, sections);
    sections.run("record of the tests", || sum_up(workspace, &tests));
    sections.run("conformance", || {
        conformance::run(workspace, &conformance::Options::after_a_run())
    });
    sections.run("e2e", || {
        e2e::run_with(workspace, &tools, &built.server, &e2e::Options::default())
    });
}

/// What compiling everything gave.
#[derive(Debug)]
struct Built {
    executables: Executables,
    server: PathBuf,
}

/// Compiles all tests, and the server with the same features; the harness of each test becomes known by package.
fn build(workspace: &Workspace, tools: &Tools) -> Result<Built> {
    let mut command = workspace.cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]);
    command.args(EVERYTHING);
    tools.export(&mut command);
    let mut executables = Executables::new();
    for message in messages(&mut command)? {
        if let (Some(path), true) = (message["executable"].as_str(), message["profile"]["test"] == true) {
            let package = package_of(&message).context("cargo names no package for a test")?;
            let target = message["target"]["name"].as_str().unwrap_or_default();
            executables.insert(path.into(), (package, target.into()));
        }
    }
    Ok(Built {
        executables,
        server: build_server(workspace, tools)?,
    })
}

/// The server binary, built with exactly the features of the tests, so that nothing is compiled twice.
pub(crate) fn build_server(workspace: &Workspace, tools: &Tools) -> Result<PathBuf> {
    // `--examples` makes cargo resolve features with dev-dependencies, as it does for tests.
    let mut command = workspace.cargo(&[
        "build",
        "--bin",
        "apiserver",
        "--examples",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(EVERYTHING);
    tools.export(&mut command);
    let is_server = |message: &Value| message["target"]["name"] == "apiserver" && message["executable"].is_string();
    let server = messages(&mut command)?
        .into_iter()
        .find(is_server)
        .context("cargo built no binary named apiserver")?;
    Ok(server["executable"].as_str().unwrap_or_default().into())
}

/// Runs a cargo command whose standard output is JSON messages, one a line.
fn messages(command: &mut Command) -> Result<Vec<Value>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut messages = Vec::new();
    for line in BufReader::new(output).lines() {
        messages.extend(serde_json::from_str(&line?));
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "cargo ended with {status}");
    Ok(messages)
}

/// `path+file:///x/crates/registry#apiserver-registry@0.1.0` and `path+file:///x/xtask#0.1.0` both name a package.
fn package_of(message: &Value) -> Option<String> {
    let id = message["package_id"].as_str()?;
    let (path, fragment) = id.rsplit_once('#')?;
    match fragment.rsplit_once('@') {
        Some((name, _)) => Some(name.to_owned()),
        None => path.rsplit('/').next().map(str::to_owned),
    }
}

fn run_tests(workspace: &Workspace, tools: &Tools, executables: &Executables, tests: &mut Vec<Test>) -> Result<()> {
    record::clear(workspace)?;
    let mut command = workspace.cargo(&["test", "--no-fail-fast", "--color=never"]);
    command.args(EVERYTHING);
    tools.export(&mut command);
    let mut log = File::create(record::folder(workspace).join("cargo-test.log"))?;
    let mut parser = Parser::new(workspace.root(), executables);
    let status = follow(command, &mut parser, &mut log).context("cargo test")?;
    let failed = failures(&parser.tests);
    tests.append(&mut parser.tests);
    if !status.success() || failed > 0 {
        bail!("cargo test ended with {status}, {failed} tests failed");
    }
    Ok(())
}

/// Runs a command that runs tests, showing what it prints; the parser and the log get it too.
fn follow(mut command: Command, parser: &mut Parser<'_>, log: &mut File) -> Result<ExitStatus> {
    // One pipe for both streams: cargo's headings are on one, the tests' lines on the other, and their order matters.
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot be started")?;
    // The command holds the writing ends; while they are open the pipe has no end.
    drop(command);
    let mut lines = BufReader::new(reader).split(b'\n');
    while let Some(line) = lines.next().transpose()? {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        writeln!(log, "{line}")?;
        parser.line(&line);
    }
    Ok(child.wait()?)
}

fn count(tests: &[Test], outcome: Outcome) -> usize {
    tests.iter().filter(|test| test.outcome == outcome).count()
}

fn failures(tests: &[Test]) -> usize {
    count(tests, Outcome::Failed)
}

/// Writes the record of all runs, and says how they went together.
fn sum_up(workspace: &Workspace, tests: &[Test]) -> Result<()> {
    record::write(workspace, tests)?;
    for test in tests.iter().filter(|test| test.outcome == Outcome::Failed) {
        println!("FAILED {} {} {}", test.package, test.target, test.name);
    }
    let (passed, failed, ignored) = (
        count(tests, Outcome::Ok),
        failures(tests),
        count(tests, Outcome::Ignored),
    );
    println!("all tests together: {passed} passed, {failed} failed, {ignored} ignored");
    anyhow::ensure!(failed == 0, "{failed} tests failed");
    anyhow::ensure!(passed > 0, "no test ran at all");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_package_is_found_in_both_forms_of_its_id() {
        for (id, want) in [
            (
                "path+file:///x/crates/registry#apiserver-registry@0.1.0",
                Some("apiserver-registry"),
            ),
            ("path+file:///x/xtask#0.1.0", Some("xtask")),
            ("nonsense", None),
        ] {
            assert_eq!(package_of(&json!({ "package_id": id })).as_deref(), want, "{id}");
        }
    }
}
