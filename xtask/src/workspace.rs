//! Where things are, and how cargo is called from within a task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The one choice of packages and features that tests, clippy and the end-to-end run share.
///
/// Each further combination would compile much of the tree again.
pub(crate) const EVERYTHING: [&str; 2] = ["--workspace", "--all-features"];

/// This repository on disk.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that xtask was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask lies in the root of the filesystem")?
            .to_owned();
        let mut workspace = Self {
            target: root.join("target"),
            root,
        };
        let metadata = workspace.metadata(&["--no-deps"])?;
        workspace.target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target directory")?
            .into();
        Ok(workspace)
    }

    /// The folder with the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What cargo knows about the workspace.
    pub(crate) fn metadata(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.cargo(&["metadata", "--format-version", "1"]);
        command.args(arguments);
        serde_json::from_str(&process::output(&mut command)?).context("cargo metadata printed something unreadable")
    }

    /// A cargo call in the root, as if typed by hand: what `cargo run` told xtask about itself is not passed on, because
    /// build scripts and `env!` would see it and everything would be compiled again.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(program);
        self.clean(&mut command);
        command.args(arguments);
        command
    }

    /// A cargo call with another toolchain, through rustup.
    pub(crate) fn cargo_of(&self, toolchain: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("rustup");
        self.clean(&mut command);
        // `cargo run` exports the toolchain it came from, and that would win over the one asked for.
        command
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .env_remove("RUSTDOC");
        command.args(["run", toolchain, "cargo"]).args(arguments);
        command
    }

    fn clean(&self, command: &mut Command) {
        let own = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text == "OUT_DIR" || own.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.current_dir(&self.root);
    }

    /// The workspace's packages: name to folder, relative to the root.
    pub(crate) fn packages(&self) -> Result<BTreeMap<String, PathBuf>> {
        let metadata = self.metadata(&["--no-deps"])?;
        let mut packages = BTreeMap::new();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let (Some(name), Some(manifest)) = (package["name"].as_str(), package["manifest_path"].as_str()) else {
                continue;
            };
            let folder = Path::new(manifest).parent().unwrap_or(Path::new(""));
            packages.insert(
                name.to_owned(),
                folder.strip_prefix(&self.root).unwrap_or(folder).to_owned(),
            );
        }
        Ok(packages)
    }

    /// All files below the root that the repository could contain: no build output, no hidden version control, no data.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        collect(&self.root, &mut files)?;
        files.sort();
        Ok(files)
    }

    /// A path as people write it: relative to the root.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            let build_output = path.join("CACHEDIR.TAG").exists();
            if !build_output
                && !["target", ".git", "apiserver-data"]
                    .iter()
                    .any(|left_out| name == *left_out)
            {
                collect(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}
