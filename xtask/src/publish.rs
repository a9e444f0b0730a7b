//! `cargo xtask publish`: the crates to crates.io, in the order of their arrows; `--check` only looks whether they could go.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::tools;
use crate::workspace::Workspace;

/// Compares public APIs, pinned.
const CARGO_SEMVER_CHECKS: (&str, &str) = ("cargo-semver-checks@0.51.0", "cargo-semver-checks");

/// What every published package must say about itself.
const FIELDS: [&str; 5] = ["description", "license", "repository", "readme", "rust_version"];

/// `cargo xtask publish`
pub(crate) fn run(workspace: &Workspace, only_check: bool) -> Result<()> {
    let metadata = workspace.metadata(&["--no-deps"])?;
    let packages: Vec<&Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| is_published(p))
        .collect();
    let wrong: Vec<String> = packages
        .iter()
        .flat_map(|package| check_metadata(package))
        .chain(one_version(&packages))
        .collect();
    for line in &wrong {
        println!("publish: {line}");
    }
    if !wrong.is_empty() {
        bail!("{} findings in the packages' metadata", wrong.len());
    }
    let protoc = tools::protoc(workspace)?;
    let mut command = match only_check {
        // Building from the packages is what the tests of a release do; here the contents count.
        true => workspace.cargo(&[
            "package",
            "--workspace",
            "--exclude",
            "xtask",
            "--no-verify",
            "--allow-dirty",
        ]),
        false => workspace.cargo(&["publish", "--workspace", "--exclude", "xtask"]),
    };
    process::run(command.env("PROTOC", protoc)).context("cargo cannot make the packages")?;
    if only_check {
        for package in &packages {
            check_contents(workspace, package)?;
        }
        check_semver(workspace)?;
        println!("publish: {} packages could be published", packages.len());
    }
    Ok(())
}

/// Compares the public API with the last release, if there was one.
fn check_semver(workspace: &Workspace) -> Result<()> {
    let mut describe = process::command("git", &["describe", "--tags", "--match", "v*", "--abbrev=0", "HEAD^"]);
    let Ok(tag) = process::output(describe.current_dir(workspace.root())) else {
        println!("publish: no release yet, so no public API to compare with");
        return Ok(());
    };
    let tool = tools::cargo_tool(workspace, CARGO_SEMVER_CHECKS.0, CARGO_SEMVER_CHECKS.1, &[])?;
    let mut check = std::process::Command::new(tool);
    check
        .current_dir(workspace.root())
        .env("PROTOC", tools::protoc(workspace)?);
    process::run(check.args(["semver-checks", "--workspace", "--baseline-rev", tag.trim()]))
}

fn is_published(package: &Value) -> bool {
    package["publish"].is_null()
}

fn check_metadata(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or("?");
    let mut wrong: Vec<_> = FIELDS
        .iter()
        .filter(|field| package[**field].as_str().is_none_or(str::is_empty))
        .map(|field| format!("{name} has no {field}"))
        .collect();
    let keywords = package["keywords"].as_array().map_or(0, Vec::len);
    if !(1..=5).contains(&keywords) {
        wrong.push(format!("{name} has {keywords} keywords; crates.io takes one to five"));
    }
    if package["metadata"]["docs"]["rs"].is_null() {
        wrong.push(format!("{name} has no settings for docs.rs"));
    }
    wrong
}

fn one_version(packages: &[&Value]) -> Option<String> {
    let mut versions: Vec<_> = packages
        .iter()
        .filter_map(|package| package["version"].as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    (versions.len() > 1).then(|| format!("the packages have different versions: {}", versions.join(", ")))
}

/// A package must contain its README, and nothing large by accident.
fn check_contents(workspace: &Workspace, package: &Value) -> Result<()> {
    let name = package["name"].as_str().context("a package has a name")?;
    let version = package["version"].as_str().context("a package has a version")?;
    let list = process::output(&mut workspace.cargo(&["package", "--list", "--allow-dirty", "--package", name]))?;
    anyhow::ensure!(
        list.lines().any(|file| file == "README.md"),
        "{name}: the package has no README.md"
    );
    let file = workspace
        .target()
        .join("package")
        .join(format!("{name}-{version}.crate"));
    let size = file
        .metadata()
        .with_context(|| format!("cannot read {}", file.display()))?
        .len();
    anyhow::ensure!(
        size < 5_000_000,
        "{name}: the package has {size} bytes; something does not belong in it"
    );
    println!(
        "publish: {name} {version}, {} files, {size} bytes",
        list.lines().count()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_metadata_is_named() {
        let good = json!({
            "name": "a", "version": "0.1.0", "description": "x", "license": "MIT", "repository": "r", "readme": "README.md",
            "rust_version": "1.90", "keywords": ["k"], "metadata": { "docs": { "rs": { "all-features": true } } },
        });
        assert!(check_metadata(&good).is_empty());
        for field in ["description", "license", "readme", "keywords", "metadata"] {
            let mut bad = good.clone();
            bad[field] = Value::Null;
            assert_eq!(check_metadata(&bad).len(), 1, "{field}");
        }
        let mut other = good.clone();
        other["version"] = json!("0.2.0");
        assert!(one_version(&[&good, &other]).is_some());
        assert!(one_version(&[&good, &good]).is_none());
    }
}
