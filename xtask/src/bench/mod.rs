//! `cargo xtask bench`: figures of the release binary, measured as a user would see them.
//!
//! Time of the build (with `--clean` in an empty target directory), size of the binary, start to ready, idle memory, and the
//! throughput of full lists of 20,000 configmaps of 9 KB through HTTP from the cache, one client. Results go to
//! `target/bench/figures.json`; `--compare FILE` puts another run's figures beside them, with a verdict for each.
//! `cargo xtask bench storage` measures the storage layers on an etcd instead, `bench cache` the
//! watch cache.

mod cache;
mod load;
mod storage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::e2e::Server;
use crate::process;
use crate::tools;
use crate::workspace::Workspace;

const OBJECTS: usize = 20_000;
const OBJECT_BYTES: usize = 9_000;
const WRITERS: usize = 16;
const LISTS: usize = 5;
/// A figure counts as worse when it is worse by more than this; the machines that run it are not quiet.
const TOLERANCE: f64 = 0.15;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Builds into an empty target directory and measures that.
    #[arg(long)]
    clean: bool,
    /// Figures of another run to compare with.
    #[arg(long)]
    compare: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What is measured instead of the binary.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// The storage layers beside the bare client, on a real etcd.
    Storage(storage::Options),
    /// The watch cache, on a real etcd and on the embedded store; beside Go's library where its program is given.
    Cache(cache::Options),
}

/// `cargo xtask bench`
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    match &options.part {
        Some(Part::Storage(options)) => return storage::run(workspace, options),
        Some(Part::Cache(options)) => return cache::run(workspace, options),
        None => {}
    }
    let folder = workspace.target().join("bench");
    std::fs::create_dir_all(&folder)?;
    let mut figures = Map::new();
    let binary = build(workspace, &folder, options.clean, &mut figures)?;
    measure(&binary, &folder.join("run"), &mut figures)?;
    let file = folder.join("figures.json");
    std::fs::write(&file, serde_json::to_string_pretty(&figures)?)?;
    println!("figures: {}", file.display());
    match &options.compare {
        None => Ok(()),
        Some(base) => compare(base, &figures),
    }
}

fn note(figures: &mut Map<String, Value>, name: &str, value: f64) {
    println!("{name}: {value:.2}");
    figures.insert(name.to_owned(), json!(value));
}

/// Builds as README says, but with the etcd backend, as release binaries have it.
fn build(workspace: &Workspace, folder: &Path, clean: bool, figures: &mut Map<String, Value>) -> Result<PathBuf> {
    let mut command = workspace.cargo(&[
        "build",
        "--release",
        "--package",
        "apiserver",
        "--features",
        "etcd3,etcd3-tls",
    ]);
    command.env("PROTOC", tools::protoc(workspace)?);
    let target = if clean {
        let target = folder.join("clean-target");
        std::fs::remove_dir_all(&target).ok();
        command.env("CARGO_TARGET_DIR", &target);
        target
    } else {
        workspace.target().to_owned()
    };
    let start = Instant::now();
    process::run(&mut command)?;
    if clean {
        note(figures, "release_build_seconds", start.elapsed().as_secs_f64());
    }
    let binary = target.join("release").join("apiserver");
    note(
        figures,
        "binary_megabytes",
        binary.metadata().context("no binary was built")?.len() as f64 / 1e6,
    );
    Ok(binary)
}

fn measure(binary: &Path, folder: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    std::fs::remove_dir_all(folder).ok();
    let flags = vec![format!("--data-dir={}", folder.join("data").display())];
    let start = Instant::now();
    let mut server = Server::start(binary, folder, "server", flags)?;
    note(figures, "start_to_ready_seconds_empty", start.elapsed().as_secs_f64());
    note(figures, "idle_memory_megabytes_empty", resident(&server)?);
    let written = fill(&server)?;
    note(figures, "creates_per_second", OBJECTS as f64 / written.as_secs_f64());
    let best = list(&server)?;
    note(figures, "list_megabytes_per_second", best);
    note(figures, "memory_megabytes_filled", resident(&server)?);
    server.kill();
    let again = server.start_again()?;
    note(figures, "start_to_ready_seconds_filled_after_kill", again.as_secs_f64());
    std::fs::remove_dir_all(folder).ok();
    Ok(())
}

/// Resident memory in megabytes.
fn resident(server: &Server) -> Result<f64> {
    let id = server.process_id().context("the server does not run")?;
    let text = process::output(&mut process::command("ps", &["-o", "rss=", "-p", &id.to_string()]))?;
    let kilobytes: f64 = text.trim().parse().context("ps printed no number")?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// Creates the configmaps, from several clients at once.
fn fill(server: &Server) -> Result<Duration> {
    let http = server.http();
    http.post("/api/v1/namespaces", &json!({ "metadata": { "name": "bench" } }))?
        .expect(201)?;
    let payload = "x".repeat(OBJECT_BYTES);
    let start = Instant::now();
    let create = |writer: usize| -> Result<()> {
        for number in (writer..OBJECTS).step_by(WRITERS) {
            let body = json!({ "metadata": { "name": format!("c-{number:05}") }, "data": { "payload": payload } });
            http.post("/api/v1/namespaces/bench/configmaps", &body)?.expect(201)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || create(writer))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
    })?;
    Ok(start.elapsed())
}

/// The best of some full lists, in megabytes per second, as curl sees it.
fn list(server: &Server) -> Result<f64> {
    let url = format!("{}/api/v1/configmaps?resourceVersion=0", server.url());
    let mut best: f64 = 0.0;
    for _ in 0..LISTS {
        let arguments = [
            "--silent",
            "--fail",
            "--output",
            "/dev/null",
            "--write-out",
            "%{size_download} %{time_total}",
        ];
        let printed = process::output(process::command("curl", &arguments).arg(&url)).context("is curl installed?")?;
        let (bytes, seconds) = printed.split_once(' ').context("curl printed something else")?;
        let (bytes, seconds): (f64, f64) = (bytes.parse()?, seconds.parse()?);
        ensure!(
            bytes > (OBJECTS * OBJECT_BYTES) as f64,
            "the list is too short: {bytes} bytes"
        );
        best = best.max(bytes / 1e6 / seconds);
    }
    Ok(best)
}

/// Puts two runs side by side; an error when a figure became worse.
fn compare(base: &Path, figures: &Map<String, Value>) -> Result<()> {
    let text = std::fs::read_to_string(base).with_context(|| format!("cannot read {}", base.display()))?;
    let base: Map<String, Value> = serde_json::from_str(&text).context("not the figures of a run")?;
    let mut worse = Vec::new();
    for (name, value) in figures {
        let (Some(now), Some(before)) = (value.as_f64(), base.get(name).and_then(Value::as_f64)) else {
            continue;
        };
        let verdict = verdict(name, before, now);
        println!("{name}: {before:.2} -> {now:.2} {verdict}");
        if verdict == "worse" {
            worse.push(name.as_str());
        }
    }
    ensure!(worse.is_empty(), "worse than before: {}", worse.join(", "));
    Ok(())
}

fn verdict(name: &str, before: f64, now: f64) -> &'static str {
    let more_is_better = name.ends_with("per_second");
    let change = if more_is_better {
        before / now.max(f64::MIN_POSITIVE)
    } else {
        now / before.max(f64::MIN_POSITIVE)
    };
    match change {
        change if change > 1.0 + TOLERANCE => "worse",
        change if change < 1.0 - TOLERANCE => "better",
        _ => "same",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_knows_which_direction_is_better() {
        for (name, before, now, want) in [
            ("list_megabytes_per_second", 100.0, 50.0, "worse"),
            ("list_megabytes_per_second", 100.0, 150.0, "better"),
            ("binary_megabytes", 10.0, 15.0, "worse"),
            ("binary_megabytes", 10.0, 5.0, "better"),
            ("binary_megabytes", 10.0, 10.5, "same"),
        ] {
            assert_eq!(verdict(name, before, now), want, "{name} {before} {now}");
        }
    }
}
