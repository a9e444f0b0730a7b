//! What a list answers: a revision, and the entries as a stream of pages.

use std::fmt;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::continue_token::ContinueToken;
use crate::entry::Entry;
use crate::error::Result;
use crate::revision::Revision;
use crate::unreadables::Unreadables;

// deviates: storage-api/VER-05: a list cannot be at revision zero, and metadata is put around it where it is served.
/// The answer of a list. The revision is known before the first entry; the end ([`ListEnd`]) comes with the last page.
///
/// A stream that fails midway yields the error as its last item; what came before is no complete list, and a server
/// must reset its answer rather than close it as a short one.
pub struct List {
    revision: Revision,
    pages: BoxStream<'static, Result<Page>>,
}

/// Some entries in key order, and on the last page how the list ended.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Entries in ascending byte order of their keys.
    pub entries: Vec<Entry>,
    /// Set on the last page, and only there.
    pub end: Option<ListEnd>,
}

/// What is left after a limited list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListEnd {
    /// The way to the next page; none when everything was shown.
    pub next: Option<ContinueToken>,
    /// How many more entries there are; known only when nothing was filtered.
    pub remaining: Option<u64>,
}

/// A list in one piece.
#[derive(Debug, Clone)]
pub struct Collected {
    /// The state that the list shows.
    pub revision: Revision,
    /// Entries in ascending byte order of their keys.
    pub entries: Vec<Entry>,
    /// The way to the next page; none when everything was shown.
    pub next: Option<ContinueToken>,
    /// How many more entries there are; known only when nothing was filtered.
    pub remaining: Option<u64>,
}

impl List {
    /// A list whose pages come from a stream. The stream ends after the page that carries `end`, or after an error.
    pub fn new(revision: Revision, pages: BoxStream<'static, Result<Page>>) -> Self {
        Self { revision, pages }
    }

    /// A list that is there already.
    pub fn complete(revision: Revision, entries: Vec<Entry>, end: ListEnd) -> Self {
        let page = Page {
            entries,
            end: Some(end),
        };
        Self::new(revision, stream::iter([Ok(page)]).boxed())
    }

    /// The state that the list shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The pages, one by one.
    pub fn into_pages(self) -> BoxStream<'static, Result<Page>> {
        self.pages
    }

    /// Reads all pages.
    ///
    /// # Errors
    ///
    /// The first error of any page; nothing is returned then.
    pub async fn collect(mut self) -> Result<Collected> {
        let mut all = Collected {
            revision: self.revision,
            entries: Vec::new(),
            next: None,
            remaining: None,
        };
        while let Some(page) = self.pages.next().await {
            let mut page = page?;
            if all.entries.is_empty() {
                all.entries = page.entries;
            } else {
                all.entries.append(&mut page.entries);
            }
            if let Some(end) = page.end {
                (all.next, all.remaining) = (end.next, end.remaining);
                break;
            }
        }
        Ok(all)
    }
}

impl List {
    /// Reads all pages of a list that was asked to [include](crate::OnUnreadable::Include) unreadable objects: those
    /// that can be read, and the names of the others. Ends early at [`Unreadables::LIMIT`] of them.
    ///
    /// # Errors
    ///
    /// The first error of a page, where no object before it was unreadable; otherwise it is in the [`Unreadables`].
    pub async fn collect_readable(mut self) -> Result<(Collected, Unreadables)> {
        let mut unreadable = Unreadables::default();
        let mut all = Collected {
            revision: self.revision,
            entries: Vec::new(),
            next: None,
            remaining: None,
        };
        while let Some(page) = self.pages.next().await {
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    unreadable.fail(error)?;
                    break;
                }
            };
            for entry in page.entries {
                if entry.unreadable_reason().is_none() {
                    all.entries.push(entry);
                } else if !unreadable.push(&entry) {
                    return Ok((all, unreadable));
                }
            }
            if let Some(end) = page.end {
                (all.next, all.remaining) = (end.next, end.remaining);
                break;
            }
        }
        Ok((all, unreadable))
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List")
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
