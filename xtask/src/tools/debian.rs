//! Programs from Debian's packages, without root and without touching the system's package state.
//!
//! apt gets a configuration of its own (sources, lists, cache, an empty status file), all below the tools folder; it
//! downloads and verifies packages, `dpkg -x` unpacks them. Nothing is installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Whether this machine can fetch and verify Debian's packages.
pub(super) fn is_usable() -> bool {
    Path::new(KEYRING).is_file()
        && ["apt-get", "dpkg"]
            .iter()
            .all(|name| process::find_in_path(name).is_some())
}

/// Downloads the packages of a release and unpacks them into `into`.
pub(super) fn unpack(tools: &Path, suite: &str, packages: &[&str], into: &Path) -> Result<()> {
    println!("fetching {} from Debian {suite}", packages.join(" and "));
    let own = tools.join(format!("apt-{suite}-{}", std::process::id()));
    let result = download(&own, suite, packages).and_then(|()| unpack_all(&own, into));
    std::fs::remove_dir_all(&own).ok();
    result
}

fn download(own: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    for folder in ["state/lists/partial", "cache/archives/partial", "packages"] {
        std::fs::create_dir_all(own.join(folder))?;
    }
    std::fs::write(own.join("status"), "")?;
    std::fs::write(
        own.join("sources.list"),
        format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()),
    )?;
    std::fs::write(own.join("apt.conf"), configuration(own))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-c").arg(own.join("apt.conf")).arg("-qq").args(arguments);
        command.current_dir(own.join("packages")).env("LC_ALL", "C");
        process::output(&mut command)
    };
    apt(&["update"]).context("apt-get update")?;
    let wanted: Vec<_> = packages.iter().map(|package| format!("{package}/{suite}")).collect();
    let mut arguments = vec!["download"];
    arguments.extend(wanted.iter().map(String::as_str));
    apt(&arguments).map(drop).context("apt-get download")
}

/// The system's own settings (proxies above all) stay in force; hooks that clean the system's cache do not.
fn configuration(own: &Path) -> String {
    let own = own.display();
    format!(
        "#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         Dir::Etc::SourceList \"{own}/sources.list\";\n\
         Dir::Etc::SourceParts \"-\";\n\
         Dir::State \"{own}/state\";\n\
         Dir::State::status \"{own}/status\";\n\
         Dir::Cache \"{own}/cache\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         APT::Sandbox::User \"\";\n"
    )
}

/// The mirror that this machine already uses, if it is one of Debian's; its newer releases are on the same one.
fn mirror() -> String {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    if let Ok(parts) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
        .unwrap_or_else(|| MIRROR.into())
}

fn mirror_in(sources: &str) -> Option<String> {
    sources
        .lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
        .map(str::to_owned)
}

fn unpack_all(own: &Path, into: &Path) -> Result<()> {
    for entry in std::fs::read_dir(own.join("packages"))? {
        let mut command = Command::new("dpkg");
        process::output(command.arg("-x").arg(entry?.path()).arg(into))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_mirror_is_found_in_both_forms_of_sources() {
        let table = [
            (
                "deb http://mirror.example/debian/ bookworm main\n",
                Some("http://mirror.example/debian"),
            ),
            (
                "deb [signed-by=/k.gpg] https://m.example/debian sid main\n",
                Some("https://m.example/debian"),
            ),
            (
                "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\n",
                Some("http://deb.debian.org/debian"),
            ),
            (
                "deb http://deb.debian.org/debian-security bookworm-security main\n",
                None,
            ),
            ("# deb http://old.example/debian sid main\n", None),
            ("deb https://packages.example.com/apt tools main\n", None),
        ];
        for (text, want) in table {
            assert_eq!(mirror_in(text).as_deref(), want, "{text}");
        }
    }
}
