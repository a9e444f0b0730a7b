//! Whom to wake: one place for each of those who may wait, and a way to wake all who do.
//!
//! A place costs a waker and nothing more. Who waits leaves a waker and then looks once more at what it waits for; who
//! has something new makes it visible and then wakes. So nobody sleeps through anything.

use std::sync::Arc;
use std::task::{Context, Waker};

use crate::sync::Mutex;

/// Wakers that are taken out of the lock in one go.
const AT_ONCE: usize = 64;

/// The places of those who wait for the same thing.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    /// Places that nobody has.
    free: Vec<u32>,
    /// Places with a waker.
    waiting: usize,
}

/// A place among others. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    wakers: Arc<Wakers>,
    at: u32,
}

impl Wakers {
    /// Takes a place.
    pub(crate) fn join(self: &Arc<Self>) -> Place {
        let mut places = self.0.lock();
        let at = places.free.pop().unwrap_or_else(|| {
            places.wakers.push(None);
            u32::try_from(places.wakers.len() - 1).unwrap_or(u32::MAX)
        });
        Place {
            wakers: Arc::clone(self),
            at,
        }
    }

    /// Places that somebody has.
    pub(crate) fn taken(&self) -> usize {
        let places = self.0.lock();
        places.wakers.len() - places.free.len()
    }

    /// Wakes everybody who waits. Those who join meanwhile may be passed over: they look after they have joined.
    pub(crate) fn wake(&self) {
        let (mut at, mut woken) = (0, Vec::new());
        loop {
            {
                let mut places = self.0.lock();
                let places = &mut *places;
                if places.waiting == 0 {
                    return;
                }
                for place in places.wakers.iter_mut().skip(at) {
                    at += 1;
                    if let Some(waker) = place.take() {
                        places.waiting -= 1;
                        woken.push(waker);
                        if woken.len() == AT_ONCE {
                            break;
                        }
                    }
                }
            }
            if woken.is_empty() {
                return;
            }
            // Outside of the lock: a waker may run what it wakes.
            woken.drain(..).for_each(Waker::wake);
        }
    }
}

impl Place {
    /// Leaves a waker, to be woken once.
    pub(crate) fn wait(&self, context: &Context<'_>) {
        let mut places = self.wakers.0.lock();
        let places = &mut *places;
        if let Some(place) = places.wakers.get_mut(self.at as usize) {
            match place {
                Some(waker) => waker.clone_from(context.waker()),
                None => {
                    *place = Some(context.waker().clone());
                    places.waiting += 1;
                }
            }
        }
    }

    /// Whether there is a waker to be woken.
    #[cfg(test)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.wakers.0.lock().wakers[self.at as usize].is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.wakers.0.lock();
        let places = &mut *places;
        if let Some(place) = places.wakers.get_mut(self.at as usize)
            && place.take().is_some()
        {
            places.waiting -= 1;
        }
        places.free.push(self.at);
        if places.free.len() == places.wakers.len() {
            (places.wakers, places.free) = (Vec::new(), Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    // covers: storage-cacher/LIFE-01, storage-cacher/BKM-11, storage-cacher/MEM-12
    #[test]
    fn everybody_who_waits_is_woken_once_and_nobody_else() {
        let wakers = Arc::new(Wakers::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let places: Vec<Place> = (0..200).map(|_| wakers.join()).collect();
        for place in places.iter().step_by(2) {
            place.wait(&context);
            place.wait(&context);
        }
        wakers.wake();
        wakers.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 100);
        places[1].wait(&context);
        drop(places);
        wakers.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 100, "who has left is not woken");
        assert_eq!(wakers.taken(), 0);
        assert_eq!(wakers.0.lock().wakers.capacity(), 0, "and leaves nothing behind");
        assert_eq!(
            Arc::strong_count(&count),
            2,
            "nor is it kept: it is held by the test and its waker alone"
        );
    }
}
