//! From a new cache to a ready one, and what it holds then.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bare::Bare;
use crate::ground::{self, Ground, Stored};
use crate::options::Options;
use crate::report::{Meter, emit, round};
use crate::watching::touch;

/// Stores the pods. Where there are some already, those are written anew, so that they are as a server has them: with
/// their defaults.
pub(crate) async fn seed(options: &Options) -> Result<()> {
    let ground = Ground::open_as_it_is(options).await?;
    let stored = Stored::of(&*ground.store).await?;
    let meter = Meter::start();
    if stored.keys.is_empty() {
        ground::seed(&ground.store, options).await?;
    }
    for key in &*stored.keys {
        touch(&*ground.store, key).await?;
    }
    let used = meter.used();
    let per_second = options.n as f64 / used.wall.as_secs_f64();
    emit("seed", options, &used, &json!({ "per_s": round(per_second) }));
    Ok(())
}

// measures: storage-cacher/BENCH-08
/// A cache from nothing, several times; each time what it took, and what is held of it.
pub(crate) async fn init(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let bare = match &ground.url {
        Some(url) => Some(Bare::connect(url).await?),
        None => None,
    };
    for _ in 0..options.rounds {
        let client = match &bare {
            Some(bare) => {
                let meter = Meter::start();
                ensure!(bare.range_all().await? >= options.n, "not all pods are there");
                Some(meter.used())
            }
            None => None,
        };
        let meter = Meter::start();
        let cache = ground.cache().await?;
        let used = meter.used();
        let stored = Stored::of(&*cache).await?;
        let objects = stored.keys.len();
        ensure!(objects >= options.n, "not all pods are in the cache");
        let encoded = stored.bytes as f64;
        let mut figures = json!({
            "objects": objects,
            "encoded_mb": round(encoded / 1_048_576.0),
            "held_b_per_obj": used.held / objects,
            "held_per_encoded": round(used.held as f64 / encoded),
            "alloc_per_encoded": round(used.allocated as f64 / encoded),
        });
        if let Some(client) = client {
            let more = figures.as_object_mut().context("figures have names")?;
            more.insert("client_s".into(), json!(round(client.wall.as_secs_f64())));
            more.insert("client_cpu_s".into(), json!(round(client.cpu)));
            more.insert(
                "client_alloc_mb".into(),
                json!(round(client.allocated as f64 / 1_048_576.0)),
            );
            let beyond = (used.allocated as f64 - client.allocated as f64) / encoded;
            more.insert("alloc_beyond_client_per_encoded".into(), json!(round(beyond)));
        }
        emit("init", options, &used, &figures);
        cache.close().await;
    }
    Ok(())
}
