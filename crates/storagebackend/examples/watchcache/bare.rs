//! The bare etcd client: what the same calls take without anything of ours.

use anyhow::{Context, Result};
use etcd_client::{Client, GetOptions, KvClient};

/// Bytes that the store wants a page to bring.
const PAGE_BYTES: usize = 4 << 20;
/// Keys of its first page.
const FIRST_PAGE: usize = 100;
const PREFIX: &str = "/registry/pods/";
const PREFIX_END: &str = "/registry/pods0";

/// One connection of the bare client.
#[derive(Clone)]
pub(crate) struct Bare(KvClient);

impl Bare {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let client = Client::connect([url], None).await?;
        Ok(Self(client.kv_client().max_decoding_message_size(usize::MAX)))
    }

    /// The bytes of a value, which must be there.
    pub(crate) async fn get(&self, key: &str) -> Result<usize> {
        let answer = self.0.clone().get(format!("/registry{key}"), None).await?;
        let pair = answer.kvs().first().with_context(|| format!("no {key}"))?;
        Ok(pair.value().len())
    }

    /// The least that a consistent reader has to ask.
    pub(crate) async fn now(&self) -> Result<i64> {
        let options = GetOptions::new().with_count_only();
        let answer = self.0.clone().get("now", Some(options)).await?;
        Ok(answer.header().context("an answer without header")?.revision())
    }

    /// Reads all pods in pages as the store does, looks at them and lets them go.
    pub(crate) async fn range_all(&self) -> Result<usize> {
        let (mut from, mut revision, mut limit, mut objects) = (PREFIX.as_bytes().to_vec(), 0, FIRST_PAGE, 0);
        loop {
            let options = GetOptions::new()
                .with_range(PREFIX_END)
                .with_limit(i64::try_from(limit)?)
                .with_revision(revision);
            let answer = self.0.clone().get(from, Some(options)).await?;
            revision = answer
                .header()
                .context("an answer without header")?
                .revision()
                .max(revision);
            objects += answer.kvs().len();
            let bytes: usize = answer.kvs().iter().map(|pair| pair.value().len()).sum();
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else {
                return Ok(objects);
            };
            limit = PAGE_BYTES * answer.kvs().len() / bytes.max(1);
            from = [last.key(), &[0]].concat();
        }
    }
}
