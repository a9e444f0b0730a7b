//! `cargo xtask ci`: what must hold before a change lands; `--full` adds what is slow to compile.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::section::Sections;
use crate::workspace::{EVERYTHING, Workspace};
use crate::{edges, process, publish, test, tidy, tools};

/// Tools of the full run, pinned.
const CARGO_HACK: (&str, &str) = ("cargo-hack@0.6.46", "cargo-hack");
const CARGO_DENY: (&str, &str) = ("cargo-deny@0.20.2", "cargo-deny");

/// Seeds that the simulation of the cache runs with.
const SIMULATED_SEEDS: &str = "10000";

/// `cargo xtask ci`
pub(crate) fn run(workspace: &Workspace, full: bool) -> Result<()> {
    let mut sections = Sections::default();
    sections.run("fmt", || {
        process::run(&mut workspace.cargo(&["fmt", "--all", "--check"]))
    });
    sections.run("edges", || edges::run(workspace));
    sections.run("tidy", || tidy::run(workspace));
    test::sections_of(workspace, &test::Options::default(), &mut sections);
    sections.run("clippy", || clippy(workspace));
    if full {
        sections.run("docs", || docs(workspace));
        sections.run("fresh machine: default members build without protoc", || {
            fresh_machine(workspace)
        });
        sections.run("each feature alone", || each_feature(workspace));
        sections.run("oldest supported Rust", || msrv(workspace));
        sections.run("minimal versions", || minimal_versions(workspace));
        sections.run("deny", || deny(workspace));
        sections.run("packages", || publish::run(workspace, true));
        sections.run("simulation of the cache: 10,000 seeds", || simulation(workspace));
    }
    sections.finish(if full { "ci --full" } else { "ci" })
}

/// A cargo call that can build the etcd backend.
fn cargo_with_protoc(workspace: &Workspace, arguments: &[&str]) -> Result<Command> {
    let mut command = workspace.cargo(arguments);
    command.env("PROTOC", tools::protoc(workspace)?);
    Ok(command)
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut command = cargo_with_protoc(workspace, &["clippy", "--all-targets"])?;
    process::run(command.args(EVERYTHING).args(["--", "-D", "warnings"]))
}

/// k8s-openapi asks the final program for a version of Kubernetes. Tests choose one as a dev-dependency; where the
/// crates are built with all features but without tests, this variable stands in for a program.
fn as_a_program(command: &mut Command) -> &mut Command {
    command.env("K8S_OPENAPI_ENABLED_VERSION", "1.35")
}

fn docs(workspace: &Workspace) -> Result<()> {
    let mut command = cargo_with_protoc(workspace, &["doc", "--no-deps"])?;
    process::run(as_a_program(command.args(EVERYTHING)).env("RUSTDOCFLAGS", "-D warnings"))
}

/// What a newcomer's first `cargo build` and rust-analyzer do: no protoc anywhere.
fn fresh_machine(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo(&["check"]);
    process::run(
        command
            .env("PROTOC", "/nonexistent/protoc")
            .env("CARGO_TARGET_DIR", side(workspace, "fresh")),
    )
}

fn each_feature(workspace: &Workspace) -> Result<()> {
    let hack = tools::cargo_tool(workspace, CARGO_HACK.0, CARGO_HACK.1, &[])?;
    let mut command = cargo_with_protoc(
        workspace,
        &["hack", "check", "--workspace", "--each-feature", "--no-dev-deps"],
    )?;
    process::run(with_tool(as_a_program(&mut command), &hack)?)
}

fn msrv(workspace: &Workspace) -> Result<()> {
    let metadata = workspace.metadata(&["--no-deps"])?;
    let package = metadata["packages"].as_array().and_then(|packages| packages.first());
    let version = package
        .and_then(|package| package["rust_version"].as_str())
        .context("no rust-version is stated")?;
    anyhow::ensure!(
        process::find_in_path("rustup").is_some(),
        "rustup is needed to get Rust {version}: install it"
    );
    let mut install = process::command(
        "rustup",
        &[
            "toolchain",
            "install",
            version,
            "--profile",
            "minimal",
            "--no-self-update",
        ],
    );
    process::run(&mut install).with_context(|| format!("cannot get Rust {version}"))?;
    let mut command = workspace.cargo_of(version, &["check", "--locked"]);
    command.args(EVERYTHING).env("PROTOC", tools::protoc(workspace)?);
    process::run(as_a_program(&mut command).env("CARGO_TARGET_DIR", side(workspace, "msrv")))
}

/// Checks that the version requirements are not too low: the direct dependencies at the oldest versions that they allow.
fn minimal_versions(workspace: &Workspace) -> Result<()> {
    let copy = side(workspace, "minimal-versions-source");
    std::fs::remove_dir_all(&copy).ok();
    for file in workspace.files()? {
        let to = copy.join(workspace.relative(&file));
        std::fs::create_dir_all(to.parent().unwrap_or(Path::new("")))?;
        std::fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let mut update = workspace.cargo(&["update", "-Z", "direct-minimal-versions"]);
    // The flag is for nightly only, and this run compiles nothing.
    process::run(update.env("RUSTC_BOOTSTRAP", "1").current_dir(&copy))?;
    let mut check = cargo_with_protoc(workspace, &["check", "--locked"])?;
    check
        .args(EVERYTHING)
        .env("CARGO_TARGET_DIR", side(workspace, "minimal-versions"));
    process::run(as_a_program(&mut check).current_dir(&copy))
}

/// The cache under faults, in many more orders of events than every run of the tests tries. A seed that fails is named.
fn simulation(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo(&["test", "--release", "-p", "apiserver-storage-cacher", "--lib"]);
    process::run(
        command
            .args(["sim::", "--", "--nocapture"])
            .env("SIM_SEEDS", SIMULATED_SEEDS),
    )
}

fn deny(workspace: &Workspace) -> Result<()> {
    let deny = tools::cargo_tool(workspace, CARGO_DENY.0, CARGO_DENY.1, &[])?;
    let mut command = workspace.cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"]);
    process::run(with_tool(&mut command, &deny)?)?;
    // The advisories are a git repository elsewhere, and they change without us; a finding is a warning here, and the
    // workflow for it runs on a schedule.
    let mut advisories = workspace.cargo(&["deny", "--all-features", "check", "advisories"]);
    if let Err(error) = process::run(with_tool(&mut advisories, &deny)?) {
        println!("advisories: {error:#}");
    }
    Ok(())
}

/// Lets cargo find a subcommand that lies in the tools folder.
fn with_tool<'a>(command: &'a mut Command, tool: &Path) -> Result<&'a mut Command> {
    let folder = tool.parent().context("a tool has a folder")?.to_owned();
    let old = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&old)))?;
    Ok(command.env("PATH", path))
}

/// A target directory of its own, for what is compiled differently.
fn side(workspace: &Workspace, name: &str) -> std::path::PathBuf {
    workspace.target().join(name)
}
