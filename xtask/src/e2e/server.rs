//! The server under test as a process: started, killed, started again, ended.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::http::Http;
use crate::process::{self, Owned};

const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

/// A port that nothing listens on at the moment.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")
        .context("no free port")?
        .local_addr()?
        .port())
}

/// A server, running or not.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    flags: Vec<String>,
    folder: PathBuf,
    log: PathBuf,
    port: u16,
    child: Option<Owned>,
}

impl Server {
    /// Starts on a free port of its own and waits until it is ready.
    pub(crate) fn start(program: &Path, folder: &Path, name: &str, flags: Vec<String>) -> Result<Self> {
        let port = free_port()?;
        let mut flags = flags;
        flags.push(format!("--insecure-port={port}"));
        Self::start_as_given(program, folder, name, flags, port)
    }

    /// Starts with exactly these flags; the port is where it should then be found.
    pub(crate) fn start_as_given(
        program: &Path,
        folder: &Path,
        name: &str,
        flags: Vec<String>,
        port: u16,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut server = Self {
            program: program.to_owned(),
            flags,
            folder: folder.to_owned(),
            log: folder.join(format!("{name}.log")),
            port,
            child: None,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts with the same flags, port and data as before. Returns how long it took to become ready.
    pub(crate) fn start_again(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        // An earlier start has printed its line as well.
        let already = log.metadata()?.len();
        let mut command = Command::new(&self.program);
        command.args(&self.flags).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = Owned(
            command
                .spawn()
                .with_context(|| format!("cannot start {}", self.program.display()))?,
        );
        let url = self.url();
        process::wait_until("the server's ready line and /readyz", START, || {
            let ended = child.0.try_wait()?.is_some();
            Ok(ended || self.log_since(already)?.contains(&url) && self.http().get("/readyz")?.status == 200)
        })?;
        if let Some(status) = child.0.try_wait()? {
            bail!("the server ended with {status}: {}", self.log_since(already)?.trim());
        }
        self.child = Some(child);
        Ok(start.elapsed())
    }

    fn log_since(&self, already: u64) -> Result<String> {
        let bytes = std::fs::read(&self.log)?;
        let from = usize::try_from(already)?.min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
    }

    /// Its process id.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.0.id())
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// `kill -TERM`, and how it ended.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the server does not run")?;
        process::output(&mut process::command("kill", &["-TERM", &child.0.id().to_string()]))?;
        process::wait(&mut child.0, END).context("after SIGTERM")
    }

    /// Where it serves plain HTTP.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A client of it.
    pub(crate) fn http(&self) -> Http {
        Http::new(self.port)
    }
}

/// Runs the server with flags that it must refuse, and returns what it says.
pub(crate) fn refusal(program: &Path, folder: &Path, flags: &[&str]) -> Result<String> {
    let mut command = process::command(program, flags);
    let finished = process::bounded(command.current_dir(folder), None, folder, END)?;
    ensure!(
        !finished.status.success(),
        "it ended with success instead of refusing {}",
        flags.join(" ")
    );
    ensure!(
        !finished.stderr.contains("panicked"),
        "it panicked: {}",
        finished.stderr
    );
    Ok(finished.stdout + &finished.stderr)
}
