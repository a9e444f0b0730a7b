//! What a cluster can do: known for each member, noticed when it changes, and without effect on other clusters. And
//! what is shared by all who use one cluster.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{Clock, ManualClock};
use apiserver_storage_api::{ListAt, ResourceInfo, ResourceScope, Scope, Storage, WatchOptions, WatchStart};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use apiserver_storage_kv::{Kv, KvError, KvWatchItem, WatchRequest};
use apiserver_storage_testing::fixture::{create_pod, list_at, pods};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use common::{Etcd, config, connect, create, etcd_binary, has_progress, soon, until, version};

/// A door to a server that makes it say another version, and counts who comes in.
struct Door {
    address: SocketAddr,
    says: watch::Sender<&'static str>,
    /// Changes when all connections are to be cut.
    cut: watch::Sender<()>,
    opened: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A version with trustworthy progress and one without, both as long as the real one.
fn new_and_old() -> (&'static str, &'static str) {
    let binary = etcd_binary().expect("there is one");
    match version(&binary).len() {
        6 => ("3.5.30", "3.5.12"),
        _ => ("3.6.0", "3.5.0"),
    }
}

impl Door {
    async fn to(etcd: &Etcd, says: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (says, said) = watch::channel(says);
        let (cut, cuts) = watch::channel(());
        let (opened, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (server, count, asking) = (etcd.port(), Arc::clone(&opened), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                let pass = pass(client, server, said.clone(), Arc::clone(&asking));
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            says,
            cut,
            opened,
            asked,
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often somebody was told the version.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: u16, says: watch::Receiver<&'static str>, asked: Arc<AtomicUsize>) {
    let real = version(&etcd_binary().expect("there is one")).as_bytes();
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_server.read(&mut buffer).await.unwrap_or(0);
            let part = &mut buffer[..read];
            let places: Vec<usize> = part
                .windows(real.len())
                .enumerate()
                .filter_map(|(at, text)| (text == real).then_some(at))
                .collect();
            for at in places {
                part[at..at + real.len()].copy_from_slice(says.borrow().as_bytes());
                asked.fetch_add(1, Ordering::SeqCst);
            }
            if read == 0 || to_client.write_all(part).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = back => {}
    }
}

/// An address where nobody answers: connections are closed as soon as they are made, and counted.
async fn shut() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let knocks = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&knocks);
    // It ends with the runtime of its test.
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            drop(client);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (url, knocks)
}

fn everything() -> WatchRequest {
    WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: None,
        previous: false,
    }
}

// covers: storage-etcd3/CFG-03, storage-etcd3/FEAT-02, storage-etcd3/FEAT-12, storage-etcd3/OPEN-08
#[tokio::test]
async fn one_old_member_that_nobody_calls_is_found_and_speaks_for_its_own_cluster_only() {
    let Some(etcd) = Etcd::start().await else { return };
    let (new, old) = new_and_old();
    let (current, other) = (Door::to(&etcd, new).await, Door::to(&etcd, old).await);
    let (dead, knocks) = shut().await;
    let mixed = connect(config([current.url(), other.url(), dead])).await;
    let sound = connect(config([current.url()])).await;
    // All members are asked at once, and those that did not answer again once all of that is over. So when the dead one
    // is asked once more, the answers of the others have been read.
    until(|| knocks.load(Ordering::SeqCst) > 2, "the dead one is asked again").await;
    assert!(other.asked() > 0, "all members are asked for their versions");
    until(|| sound.capabilities().progress, "the other cluster has only new ones").await;
    until(|| !mixed.capabilities().progress, "an old one among them").await;
    // Nothing makes it trusted again while the old member is there: not time, not use.
    for _ in 0..10 {
        mixed.now().await.expect("answered by the new one");
        assert!(!mixed.capabilities().progress);
    }
}

// covers: storage-etcd3/FEAT-12, storage-etcd3/OPEN-08
#[tokio::test]
async fn an_upgrade_and_a_downgrade_are_noticed_on_the_next_connection() {
    let Some(etcd) = Etcd::start().await else { return };
    let (new, old) = new_and_old();
    let door = Door::to(&etcd, old).await;
    let kv = connect(config([door.url()])).await;
    until(|| door.asked() > 0, "asked").await;
    assert!(!kv.capabilities().progress);
    for (version, trusted) in [(new, true), (old, false), (new, true)] {
        door.says.send_replace(version);
        door.cut.send_replace(());
        // Whoever calls next makes the new connection; the health check does if nobody else.
        until(|| kv.capabilities().progress == trusted, version).await;
    }
}

// covers: storage-etcd3/FEAT-12
#[tokio::test]
async fn an_upgrade_of_a_member_that_nobody_calls_is_noticed_within_a_minute() {
    let Some(etcd) = Etcd::start().await else { return };
    let (new, old) = new_and_old();
    let (current, other) = (Door::to(&etcd, new).await, Door::to(&etcd, old).await);
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let mut settings = config([current.url(), other.url()]).with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    // Time decides when is asked, and ends nothing.
    let never = Duration::from_secs(1_000_000);
    (settings.health_timeout, settings.request_timeout) = (never, never);
    settings.health_interval = Duration::from_secs(1);
    let kv = connect_still(settings).await;
    // A member is known once its answer has arrived, which is a moment after it was asked.
    let known = || other.asked() > 0 && current.asked() > 0 && !kv.capabilities().progress;
    until(known, "both are known").await;
    other.says.send_replace(new);
    let mut passed = 0;
    while !kv.capabilities().progress {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(5)).await;
        passed += 1;
        assert!(passed < 3000, "asked again after a minute");
    }
    assert!(passed >= 59, "not all the time: {passed} s");
}

/// Connects with a clock that stands still.
async fn connect_still(config: EtcdConfig) -> EtcdKv {
    let kv = EtcdKv::connect(config).await.expect("a sound configuration");
    kv.now().await.expect("it answers");
    kv
}

// covers: storage-etcd3/FEAT-01, storage-etcd3/FEAT-13
#[tokio::test]
async fn progress_is_not_supported_until_it_is_proven_and_a_cache_does_without() {
    let nobody = EtcdKv::connect(config(["http://127.0.0.1:9".to_owned()])).await;
    let nobody = nobody.expect("a sound configuration");
    assert!(!nobody.capabilities().progress, "nothing is known");
    let refused = nobody.request_progress().await;
    assert!(matches!(refused, Err(KvError::NotSupported(_))), "{refused:?}");

    let Some(etcd) = Etcd::start().await else { return };
    let (_, old) = new_and_old();
    let door = Door::to(&etcd, old).await;
    let kv = Arc::new(connect(config([door.url()])).await);
    until(|| door.asked() > 0, "asked").await;
    let refused = kv.request_progress().await;
    assert!(matches!(refused, Err(KvError::NotSupported(_))), "{refused:?}");
    let cache = Cacher::new(Arc::new(kv.store(pods())), CacherConfig::default());
    cache.wait_ready().await.expect("ready");
    let elsewhere = Arc::new(etcd.connect().await).store(pods());
    for number in 0..20 {
        create_pod(&elsewhere, "ns", &number.to_string()).await;
        let seen = soon(list_at(&cache, ListAt::MostRecent)).await;
        assert_eq!(seen.entries.len(), number + 1, "what was written before is there");
    }
}

// covers: storage-etcd3/FEAT-11
#[tokio::test]
async fn a_server_may_tell_progress_by_itself() {
    let flags = ["--experimental-watch-progress-notify-interval=100ms"];
    let Some(etcd) = Etcd::start_with(None, &flags).await else {
        return;
    };
    let kv = etcd.connect().await;
    let believed = has_progress(&kv).await;
    let last = create(&kv, "/elsewhere", "1").await;
    let mut idle = kv.watch(everything()).await.expect("accepted");
    if !believed {
        // It would be told, and is not to be believed.
        let told = tokio::time::timeout(Duration::from_millis(400), idle.items.next()).await;
        assert!(told.is_err(), "{told:?}");
        return;
    }
    for _ in 0..3 {
        let told = soon(idle.items.next()).await.expect("goes on").expect("sound");
        assert!(matches!(told, KvWatchItem::Progress(at) if at == last), "{told:?}");
    }
}

// covers: storage-etcd3/CFG-08, storage-etcd3/OPEN-08
#[tokio::test]
async fn all_resources_of_a_cluster_share_two_connections() {
    let Some(etcd) = Etcd::start().await else { return };
    let door = Door::to(&etcd, new_and_old().0).await;
    let kv = Arc::new(connect(config([door.url()])).await);
    let mut watches = Vec::new();
    for number in 0..30 {
        let info = ResourceInfo::new(
            "example.com",
            "v1",
            &format!("kind{number}s"),
            "Kind",
            ResourceScope::Namespaced,
        );
        let store = kv.store(info);
        store.current_revision().await.expect("read");
        let scope = Scope::all(store.resource().prefix());
        let options = WatchOptions {
            start: WatchStart::Now,
            ..WatchOptions::default()
        };
        watches.push(store.watch(&scope, options).await.expect("accepted"));
    }
    let opened = door.opened.load(Ordering::SeqCst);
    assert_eq!(opened, 2, "one for reads and writes, one for up to 64 watches");
}
