//! `delete`: preconditions and validation on a state, then a delete on condition that it is still that state.

use apiserver_storage_api::{Check, DeleteOptions, Entry, Key, Result, StorageError};

use crate::kv::Kv;
use crate::retry::Attempts;
use crate::store::Inner;
use crate::update::State;
use crate::write::Written;

impl<K: Kv> Inner<K> {
    pub(crate) async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        let full = self.own_key(key.as_str())?;
        let mut attempts = Attempts::new(&self.config, options.deadline);
        // A suggestion must not talk us into deleting a readable object as an unreadable one (`storage-api/DEL-17`).
        let suggestion = options.suggestion.as_ref().filter(|_| !options.unreadable);
        let mut state = match State::suggested(key, suggestion) {
            Some(state) => state,
            None => self.current(key, &full).await?,
        };
        loop {
            let Some(entry) = state.entry.clone() else {
                return Err(StorageError::KeyNotFound { key: full });
            };
            if let Err(error) = self.may_go(&full, &options, &entry, check).await {
                if state.fresh {
                    return Err(error);
                }
                // A verdict on a suggestion counts only if the suggestion is current.
                state = self.current(key, &full).await?;
                if state.revision() == Some(entry.revision()) {
                    return Err(error);
                }
                continue;
            }
            match self.remove(&full, entry.revision()).await? {
                Written::At(revision) => return Ok(entry.at_revision(revision)),
                Written::Refused(pair) => state = self.state(key, pair).await?,
            }
            attempts.lost(&full, Some(entry.revision()), state.revision()).await?;
        }
    }

    /// Whether an object may be deleted in this state.
    async fn may_go(&self, full: &str, options: &DeleteOptions, entry: &Entry, check: &mut dyn Check) -> Result<()> {
        if !options.unreadable {
            self.readable(entry)?;
            self.check_preconditions(full, &options.preconditions, entry)?;
            return check.check(Some(entry)).await;
        }
        if entry.unreadable_reason().is_none() {
            return Err(StorageError::InvalidObject {
                key: full.to_owned(),
                message: "unsafe deletion is not allowed because the object is decodable from storage".into(),
            });
        }
        if !options.preconditions.is_empty() {
            return Err(StorageError::internal(format!(
                "can't enforce preconditions on an object that cannot be read: key={full}"
            )));
        }
        check.check(None).await
    }
}
