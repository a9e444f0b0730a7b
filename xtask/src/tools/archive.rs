//! Official release archives, pinned by checksum: the way for systems that are not Debian.
//!
//! Untested where there was no such network to try it on; the message on its use says so.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// One program's release.
#[derive(Debug)]
pub(super) struct Archive {
    /// The pinned version.
    pub(super) version: &'static str,
    /// Download address; `{arch}` stands for Go's name of the architecture.
    address: &'static str,
    /// SHA-256 of the file for `amd64` and `arm64` on Linux.
    checksums: [(&'static str, &'static str); 2],
    /// The name under which a file that is the program itself is kept; none for a tar archive.
    program: Option<&'static str>,
}

/// etcd and etcdctl.
pub(super) const ETCD: Archive = Archive {
    version: "3.5.27",
    address: "https://github.com/etcd-io/etcd/releases/download/v3.5.27/etcd-v3.5.27-linux-{arch}.tar.gz",
    checksums: [
        (
            "amd64",
            "0aad9a9e4e0817a021e933f9806a2b2960a62f949ad5a3d6436d8886945cb1bc",
        ),
        (
            "arm64",
            "1277309f540c5a0329c428f95455c9f76d24f768c8d28fd2753e891c379053fa",
        ),
    ],
    program: None,
};

/// etcd and etcdctl of the oldest supported line: the release whose checksums are on record elsewhere too. Later ones are
/// not, and one that was never seen is not pinned; what needs a later one is left out of the run and said to be.
pub(super) const ETCD_3_4: Archive = Archive {
    version: "3.4.13",
    address: "https://github.com/etcd-io/etcd/releases/download/v3.4.13/etcd-v3.4.13-linux-{arch}.tar.gz",
    checksums: [
        (
            "amd64",
            "2ac029e47bab752dacdb7b30032f230f49e2f457cbc32e8f555c2210bb5ff107",
        ),
        (
            "arm64",
            "1934ebb9f9f6501f706111b78e5e321a7ff8d7792d3d96a76e2d01874e42a300",
        ),
    ],
    program: None,
};

/// kubectl.
pub(super) const KUBECTL: Archive = Archive {
    version: "1.34.1",
    address: "https://dl.k8s.io/release/v1.34.1/bin/linux/{arch}/kubectl",
    checksums: [
        (
            "amd64",
            "7721f265e18709862655affba5343e85e1980639395d5754473dafaadcaa69e3",
        ),
        (
            "arm64",
            "420e6110e3ba7ee5a3927b5af868d18df17aae36b720529ffa4e9e945aa95450",
        ),
    ],
    program: Some("kubectl"),
};

impl Archive {
    /// Downloads, verifies and unpacks into `into`.
    pub(super) fn unpack(&self, into: &Path) -> Result<()> {
        let arch = match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => "amd64",
            ("linux", "aarch64") => "arm64",
            (os, arch) => bail!("no archive is pinned for {os} on {arch}"),
        };
        let checksum = self
            .checksums
            .iter()
            .find(|(name, _)| *name == arch)
            .context("no checksum for this architecture")?
            .1;
        let address = self.address.replace("{arch}", arch);
        println!("fetching {address} (this way is untested: please report how it went)");
        let file = into.join(self.program.unwrap_or("archive.tar.gz"));
        let mut curl = process::command(
            "curl",
            &["--fail", "--silent", "--show-error", "--location", "--retry", "3"],
        );
        process::output(curl.arg("--output").arg(&file).arg(&address))?;
        let found = sha256(&file)?;
        anyhow::ensure!(
            found == checksum,
            "wrong checksum of {address}: pinned={checksum} found={found}"
        );
        match self.program {
            Some(_) => process::output(process::command("chmod", &["755"]).arg(&file)).map(drop),
            None => {
                let mut tar = process::command("tar", &["--extract", "--gzip", "--strip-components=1", "--file"]);
                process::output(tar.arg(&file).arg("--directory").arg(into))?;
                std::fs::remove_file(&file).context("cannot remove the unpacked archive")
            }
        }
    }
}

/// The checksum by whichever of the usual programs is there.
fn sha256(file: &Path) -> Result<String> {
    let mut command = match process::find_in_path("sha256sum") {
        Some(program) => Command::new(program),
        None => process::command("shasum", &["--algorithm", "256"]),
    };
    let text = process::output(command.arg(file))?;
    text.split_whitespace()
        .next()
        .map(str::to_owned)
        .context("no checksum was printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_well_known_one() {
        let file = std::env::temp_dir().join(format!("xtask-sha256-{}", std::process::id()));
        std::fs::write(&file, "abc").expect("the temporary folder is writable");
        let found = sha256(&file).expect("a checksum program is there");
        std::fs::remove_file(&file).expect("it can be removed");
        assert_eq!(
            found,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
