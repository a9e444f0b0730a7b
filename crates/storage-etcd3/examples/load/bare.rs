//! The bare client: the same calls that the store makes, and nothing else.

use anyhow::{Context, Result, bail};
use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, KvClient, Txn, TxnOp, WatchOptions};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::target::{Listed, Name, Target, number_of};

/// One connection of the bare client.
#[derive(Clone)]
pub(crate) struct Bare {
    client: Client,
    kv: KvClient,
    prefix: String,
}

impl Bare {
    /// Connects; objects are kept below a prefix.
    pub(crate) async fn connect(url: &str, prefix: &str) -> Result<Self> {
        let client = Client::connect([url], None).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(usize::MAX),
            client,
            prefix: prefix.to_owned(),
        })
    }

    fn key(&self, name: &Name) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Stores a value whatever is there.
    pub(crate) async fn overwrite(&self, name: &Name, value: Vec<u8>) -> Result<()> {
        self.kv.clone().put(self.key(name), value, None).await?;
        Ok(())
    }

    async fn put(&self, key: &str, value: Vec<u8>, revision: i64) -> Result<i64> {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.kv.clone().txn(txn).await?;
        match answer.header() {
            Some(header) if answer.succeeded() => Ok(header.revision()),
            _ => bail!("{key} is not at {revision}"),
        }
    }

    async fn read(&self, key: &str) -> Result<i64> {
        let answer = self.kv.clone().get(key, Some(GetOptions::new().with_limit(1))).await?;
        let pair = answer.kvs().first().with_context(|| format!("no {key}"))?;
        Ok(pair.mod_revision())
    }
}

impl Target for Bare {
    const NAME: &'static str = "bare";
    type Seen = i64;

    async fn create(&self, name: &Name, value: Vec<u8>) -> Result<()> {
        self.put(&self.key(name), value, 0).await.map(drop)
    }

    async fn get(&self, name: &Name) -> Result<i64> {
        self.read(&self.key(name)).await
    }

    async fn update(&self, name: &Name, value: Vec<u8>, seen: &i64) -> Result<i64> {
        self.put(&self.key(name), value, *seen).await
    }

    async fn read_and_update(&self, name: &Name, value: Vec<u8>) -> Result<()> {
        let key = self.key(name);
        let revision = self.read(&key).await?;
        self.put(&key, value, revision).await.map(drop)
    }

    async fn list(&self, namespace: &str, page: Option<u64>) -> Result<Listed> {
        let start = format!("{}{namespace}/", self.prefix);
        let Some(page) = page else {
            let all = GetOptions::new().with_prefix();
            return Ok(counted(&self.kv.clone().get(start, Some(all)).await?));
        };
        let end = format!("{}{namespace}0", self.prefix);
        let (mut from, mut revision, mut total) = (start.into_bytes(), 0, Listed::default());
        loop {
            let options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(i64::try_from(page)?)
                .with_revision(revision);
            let answer = self.kv.clone().get(from, Some(options)).await?;
            let listed = counted(&answer);
            total.objects += listed.objects;
            total.bytes += listed.bytes;
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else {
                return Ok(total);
            };
            if revision == 0 {
                revision = answer.header().context("an answer without header")?.revision();
            }
            from = [last.key(), &[0]].concat();
        }
    }

    async fn now(&self) -> Result<u64> {
        let nothing = GetOptions::new().with_count_only();
        let answer = self.kv.clone().get("now", Some(nothing)).await?;
        let header = answer.header().context("an answer without header")?;
        Ok(u64::try_from(header.revision())?)
    }

    async fn watch(&self, after: u64) -> Result<BoxStream<'static, Result<Vec<usize>>>> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(i64::try_from(after + 1)?);
        let mut client = self.client.watch_client().max_decoding_message_size(usize::MAX);
        let watch = client.watch(self.prefix.as_str(), Some(options)).await?;
        let events = stream::unfold(watch, |mut watch| async move {
            let numbers = match watch.message().await {
                Ok(Some(response)) => {
                    let pairs = response.events().iter().filter_map(|event| event.kv());
                    Ok(pairs.map(|pair| number_of(pair.key())).collect())
                }
                Ok(None) => return None,
                Err(error) => Err(error.into()),
            };
            Some((numbers, watch))
        });
        Ok(events.boxed())
    }
}

fn counted(answer: &GetResponse) -> Listed {
    Listed {
        objects: answer.kvs().len(),
        bytes: answer.kvs().iter().map(|pair| pair.value().len()).sum(),
    }
}
