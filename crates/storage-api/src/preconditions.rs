//! What must hold of an object before a write touches it.

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::error::{Result, StorageError};

/// Uid and resourceVersion that the caller expects. Absent fields are not compared; a present empty one is.
///
/// Upstream: pkg/storage/interfaces.go, Preconditions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// The expected uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The expected resourceVersion, compared as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl Preconditions {
    /// Nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.uid.is_none() && self.resource_version.is_none()
    }

    /// Compares with the stored state; the uid goes first (`storage-api/PRE-02` to `PRE-05`).
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidObject`] with upstream's text, [`StorageError::Unreadable`] when there is nothing to
    /// compare with.
    pub fn check(&self, entry: &Entry) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let record = entry.record()?;
        let uid = &*record.attributes().uid;
        let stored = entry.revision().to_string();
        let failed = match (&self.uid, &self.resource_version) {
            (Some(asked), _) if asked != uid => ("UID", asked, uid),
            (_, Some(asked)) if *asked != stored => ("ResourceVersion", asked, stored.as_str()),
            _ => return Ok(()),
        };
        let (what, asked, found) = failed;
        Err(StorageError::InvalidObject {
            key: entry.key().to_string(),
            message: format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}"),
        })
    }
}
