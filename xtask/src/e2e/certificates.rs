//! Certificates of one run: an authority, and one key pair for servers and clients on the loopback address.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

/// Files of one run.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    /// The authority's certificate.
    pub(super) authority: PathBuf,
    /// A certificate for `localhost` and `127.0.0.1`, good for servers and clients.
    pub(super) certificate: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
}

impl Certificates {
    /// Makes them with the openssl program, valid for two days.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let openssl = process::find_in_path("openssl").context("no openssl: install the package openssl")?;
        std::fs::create_dir_all(folder)?;
        let extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(folder.join("leaf.cnf"), extensions)?;
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let run = |arguments: &[&[&str]]| {
            let mut command = process::command(&openssl, &[]);
            arguments.iter().for_each(|part| {
                command.args(*part);
            });
            process::output(command.current_dir(folder)).map(drop)
        };
        let authority = [
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=authority",
            "-days",
            "2",
        ];
        run(&[&["req", "-x509"], &new_key, &authority])?;
        run(&[
            &["req"],
            &new_key,
            &["-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=localhost"],
        ])?;
        let sign = [
            "-in",
            "leaf.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            "leaf.pem",
        ];
        run(&[&["x509", "-req", "-days", "2", "-extfile", "leaf.cnf"], &sign])?;
        let file = |name: &str| folder.join(name);
        Ok(Self {
            authority: file("ca.pem"),
            certificate: file("leaf.pem"),
            key: file("leaf.key"),
        })
    }
}
