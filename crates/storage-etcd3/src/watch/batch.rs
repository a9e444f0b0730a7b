//! Responses to batches: everything of one revision together, however the server cut it.

use std::mem;

use etcd_client::proto::PbEvent;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvEvent, KvResult, KvWatchItem};

use crate::cluster::positive;
use crate::convert;

/// Collects the changes of a revision until it is complete.
///
/// A large response comes in fragments, and the cut may go through a revision. A revision is complete when a later one
/// begins, or with the last fragment: whole responses hold whole revisions (`storage-etcd3/ETCD-08`).
#[derive(Debug)]
pub(crate) struct Batches {
    /// The first revision that was not delivered.
    next: Revision,
    open: Option<Revision>,
    events: Vec<KvEvent>,
}

impl Batches {
    /// Delivers what happens from `next` on.
    pub(crate) fn new(next: Revision) -> Self {
        Self {
            next,
            open: None,
            events: Vec::new(),
        }
    }

    /// The first revision that was not delivered: where to go on.
    pub(crate) fn next(&self) -> Revision {
        self.next
    }

    /// The connection is gone: what is not complete comes again.
    pub(crate) fn interrupted(&mut self) {
        self.open = None;
        self.events.clear();
    }

    /// Takes the events of a response; complete revisions go to `out`.
    ///
    /// What was delivered before is dropped: old servers repeat events, and a watch may have been opened earlier than
    /// what is wanted from it.
    pub(crate) fn events(
        &mut self,
        events: Vec<PbEvent>,
        last_fragment: bool,
        out: &mut impl Extend<KvWatchItem>,
    ) -> KvResult<()> {
        for event in events {
            // A revision that is complete is delivered whatever becomes of what follows it.
            let at = event.kv.as_ref().and_then(|stored| positive(stored.mod_revision).ok());
            if at.is_some() && self.open.is_some() && at != self.open {
                out.extend(self.finish());
            }
            // concerns: storage-etcd3/ETCD-05: what old servers send again, or too early, is dropped here, and progress is
            // believed from fixed versions on. What they lose around a compaction nobody can bring back: run 3.4.36,
            // 3.5.18 or later.
            if at.is_some_and(|at| at < self.next) {
                continue;
            }
            let (revision, event) = convert::event(event)?;
            // concerns: storage-etcd3/ETCD-14: no key comes twice here: a transaction writes it once, so a revision changes
            // it once, and readers of a batch may rely on it.
            self.open = Some(revision);
            if self.events.capacity() == 0 {
                // Mostly it is the only one.
                self.events.reserve_exact(1);
            }
            self.events.push(event);
        }
        if last_fragment {
            out.extend(self.finish());
        }
        Ok(())
    }

    // deviates: storage-etcd3/CFG-04: progress is a revision and needs no empty object to be told in, so no store lacks it.
    /// The server has sent everything up to here. `None` if that is no news.
    pub(crate) fn progress(&mut self, revision: Revision) -> Option<KvWatchItem> {
        // One before the start says that the watch is where it should be; earlier ones belong to no part of it.
        if self.open.is_some() || revision.next() < self.next {
            return None;
        }
        self.next = revision.next();
        Some(KvWatchItem::Progress(revision))
    }

    fn finish(&mut self) -> Option<KvWatchItem> {
        let revision = self.open.take()?;
        self.next = revision.next();
        let events = mem::take(&mut self.events);
        Some(KvWatchItem::Batch { revision, events })
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbEvent, PbKeyValue};

    use apiserver_storage_api::Revision;
    use apiserver_storage_kv::KvWatchItem;

    use super::Batches;

    fn put(key: &str, revision: i64) -> PbEvent {
        PbEvent {
            r#type: 0,
            kv: Some(PbKeyValue {
                key: key.into(),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                value: b"v".to_vec(),
                lease: 0,
            }),
            prev_kv: None,
        }
    }

    fn revision(number: u64) -> Revision {
        Revision::new(number).expect("not zero")
    }

    fn shown(items: &[KvWatchItem]) -> Vec<String> {
        let show = |item: &KvWatchItem| match item {
            KvWatchItem::Batch { revision, events } => {
                let keys: Vec<&str> = events.iter().map(|event| &*event.key).collect();
                format!("{revision}:{}", keys.join("+"))
            }
            KvWatchItem::Progress(revision) => format!("{revision}"),
        };
        items.iter().map(show).collect()
    }

    // covers: storage-etcd3/EWATCH-31, storage-etcd3/RCLI-07, storage-etcd3/ETCD-08
    #[test]
    fn a_revision_is_never_split_however_the_server_cuts() {
        let mut batches = Batches::new(revision(5));
        let mut out = Vec::new();
        let first = vec![put("a", 5), put("b", 5), put("a", 6)];
        batches.events(first, false, &mut out).expect("sound");
        assert_eq!(shown(&out), ["5:a+b"], "six may go on in the next fragment");
        assert_eq!(batches.next(), revision(6));
        batches.events(vec![put("b", 6)], false, &mut out).expect("sound");
        batches
            .events(vec![put("c", 6), put("d", 8)], true, &mut out)
            .expect("sound");
        assert_eq!(shown(&out), ["5:a+b", "6:a+b+c", "8:d"]);
        assert_eq!(batches.next(), revision(9));
    }

    // covers: storage-etcd3/EWATCH-28, storage-etcd3/RCLI-05
    #[test]
    fn after_a_break_inside_a_revision_it_comes_whole_and_nothing_twice() {
        let mut batches = Batches::new(revision(5));
        let mut out = Vec::new();
        batches
            .events(vec![put("a", 5), put("a", 6)], false, &mut out)
            .expect("sound");
        batches.interrupted();
        assert_eq!(batches.next(), revision(6), "the next watch begins here");
        let again = vec![put("a", 5), put("a", 6), put("b", 6)];
        batches.events(again, true, &mut out).expect("sound");
        assert_eq!(shown(&out), ["5:a", "6:a+b"]);
    }

    // covers: storage-etcd3/EWATCH-19
    #[test]
    fn progress_moves_the_start_and_never_goes_back() {
        let mut batches = Batches::new(revision(5));
        let mut out: Vec<KvWatchItem> = Vec::new();
        out.extend(batches.progress(revision(3)));
        out.extend(batches.progress(revision(4)));
        out.extend(batches.progress(revision(7)));
        out.extend(batches.progress(revision(6)));
        assert_eq!(shown(&out), ["4", "7"]);
        assert_eq!(batches.next(), revision(8));
    }

    // covers: storage-etcd3/EWATCH-24
    #[test]
    fn an_event_of_unknown_type_is_an_error_after_what_came_before_it() {
        let odd = |at| PbEvent {
            r#type: 7,
            ..put("a", at)
        };
        for (events, want) in [
            (vec![odd(5)], vec![]),
            (vec![put("a", 5), put("a", 6), odd(7)], vec!["5:a", "6:a"]),
            // Half a revision is none.
            (vec![put("a", 5), put("a", 6), odd(6)], vec!["5:a"]),
            (vec![odd(4), put("a", 5), odd(6), put("a", 7)], vec!["5:a"]),
        ] {
            let mut batches = Batches::new(revision(5));
            let mut out: Vec<KvWatchItem> = Vec::new();
            assert!(batches.events(events, true, &mut out).is_err());
            assert_eq!(shown(&out), want);
        }
    }
}
