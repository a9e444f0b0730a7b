//! What a typed list costs beside plain decoding: 10,000 stored pods into `k8s-openapi` types.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use apiserver_storage_etcd3::api::{Entry, Revision, Room};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::latency::Spread;
use crate::objects::{Template, name};
use crate::store::pods;

/// Options of `decode`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds of each side.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Pods of the list.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Bytes of a pod.
    #[arg(long, value_delimiter = ',', default_value = "1024,9216")]
    sizes: Vec<usize>,
}

/// Decodes the same stored bytes plainly, as entries that were read before, and from reading on.
pub(crate) fn run(options: &Options) -> Result<Value> {
    let mut cells = Vec::new();
    for &size in &options.sizes {
        let (template, info) = (Template::of_size(size), pods());
        let stored: Vec<Vec<u8>> = (0..options.objects)
            .map(|number| template.fill(number, number))
            .collect();
        let keys = (0..options.objects).map(|number| info.object_key(Some("bench"), &name(number)));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        // As lists read them, whose keys come with them.
        let read = || -> Result<Vec<Entry>> {
            let mut room = Room::shared();
            let entries = stored.iter().zip(&keys).map(|(value, key)| {
                let (stale, lasting) = (false, true);
                Entry::read_into(&info, key.clone(), Revision::MIN, value, stale, lasting, &mut room)
            });
            Ok(entries.collect())
        };
        let entries = read()?;
        let typed = |entries: &[Entry]| -> Result<()> {
            entries.iter().try_for_each(|entry| {
                black_box(entry.decode::<Pod>()?);
                Ok(())
            })
        };
        let (mut from_entries, mut from_stored) = (Vec::new(), Vec::new());
        for round in 0..=options.rounds {
            let plain = timed(|| {
                stored.iter().try_for_each(|value| {
                    black_box(serde_json::from_slice::<Pod>(value)?);
                    Ok(())
                })
            })?;
            let alone = timed(|| typed(&entries))?;
            let whole = timed(|| typed(&read()?))?;
            // The first one warms up.
            if round > 0 {
                from_entries.push(alone.as_secs_f64() / plain.as_secs_f64());
                from_stored.push(whole.as_secs_f64() / plain.as_secs_f64());
            }
        }
        for (name, ratios) in [("decode", from_entries), ("read_and_decode", from_stored)] {
            let ratio = Spread::of(ratios);
            let shown = ratio.map_or_else(String::new, |ratio| ratio.to_string());
            println!("{name:>18} {size:>5} B: time {shown} of plain decoding");
            cells.push(json!({ "verb": name, "bytes": size, "time_ratio": ratio.map(Spread::json) }));
        }
    }
    Ok(json!({ "rounds": options.rounds, "objects": options.objects, "cells": cells }))
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}
