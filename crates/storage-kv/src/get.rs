//! `get`, one read, and `stats`, one read too.

use std::num::NonZeroU64;

use apiserver_storage_api::{Entry, GetOptions, Key, ReadAt, Result, Stats};

use crate::convert::{self, Call};
use crate::kv::{Kv, RangeRequest};
use crate::store::Inner;
use crate::trace::Trace;
use crate::update::not_found;

/// While fewer sizes than this are known, statistics read so many objects, or so many bytes of them.
const SAMPLE_KEYS: u64 = 200;
const SAMPLE_BYTES: u64 = 512 * 1024;

impl<K: Kv> Inner<K> {
    pub(crate) async fn get(&self, key: &Key, full: &str, options: GetOptions, trace: &mut Trace<'_>) -> Result<Entry> {
        let read = self.timed("get", self.kv.get(full, None)).await;
        let (pair, current) = read.map_err(|error| convert::storage_error(error, Call::Key(full)))?;
        // Whether the answer can be given at all is decided before whether there is something (`storage-api/GET-04`).
        match options.at {
            ReadAt::NotOlderThan(asked) if asked > current => return Err(convert::too_large(asked, current)),
            ReadAt::NotOlderThan(_) | ReadAt::MostRecent | ReadAt::Any => {}
        }
        let pair = pair.ok_or_else(|| not_found(full))?;
        trace.stage_of("called", pair.value.len());
        let entry = self.read(key.clone(), &pair, pair.revision).await?.entry;
        trace.stage("decoded");
        self.readable(&entry)?;
        Ok(entry)
    }

    // deviates: storage-api/STAT-04: sizes are always learnt, without a function that lists keys; there is nothing to
    // enable.
    // deviates: storage-api/STAT-05: where too few sizes were seen by this process, some are read, so that the average
    // of a small kind is exact and that of a large one is always known.
    // deviates: storage-etcd3/ESTAT-02: the backend counts; the sizes need no list of keys (also ESTAT-05).
    /// The count is exact, in one read of the count alone. The size is the average of what was seen to pass by.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let mut request = RangeRequest::prefix(&self.full_key(self.info.prefix().as_str()));
        let prefix = request.start.clone();
        let few = self.sizes.average().0 < SAMPLE_KEYS as usize;
        if few {
            request.limit = NonZeroU64::new(SAMPLE_KEYS);
            request.limit_bytes = NonZeroU64::new(SAMPLE_BYTES);
        } else {
            request.count_only = true;
        }
        let page = self.timed("listWithCount", self.kv.range(request.clone())).await;
        let page = page.map_err(|error| convert::storage_error(error, Call::Key(&prefix)))?;
        if few {
            self.sizes.page(&request, &page);
        }
        Ok(Stats::new(page.count, self.sizes.average().1))
    }
}
