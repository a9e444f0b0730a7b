//! `kill -9` under load, again and again: nothing that was acknowledged is lost, and a watch goes on where it was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::backend::{Backend, Kind};
use super::load::{Load, NAMESPACE};
use super::{Report, World};
use crate::process;

/// The server lives at least and at most this long between two kills, once it is ready.
const SHORTEST: u64 = 20;
const LONGEST: u64 = 600;

/// Runs the scenario.
pub(super) fn run(world: &World<'_>, report: &mut Report, kind: Kind) -> Result<()> {
    let mut backend = Backend::start(world, report, kind, Vec::new())?;
    if let (Kind::EtcdTls, Some(etcd)) = (kind, &mut backend.etcd) {
        // The first endpoint: the one that a client without failover would stay with.
        etcd.kill(0)?;
    }
    let http = backend.server.http();
    let load = report.need("start 8 writers and a watcher", || {
        http.post("/api/v1/namespaces", &json!({ "metadata": { "name": NAMESPACE } }))?
            .expect(201)?;
        Load::start(http)
    })?;
    let mut random = Random::seeded();
    let name = format!(
        "kill -9 and start again, {} times at random moments (seed {})",
        world.kills, random.0
    );
    let slowest = report.need(&name, || {
        let mut slowest = Duration::ZERO;
        for round in 1..=world.kills {
            process::pause(Duration::from_millis(random.between(SHORTEST, LONGEST)));
            backend.server.kill();
            let took = backend
                .server
                .start_again()
                .with_context(|| format!("start number {round}"))?;
            slowest = slowest.max(took);
        }
        Ok(slowest)
    })?;
    println!("       slowest start: {:.2} s", slowest.as_secs_f64());
    let ended = report.need("end the load", || load.finish())?;
    report.step("every acknowledged write is there", || {
        let writes = ended.check_writes()?;
        println!("       {writes} acknowledged writes");
        ensure!(writes > 0, "nothing was written");
        Ok(())
    });
    report.step(
        "the watch went on from its last revision; it missed, doubled and invented nothing",
        || {
            println!("       {}", ended.check_watch()?);
            Ok(())
        },
    );
    Ok(())
}

/// A small generator (xorshift); the seed is printed, so that a run can be told from another.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |time| time.subsec_nanos());
        Self(u64::from(now) | 1)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low)
    }
}
