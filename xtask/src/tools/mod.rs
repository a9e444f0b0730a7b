//! The programs that building and testing need: protoc, etcd with etcdctl, kubectl.
//!
//! What the environment names (`$PROTOC`, `$ETCD`, `$ETCDCTL`, `$KUBECTL`) or `PATH` holds is used when it is new enough.
//! Otherwise xtask gets it without root, under `target/tools/`: protoc as the pure-Rust protox from crates.io, the others
//! from Debian's packages, or elsewhere from the official archives, pinned by checksum. A download becomes visible under its
//! final name only when it is complete, so an interrupted one is simply repeated.

mod archive;
mod debian;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// The protox release that stands in for protoc.
const PROTOX: &str = "protox@0.10.0";
/// kubectl before this one has other output and lacks verbs that the scenarios use.
const OLDEST_KUBECTL: Version = Version(1, 30, 0);
/// etcd before this one, of the line that tests run on where nothing else is asked for, is not taken.
const OLDEST_ETCD: Version = Version(3, 5, 16);

/// Set for everything xtask starts: a test whose program is missing must fail instead of skipping itself.
pub(crate) const REQUIRE_TOOLS: &str = "APISERVER_REQUIRE_TOOLS";

/// A program's version, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// The first thing in the text that looks like `1.2.3`.
    fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let numbers: Vec<u32> = word.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
            (numbers.len() == 3).then(|| Self(numbers[0], numbers[1], numbers[2]))
        })
    }
}

impl Version {
    /// Of an etcd: from these on progress never runs ahead of events.
    fn reports_progress(self) -> bool {
        match (self.0, self.1) {
            (3, 4) => self >= Self(3, 4, 31),
            _ => self >= Self(3, 5, 13),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Which etcd to test against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum EtcdVersion {
    /// Whatever is at hand from 3.5.16 on, otherwise the newest packaged one.
    #[default]
    Newest,
    /// Exactly this minor version; of 3.5 from 3.5.16 on.
    Minor(u32, u32),
}

impl std::fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Minor(major, minor) => write!(f, "{major}.{minor}"),
        }
    }
}

impl std::str::FromStr for EtcdVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let numbers = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        numbers
            .map(|(major, minor)| Self::Minor(major, minor))
            .ok_or_else(|| format!("an etcd version is `newest`, `3.4`, `3.5`, ..., not {text:?}"))
    }
}

impl EtcdVersion {
    /// The flag when given, else `APISERVER_ETCD_VERSION`, else the newest.
    pub(crate) fn choose(flag: Option<Self>) -> Result<Self> {
        match (flag, std::env::var("APISERVER_ETCD_VERSION")) {
            (Some(version), _) => Ok(version),
            (None, Ok(text)) => text
                .parse()
                .map_err(|error: String| anyhow::anyhow!("APISERVER_ETCD_VERSION: {error}")),
            (None, Err(_)) => Ok(Self::Newest),
        }
    }

    fn accepts(self, found: Version) -> bool {
        match self {
            Self::Newest => found >= OLDEST_ETCD,
            Self::Minor(3, 5) => found >= OLDEST_ETCD && (found.0, found.1) == (3, 5),
            Self::Minor(major, minor) => (found.0, found.1) == (major, minor),
        }
    }

    /// Debian releases that may have it, best first.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Newest => &["sid", "trixie"],
            Self::Minor(3, 4) => &["bookworm"],
            Self::Minor(3, 5) => &["trixie", "sid"],
            Self::Minor(..) => &["sid"],
        }
    }

    /// The official release that stands in for the package elsewhere.
    fn archive(self) -> &'static archive::Archive {
        match self {
            Self::Minor(3, 4) => &archive::ETCD_3_4,
            Self::Newest | Self::Minor(..) => &archive::ETCD,
        }
    }
}

/// The programs that tests call.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// The etcd server.
    pub(crate) etcd: PathBuf,
    /// Its command line client, of the same version.
    pub(crate) etcdctl: PathBuf,
    /// kubectl, new enough.
    pub(crate) kubectl: PathBuf,
    protoc: PathBuf,
}

impl Tools {
    /// Finds or gets all of them.
    pub(crate) fn obtain(workspace: &Workspace, etcd: EtcdVersion) -> Result<Self> {
        let protoc = protoc(workspace)?;
        let (etcd, etcdctl) = find_etcd(workspace, etcd)?;
        let kubectl = find_kubectl(workspace)?;
        Ok(Self {
            etcd,
            etcdctl,
            kubectl,
            protoc,
        })
    }

    /// The same programs with an etcd of this version: the same one, if it is that.
    pub(crate) fn with_etcd(&self, workspace: &Workspace, wanted: EtcdVersion) -> Result<Self> {
        if wanted.accepts(version_of(&self.etcd, &["--version"])?) {
            return Ok(self.clone());
        }
        let (etcd, etcdctl) = find_etcd(workspace, wanted)?;
        Ok(Self {
            etcd,
            etcdctl,
            ..self.clone()
        })
    }

    /// Whether what this etcd reports of the progress of watches can be believed; caches do more where it can.
    pub(crate) fn etcd_reports_progress(&self) -> Result<bool> {
        Ok(version_of(&self.etcd, &["--version"])?.reports_progress())
    }

    /// Tells a command, and what it starts, where the programs are and that they may not be missing.
    pub(crate) fn export(&self, command: &mut Command) {
        command
            .env("PROTOC", &self.protoc)
            .env("ETCD", &self.etcd)
            .env("ETCDCTL", &self.etcdctl)
            .env("KUBECTL", &self.kubectl)
            .env(REQUIRE_TOOLS, "1");
    }
}

/// `cargo xtask tools`
pub(crate) fn run(workspace: &Workspace, etcd: Option<EtcdVersion>) -> Result<()> {
    let tools = Tools::obtain(workspace, EtcdVersion::choose(etcd)?)?;
    for (name, path) in [
        ("PROTOC", &tools.protoc),
        ("ETCD", &tools.etcd),
        ("ETCDCTL", &tools.etcdctl),
        ("KUBECTL", &tools.kubectl),
    ] {
        println!("{name}={}", path.display());
    }
    Ok(())
}

/// Where tools that were fetched or built are kept.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join("tools")
}

/// `$PROTOC` when it names a file, otherwise protox, built once.
pub(crate) fn protoc(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = named_by("PROTOC") {
        return Ok(path);
    }
    cargo_tool(workspace, PROTOX, "protox", &["--features", "bin"])
}

/// A program from crates.io, built once into a folder of its own.
pub(crate) fn cargo_tool(workspace: &Workspace, package: &str, program: &str, arguments: &[&str]) -> Result<PathBuf> {
    let root = folder(workspace).join(package.replace('@', "-"));
    let path = root
        .join("bin")
        .join(format!("{program}{}", std::env::consts::EXE_SUFFIX));
    if path.is_file() {
        return Ok(path);
    }
    println!(
        "building {package} from crates.io into {}",
        workspace.relative(&root).display()
    );
    let mut command = workspace.cargo(&["install", "--locked", "--quiet", package]);
    command.args(arguments).arg("--root").arg(&root);
    // A tool is compiled like a tool, whatever the caller set for the workspace.
    command
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTDOCFLAGS");
    process::run(&mut command).with_context(|| format!("cannot build {package}; is crates.io reachable?"))?;
    Ok(path)
}

/// The file that an environment variable names. A name without a file behind it is passed over with a line.
fn named_by(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty())?;
    // What is started with it may have another working directory.
    let path = std::path::absolute(value).ok()?;
    let found = path.is_file();
    if !found {
        println!("${variable} is passed over: {} is not a file", path.display());
    }
    found.then_some(path)
}

/// What the environment names, then what `PATH` has.
fn at_hand(variable: &str, program: &str) -> impl Iterator<Item = PathBuf> {
    named_by(variable).into_iter().chain(process::find_in_path(program))
}

fn version_of(program: &Path, arguments: &[&str]) -> Result<Version> {
    let text = process::output(&mut process::command(program, arguments))?;
    Version::find(&text).with_context(|| format!("{} does not tell its version: {text:?}", program.display()))
}

fn find_etcd(workspace: &Workspace, wanted: EtcdVersion) -> Result<(PathBuf, PathBuf)> {
    for etcd in at_hand("ETCD", "etcd") {
        match version_of(&etcd, &["--version"]) {
            Ok(version) if wanted.accepts(version) => match etcdctl_for(&etcd) {
                Some(etcdctl) => return Ok((etcd, etcdctl)),
                None => println!(
                    "{} is passed over: no etcdctl beside it, in $ETCDCTL or in PATH",
                    etcd.display()
                ),
            },
            Ok(version) => println!("{} is passed over: it is {version}", etcd.display()),
            Err(error) => println!("{} is passed over: {error:#}", etcd.display()),
        }
    }
    let check = |bin: &Path| -> Result<(PathBuf, PathBuf)> {
        let (etcd, etcdctl) = (bin.join("etcd"), bin.join("etcdctl"));
        let version = version_of(&etcd, &["--version"])?;
        anyhow::ensure!(wanted.accepts(version), "it is etcd {version}");
        version_of(&etcdctl, &["version"])?;
        Ok((etcd, etcdctl))
    };
    let install = format!("install etcd {wanted} with etcdctl, and set ETCD to its path");
    fetch(
        workspace,
        wanted.suites(),
        "etcd",
        &["etcd-server", "etcd-client"],
        wanted.archive(),
        &install,
        check,
    )
}

/// The client that belongs to a server: named, beside it, or in `PATH`.
fn etcdctl_for(etcd: &Path) -> Option<PathBuf> {
    let beside = etcd.with_file_name("etcdctl");
    named_by("ETCDCTL")
        .or_else(|| beside.is_file().then_some(beside))
        .or_else(|| process::find_in_path("etcdctl"))
}

fn find_kubectl(workspace: &Workspace) -> Result<PathBuf> {
    let arguments = ["version", "--client", "--output=json"];
    for kubectl in at_hand("KUBECTL", "kubectl") {
        match version_of(&kubectl, &arguments) {
            Ok(version) if version >= OLDEST_KUBECTL => return Ok(kubectl),
            Ok(version) => println!(
                "{} is passed over: {version} is older than {OLDEST_KUBECTL}",
                kubectl.display()
            ),
            Err(error) => println!("{} is passed over: {error:#}", kubectl.display()),
        }
    }
    let check = |bin: &Path| -> Result<PathBuf> {
        let kubectl = bin.join("kubectl");
        let version = version_of(&kubectl, &arguments)?;
        anyhow::ensure!(version >= OLDEST_KUBECTL, "it is kubectl {version}");
        Ok(kubectl)
    };
    let install = "install kubectl 1.30 or newer, and set KUBECTL to its path";
    fetch(
        workspace,
        &["trixie", "sid"],
        "kubectl",
        &["kubectl"],
        &archive::KUBECTL,
        install,
        check,
    )
}

/// Debian's packages where this is a Debian, the official archive otherwise. `check` says whether the programs in a folder
/// will do and names them; what it refuses is not kept.
fn fetch<T>(
    workspace: &Workspace,
    suites: &[&str],
    name: &str,
    packages: &[&str],
    archive: &archive::Archive,
    install: &str,
    check: impl Fn(&Path) -> Result<T>,
) -> Result<T> {
    let mut reasons = Vec::new();
    if debian::is_usable() {
        for suite in suites {
            let place = folder(workspace).join(format!("{name}-debian-{suite}"));
            let bin = place.join("usr/bin");
            let got = keep(
                &place,
                |scratch| debian::unpack(&folder(workspace), suite, packages, scratch),
                || check(&bin),
            );
            match got {
                Ok(found) => return Ok(found),
                Err(error) => reasons.push(format!("Debian {suite}: {error:#}")),
            }
        }
    } else {
        let place = folder(workspace).join(format!("{name}-{}", archive.version));
        match keep(&place, |scratch| archive.unpack(scratch), || check(&place)) {
            Ok(found) => return Ok(found),
            Err(error) => reasons.push(format!("official archive: {error:#}")),
        }
    }
    bail!("no usable {name}: {install} ({})", reasons.join("; "))
}

/// Fills a folder once, through a scratch folder that is renamed when it is complete, and removes it when it is refused.
fn keep<T>(place: &Path, fill: impl FnOnce(&Path) -> Result<()>, check: impl Fn() -> Result<T>) -> Result<T> {
    if !place.is_dir() {
        let scratch = place.with_extension(format!("part-{}", std::process::id()));
        std::fs::remove_dir_all(&scratch).ok();
        std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        if let Err(error) = fill(&scratch) {
            std::fs::remove_dir_all(&scratch).ok();
            return Err(error);
        }
        // Another xtask may have been faster; its folder is as good as ours.
        if let Err(error) = std::fs::rename(&scratch, place) {
            std::fs::remove_dir_all(&scratch).ok();
            anyhow::ensure!(place.is_dir(), "cannot rename to {}: {error}", place.display());
        }
    }
    let checked = check();
    if checked.is_err() {
        std::fs::remove_dir_all(place).ok();
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_print() {
        for (text, want) in [
            ("etcd Version: 3.5.30\nGit SHA: 1a2b", Some(Version(3, 5, 30))),
            ("{\"gitVersion\": \"v1.32.4-dispatcher\"}", Some(Version(1, 32, 4))),
            (
                "\"major\": \"1\", \"gitVersion\": \"v1.36.4+ds\"",
                Some(Version(1, 36, 4)),
            ),
            ("protoc 29.1", None),
            ("", None),
        ] {
            assert_eq!(Version::find(text), want, "{text}");
        }
    }

    #[test]
    fn an_older_kubectl_or_another_etcd_is_not_taken() {
        assert!(Version(1, 29, 9) < OLDEST_KUBECTL);
        assert!(Version(1, 30, 0) >= OLDEST_KUBECTL);
        assert!(!EtcdVersion::Newest.accepts(Version(3, 4, 45)));
        assert!(EtcdVersion::Newest.accepts(Version(3, 6, 0)));
        assert!(!EtcdVersion::Minor(3, 5).accepts(Version(3, 5, 15)));
        assert!(EtcdVersion::Minor(3, 5).accepts(Version(3, 5, 16)));
        assert!(!EtcdVersion::Minor(3, 5).accepts(Version(3, 6, 16)));
        assert!(!EtcdVersion::Minor(3, 4).accepts(Version(3, 5, 1)));
        assert_eq!("3.4".parse(), Ok(EtcdVersion::Minor(3, 4)));
        assert!("three".parse::<EtcdVersion>().is_err());
    }

    #[test]
    fn progress_is_believed_from_fixed_releases_on() {
        for (version, want) in [
            (Version(3, 4, 23), false),
            (Version(3, 4, 30), false),
            (Version(3, 4, 31), true),
            (Version(3, 5, 12), false),
            (Version(3, 5, 13), true),
            (Version(3, 6, 0), true),
            (Version(3, 3, 99), false),
        ] {
            assert_eq!(version.reports_progress(), want, "{version}");
        }
    }

    #[test]
    fn a_refused_or_half_filled_folder_is_not_kept() {
        let place = std::env::temp_dir().join(format!("xtask-keep-{}", std::process::id()));
        let cut = |scratch: &Path| {
            std::fs::write(scratch.join("half"), "")?;
            bail!("cut")
        };
        let half = keep(&place, cut, || Ok(()));
        assert!(half.is_err() && !place.exists());
        let refused = keep(&place, |_| Ok(()), || -> Result<()> { bail!("too old") });
        assert!(refused.is_err() && !place.exists());
        keep(&place, |_| Ok(()), || Ok(())).expect("a good folder is kept");
        assert!(place.is_dir());
        keep(&place, |_| bail!("must not be filled again"), || Ok(())).expect("and used again");
        std::fs::remove_dir_all(&place).expect("it can be removed");
    }
}
