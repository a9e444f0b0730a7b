//! Whether the cluster answers: a real read in the background, whose last result anybody can see without waiting.

use std::sync::Arc;

use etcd_client::GetOptions;
use futures::FutureExt;

use crate::shared::Shared;

// deviates: storage-etcd3/HEALTH-03, storage-etcd3/HEALTH-04: one probe after the other in the background, none for a
// caller; results cannot overtake each other.
/// Reads until the cluster is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    loop {
        let closed = closed.wait_for(|closed| *closed).map(drop);
        tokio::select! {
            biased;
            () = closed => return,
            () = cluster.clock().sleep(cluster.config.health_interval) => {}
        }
        probe(&shared).await;
    }
}

/// One read; remembers how it ended. Asks members for their versions that are not known.
pub(crate) async fn probe(shared: &Shared) {
    let cluster = &shared.cluster;
    let (asked, _) = cluster.current();
    let result = match cluster.within(cluster.config.health_timeout, shared.now()).await {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(format!("error getting data from etcd: {}", causes(&error))),
        None => {
            if !replace_connection(shared, asked).await {
                // It took the request and says nothing: callers should not have to find that out one by one.
                cluster.rotate(asked);
            }
            Err("error getting data from etcd: context deadline exceeded".to_owned())
        }
    };
    let reachable = result.is_ok();
    let was = std::mem::replace(&mut *shared.health.lock(), result.clone());
    match (was, result) {
        (Ok(()), Err(cause)) => tracing::warn!(cause, "etcd does not answer"),
        (Err(_), Ok(())) => tracing::info!("etcd answers"),
        _ => {}
    }
    if reachable {
        let (_, current) = cluster.current();
        cluster.learn_trust(current).await;
    }
}

/// Is it the member that says nothing, or the connection? A path that swallows packets is noticed by keepalive only
/// much later. Returns whether a new connection got an answer, and is used from now on.
async fn replace_connection(shared: &Shared, index: usize) -> bool {
    let cluster = &shared.cluster;
    let member = &cluster.members()[index];
    let attempt = async {
        let clients = member.fresh_clients().await?;
        let options = GetOptions::new().with_count_only();
        let key = cluster.config.probe_key.as_str();
        clients.kv.clone().get(key, Some(options)).await?;
        Ok::<_, etcd_client::Error>(clients)
    };
    match cluster.within(cluster.config.health_timeout, attempt).await {
        Some(Ok(clients)) => {
            tracing::warn!(server = member.server, "etcd connection was dead, replaced it");
            member.adopt(clients);
            true
        }
        _ => false,
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
