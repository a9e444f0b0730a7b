//! Lists that the storage below answers: how many at a time, and for how long each.
//!
//! Such a list holds one of a few places from before it is asked for until its reader is through, or gone, or too slow:
//! then the place is given back, whether or not the reader ever asks for more, and the stream ends with an error.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use apiserver_storage_api::{Page, Result, StorageError};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::cacher::Shared;
use crate::config::CacherConfig;

/// When a reader is told to come back.
const RETRY: Duration = Duration::from_secs(1);
/// Ended lists are forgotten when there are so many for each place.
const ENDED: usize = 4;

/// The places.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    /// The lists under way, and when each has to end; all have the same time.
    open: Mutex<VecDeque<(Duration, Weak<Slot>)>>,
    opened: Notify,
}

/// One place, taken.
pub(crate) type Place = OwnedSemaphorePermit;

impl Places {
    pub(crate) fn new(config: &CacherConfig) -> Self {
        let most = config.backend_lists.max(1);
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            open: Mutex::default(),
            opened: Notify::new(),
        }
    }

    /// Waits for a place, but not for long.
    pub(crate) async fn take(&self, config: &CacherConfig) -> Result<Place> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(place);
        }
        tokio::select! {
            biased;
            place = Arc::clone(&self.free).acquire_owned() => place.map_err(|_| StorageError::Closed),
            () = config.clock.sleep(config.freshness_timeout) => Err(StorageError::TooManyRequests {
                cause: "too many lists read from the storage below the cache".into(),
                retry_after: RETRY,
            }),
        }
    }

    /// The pages of a list, which keep the place until the reader is through, or `end` has come.
    pub(crate) fn keep(
        &self,
        place: Place,
        pages: BoxStream<'static, Result<Page>>,
        end: Duration,
    ) -> BoxStream<'static, Result<Page>> {
        let slot = Slot(Mutex::new(Held::Reading {
            pages,
            _place: place,
            reader: None,
        }));
        let slot = Arc::new(slot);
        {
            let mut open = self.open.lock();
            if open.len() >= ENDED * self.most {
                open.retain(|(_, slot)| slot.strong_count() > 0);
            }
            open.push_back((end, Arc::downgrade(&slot)));
        }
        self.opened.notify_one();
        stream::poll_fn(move |context| slot.poll(context)).boxed()
    }

    /// Ends the lists whose time is over. Returns when the next one's is.
    fn end_late(&self, now: Duration) -> Option<Duration> {
        loop {
            let late = {
                let mut open = self.open.lock();
                let (end, _) = open.front()?;
                if *end > now {
                    return Some(*end);
                }
                open.pop_front()
            };
            // Not under the lock: what goes with it may take a while.
            if let Some(slot) = late.and_then(|(_, slot)| slot.upgrade()) {
                slot.give_up();
            }
        }
    }
}

impl Shared {
    /// Ends lists whose time is over. Does not end by itself.
    pub(crate) async fn end_late_lists(&self) {
        loop {
            let now = self.config.clock.monotonic();
            match self.places.end_late(now) {
                Some(end) => self.config.clock.sleep(end.saturating_sub(now)).await,
                // One that was opened since the look has left word.
                None => self.places.opened.notified().await,
            }
        }
    }
}

/// What a reader and whoever ends it share.
struct Slot(Mutex<Held>);

enum Held {
    Reading {
        pages: BoxStream<'static, Result<Page>>,
        /// Given back with the pages.
        _place: Place,
        reader: Option<Waker>,
    },
    /// Taken away, of which the reader does not know yet.
    Late,
    Over,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Page>>> {
        let mut held = self.0.lock();
        match &mut *held {
            Held::Reading { pages, reader, .. } => {
                let page = pages.poll_next_unpin(context);
                match &page {
                    Poll::Pending => match reader {
                        Some(known) if known.will_wake(context.waker()) => {}
                        _ => *reader = Some(context.waker().clone()),
                    },
                    Poll::Ready(None) => *held = Held::Over,
                    Poll::Ready(Some(_)) => {}
                }
                page
            }
            Held::Late => {
                *held = Held::Over;
                Poll::Ready(Some(Err(StorageError::TooManyRequests {
                    cause: "the list was read so slowly that its place was given to another one".into(),
                    retry_after: RETRY,
                })))
            }
            Held::Over => Poll::Ready(None),
        }
    }

    /// Takes the list away from its reader.
    fn give_up(&self) {
        let taken = {
            let mut held = self.0.lock();
            match &*held {
                Held::Reading { .. } => std::mem::replace(&mut *held, Held::Late),
                _ => return,
            }
        };
        if let Held::Reading {
            reader: Some(reader), ..
        } = &taken
        {
            reader.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn places() -> (Places, CacherConfig) {
        let config = CacherConfig::default().with_backend_lists(1);
        (Places::new(&config), config)
    }

    #[test]
    fn a_late_reader_loses_its_place_and_what_it_reads_and_is_told() {
        let (places, config) = places();
        let place = futures::executor::block_on(places.take(&config)).unwrap();
        let of_backend = Arc::new(());
        let (held, seconds) = (Arc::clone(&of_backend), Duration::from_secs);
        let never = stream::poll_fn(move |_| {
            let _of_backend = &held;
            Poll::Pending
        });
        let mut pages = places.keep(place, never.boxed(), seconds(60));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(pages.poll_next_unpin(&mut context).is_pending());
        assert_eq!(places.end_late(seconds(59)), Some(seconds(60)));
        assert_eq!(
            (places.free.available_permits(), Arc::strong_count(&of_backend)),
            (0, 2)
        );
        assert_eq!(places.end_late(seconds(60)), None);
        assert_eq!(
            (places.free.available_permits(), Arc::strong_count(&of_backend)),
            (1, 1)
        );
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "who waits for a page is told");
        let Poll::Ready(Some(Err(StorageError::TooManyRequests { .. }))) = pages.poll_next_unpin(&mut context) else {
            panic!("wanted an error")
        };
        assert!(matches!(pages.poll_next_unpin(&mut context), Poll::Ready(None)));
    }

    #[test]
    fn lists_that_have_ended_are_forgotten_before_their_time() {
        let (places, config) = places();
        for _ in 0..1_000 {
            let place = futures::executor::block_on(places.take(&config)).unwrap();
            let mut pages = places.keep(place, stream::empty().boxed(), Duration::from_secs(60));
            assert!(futures::executor::block_on(pages.next()).is_none());
            assert_eq!(places.free.available_permits(), 1, "given back with the last page");
        }
        assert!(places.open.lock().len() <= ENDED);
    }
}
