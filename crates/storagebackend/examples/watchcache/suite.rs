//! All workloads one after the other, each in a process of its own, so that its peak memory is its own; beside them, on
//! the same etcd, the program for Go's library where it is given.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::options::Options;

/// Figures that are printed, in this order, where a result has them.
const SHOWN: [&str; 24] = [
    "s",
    "cpu_s",
    "cpu_init_s",
    "alloc_mb",
    "held_b_per_obj",
    "held_per_encoded",
    "alloc_per_encoded",
    "alloc_beyond_client_per_encoded",
    "bytes_per_watcher",
    "bytes_per_watcher_and_task",
    "heap_kb_per_watcher",
    "rss_kb_per_watcher",
    "calls_per_s",
    "mb_per_s",
    "of_client_gets",
    "writes_per_s",
    "events_per_s",
    "cut_off",
    "ratio",
    "p99_ratio",
    "extra_per_answer",
    "p50_ms",
    "p99_ms",
    "peak_rss_mb",
];

/// A workload: our arguments, and those of the other program, if it has the like.
struct Item {
    ours: String,
    peer: Option<String>,
    embedded: bool,
}

fn items(options: &Options) -> Vec<Item> {
    let seconds = options.d.as_secs_f64();
    let mut items = Vec::new();
    let mut both = |ours: &str, peer: &str, embedded: bool| {
        items.push(Item {
            ours: ours.to_owned(),
            peer: (!peer.is_empty()).then(|| peer.to_owned()),
            embedded,
        });
    };
    both("init", "init", true);
    for (watches, scope) in [(10_000, "all"), (options.nodes, "node")] {
        both(
            &format!("idle -w {watches} --scope {scope}"),
            &format!("-w {watches} -scope {scope} idle"),
            false,
        );
    }
    both("idle -w 100000 --scope node", "", false);
    for (scope, rv, callers, page) in [
        ("all", "consistent", 1, 0),
        ("all", "consistent", 4, 0),
        ("all", "consistent", 1, 1_000),
        ("all", "exact", 1, 0),
        ("ns", "consistent", 4, 0),
        ("ns", "notolder", 4, 0),
        ("ns", "exact", 4, 0),
        ("ns", "consistent", 4, 100),
        ("node", "consistent", 1, 0),
        ("node", "consistent", 16, 0),
        ("node", "consistent", 64, 0),
        ("node", "notolder", 4, 0),
        ("node", "exact", 4, 0),
        ("node", "zero", 4, 0),
    ] {
        let go = if rv == "consistent" { "" } else { rv };
        both(
            &format!("list --scope {scope} --rv {rv} -p {callers} --page {page} -d {seconds}"),
            &format!("-scope {scope} -rv={go} -p {callers} -page {page} -d {seconds}s list"),
            false,
        );
    }
    for (watches, rate) in [(1, 1_000), (100, 1_000), (1_000, 1_000), (10_000, 100), (10_000, 200)] {
        both(
            &format!("fanout -w {watches} --rate {rate} -d {seconds}"),
            &format!("-w {watches} -rate {rate} -d {seconds}s fanout"),
            watches == 1_000,
        );
    }
    let nodes = options.nodes;
    both(
        &format!("fanout -w {nodes} --scope node --rate 1000 -d {seconds}"),
        &format!("-w {nodes} -scope node -rate 1000 -d {seconds}s fanout"),
        false,
    );
    both("start --scope node -p 4 -d 3", "", false);
    both("start --scope ns -p 4 -d 3", "", false);
    both("storm -w 1000 --scope all", "", false);
    for more in [
        "",
        " --background lister",
        " --background watcher --scope node",
        " --traffic create",
    ] {
        both(&format!("write -d {}{more}", seconds / 2.0), "", true);
    }
    both(&format!("stalled -w 1000 --rate 300 -d {seconds}"), "", false);
    both("lists -p 10", "", false);
    both("crowd -p 1000 -d 3", "", false);
    both("idle-kind", "", true);
    both("relist -w 1000 --scope node", "", false);
    items
}

/// Runs everything, prints it and writes it down.
pub(crate) async fn all(options: &Options) -> Result<()> {
    let (mut own, mut directory) = (None, None);
    let etcd = match &options.etcd {
        Some(address) => address.clone(),
        None => own.insert(Etcd::start().await?).url().to_owned(),
    };
    let data = match &options.data {
        Some(data) => data.clone(),
        None => directory.insert(TempDir::new()?).path().join("data"),
    };
    let backends = [
        format!("--backend etcd --etcd {etcd}"),
        format!("--backend embedded --data {}", data.display()),
    ];
    let (mut results, common) = (Vec::new(), sizes(options));
    // It has names of its own for its objects: what it seeds, both can write. It stores them without defaults, and no
    // server would; ours goes over them.
    results.extend(peer(options, &etcd, "seed")?);
    results.extend(ours(&format!("seed {} {common}", backends[0]))?);
    results.extend(ours(&format!("seed {} {common}", backends[1]))?);
    for item in items(options) {
        println!("{}", item.ours);
        results.extend(ours(&format!("{} {} {common}", item.ours, backends[0]))?);
        if let Some(arguments) = &item.peer {
            results.extend(peer(options, &etcd, arguments)?);
        }
        if item.embedded {
            results.extend(ours(&format!("{} {} {common}", item.ours, backends[1]))?);
        }
    }
    if let Some(out) = &options.out {
        std::fs::write(out, serde_json::to_string_pretty(&results)?)?;
        println!("figures: {}", out.display());
    }
    Ok(())
}

fn sizes(options: &Options) -> String {
    let Options {
        n,
        ns,
        nodes,
        size,
        rounds,
        ..
    } = options;
    format!("-n {n} --ns {ns} --nodes {nodes} --size {size} --rounds {rounds}")
}

fn ours(arguments: &str) -> Result<Vec<Value>> {
    run(
        Command::new(std::env::current_exe()?).args(arguments.split_whitespace()),
        arguments,
    )
}

fn peer(options: &Options, etcd: &str, arguments: &str) -> Result<Vec<Value>> {
    let Some(program) = &options.peer else {
        return Ok(Vec::new());
    };
    let address = etcd.rsplit("://").next().unwrap_or(etcd);
    let (ns, nodes, size) = (options.ns, options.nodes, options.size);
    let common = format!("-etcd {address} -n {} -ns {ns} -nodes {nodes} -size {size}", options.n);
    let mut command = Command::new(program);
    command
        .args(common.split_whitespace())
        .args(arguments.split_whitespace());
    run(&mut command, arguments)
}

/// The results that a program printed, which are printed in short.
fn run(command: &mut Command, arguments: &str) -> Result<Vec<Value>> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", PathBuf::from(command.get_program()).display()))?;
    ensure!(output.status.success(), "{arguments}: {}", output.status);
    let mut results = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut result: Value = serde_json::from_str(line).with_context(|| format!("no result: {line}"))?;
        print(&result);
        result["arguments"] = json!(arguments);
        results.push(result);
    }
    Ok(results)
}

fn print(result: &Value) {
    let text = |name: &str| result[name].as_str().unwrap_or("etcd").to_owned();
    let figures: Vec<String> = SHOWN
        .iter()
        .filter_map(|name| match &result[*name] {
            Value::Number(number) => Some(format!("{name} {:.3}", number.as_f64()?)),
            Value::Object(spread) => Some(format!(
                "{name} {} ({}..{})",
                spread["median"], spread["min"], spread["max"]
            )),
            _ => None,
        })
        .collect();
    println!("    {:>4} {:>8}: {}", text("impl"), text("backend"), figures.join(", "));
}
