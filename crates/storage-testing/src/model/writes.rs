//! Writes: what each must answer, and what it makes of the model.

use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Encoded, Entry, Key, Preconditions, Result, StorageError, Ttl, UpdateOptions,
};

use super::state::{Body, LABEL, Stored, VALUES, node_name};
use super::{LIFETIME, Run};
use crate::fixture::*;
use crate::harness::{Ability, Harness};

/// What the function of an update does.
#[derive(Debug, Clone, Copy)]
enum Action {
    Label(u64),
    Node(u64),
    /// Adds an item that is like no other.
    Append(u64),
    /// Puts what is there.
    Same,
    NoChange,
    Delete,
    Fail,
}

/// Preconditions, and whether they hold.
struct Asked(Preconditions, bool);

impl Action {
    fn edit(self, object: &mut Value) {
        match self {
            Self::Label(value) => object["metadata"]["labels"][LABEL] = value.to_string().into(),
            Self::Node(node) => object["spec"]["nodeName"] = node_name(node).into(),
            Self::Append(item) => {
                let items = &mut object["spec"]["items"];
                match items.as_array_mut() {
                    Some(items) => items.push(item.into()),
                    None => *items = json!([item]),
                }
            }
            Self::Same | Self::NoChange | Self::Delete | Self::Fail => {}
        }
    }

    fn run(self, current: Option<&Entry>, fresh: &Value, ttl: Ttl) -> Result<Change> {
        let mut object = match current {
            Some(entry) => entry.decode()?,
            None => fresh.clone(),
        };
        match self {
            Self::NoChange => return Ok(Change::NoChange),
            Self::Delete => return Ok(Change::Delete),
            Self::Fail => return Err(StorageError::callback("no")),
            _ => self.edit(&mut object),
        }
        Ok(Change::Put {
            value: Encoded::of(&object)?,
            ttl,
        })
    }
}

fn refused(error: &StorageError) -> bool {
    matches!(error, StorageError::InvalidObject { .. })
}

impl<H: Harness> Run<'_, H> {
    /// A new object, with a uid that no other has.
    fn object(&mut self, key: &Key, value: u64) -> Value {
        let mut path = key.as_str().rsplit('/');
        let (name, namespace) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let mut object = pod(namespace, name);
        object["metadata"]["uid"] = format!("uid-{}", self.serial()).into();
        object["metadata"]["labels"][LABEL] = value.to_string().into();
        object["spec"]["nodeName"] = node_name(value).into();
        object
    }

    fn lifetime(&self) -> Option<Duration> {
        (self.can(Ability::Expiry) && self.once_in(4)).then_some(LIFETIME)
    }

    pub(super) async fn create(&mut self) {
        let (key, value) = (self.key(), self.below(VALUES));
        self.create_there(key, value).await;
    }

    pub(super) async fn create_there(&mut self, key: Key, value: u64) {
        let object = self.object(&key, value);
        let ttl = self.lifetime();
        let created = self.store.create(&key, encoded(&object), CreateOptions { ttl }).await;
        match (created, self.model.current(&key)) {
            (Ok(entry), None) => {
                let body = Body::of(&entry);
                assert_eq!(body, Body::Object(object), "{key}");
                self.model.write(entry.revision(), &key, Some(body), ttl.is_some());
                self.remember(&entry);
            }
            (Err(error), Some(_)) if error.is_exists() => {}
            (answer, known) => panic!("create {key}: {answer:?}, stored: {known:?}"),
        }
    }

    /// An earlier state of a key, or the latest that was seen.
    fn suggestion(&self, key: &Key) -> Option<Entry> {
        let known = self.entries.get(key)?;
        match self.below(3) {
            0 => None,
            1 => known.last().cloned(),
            _ => known.get(self.index(known.len())).cloned(),
        }
    }

    /// Preconditions, of which half hold, and whether they do. On an unreadable object nothing holds.
    fn preconditions(&self, stored: Option<&Stored>) -> Asked {
        let uid = stored
            .and_then(|stored| stored.body.object())
            .and_then(|object| object["metadata"]["uid"].as_str());
        let version = stored.map(|stored| stored.revision.to_string());
        let mut asked = Preconditions::default();
        let mut hold = true;
        match self.below(10) {
            0 => asked.uid = uid.map(str::to_owned),
            1 => asked.resource_version = version,
            2 => (asked.uid, hold) = (Some("another".into()), false),
            3 => (asked.resource_version, hold) = (Some("1".into()), false),
            4 => {
                (asked.uid, asked.resource_version) = (uid.map(str::to_owned), Some("1".into()));
                hold = false;
            }
            _ => {}
        }
        Asked(asked, hold)
    }

    pub(super) async fn update(&mut self) {
        let key = self.key();
        let stored = self.model.current(&key);
        let (serial, action) = (self.serial(), self.below(10));
        let action = match action {
            0..3 => Action::Label(self.below(VALUES)),
            3 => Action::Node(self.below(VALUES)),
            4..6 => Action::Append(serial),
            6 => Action::Same,
            7 => Action::NoChange,
            8 => Action::Delete,
            _ => Action::Fail,
        };
        let ttl = match self.below(8) {
            0 if self.can(Ability::Expiry) => Ttl::After(LIFETIME),
            1 => Ttl::Never,
            _ => Ttl::Keep,
        };
        let Asked(preconditions, hold) = self.preconditions(stored.as_ref());
        let options = UpdateOptions {
            preconditions,
            suggestion: self.suggestion(&key),
            create_if_missing: self.once_in(3),
            deadline: None,
        };
        let fresh = self.object(&key, 0);
        let said = format!("update {key}: {action:?} {ttl:?} {options:?}");
        let creates = options.create_if_missing;
        let (last, fresh_again) = (Mutex::new(None), fresh.clone());
        let mut function = |current: Option<Entry>| {
            let change = action.run(current.as_ref(), &fresh_again, ttl);
            *last.lock() = Some(current.map(|entry| entry.revision()));
            async move { change }
        };
        let answer = self.store.guaranteed_update(&key, options, &mut function).await;
        if answer.is_ok() {
            let decided_on = last.lock().expect("the function ran");
            assert_eq!(decided_on, stored.as_ref().map(|stored| stored.revision), "{said}");
        }
        match (&stored, answer) {
            (Some(stored), answer) if stored.is_garbage() => {
                assert!(
                    matches!(answer, Err(StorageError::Unreadable { .. })),
                    "{said}: {answer:?}"
                );
            }
            (None, answer) if !creates => {
                assert!(
                    answer.as_ref().is_err_and(StorageError::is_not_found),
                    "{said}: {answer:?}"
                );
            }
            (_, answer) if !hold => assert!(answer.as_ref().is_err_and(refused), "{said}: {answer:?}"),
            (stored, answer) => self.updated(&said, &key, stored.as_ref(), action, ttl, &fresh, answer),
        }
    }

    /// Checks the answer of an update whose function decided.
    #[expect(clippy::too_many_arguments, reason = "the whole of what was asked")]
    fn updated(
        &mut self,
        said: &str,
        key: &Key,
        stored: Option<&Stored>,
        action: Action,
        ttl: Ttl,
        fresh: &Value,
        answer: Result<Entry>,
    ) {
        let before = stored.and_then(|stored| stored.body.object());
        match (action, answer, stored) {
            (Action::Fail, Err(StorageError::Callback(_)), _) => {}
            (Action::NoChange | Action::Delete, Err(error), None) if error.is_not_found() => {}
            (Action::NoChange, Ok(entry), Some(stored)) => assert!(stored.is(&entry), "{said}: {entry:?}"),
            (Action::Delete, Ok(entry), Some(stored)) => {
                assert_eq!(Body::of(&entry), *stored.body, "{said}");
                self.model.write(entry.revision(), key, None, false);
            }
            (Action::Fail | Action::NoChange | Action::Delete, answer, stored) => {
                panic!("{said}: {answer:?}, stored: {stored:?}")
            }
            (_, Err(error), _) => panic!("{said}: {error:?}, stored: {stored:?}"),
            (_, Ok(entry), _) => {
                let mut object = before.unwrap_or(fresh).clone();
                action.edit(&mut object);
                let had = stored.is_some_and(|stored| stored.leased);
                let has = match ttl {
                    Ttl::Keep => had,
                    Ttl::Never => false,
                    Ttl::After(_) => true,
                };
                assert_eq!(Body::of(&entry), Body::Object(object.clone()), "{said}");
                let same = before == Some(&object) && had == has;
                // A lifetime that begins anew is a change, unless it would end at the same time.
                let renewed = has && matches!(ttl, Ttl::After(_));
                match stored {
                    Some(stored) if same && (!renewed || entry.revision() == stored.revision) => {
                        assert_eq!(entry.revision(), stored.revision, "{said}: nothing changed");
                    }
                    _ => self.model.write(entry.revision(), key, Some(Body::Object(object)), has),
                }
                self.remember(&entry);
            }
        }
    }

    pub(super) async fn delete(&mut self) {
        let key = self.key();
        let stored = self.model.current(&key);
        let garbage = stored.as_ref().is_some_and(Stored::is_garbage);
        let Asked(preconditions, hold) = self.preconditions(stored.as_ref());
        let options = DeleteOptions {
            preconditions,
            suggestion: self.suggestion(&key),
            unreadable: if garbage { !self.once_in(4) } else { self.once_in(8) },
            deadline: None,
        };
        let said = format!("delete {key}: {options:?}");
        let (unreadable, asked, vetoed) = (options.unreadable, !options.preconditions.is_empty(), self.once_in(6));
        let mut check = |_| async move {
            match vetoed {
                true => Err(StorageError::callback("no")),
                false => Ok(()),
            }
        };
        let answer = self.store.delete(&key, options, &mut check).await;
        // Nothing but the check has a say.
        let decided = garbage == unreadable && hold && !(garbage && asked);
        let right = match (&stored, &answer) {
            (None, Err(error)) => error.is_not_found(),
            (Some(_), Err(StorageError::Unreadable { .. })) => garbage && !unreadable,
            (Some(_), Err(StorageError::Internal { .. })) => garbage && unreadable && asked,
            (Some(_), Err(StorageError::InvalidObject { .. })) => !garbage && (unreadable || !hold),
            (Some(_), Err(StorageError::Callback(_))) => vetoed && decided,
            (Some(stored), Ok(entry)) => !vetoed && decided && Body::of(entry) == *stored.body,
            _ => false,
        };
        assert!(right, "{said}: {answer:?}, stored: {stored:?}, vetoed: {vetoed}");
        if let Ok(entry) = answer {
            self.model.write(entry.revision(), &key, None, false);
            self.model.show(entry.revision());
        }
    }

    /// Lets time pass until everything with a lifetime is gone. In which order, the observer is told; that it is just
    /// those, and that others stay, is known.
    pub(super) async fn expire(&mut self) {
        if !self.can(Ability::Expiry) || !self.once_in(2) {
            return;
        }
        self.read_watch_at(0).await;
        let state = self.model.at(self.model.head);
        let mut leased: Vec<Key> = state
            .into_iter()
            .filter_map(|(key, stored)| stored.leased.then_some(key))
            .collect();
        self.h.advance(LIFETIME).await;
        while !leased.is_empty() {
            for (revision, key) in self.expired_next().await {
                let at = leased.iter().position(|leased| *leased == key);
                leased.swap_remove(at.unwrap_or_else(|| panic!("{key} has no lifetime")));
                self.model.push(revision, &key, None);
            }
        }
        let compacted = self.store.compacted_revision();
        self.model.compacted = self.model.compacted.max(compacted.unwrap_or(self.model.compacted));
    }
}
