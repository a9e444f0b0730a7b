//! A client: one operation after the other, each recorded.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use apiserver_storage_api::time::{SeededRng, random_below};
use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, ListAt, ListOptions, NoCheck, ReadAt,
    Result, Storage, StorageError, UpdateOptions,
};

use super::{Faults, Outcome, Record, Shared};
use crate::fixture::*;
use crate::model::{Body, LABEL, VALUES};

/// Between operations of a client that goes on until it is stopped.
const PAUSE: Duration = Duration::from_millis(2);
/// Long beyond the end of the race: what hangs on it stays.
const LIFETIME: Duration = Duration::from_secs(3600);

struct Client {
    shared: Arc<Shared>,
    store: Arc<dyn Storage>,
    number: u64,
    rng: SeededRng,
    serial: u64,
    /// What it read last, for suggestions.
    last: Option<Entry>,
}

pub(super) async fn run(shared: Arc<Shared>, store: Arc<dyn Storage>, number: u64) {
    let rng = SeededRng::new(shared.load.seed.wrapping_mul(1_000) + number);
    let mut client = Client {
        shared,
        store,
        number,
        rng,
        serial: 0,
        last: None,
    };
    let mut left = client.shared.load.operations;
    while !client.shared.stopped() && left != Some(0) {
        client.operate().await;
        match &mut left {
            Some(left) => *left -= 1,
            None => tokio::time::sleep(PAUSE).await,
        }
    }
}

impl Client {
    fn below(&self, bound: u64) -> u64 {
        random_below(&self.rng, bound)
    }

    fn key(&self) -> Key {
        key(&format!("n{}", self.below(2)), &format!("p{}", self.below(4)))
    }

    fn id(&mut self) -> String {
        self.serial += 1;
        format!("{}-{}", self.number, self.serial)
    }

    async fn operate(&mut self) {
        let key = self.key();
        let began = self.shared.tick();
        let any = self.below(3) == 0;
        let (key, id, any, outcome) = match self.below(20) {
            0..4 => {
                let id = self.id();
                let outcome = self.create(&key, &id).await;
                (Some(key), Some(id), false, outcome)
            }
            4..11 => {
                let id = self.id();
                let outcome = self.append(&key, &id).await;
                (Some(key), Some(id), false, outcome)
            }
            11..14 => {
                let outcome = self.delete(&key).await;
                (Some(key), None, false, outcome)
            }
            14..17 => {
                let outcome = self.get(&key, any).await;
                (Some(key), None, any, outcome)
            }
            17 | 18 => (None, None, any, self.list(any).await),
            _ => (None, None, false, self.now().await),
        };
        let ended = self.shared.tick();
        self.shared.record(Record {
            client: self.number,
            key,
            id,
            any,
            began,
            ended,
            outcome,
        });
    }

    /// An error that is no answer about what is stored.
    fn failed(&self, id: Option<&str>, error: StorageError) -> Outcome {
        let network = self.shared.load.faults == Faults::Network;
        match error {
            StorageError::OutcomeUnknown { .. } if network => Outcome::Unknown(id.map(str::to_owned)),
            StorageError::Unreachable { .. }
            | StorageError::Timeout { .. }
            | StorageError::NotReady { .. }
            | StorageError::TooManyRequests { .. }
            | StorageError::TooLargeResourceVersion { .. }
                if network =>
            {
                Outcome::Failed
            }
            // Too many others were faster for too long.
            StorageError::Conflict { .. } => Outcome::Failed,
            error => panic!("client {}: {error:?}", self.number),
        }
    }

    async fn create(&mut self, key: &Key, id: &str) -> Outcome {
        let ttl = (self.below(5) == 0).then_some(LIFETIME);
        let object = encoded(&fresh(key, id, self.below(VALUES)));
        match self.store.create(key, object, CreateOptions { ttl }).await {
            Ok(entry) => self.wrote(&entry, Some(id)),
            Err(error) if error.is_exists() => Outcome::Exists,
            Err(error) => self.failed(Some(id), error),
        }
    }

    fn wrote(&mut self, entry: &Entry, id: Option<&str>) -> Outcome {
        if id.is_some() {
            self.last = Some(entry.clone());
        }
        Outcome::Wrote(entry.revision(), id.map(str::to_owned))
    }

    /// Appends the id to the object's list, as a JSON patch would.
    async fn append(&mut self, key: &Key, id: &str) -> Outcome {
        let (create_if_missing, value) = (self.below(3) == 0, self.below(VALUES));
        let options = UpdateOptions {
            create_if_missing,
            suggestion: self.last.clone().filter(|entry| entry.key() == key),
            ..UpdateOptions::default()
        };
        let mut update = |current: Option<Entry>| {
            let change = appended(current.as_ref(), key, id, value);
            async move { change }
        };
        match self.store.guaranteed_update(key, options, &mut update).await {
            Ok(entry) => self.wrote(&entry, Some(id)),
            Err(error) if error.is_not_found() => Outcome::NotFound,
            Err(error) => self.failed(Some(id), error),
        }
    }

    async fn delete(&mut self, key: &Key) -> Outcome {
        match self.store.delete(key, DeleteOptions::default(), &mut NoCheck).await {
            Ok(entry) => self.wrote(&entry, None),
            Err(error) if error.is_not_found() => Outcome::NotFound,
            Err(error) => self.failed(None, error),
        }
    }

    async fn get(&mut self, key: &Key, any: bool) -> Outcome {
        let at = if any { ReadAt::Any } else { ReadAt::MostRecent };
        match self.store.get(key, GetOptions { at }).await {
            Ok(entry) => {
                self.last = Some(entry.clone());
                Outcome::Read(entry.revision(), object_of(&entry))
            }
            Err(error) if error.is_not_found() => Outcome::NotFound,
            Err(error) => self.failed(None, error),
        }
    }

    /// Lists in one piece or in pages, which all show one state.
    async fn list(&mut self, any: bool) -> Outcome {
        let at = if any { ListAt::Any } else { ListAt::MostRecent };
        let mut options = ListOptions {
            at,
            limit: (self.below(2) == 0).then(|| limit(3)).flatten(),
            ..ListOptions::default()
        };
        let (mut entries, mut state) = (Vec::new(), None);
        loop {
            let listed = match try_list(&*self.store, &all(), options.clone()).await {
                Ok(listed) => listed,
                Err(error) => return self.failed(None, error),
            };
            let revision = *state.get_or_insert(listed.revision);
            assert_eq!(listed.revision, revision, "pages of one list");
            let page = listed.entries.iter();
            entries.extend(page.map(|entry| (entry.key().clone(), entry.revision(), object_of(entry))));
            match listed.next {
                Some(token) => options.at = ListAt::Continue(token),
                None => return Outcome::Listed(revision, entries),
            }
        }
    }

    async fn now(&mut self) -> Outcome {
        match self.store.current_revision().await {
            Ok(revision) => Outcome::Now(revision),
            Err(error) => self.failed(None, error),
        }
    }
}

fn object_of(entry: &Entry) -> Value {
    let body = Body::of(entry);
    body.object().expect("nobody writes anything unreadable").clone()
}

/// A new object with an id as its uid and its only item.
fn fresh(key: &Key, id: &str, value: u64) -> Value {
    let mut path = key.as_str().rsplit('/');
    let (name, namespace) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
    let mut object = pod(namespace, name);
    object["metadata"]["uid"] = id.into();
    object["metadata"]["labels"][LABEL] = value.to_string().into();
    object["spec"]["items"] = json!([id]);
    object
}

fn appended(current: Option<&Entry>, key: &Key, id: &str, value: u64) -> Result<Change> {
    let object = match current {
        None => fresh(key, id, value),
        Some(entry) => {
            let mut object: Value = entry.decode()?;
            object["metadata"]["labels"][LABEL] = value.to_string().into();
            let items = object["spec"]["items"].as_array_mut().expect("every object has items");
            items.push(id.into());
            object
        }
    };
    Ok(Change::put(Encoded::of(&object)?))
}

/// The id of the write that made an object, which is its last item.
pub(super) fn id_of(object: &Value) -> Option<&str> {
    object["spec"]["items"].as_array()?.last()?.as_str()
}
