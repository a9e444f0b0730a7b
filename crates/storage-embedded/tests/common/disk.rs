//! A simulated disk: forgets what was not synced when the power fails, and has faults on request.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiserver_storage_api::time::{Rng, SeededRng, random_below};
use apiserver_storage_embedded::Medium;
use parking_lot::{Condvar, Mutex};

/// A disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    syncs_held: Mutex<bool>,
    syncs_released: Condvar,
    syncs_waiting: AtomicU64,
    syncs: AtomicU64,
    sync_fails: Mutex<Option<io::ErrorKind>>,
}

#[derive(Default)]
struct State {
    /// What survives.
    safe: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// What happened since the last sync, in order.
    pending: Vec<Change>,
    /// Changes and syncs until the power fails.
    power_for: Option<u64>,
    capacity: Option<u64>,
}

#[derive(Clone)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Length(length) => bytes.resize(usize::try_from(*length).expect("small disk"), 0),
            Change::Write(offset, data) => {
                let offset = usize::try_from(*offset).expect("small disk");
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                bytes[offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl SimulatedDisk {
    /// The power fails after so many more changes and syncs.
    pub fn fail_power_after(&self, operations: u64) {
        self.0.state.lock().power_for = Some(operations);
    }

    /// Whether the power has failed.
    pub fn is_dead(&self) -> bool {
        self.0.state.lock().power_for == Some(0)
    }

    /// The disk after the power came back: what was synced, and a random part of what was not, in random order, torn
    /// between sectors.
    pub fn after_power_loss(&self, rng: &SeededRng) -> Self {
        const SECTOR: usize = 512;
        let state = self.0.state.lock();
        let mut safe = state.safe.clone();
        let mut pieces = Vec::new();
        for change in &state.pending {
            match change {
                Change::Length(length) => pieces.push(Change::Length((*length).max(safe.len() as u64))),
                Change::Write(offset, data) => pieces.extend(
                    data.chunks(SECTOR)
                        .zip(0..)
                        .map(|(part, n)| Change::Write(offset + n * SECTOR as u64, part.into())),
                ),
            }
        }
        let kept_of_ten = random_below(rng, 11);
        while !pieces.is_empty() {
            let at = usize::try_from(random_below(rng, pieces.len() as u64)).expect("an index");
            let piece = pieces.swap_remove(at);
            if random_below(rng, 10) < kept_of_ten {
                piece.apply(&mut safe);
            }
        }
        let disk = Self::default();
        *disk.0.state.lock() = State {
            seen: safe.clone(),
            safe,
            ..State::default()
        };
        disk
    }

    /// The disk as it is after everything written was synced.
    pub fn image(&self) -> Self {
        let disk = Self::default();
        let seen = self.0.state.lock().seen.clone();
        *disk.0.state.lock() = State {
            safe: seen.clone(),
            seen,
            ..State::default()
        };
        disk
    }

    /// So many bytes fit; none: as many as there are.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.0.state.lock().capacity = capacity;
    }

    /// Bytes that are used.
    pub fn used(&self) -> u64 {
        self.0.state.lock().seen.len() as u64
    }

    /// Syncs fail like this.
    pub fn fail_syncs(&self, kind: Option<io::ErrorKind>) {
        *self.0.sync_fails.lock() = kind;
    }

    /// Syncs wait until they are released.
    pub fn hold_syncs(&self) {
        *self.0.syncs_held.lock() = true;
    }

    /// Syncs go on.
    pub fn release_syncs(&self) {
        *self.0.syncs_held.lock() = false;
        self.0.syncs_released.notify_all();
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::SeqCst)
    }

    /// Syncs that wait.
    pub fn waiting_syncs(&self) -> u64 {
        self.0.syncs_waiting.load(Ordering::SeqCst)
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.power_for {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }
}

impl Medium for SimulatedDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state.lock();
        let offset = usize::try_from(offset).expect("small disk");
        let from = state
            .seen
            .get(offset..offset + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.spend()?;
        if state.capacity.is_some_and(|capacity| len > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.change(Change::Length(len));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.spend()?;
        state.change(Change::Write(offset, data.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        {
            let mut held = self.0.syncs_held.lock();
            self.0.syncs_waiting.fetch_add(1, Ordering::SeqCst);
            self.0.syncs_released.wait_while(&mut held, |held| *held);
            self.0.syncs_waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(kind) = *self.0.sync_fails.lock() {
            return Err(io::Error::new(kind, "the disk lost its writes"));
        }
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        let mut state = self.0.state.lock();
        state.spend()?;
        state.safe = state.seen.clone();
        state.pending.clear();
        Ok(())
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

/// A generator for this test and seed.
pub fn seeded(seed: u64) -> SeededRng {
    let rng = SeededRng::new(seed);
    rng.next_u64();
    rng
}
