//! Other forms of an entry, made once and shared by everybody who asks for the same: another served version, protobuf, a
//! compressed segment.
//!
//! The forms are held by one [`Forms`], which bounds their bytes; an entry only remembers where its own are. So a form is
//! found without hashing anything, belongs to exactly the record that it was made of, and dropping it costs nothing but
//! making it again. Entries and what lists and watches keep of them are not counted here.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::entry::Entry;

/// Which form of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FormKey {
    /// What makes it: `gzip`, `protobuf`.
    pub form: &'static str,
    /// Of what, where there are several: a number of the maker's choice, such as one for each served version and schema.
    pub variant: u64,
}

/// A form that is held.
struct Held<T: ?Sized> {
    bytes: usize,
    /// Asked for since it was last considered for eviction.
    used: AtomicBool,
    form: T,
}

type AnyHeld = Held<dyn Any + Send + Sync>;

/// Where an entry's forms are. Empty for most entries.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Vec<(FormKey, Weak<AnyHeld>)>>);

impl Slots {
    fn find(&self, key: FormKey) -> Option<Arc<AnyHeld>> {
        let slots = self.0.lock();
        let (_, held) = slots.iter().find(|(own, _)| *own == key)?;
        held.upgrade()
    }

    fn set(&self, key: FormKey, held: Weak<AnyHeld>) {
        let mut slots = self.0.lock();
        // Gone ones keep a little memory until they are forgotten here.
        slots.retain(|(own, held)| *own != key && held.strong_count() > 0);
        slots.push((key, held));
    }
}

/// Holds forms of entries, up to a number of bytes. Those that nobody asked for since they were last looked at go first, and
/// those whose entry is gone before all others.
pub struct Forms {
    limit: usize,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    held: VecDeque<Arc<AnyHeld>>,
    bytes: usize,
}

impl Forms {
    /// Holds at most so many bytes. Zero: nothing is kept.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ring: Mutex::default(),
        }
    }

    /// Bytes that are held now.
    pub fn bytes(&self) -> usize {
        self.ring.lock().bytes
    }

    /// A form of an entry: the one that is held, else the one that `make` returns together with its bytes. `T` should be
    /// cheap to clone. Two callers at the same time may both make it; one of the two is kept.
    ///
    /// # Errors
    ///
    /// What `make` returns.
    pub fn get_or_make<T, E>(
        &self,
        entry: &Entry,
        key: FormKey,
        make: impl FnOnce() -> Result<(T, usize), E>,
    ) -> Result<T, E>
    where
        T: Any + Clone + Send + Sync,
    {
        if let Some(held) = entry.slots().find(key)
            && let Some(form) = held.form.downcast_ref::<T>()
        {
            // Written only when it changes: the line is shared by all readers of a list.
            if !held.used.load(Ordering::Relaxed) {
                held.used.store(true, Ordering::Relaxed);
            }
            return Ok(form.clone());
        }
        let (form, bytes) = make()?;
        // A form that would push out a good part of the others is not worth it.
        if bytes <= self.limit / 8 {
            let held: Arc<AnyHeld> = Arc::new(Held {
                bytes,
                used: AtomicBool::new(false),
                form: form.clone(),
            });
            entry.slots().set(key, Arc::downgrade(&held));
            self.hold(held);
        }
        Ok(form)
    }

    fn hold(&self, held: Arc<AnyHeld>) {
        let mut gone = Vec::new();
        {
            let mut ring = self.ring.lock();
            ring.bytes += held.bytes;
            ring.held.push_back(held);
            // Every form is looked at twice at most: the first look takes its mark away.
            let mut looks = ring.held.len() * 2;
            while ring.bytes > self.limit && looks > 0 {
                looks -= 1;
                let Some(oldest) = ring.held.pop_front() else { break };
                if Arc::weak_count(&oldest) > 0 && oldest.used.swap(false, Ordering::Relaxed) {
                    ring.held.push_back(oldest);
                } else {
                    ring.bytes -= oldest.bytes;
                    gone.push(oldest);
                }
            }
        }
        // Freed without the lock.
        drop(gone);
    }
}

impl std::fmt::Debug for Forms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forms")
            .field("limit", &self.limit)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{Key, ResourceInfo, ResourceScope, Revision};

    const A: FormKey = FormKey { form: "a", variant: 0 };
    const B: FormKey = FormKey { form: "a", variant: 1 };

    fn entry(name: &str) -> Entry {
        let info = ResourceInfo::new("", "v1", "configmaps", "ConfigMap", ResourceScope::Cluster);
        let key: Key = info.object_key(None, name).unwrap();
        let json = format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}");
        Entry::read(&info, key, Revision::MIN, json.as_bytes(), false)
    }

    /// Asks for a form, and says whether it had to be made.
    fn made(forms: &Forms, entry: &Entry, key: FormKey, bytes: usize) -> bool {
        let mut made = false;
        let form = forms.get_or_make(entry, key, || {
            made = true;
            Ok::<_, Infallible>((Arc::<str>::from("form"), bytes))
        });
        assert_eq!(&*form.unwrap(), "form");
        made
    }

    // covers: storage-cacher/OPP-02
    #[test]
    fn a_form_is_made_once_for_each_record_and_key() {
        let forms = Forms::new(1_000);
        let (one, two) = (entry("one"), entry("two"));
        assert!(made(&forms, &one, A, 10));
        assert!(!made(&forms, &one.clone(), A, 10));
        assert!(made(&forms, &one, B, 10), "another variant");
        assert!(made(&forms, &two, A, 10), "another record");
        assert!(
            made(&forms, &one.at_revision(Revision::new(7).unwrap()), A, 10),
            "the same object of another revision"
        );
        assert_eq!(forms.bytes(), 40);
    }

    #[test]
    fn bytes_are_bounded_and_what_is_asked_for_stays_longest() {
        let forms = Forms::new(100);
        let entries: Vec<_> = (0..12).map(|at| entry(&format!("e{at}"))).collect();
        for entry in &entries[..10] {
            assert!(made(&forms, entry, A, 10));
        }
        assert!(!made(&forms, &entries[0], A, 10), "all ten fit");
        assert!(made(&forms, &entries[10], A, 10));
        assert!(made(&forms, &entries[11], A, 10));
        assert_eq!(forms.bytes(), 100);
        assert!(!made(&forms, &entries[0], A, 10), "it was asked for");
        assert!(made(&forms, &entries[1], A, 10), "it was not");
    }

    #[test]
    fn forms_of_entries_that_are_gone_go_first() {
        let forms = Forms::new(100);
        let kept = entry("kept");
        assert!(made(&forms, &kept, A, 10));
        for at in 0..20 {
            let passing = entry(&format!("p{at}"));
            assert!(made(&forms, &passing, A, 10));
            assert!(
                !made(&forms, &passing, A, 10),
                "asked for twice, and still no reason to stay"
            );
            assert!(!made(&forms, &kept, A, 10), "after {at}");
        }
    }

    #[test]
    fn what_is_too_large_or_failed_is_not_kept() {
        let forms = Forms::new(100);
        let one = entry("one");
        assert!(made(&forms, &one, A, 13));
        assert!(made(&forms, &one, A, 13));
        let failed = forms.get_or_make(&one, A, || Err::<(Arc<str>, usize), _>("no"));
        assert_eq!(failed.unwrap_err(), "no");
        assert_eq!(forms.bytes(), 0);
        assert!(made(&Forms::new(0), &one, A, 1) && made(&Forms::new(0), &one, A, 1));
    }
}
