//! Three servers under load, of which one dies or hangs: the leader or another. Every answer that any client got is held
//! against the history in the end: no acknowledged write is lost, none is doubled, no consistent read is stale, watches
//! miss and repeat nothing, and what nobody knows is said to be unknown.
#![expect(clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver_storage_api::Storage;
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{Kv, KvStore, KvStoreConfig};
use apiserver_storage_testing::fixture::pods;
use apiserver_storage_testing::race::{Faults, Load, Race, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use common::{Etcd, Three, config, connect, soon};

/// How soon clients must be through with anything. An election takes a second or two.
const RECOVERY: Duration = Duration::from_secs(15);
/// Writes of each client that show that things go on for it.
const SOME: u64 = 8;

/// A client configuration that tries the members in another order for each client.
fn in_order(three: &Three, first: usize) -> EtcdConfig {
    let members = three.members.len();
    let servers = (0..members).map(|n| three.members[(first + n) % members].url());
    let mut config = config(servers);
    // A member that hangs answers nothing, and its connections stay open.
    config.request_timeout = Duration::from_secs(3);
    config.health_timeout = Duration::from_millis(500);
    config.watch_probe_interval = Duration::from_millis(500);
    config
}

fn store(kv: &Arc<EtcdKv>) -> Arc<dyn Storage> {
    let config = KvStoreConfig::new("/registry", Arc::new(Identity));
    Arc::new(KvStore::new(Arc::clone(kv), pods(), config))
}

/// What a member says of itself.
async fn says_that_it_leads(member: &Etcd) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", member.port())).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text.lines().any(|line| line == "etcd_server_is_leader 1"))
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    answer.is_ok_and(|answer| answer.unwrap_or(false))
}

async fn leader(three: &Three) -> usize {
    let found = async {
        loop {
            for (number, member) in three.members.iter().enumerate() {
                if says_that_it_leads(member).await {
                    return number;
                }
            }
        }
    };
    soon(found).await
}

/// What happens to a member.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// `kill -9`
    Kills,
    /// `kill -STOP`
    Freezes,
}

/// Which one it meets.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Leader,
    Follower,
}

/// One member is hit; things go on; it comes back; things go on.
async fn hit(three: &mut Three, race: &Race, blow: Blow, victim: Victim) {
    let leader = leader(three).await;
    let number = match victim {
        Victim::Leader => leader,
        Victim::Follower => (leader + 1) % three.members.len(),
    };
    let member = &mut three.members[number];
    let start = Instant::now();
    match blow {
        Blow::Kills => member.kill(),
        Blow::Freezes => member.freeze(),
    }
    race.goes_on(SOME).await;
    let away = start.elapsed();
    match blow {
        Blow::Kills => {
            member.run();
            member.ready().await;
        }
        Blow::Freezes => member.thaw(),
    }
    let start = Instant::now();
    race.goes_on(SOME).await;
    let back = start.elapsed();
    println!(
        "{blow:?} {victim:?} ({number}): each client has {SOME} writes after {away:.1?}, and {back:.1?} with it back"
    );
    assert!(
        away < RECOVERY && back < RECOVERY,
        "{blow:?} {victim:?}: {away:?}, {back:?}"
    );
}

/// Clients of three servers, each of which prefers another member, while all that happens.
async fn race(wrap: impl AsyncFn(Arc<dyn Storage>) -> Arc<dyn Storage>, blows: &[(Blow, Victim)]) -> Option<Verdict> {
    let mut three = Three::start().await?;
    let direct = Arc::new(connect(in_order(&three, 0)).await);
    let mut stores = Vec::new();
    for first in 0..three.members.len() {
        let kv = Arc::new(connect(in_order(&three, first)).await);
        stores.push(wrap(store(&kv)).await);
    }
    let load = Load {
        clients: 9,
        watchers: 6,
        ..Load::until_finished(1, Faults::Network)
    };
    let race = Race::start(load, &stores, &*store(&direct)).await;
    race.goes_on(SOME).await;
    for (blow, victim) in blows {
        hit(&mut three, &race, *blow, *victim).await;
    }
    // The way of the reader of the history must be free.
    soon(async { while direct.now().await.is_err() {} }).await;
    let verdict = race.finish(&*store(&direct)).await;
    println!("{verdict:?}");
    Some(verdict)
}

// covers: storage-etcd3/EERR-12, storage-etcd3/EWATCH-28, storage-etcd3/RCLI-13, storage-api/GLOB-04, storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_killed_cost_no_answer_its_truth() {
    let blows = [(Blow::Kills, Victim::Follower), (Blow::Kills, Victim::Leader)];
    race(async |store| store, &blows).await;
}

// covers: storage-etcd3/EERR-12, storage-etcd3/EWATCH-28, storage-api/GLOB-04, storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn members_that_hang_cost_no_answer_its_truth() {
    let blows = [(Blow::Freezes, Victim::Follower), (Blow::Freezes, Victim::Leader)];
    race(async |store| store, &blows).await;
}

// covers: storage-etcd3/EWATCH-28, storage-api/GLOB-04, storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn caches_over_members_that_die_and_hang_serve_nothing_stale() {
    let blows = [(Blow::Kills, Victim::Leader), (Blow::Freezes, Victim::Leader)];
    let cached = async |store| {
        let cache = Cacher::new(store, CacherConfig::default());
        cache.wait_ready().await.expect("the cache gets ready");
        Arc::new(cache) as Arc<dyn Storage>
    };
    race(cached, &blows).await;
}
