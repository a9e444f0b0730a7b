//! A real etcd: one member or several, plain or over TLS, and `etcdctl` to look behind the server's back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::certificates::Certificates;
use super::server::free_port;
use crate::process::{self, Owned};
use crate::tools::Tools;

const START: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(20);

/// A running cluster.
#[derive(Debug)]
pub(super) struct Etcd {
    members: Vec<Option<Owned>>,
    endpoints: Vec<String>,
    etcdctl: PathBuf,
    certificates: Option<Certificates>,
    folder: PathBuf,
}

impl Etcd {
    /// Starts that many members and waits until the cluster answers.
    pub(super) fn start(
        tools: &Tools,
        folder: &Path,
        count: usize,
        certificates: Option<Certificates>,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let ports: Vec<(u16, u16)> = (0..count)
            .map(|_| Ok((free_port()?, free_port()?)))
            .collect::<Result<_>>()?;
        let peers: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"))
            .collect();
        let mut etcd = Self {
            members: Vec::new(),
            endpoints: ports
                .iter()
                .map(|(client, _)| format!("{scheme}://127.0.0.1:{client}"))
                .collect(),
            etcdctl: tools.etcdctl.clone(),
            certificates,
            folder: folder.to_owned(),
        };
        for (number, (_, peer)) in ports.iter().enumerate() {
            let peer = format!("http://127.0.0.1:{peer}");
            let member = etcd.member(&tools.etcd, number, &peer, &peers.join(","))?;
            etcd.members.push(Some(Owned(member)));
        }
        etcd.wait_healthy()?;
        Ok(etcd)
    }

    fn member(&self, program: &Path, number: usize, peer: &str, cluster: &str) -> Result<std::process::Child> {
        let log = File::create(self.folder.join(format!("m{number}.log")))?;
        let client = &self.endpoints[number];
        let mut command = Command::new(program);
        command.args([
            "--name",
            &format!("m{number}"),
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ]);
        command.arg("--data-dir").arg(self.folder.join(format!("m{number}")));
        command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
        command.args([
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            cluster,
        ]);
        if let Some(files) = &self.certificates {
            command
                .arg("--cert-file")
                .arg(&files.certificate)
                .arg("--key-file")
                .arg(&files.key);
            command
                .arg("--trusted-ca-file")
                .arg(&files.authority)
                .arg("--client-cert-auth");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))
    }

    /// Kills one member for good, and waits until the others have a leader. A write that is under way at a dying leader
    /// may or may not be applied, and is rightly answered so; a scenario that expects its answer begins afterwards.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        self.members[number] = None;
        self.wait_healthy()
    }

    /// Waits until every member that lives answers a read that needs the majority.
    fn wait_healthy(&self) -> Result<()> {
        process::wait_until("a healthy etcd", START, || {
            self.ctl(&["endpoint", "health"]).map(|_| true)
        })
        .with_context(|| format!("see the logs in {}", self.folder.display()))
    }

    /// The server's flags for this cluster.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--etcd-servers={}", self.endpoints.join(","))];
        if let Some(files) = &self.certificates {
            flags.push(format!("--etcd-cafile={}", files.authority.display()));
            flags.push(format!("--etcd-certfile={}", files.certificate.display()));
            flags.push(format!("--etcd-keyfile={}", files.key.display()));
        }
        flags
    }

    /// Runs etcdctl against the members that live.
    pub(super) fn ctl(&self, arguments: &[&str]) -> Result<String> {
        self.ctl_with(arguments, None)
    }

    /// Stores a value behind the server's back.
    pub(super) fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.ctl_with(&["put", key], Some(value)).map(drop)
    }

    fn ctl_with(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<String> {
        let alive = self
            .endpoints
            .iter()
            .enumerate()
            .filter(|(n, _)| self.members.get(*n).is_some_and(Option::is_some));
        let endpoints: Vec<_> = alive.map(|(_, endpoint)| endpoint.as_str()).collect();
        let mut command = Command::new(&self.etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", endpoints.join(",")));
        if let Some(files) = &self.certificates {
            command
                .arg("--cacert")
                .arg(&files.authority)
                .arg("--cert")
                .arg(&files.certificate)
                .arg("--key")
                .arg(&files.key);
        }
        let finished = process::bounded(command.args(arguments), input, &self.folder, CALL)?;
        ensure!(
            finished.status.success(),
            "etcdctl {}: {}",
            arguments.join(" "),
            finished.stderr.trim()
        );
        Ok(finished.stdout)
    }
}
