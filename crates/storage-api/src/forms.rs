//! Other forms of an entry, made once and shared by everybody who asks for the same: another served version, protobuf, a
//! row of a table, a compressed segment.
//!
//! The forms belong to the record that they were made of: they are found without hashing anything, and go with it. One
//! [`Forms`] bounds the bytes of all of them; dropping a form costs nothing but making it again. Entries and what lists and
//! watches keep of them are not counted here.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::entry::Entry;

/// Which form of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FormKey {
    /// What makes it: `gzip`, `protobuf`.
    pub form: &'static str,
    /// Of what, where there are several: a number of the maker's choice, such as one for each served version and schema.
    pub variant: u64,
}

/// The place of one form of one entry.
struct Held {
    /// Empty until the form is made, and again when it was evicted. Locked while it is made, so that whoever else wants it
    /// waits instead of making it, too.
    form: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    /// Bytes of the form, as they are counted.
    bytes: AtomicUsize,
    /// Asked for since it was last considered for eviction.
    used: AtomicBool,
    account: Arc<Account>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.form.get_mut().is_some() {
            self.account.take(*self.bytes.get_mut());
        }
    }
}

/// What is held, over all entries.
#[derive(Default)]
struct Account {
    bytes: AtomicUsize,
    forms: AtomicUsize,
}

impl Account {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.forms.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.forms.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where an entry's forms are. Empty for most entries.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Vec<(FormKey, Arc<Held>)>>);

impl Slots {
    /// A form that is there.
    fn find<T: Any + Clone>(&self, key: FormKey) -> Option<T> {
        let slots = self.0.lock();
        let (_, held) = slots.iter().find(|(own, _)| *own == key)?;
        // Locked only while it is made, or for a moment by another reader; then the long way round is as good.
        let form = held.form.try_lock()?;
        let form = form.as_ref()?.downcast_ref::<T>()?.clone();
        held.mark();
        Some(form)
    }

    /// The place of a form, made where there is none.
    fn place(&self, key: FormKey, account: &Arc<Account>) -> Arc<Held> {
        let mut slots = self.0.lock();
        if let Some((_, held)) = slots.iter().find(|(own, _)| *own == key) {
            return Arc::clone(held);
        }
        // Places that were emptied keep a little memory until they are forgotten here.
        slots.retain(|(_, held)| Arc::strong_count(held) > 1 || held.form.try_lock().is_none_or(|form| form.is_some()));
        let held = Arc::new(Held {
            form: Mutex::default(),
            bytes: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            account: Arc::clone(account),
        });
        slots.push((key, Arc::clone(&held)));
        held
    }
}

impl Held {
    fn mark(&self) {
        // Written only when it changes: the line is shared by all readers of a list.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Puts a form into its place.
    fn fill(
        &self,
        mut place: MutexGuard<'_, Option<Box<dyn Any + Send + Sync>>>,
        form: impl Any + Send + Sync,
        bytes: usize,
    ) {
        *place = Some(Box::new(form));
        self.bytes.store(bytes, Ordering::Relaxed);
        self.used.store(false, Ordering::Relaxed);
        self.account.add(bytes);
    }

    /// Takes the form away, to be dropped by the caller.
    fn empty(&self) -> Option<Box<dyn Any + Send + Sync>> {
        let form = self.form.lock().take()?;
        self.account.take(self.bytes.load(Ordering::Relaxed));
        Some(form)
    }
}

/// Holds forms of entries, up to a number of bytes. A form goes with its entry; over the limit those go first that nobody
/// asked for since they were last looked at.
pub struct Forms {
    limit: usize,
    account: Arc<Account>,
    /// Places that were filled, in the order in which they are considered for eviction.
    ring: Mutex<VecDeque<Weak<Held>>>,
    counters: [Counters; STRIPES],
    evicted: AtomicU64,
}

/// Counters are spread over so many cache lines, by entry: lists ask for thousands of forms at a time.
const STRIPES: usize = 16;

#[derive(Default)]
#[repr(align(64))]
struct Counters {
    shared: AtomicU64,
    made: AtomicU64,
}

/// What a form takes beside the bytes that its maker names: its place, and what refers to it.
const OVERHEAD: usize =
    size_of::<Held>() + 2 * size_of::<usize>() + size_of::<(FormKey, Arc<Held>)>() + size_of::<Weak<Held>>();

/// Entries of the ring, beyond twice the forms that are there, that may be of forms that are gone.
const SLACK: usize = 1_024;

impl Forms {
    /// Holds at most so many bytes, what it takes to find them included. Zero: nothing is kept.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            account: Arc::default(),
            ring: Mutex::default(),
            counters: Default::default(),
            evicted: AtomicU64::new(0),
        }
    }

    /// Bytes that are held now.
    pub fn bytes(&self) -> usize {
        self.account.bytes.load(Ordering::Relaxed)
    }

    /// How often a form was asked for and was there.
    pub fn shared(&self) -> u64 {
        let shared = self
            .counters
            .iter()
            .map(|counters| counters.shared.load(Ordering::Relaxed));
        shared.sum()
    }

    /// How often a form had to be made.
    pub fn made(&self) -> u64 {
        let made = self
            .counters
            .iter()
            .map(|counters| counters.made.load(Ordering::Relaxed));
        made.sum()
    }

    /// How many forms went because there was no room for all.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// A form of an entry: the one that is held, else the one that `make` returns together with its bytes. `T` should be
    /// cheap to clone. Of two callers at the same time one makes it and the other waits, so `make` may ask for other forms
    /// of the entry, of which this one is not made, but never for this one.
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
        let slots = entry.slots();
        let counters = self.counters(slots);
        if self.limit == 0 {
            counters.made.fetch_add(1, Ordering::Relaxed);
            return make().map(|(form, _)| form);
        }
        if let Some(form) = slots.find::<T>(key) {
            counters.shared.fetch_add(1, Ordering::Relaxed);
            return Ok(form);
        }
        let held = slots.place(key, &self.account);
        let place = held.form.lock();
        if let Some(form) = place.as_ref().and_then(|form| form.downcast_ref::<T>()) {
            held.mark();
            counters.shared.fetch_add(1, Ordering::Relaxed);
            return Ok(form.clone());
        }
        counters.made.fetch_add(1, Ordering::Relaxed);
        let (form, bytes) = make()?;
        // A form that would push out a good part of the others is not worth it; nor one under a key of another type.
        if place.is_none() && bytes <= self.limit / 8 {
            held.fill(place, form.clone(), bytes.saturating_add(OVERHEAD));
            self.hold(&held);
        }
        Ok(form)
    }

    /// The counters for an entry.
    fn counters(&self, slots: &Slots) -> &Counters {
        let line = std::ptr::from_ref(slots).addr() / 64;
        &self.counters[line % STRIPES]
    }

    /// Notes a place that was filled, and makes room.
    fn hold(&self, held: &Arc<Held>) {
        let mut gone = Vec::new();
        {
            let mut ring = self.ring.lock();
            ring.push_back(Arc::downgrade(held));
            if ring.len() > SLACK + 2 * self.account.forms.load(Ordering::Relaxed) {
                ring.retain(|held| held.strong_count() > 0);
            }
            // Every form is looked at twice at most: the first look takes its mark away.
            let mut looks = ring.len() * 2;
            while self.bytes() > self.limit && looks > 0 {
                looks -= 1;
                let Some(oldest) = ring.pop_front() else { break };
                let Some(held) = oldest.upgrade() else { continue };
                if held.used.swap(false, Ordering::Relaxed) {
                    ring.push_back(oldest);
                } else if let Some(form) = held.empty() {
                    gone.push(form);
                }
            }
        }
        self.evicted.fetch_add(gone.len() as u64, Ordering::Relaxed);
        // Freed without the lock.
        drop(gone);
    }
}

impl std::fmt::Debug for Forms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forms")
            .field("limit", &self.limit)
            .field("bytes", &self.bytes())
            .field("shared", &self.shared())
            .field("made", &self.made())
            .field("evicted", &self.evicted())
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

    /// Room for so many forms of ten bytes.
    fn room(forms: usize) -> Forms {
        Forms::new(forms * (10 + OVERHEAD))
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
        let forms = room(100);
        let (one, two) = (entry("one"), entry("two"));
        assert!(made(&forms, &one, A, 10));
        assert!(!made(&forms, &one.clone(), A, 10));
        assert!(made(&forms, &one, B, 10), "another variant");
        assert!(made(&forms, &two, A, 10), "another record");
        let later = one.at_revision(Revision::new(7).unwrap());
        assert!(made(&forms, &later, A, 10), "the same object of another revision");
        assert_eq!(forms.bytes(), 4 * (10 + OVERHEAD));
        assert_eq!((forms.made(), forms.shared(), forms.evicted()), (4, 1, 0));
    }

    #[test]
    fn bytes_are_bounded_and_what_is_asked_for_stays_longest() {
        let forms = room(10);
        let entries: Vec<_> = (0..12).map(|at| entry(&format!("e{at}"))).collect();
        for entry in &entries[..10] {
            assert!(made(&forms, entry, A, 10));
        }
        assert!(!made(&forms, &entries[0], A, 10), "all ten fit");
        assert!(made(&forms, &entries[10], A, 10));
        assert!(made(&forms, &entries[11], A, 10));
        assert_eq!((forms.bytes(), forms.evicted()), (10 * (10 + OVERHEAD), 2));
        assert!(!made(&forms, &entries[0], A, 10), "it was asked for");
        assert!(made(&forms, &entries[1], A, 10), "it was not");
    }

    #[test]
    fn a_form_goes_with_its_entry() {
        let forms = room(10);
        let kept = entry("kept");
        assert!(made(&forms, &kept, A, 10));
        for at in 0..5_000 {
            let passing = entry(&format!("p{at}"));
            assert!(made(&forms, &passing, A, 10) && made(&forms, &passing, B, 10));
            assert!(!made(&forms, &passing, A, 10));
        }
        assert_eq!(forms.bytes(), 10 + OVERHEAD);
        assert!(!made(&forms, &kept, A, 10), "nobody pushed it out");
        assert_eq!(forms.evicted(), 0);
        assert!(forms.ring.lock().len() <= SLACK + 10, "what refers to them goes, too");
        drop(kept);
        assert_eq!(forms.bytes(), 0);
    }

    #[test]
    fn what_was_evicted_is_made_again_and_leaves_no_places_behind() {
        let forms = room(8);
        let (one, other) = (entry("one"), entry("other"));
        for variant in 0..1_000 {
            assert!(made(&forms, &one, FormKey { form: "a", variant }, 10));
        }
        assert_eq!(forms.bytes(), 8 * (10 + OVERHEAD));
        assert!(one.slots().0.lock().len() <= 9);
        for variant in 0..8 {
            assert!(made(&forms, &other, FormKey { form: "b", variant }, 10));
        }
        assert!(made(
            &forms,
            &one,
            FormKey {
                form: "a",
                variant: 999
            },
            10
        ));
        assert!(!made(
            &forms,
            &one,
            FormKey {
                form: "a",
                variant: 999
            },
            10
        ));
    }

    #[test]
    fn who_comes_while_a_form_is_made_waits_for_it() {
        let forms = Arc::new(room(100));
        let one = entry("one");
        let (making, go) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let form = forms.get_or_make(&one, A, || {
                    making.wait();
                    go.wait();
                    Ok::<_, Infallible>((7, 10))
                });
                assert_eq!(form, Ok(7));
            });
            making.wait();
            let second = scope.spawn(|| forms.get_or_make(&one, A, || Ok::<_, Infallible>((8, 10))));
            // Another form of the same entry is not held up.
            assert_eq!(forms.get_or_make(&one, B, || Ok::<_, Infallible>((9, 10))), Ok(9));
            go.wait();
            assert_eq!(second.join().unwrap(), Ok(7));
        });
        assert_eq!((forms.made(), forms.shared()), (2, 1));
    }

    #[test]
    fn a_form_may_be_made_of_another_and_a_failure_leaves_the_place_free() {
        let forms = room(100);
        let one = entry("one");
        let nested = forms.get_or_make(&one, A, || {
            let inner = forms.get_or_make(&one, B, || Ok::<_, &str>((1, 10)))?;
            Ok::<_, &str>((inner + 1, 10))
        });
        assert_eq!(nested, Ok(2));
        let key = FormKey { form: "c", variant: 0 };
        let failed = forms.get_or_make(&one, key, || Err::<(Arc<str>, usize), _>("no"));
        assert_eq!(failed.unwrap_err(), "no");
        assert!(made(&forms, &one, key, 10) && !made(&forms, &one, key, 10));
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_without_room_nothing_is() {
        let forms = room(1);
        let one = entry("one");
        let large = 10 + OVERHEAD;
        assert!(made(&forms, &one, A, large) && made(&forms, &one, A, large));
        assert_eq!(forms.bytes(), 0);
        let none = Forms::new(0);
        assert!(made(&none, &one, A, 0) && made(&none, &one, A, 0));
        assert_eq!((none.bytes(), none.made(), none.shared()), (0, 2, 0));
    }
}
