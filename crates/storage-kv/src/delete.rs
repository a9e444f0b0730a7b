//! `delete`: preconditions and validation on a state, then a delete on condition that it is still that state.

use apiserver_storage_api::{Check, DeleteOptions, Entry, Key, Result, StorageError};

use crate::kv::Kv;
use crate::retry::Attempts;
use crate::store::Inner;
use crate::trace::Trace;
use crate::update::{State, newest, not_found};
use crate::write::Written;

impl<K: Kv> Inner<K> {
    pub(crate) async fn delete(
        &self,
        key: &Key,
        full: &str,
        options: DeleteOptions,
        check: &mut dyn Check,
        trace: &mut Trace<'_>,
    ) -> Result<Entry> {
        let (mut attempts, written) = Attempts::begin(self, full, options.deadline).await;
        // A suggestion must not talk us into deleting a readable object as an unreadable one (`storage-api/DEL-17`).
        let suggested = |entry: Option<&Entry>| State::suggested(key, entry).filter(|_| !options.unreadable);
        let mut state = match suggested(newest(options.suggestion.as_ref(), written.as_ref())) {
            Some(state) => state,
            None => self.current(key, full, trace).await?,
        };
        loop {
            let entry = state.entry.clone().ok_or_else(|| not_found(full))?;
            let verdict = self.may_go(full, &options, &entry, check).await;
            trace.stage("checked");
            if let Err(error) = verdict {
                if state.fresh {
                    return Err(error);
                }
                // A verdict on a suggestion counts only if the suggestion is current.
                state = self.current(key, full, trace).await?;
                if state.revision() == Some(entry.revision()) {
                    return Err(error);
                }
                continue;
            }
            let removed = self.remove(full, entry.revision()).await?;
            trace.stage("called");
            match removed {
                Written::At(revision) => {
                    attempts.won(None);
                    return Ok(entry.at_revision(revision));
                }
                Written::Refused(pair) => state = self.state(key, pair).await?,
            }
            let written = attempts.lost(Some(entry.revision()), state.revision()).await?;
            if let Some(newer) = suggested(written.as_ref()) {
                state = newer;
            }
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
