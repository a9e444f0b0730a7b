//! Running other programs: errors that name the command, and runs that end in bounded time.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a wait looks again. Small beside everything that is waited for, large beside the cost of looking.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The command as one would type it, for messages.
pub(crate) fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end with inherited output. Fails when the program cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    check(command, status)
}

/// Runs to the end and returns standard output. Fails like [`run`], with standard error in the message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}: {}", display(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is not UTF-8", display(command)))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` ended with {status}", display(command));
    }
    Ok(())
}

/// The first `name` in `PATH` that is a file, or none.
pub(crate) fn find_in_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Looks until `done` says so or the time is over; the last error of `done` is the reason given.
///
/// The one place of xtask that waits by the clock: other programs offer nothing to wait on but looking again.
pub(crate) fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let reason = match done() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            let text = format!("{what}: not within {} s", limit.as_secs_f32());
            return Err(reason.map_or_else(|| anyhow::anyhow!("{text}"), |error| error.context(text.clone())));
        }
        pause(LOOK_EVERY);
    }
}

/// Lets time pass: between two looks, or until a randomly chosen moment.
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// What a bounded run left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Standard output, read as UTF-8 with replacement.
    pub(crate) stdout: String,
    /// Standard error, likewise.
    pub(crate) stderr: String,
}

/// Runs with captured output for at most `limit`; a program that takes longer is killed and that is an error.
///
/// Output goes through files in `scratch`, so a program that prints much cannot block on a full pipe.
pub(crate) fn bounded(
    command: &mut Command,
    input: Option<&[u8]>,
    scratch: &Path,
    limit: Duration,
) -> Result<Finished> {
    let unique = format!("{}-{}", std::process::id(), next_number());
    let (out_path, err_path, in_path) = (
        scratch.join(format!("{unique}.out")),
        scratch.join(format!("{unique}.err")),
        scratch.join(format!("{unique}.in")),
    );
    command
        .stdout(File::create(&out_path)?)
        .stderr(File::create(&err_path)?);
    match input {
        Some(bytes) => {
            std::fs::write(&in_path, bytes)?;
            command.stdin(File::open(&in_path)?);
        }
        None => {
            command.stdin(Stdio::null());
        }
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let status = wait(&mut child, limit).with_context(|| format!("`{}`", display(command)));
    let read = |path: &Path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (stdout, stderr) = (read(&out_path)?, read(&err_path)?);
    for path in [&out_path, &err_path, &in_path] {
        std::fs::remove_file(path).ok();
    }
    let status = status.with_context(|| format!("stdout so far: {stdout:?}; stderr so far: {stderr:?}"))?;
    Ok(Finished { status, stdout, stderr })
}

/// Waits for the end of a child; after `limit` it is killed and that is an error.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let mut status = None;
    let waited = wait_until("end of the program", limit, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    });
    match (waited, status) {
        (Ok(()), Some(status)) => Ok(status),
        (result, _) => {
            child.kill().ok();
            child.wait().ok();
            result?;
            bail!("the program ended without a status")
        }
    }
}

/// A process that is killed when its owner goes away, so that a failed step leaves nothing running.
#[derive(Debug)]
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A number that no other caller in this process gets.
pub(crate) fn next_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A command with its arguments.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
