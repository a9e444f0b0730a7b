//! Lists to encoded JSON: everything, a namespace or a node, in each state that can be asked for, paged and not.

use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::Result;
use apiserver_storage_api::{
    FieldSelector, LabelSelector, ListAt, ListOptions, Revision, Scope, SelectionPredicate, Storage,
};
use apiserver_storage_cacher::Cacher;
use futures::StreamExt;
use serde_json::json;

use crate::bare::Bare;
use crate::callers::{self, Calls, Plan, Sink};
use crate::ground::{Ground, Stored};
use crate::options::{Freshness, Options, Part};
use crate::pods::{self, NODE_FIELD};
use crate::report::{Meter, Used, emit, percentiles, round};
use crate::watching::touch;

/// Which of the last states are asked for.
const RECENT: usize = 100;

// measures: storage-cacher/BENCH-01, storage-cacher/BENCH-02, storage-cacher/BENCH-09, storage-cacher/BENCH-10, storage-cacher/BENCH-12
/// Some callers list all the time. Exact and not-older ones ask for one of the last 100 states, in turn. For consistent
/// ones the bare client's reads at the same concurrency stand beside it, in turns.
pub(crate) async fn list(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let stored = Stored::of(&*cache).await?;
    let mut revisions = Vec::with_capacity(RECENT);
    for number in 0..RECENT {
        let key = &stored.keys[number * 37 % stored.keys.len()];
        revisions.push(touch(&*cache, key).await?);
    }
    let store: Arc<dyn Storage> = match options.bare {
        true => Arc::clone(&ground.store),
        false => Arc::<Cacher>::clone(&cache),
    };
    let asker = Arc::new(Asker {
        store,
        revisions,
        options: options.clone(),
    });
    // Until the cache has seen the last of these writes.
    asker.call(0, Sink::default()).await?;
    let compared = match &ground.url {
        Some(url) if options.rv == Freshness::Consistent && !options.bare => Some(Bare::connect(url).await?),
        _ => None,
    };
    for _ in 0..if compared.is_some() { options.rounds } else { 1 } {
        let (calls, used) = asker.run(options.d).await?;
        let client = match &compared {
            Some(bare) => Some(client(bare, &stored, options).await?),
            None => None,
        };
        report(options, calls, &used, client);
    }
    Ok(())
}

/// Reads of the bare client per second: of a pod, and of nothing.
async fn client(bare: &Bare, stored: &Stored, options: &Options) -> Result<(f64, f64)> {
    let plan = Plan {
        callers: options.p,
        time: options.d / 2,
        rate: 0.0,
    };
    let (client, keys) = (bare.clone(), Arc::clone(&stored.keys));
    let gets = callers::run(plan, move |number, sink| {
        let (client, keys) = (client.clone(), Arc::clone(&keys));
        async move {
            client.get(keys[number % keys.len()].as_str()).await?;
            Ok(sink)
        }
    });
    let gets = gets.await?;
    let client = bare.clone();
    let nows = callers::run(plan, move |_, sink| {
        let client = client.clone();
        async move {
            client.now().await?;
            Ok(sink)
        }
    });
    Ok((gets.per_second(), nows.await?.per_second()))
}

fn report(options: &Options, mut calls: Calls, used: &Used, client: Option<(f64, f64)>) {
    let seconds = calls.wall.as_secs_f64();
    let (p50, p99) = percentiles(&mut calls.latencies);
    let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let count = calls.latencies.len().max(1);
    let figures = json!({
        "scope": name(&options.scope),
        "rv": name(&options.rv),
        "page": options.page,
        "select": options.select,
        "bare": options.bare,
        "p": options.p,
        "calls_per_s": round(calls.per_second()),
        "objs_per_s": round(calls.objects as f64 / seconds),
        "mb_per_s": round(calls.bytes as f64 / seconds / 1_048_576.0),
        "p50_ms": p50,
        "p99_ms": p99,
        "alloc_b_per_call": used.allocated / count,
        "allocs_per_call": used.allocations / count,
        "client_gets_per_s": client.map(|(gets, _)| round(gets)),
        "client_nows_per_s": client.map(|(_, nows)| round(nows)),
        "of_client_gets": client.map(|(gets, _)| round(calls.per_second() / gets)),
        "of_client_nows": client.map(|(_, nows)| round(calls.per_second() / nows)),
    });
    emit("list", options, used, &figures);
}

/// Who lists, and what.
struct Asker {
    store: Arc<dyn Storage>,
    revisions: Vec<Revision>,
    options: Options,
}

impl Asker {
    async fn run(self: &Arc<Self>, time: std::time::Duration) -> Result<(Calls, Used)> {
        let plan = Plan {
            callers: self.options.p,
            time,
            rate: 0.0,
        };
        let meter = Meter::start();
        let own = Arc::clone(self);
        let calls = callers::run(plan, move |number, sink| {
            let own = Arc::clone(&own);
            async move { own.call(number, sink).await }
        });
        Ok((calls.await?, meter.used()))
    }

    /// One list, all pages of it. What is asked for is made anew, as for a request.
    async fn call(&self, number: usize, mut sink: Sink) -> Result<Sink> {
        let (scope, mut asked) = self.asked(number)?;
        loop {
            let mut pages = self.store.list(&scope, asked.clone()).await?.into_pages();
            let mut next = None;
            while let Some(page) = pages.next().await {
                let page = page?;
                for entry in &page.entries {
                    sink.write(entry.json()?);
                    sink.write(b",");
                }
                sink.objects += page.entries.len();
                if let Some(end) = page.end {
                    next = end.next;
                    break;
                }
            }
            match next {
                Some(token) => asked.at = ListAt::Continue(token),
                None => return Ok(sink),
            }
        }
    }

    fn asked(&self, number: usize) -> Result<(Scope, ListOptions)> {
        let options = &self.options;
        let recent = || self.revisions[number % self.revisions.len()];
        let at = match options.rv {
            Freshness::Consistent => ListAt::MostRecent,
            Freshness::Notolder => ListAt::NotOlderThan(recent()),
            Freshness::Exact => ListAt::Exact(recent()),
            Freshness::Zero => ListAt::Any,
        };
        let info = self.store.resource();
        let scope = match options.scope {
            Part::Ns => info.list_scope(Some(&pods::namespace(number, options)))?,
            Part::All | Part::Node => Scope::all(info.prefix()),
        };
        let fields = match options.scope {
            Part::Node => FieldSelector::parse(&format!("{NODE_FIELD}={}", pods::node(number, options)))?,
            Part::All | Part::Ns => FieldSelector::default(),
        };
        let labels = match options.select {
            Some(percent) => {
                let apps: Vec<String> = (0..percent).map(|app| format!("app-{app}")).collect();
                LabelSelector::parse(&format!("app in ({})", apps.join(",")))?
            }
            None => LabelSelector::default(),
        };
        let asked = ListOptions {
            at,
            limit: NonZeroU64::new(options.page),
            predicate: SelectionPredicate::new(labels, fields),
            ..ListOptions::default()
        };
        Ok((scope, asked))
    }
}
