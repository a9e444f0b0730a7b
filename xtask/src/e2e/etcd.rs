//! A real etcd: one member or several, plain or over TLS, and `etcdctl` to look behind the server's back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
    /// Where each member finds the others, and all of them as etcd's flag has it.
    peers: Vec<String>,
    cluster: String,
    etcd: PathBuf,
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
            .map(|(_, peer)| format!("http://127.0.0.1:{peer}"))
            .collect();
        let cluster: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(n, peer)| format!("m{n}={peer}"))
            .collect();
        let mut etcd = Self {
            members: Vec::new(),
            endpoints: ports
                .iter()
                .map(|(client, _)| format!("{scheme}://127.0.0.1:{client}"))
                .collect(),
            cluster: cluster.join(","),
            peers,
            etcd: tools.etcd.clone(),
            etcdctl: tools.etcdctl.clone(),
            certificates,
            folder: folder.to_owned(),
        };
        for number in 0..count {
            let member = etcd.member(number)?;
            etcd.members.push(Some(Owned(member)));
        }
        etcd.wait_healthy()?;
        Ok(etcd)
    }

    fn member(&self, number: usize) -> Result<std::process::Child> {
        let log = self.folder.join(format!("m{number}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let (client, peer) = (&self.endpoints[number], &self.peers[number]);
        let mut command = Command::new(&self.etcd);
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
            &self.cluster,
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
            .with_context(|| format!("cannot start {}", self.etcd.display()))
    }

    /// Kills one member for good, and waits until the others have a leader. A write that is under way at a dying leader
    /// may or may not be applied, and is rightly answered so; a scenario that expects its answer begins afterwards.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        self.members[number] = None;
        self.wait_healthy()
    }

    /// Kills one member and waits for nothing.
    pub(super) fn kill_at_once(&mut self, number: usize) {
        self.members[number] = None;
    }

    /// Starts a killed member on the data it has, and waits until it takes part again.
    pub(super) fn start_again(&mut self, number: usize) -> Result<()> {
        let member = self.member(number)?;
        self.members[number] = Some(Owned(member));
        self.wait_healthy()
    }

    /// Sends a signal to a member: `-STOP`, `-CONT`.
    pub(super) fn signal(&self, number: usize, signal: &str) -> Result<()> {
        let member = self.members[number].as_ref().context("the member does not run")?;
        process::output(&mut process::command("kill", &[signal, &member.0.id().to_string()])).map(drop)
    }

    /// The member that leads.
    pub(super) fn leader(&self) -> Result<usize> {
        let mut leader = None;
        process::wait_until("a leader", START, || {
            let status: Value = serde_json::from_str(&self.ctl(&["endpoint", "status", "--write-out=json"])?)?;
            let leads = |member: &&Value| {
                let status = &member["Status"];
                status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
            };
            let found = status.as_array().and_then(|members| members.iter().find(leads));
            let endpoint = found.and_then(|member| member["Endpoint"].as_str());
            leader = self.endpoints.iter().position(|known| Some(known.as_str()) == endpoint);
            Ok(leader.is_some())
        })?;
        leader.context("no leader")
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
