//! The etcd versions that the backend is promised for, beside the one of the main run: its tests on one server of each,
//! and the conformance suite on a cluster of three. What the main run compiled is run as it is.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{failures, follow};
use crate::record::{self, Executables, Parser, Test};
use crate::section::Sections;
use crate::tools::{EtcdVersion, Tools};
use crate::workspace::Workspace;

/// The lines of etcd that are promised; the main run may be on another one.
const PROMISED: [EtcdVersion; 2] = [OLDEST, EtcdVersion::Minor(3, 5)];
const OLDEST: EtcdVersion = EtcdVersion::Minor(3, 4);
const PACKAGE: &str = "apiserver-storage-etcd3";
/// The file of the package's tests that runs the suite.
const SUITE: &str = "conformance";
/// Its cases on the backend itself, and those of reads and watches through a cache, which are told of progress by one member
/// and ask another one where the store is. What encryption adds is the same however many servers there are.
const ON_CLUSTERS: [&str; 8] = [
    "plain::",
    "progress::",
    "cached::get::",
    "cached::list::",
    "cached::matrix::",
    "cached::watch::",
    "cached::counter::",
    "cached::history::",
];
/// Tests of caches, left out on servers whose reports of progress are not to be believed: a cache refuses there what it
/// cannot do (lists that go over into watches, minimal revisions that another kind moved), and those tests are about just
/// that. The releases of 3.4 that can be had by package or with a known checksum are all too old; they run where `$ETCD`
/// names a newer one.
const CACHES: [&str; 2] = ["cached", "caches"];
/// Tells the suite how many servers its clusters have.
const MEMBERS: &str = "APISERVER_ETCD_MEMBERS";

/// Adds a part per version and size. A version that cannot be had is a failed part.
pub(super) fn sections_of(
    workspace: &Workspace,
    main: &Tools,
    executables: &Executables,
    tests: &mut Vec<Test>,
    sections: &mut Sections,
) {
    let mut runs = Runs {
        workspace,
        executables,
        tests,
    };
    for version in PROMISED {
        let mut tools = None;
        sections.run(&format!("etcd {version}: tests of the backend on one server"), || {
            let found = main.with_etcd(workspace, version)?;
            println!("etcd {}", found.etcd.display());
            let found = tools.insert(found);
            if found.etcd == main.etcd {
                println!("the run before this was on it");
                return Ok(());
            }
            runs.run(found, version, 1)
        });
        let Some(tools) = tools else { continue };
        sections.run(&format!("etcd {version}: conformance suite on three servers"), || {
            runs.run(&tools, version, 3)
        });
    }
}

struct Runs<'a> {
    workspace: &'a Workspace,
    executables: &'a Executables,
    tests: &'a mut Vec<Test>,
}

impl Runs<'_> {
    /// Runs the backend's tests on one server, or the suite on a cluster.
    fn run(&mut self, tools: &Tools, version: EtcdVersion, members: u32) -> Result<()> {
        let name = format!("etcd-{version}-members-{members}");
        let mut log = File::create(record::folder(self.workspace).join(format!("{name}.log")))?;
        let mut bad = Vec::new();
        let caches = tools.etcd_reports_progress()?;
        if !caches {
            println!("this etcd reports no progress that can be believed: tests of caches are left out");
        }
        let chosen = |target: &str| {
            if members == 1 {
                is_file_of_tests(target)
            } else {
                target == SUITE
            }
        };
        for (path, (package, target)) in self.executables {
            if package != PACKAGE || !chosen(target) {
                continue;
            }
            let mut parser = Parser::new(self.workspace.root(), self.executables);
            // What cargo prints before each executable.
            parser.line(&format!("Running tests/{target}.rs ({})", path.display()));
            let command = self.command(tools, path, members, caches);
            let status = follow(command, &mut parser, &mut log).with_context(|| path.display().to_string())?;
            if !status.success() || failures(&parser.tests) > 0 || parser.tests.is_empty() {
                bad.push(format!("{target}: {status}"));
            }
            let named = |test: Test| Test {
                target: format!("{target}@{name}"),
                ..test
            };
            self.tests.extend(parser.tests.into_iter().map(named));
        }
        anyhow::ensure!(bad.is_empty(), "{}", bad.join(", "));
        let ran = self.tests.iter().any(|test| test.target.ends_with(&name));
        anyhow::ensure!(ran, "no test of {PACKAGE} was found");
        Ok(())
    }

    fn command(&self, tools: &Tools, executable: &Path, members: u32, caches: bool) -> Command {
        let mut command = Command::new(executable);
        // As cargo starts them, but more at a time: starting servers is mostly waiting.
        let folder = PACKAGE.strip_prefix("apiserver-").unwrap_or(PACKAGE);
        let threads = std::thread::available_parallelism().map_or(2, usize::from) * 3;
        command
            .current_dir(self.workspace.root().join("crates").join(folder))
            .args(["--color=never", &format!("--test-threads={threads}")])
            .env(MEMBERS, members.to_string());
        if members > 1 {
            command.args(ON_CLUSTERS);
        }
        if !caches {
            command.args(CACHES.iter().flat_map(|tests| ["--skip", tests]));
        }
        tools.export(&mut command);
        command
    }
}

/// Unit tests, which are in the library, know of no server.
fn is_file_of_tests(target: &str) -> bool {
    target != PACKAGE.replace('-', "_")
}
