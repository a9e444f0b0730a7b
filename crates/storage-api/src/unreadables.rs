//! The objects of a list that nobody can read, gathered by key.

use std::fmt;

use crate::entry::Entry;
use crate::error::StorageError;

/// What a list could not read: the keys with their causes, and why it stopped early, if it did.
///
/// At most [`LIMIT`](Self::LIMIT) keys are kept; a list that meets so many stops there. Upstream:
/// pkg/storage/etcd3 (corrupt_obj_deleter.go, errors of lists).
#[derive(Debug, Default)]
pub struct Unreadables {
    errors: Vec<StorageError>,
    stopped: Option<Stopped>,
}

#[derive(Debug)]
enum Stopped {
    Full,
    Failed(StorageError),
}

/// Said when a list met more unreadable objects than are named.
const TOO_MANY: &str = "too many errors, the list is truncated";

impl Unreadables {
    /// So many objects are named.
    pub const LIMIT: usize = 100;

    /// Notes an entry that cannot be read. Whether the list should go on: not once the limit is reached or something
    /// else went wrong, and then nothing more is noted.
    pub fn push(&mut self, entry: &Entry) -> bool {
        match (entry.record(), &self.stopped) {
            (Err(error), None) => self.errors.push(error),
            (Ok(_), None) => return true,
            (_, Some(_)) => return false,
        }
        if self.errors.len() >= Self::LIMIT {
            self.stopped = Some(Stopped::Full);
        }
        self.stopped.is_none()
    }

    /// Something else went wrong. With nothing noted before, that error is all there is to say, and comes back.
    ///
    /// # Errors
    ///
    /// The error itself, where no entry was unreadable.
    pub fn fail(&mut self, error: StorageError) -> Result<(), StorageError> {
        if self.errors.is_empty() {
            return Err(error);
        }
        self.stopped.get_or_insert(Stopped::Failed(error));
        Ok(())
    }

    /// Whether everything could be read.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The errors in the order of the list, each an [`Unreadable`](StorageError::Unreadable) with its full key.
    pub fn errors(&self) -> &[StorageError] {
        &self.errors
    }

    /// There may be more of them: the limit was reached.
    pub fn is_truncated(&self) -> bool {
        matches!(self.stopped, Some(Stopped::Full))
    }

    /// What made the list stop, beside unreadable objects.
    pub fn failure(&self) -> Option<&StorageError> {
        match &self.stopped {
            Some(Stopped::Failed(error)) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Unreadables {
    /// One line per object (`storage-api/LIST-49`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "unable to transform or decode {} objects: {{", self.errors.len())?;
        for error in &self.errors {
            writeln!(f, "\t{error}")?;
        }
        f.write_str("}")?;
        match &self.stopped {
            None => Ok(()),
            Some(Stopped::Full) => write!(f, ", aborted: {TOO_MANY}"),
            Some(Stopped::Failed(error)) => write!(f, ", aborted: {error}"),
        }
    }
}

impl std::error::Error for Unreadables {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.errors.first().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::UnreadableReason;
    use crate::list::{List, ListEnd, Page};
    use crate::resource::{ResourceInfo, ResourceScope};
    use crate::revision::Revision;
    use futures::StreamExt;
    use futures::stream;

    fn entry(n: usize, good: bool) -> Entry {
        let pods = ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced);
        let key = pods.key(&format!("/pods/ns/{n:03}")).unwrap();
        if good {
            let stored = br#"{"apiVersion":"v1","kind":"Pod"}"#;
            return Entry::read(&pods, key, Revision::MIN, stored, false);
        }
        let full = format!("/registry{key}");
        Entry::unreadable(key, Revision::MIN, UnreadableReason::Decode("no JSON".into())).with_full_key(&full)
    }

    /// A list in pages of ten, with an error at its end if there is one.
    fn list(entries: Vec<Entry>, error: Option<StorageError>) -> List {
        let mut pages: Vec<Result<Page, StorageError>> = entries
            .chunks(10)
            .map(|entries| {
                Ok(Page {
                    entries: entries.to_vec(),
                    end: None,
                })
            })
            .collect();
        pages.push(match error {
            Some(error) => Err(error),
            None => Ok(Page {
                entries: Vec::new(),
                end: Some(ListEnd::default()),
            }),
        });
        List::new(Revision::MIN, stream::iter(pages).boxed())
    }

    // covers: storage-api/LIST-45, storage-api/LIST-49, storage-etcd3/CORR-07
    #[tokio::test]
    async fn readable_items_come_with_the_names_of_the_others() {
        let (list, unreadable) = list(
            vec![entry(1, true), entry(2, false), entry(3, true), entry(4, false)],
            None,
        )
        .collect_readable()
        .await
        .unwrap();
        let keys: Vec<_> = list.entries.iter().map(|entry| entry.key().as_str()).collect();
        assert_eq!(keys, ["/pods/ns/001", "/pods/ns/003"]);
        assert!(!unreadable.is_truncated() && unreadable.failure().is_none());
        let text = unreadable.to_string();
        assert_eq!(
            text,
            "unable to transform or decode 2 objects: {\n\
             \tunreadable object: unable to decode: no JSON: key=/registry/pods/ns/002\n\
             \tunreadable object: unable to decode: no JSON: key=/registry/pods/ns/004\n}"
        );
        // Also after somebody has made one text of it.
        assert!(
            StorageError::internal(text)
                .to_string()
                .contains("/registry/pods/ns/002")
        );
    }

    // covers: storage-api/LIST-48, storage-etcd3/CORR-04, storage-etcd3/CORR-05
    #[tokio::test]
    async fn a_hundred_are_named_and_then_the_list_stops() {
        let alternating = (0..210).map(|n| entry(n, n % 2 == 0)).collect();
        let (got, unreadable) = list(alternating, None).collect_readable().await.unwrap();
        assert_eq!((got.entries.len(), unreadable.errors().len()), (100, 100));
        assert!(unreadable.is_truncated());
        assert!(
            unreadable
                .to_string()
                .ends_with("}, aborted: too many errors, the list is truncated")
        );
        let exactly = (0..100).map(|n| entry(n, false)).collect();
        assert!(list(exactly, None).collect_readable().await.unwrap().1.is_truncated());
        let fewer = (0..99).map(|n| entry(n, false)).collect();
        let (_, mut unreadable) = list(fewer, None).collect_readable().await.unwrap();
        assert!(!unreadable.is_truncated());
        // The hundredth is noted, the next is not.
        assert!(!unreadable.push(&entry(99, false)) && !unreadable.push(&entry(100, false)));
        assert_eq!(unreadable.errors().len(), 100);
    }

    // covers: storage-api/LIST-46, storage-api/LIST-47, storage-etcd3/CORR-05, storage-etcd3/CORR-06
    #[tokio::test]
    async fn another_failure_ends_the_list_and_alone_is_the_answer() {
        let failed = || Some(StorageError::internal("broken"));
        let bare = list(vec![entry(1, true)], failed()).collect_readable().await;
        assert_eq!(bare.unwrap_err().to_string(), "internal error: broken");
        let (_, mut unreadable) = list(vec![entry(1, false)], failed()).collect_readable().await.unwrap();
        assert_eq!(
            unreadable.failure().map(ToString::to_string).as_deref(),
            Some("internal error: broken")
        );
        assert!(unreadable.to_string().ends_with("}, aborted: internal error: broken"));
        assert!(!unreadable.push(&entry(2, false)));
        assert_eq!(unreadable.errors().len(), 1);
    }
}
