//! A cluster with authentication switched on.

mod common;

use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::{Kv, KvError, WatchRequest};
use etcd_client::{Client, Permission};

use common::{Etcd, batch, connect, create, end, healthy};

/// Switches authentication on, with a user that may do what an API server does, and nothing else.
async fn secure(etcd: &Etcd) {
    let mut client = Client::connect([etcd.url()], None).await.expect("connects");
    for (user, password) in [("root", "r"), ("api", "secret")] {
        client.user_add(user, password, None).await.expect("a user");
        client.role_add(user).await.expect("a role");
        client.user_grant_role(user, user).await.expect("granted");
    }
    let objects = Permission::read_write("/registry/").with_prefix();
    client.role_grant_permission("api", objects).await.expect("granted");
    let cycles = Permission::read_write("compact_rev_key");
    client.role_grant_permission("api", cycles).await.expect("granted");
    client.auth_enable().await.expect("switched on");
}

fn all(key: &str) -> WatchRequest {
    WatchRequest {
        key: key.into(),
        prefix: true,
        from: None,
        previous: false,
    }
}

// covers: storage-etcd3/EERR-09
#[tokio::test]
async fn a_user_works_and_goes_on_when_its_token_ends() {
    let Some(mut etcd) = Etcd::start().await else { return };
    secure(&etcd).await;
    let kv = connect(etcd.config().with_credentials("api", "secret")).await;
    let mut watch = kv.watch(all("/registry/")).await.expect("accepted");
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    // The tokens that were given out mean nothing to the new process.
    etcd.restart().await;
    healthy(&kv).await;
    let answered = async { while kv.now().await.is_err() {} };
    common::soon(answered).await;
    let second = create(&kv, "/registry/b", "1").await;
    assert_eq!(batch(&mut watch).await.0, second);
    let third = create(&kv, "/registry/c", "1").await;
    assert_eq!(batch(&mut watch).await.0, third);
}

// covers: storage-etcd3/EERR-09
#[tokio::test]
async fn what_a_user_may_not_do_is_refused_and_not_tried_again() {
    let Some(etcd) = Etcd::start().await else { return };
    secure(&etcd).await;
    let kv = connect(etcd.config().with_credentials("api", "secret")).await;
    let refused = kv.get("/secret", None).await;
    assert!(matches!(refused, Err(KvError::Fault(_))), "{refused:?}");
    let refused = kv.watch(all("/secret")).await;
    assert!(matches!(refused, Err(KvError::Fault(_))), "{refused:?}");
    for config in [etcd.config(), etcd.config().with_credentials("api", "wrong")] {
        let stranger = EtcdKv::connect(config).await.expect("a sound configuration");
        let cause = stranger.health().expect_err("not let in");
        assert!(!cause.contains("wrong"), "{cause}");
        let read = stranger.now().await;
        assert!(matches!(read, Err(KvError::Fault(_))), "{read:?}");
    }
}

// covers: storage-etcd3/EERR-09
#[tokio::test]
async fn a_watch_whose_user_loses_its_right_ends() {
    let Some(mut etcd) = Etcd::start().await else { return };
    secure(&etcd).await;
    let kv = connect(etcd.config().with_credentials("api", "secret")).await;
    let mut watch = kv.watch(all("/registry/")).await.expect("accepted");
    let options = etcd_client::ConnectOptions::new().with_user("root", "r");
    let mut root = Client::connect([etcd.url()], Some(options)).await.expect("connects");
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    root.user_revoke_role("api", "api").await.expect("revoked");
    etcd.restart().await;
    assert!(matches!(end(&mut watch).await, KvError::Fault(_)));
}
