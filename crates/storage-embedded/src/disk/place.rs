//! Where the data file is, and that nobody else uses it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Builder, Database};

use apiserver_storage_kv::{KvError, KvResult};

use super::backend::{Guarded, MediumBackend};
use super::fault;
use crate::config::Location;
use crate::error::Trouble;
use crate::medium::Medium;

const DATA_FILE: &str = "store.redb";
/// A file that is being made; only a whole one gets the name that counts.
const NEW_FILE: &str = "store.redb.new";
const LOCK_FILE: &str = "lock";

/// A claimed place for a data file.
pub(super) enum Place {
    Directory {
        path: PathBuf,
        /// Locked as long as it is open; the system lets go of it when the process ends, however it ends.
        _lock: File,
    },
    Medium(Arc<dyn Medium>),
}

impl Place {
    /// Makes sure of being alone.
    pub(super) fn claim(location: &Location) -> KvResult<Self> {
        match location {
            Location::Directory(path) => {
                make_directory(path).map_err(|error| unusable(path, error))?;
                let lock = lock(path)?;
                Ok(Place::Directory {
                    path: path.clone(),
                    _lock: lock,
                })
            }
            Location::Medium(medium) => Ok(Place::Medium(Arc::clone(medium))),
            Location::Memory => Err(KvError::NotSupported("a data file in memory")),
        }
    }

    /// Opens the data file; makes it with `create` where it is not there.
    pub(super) fn open(
        &self,
        cache_bytes: usize,
        create: impl FnOnce(&Database) -> Result<(), redb::Error>,
    ) -> KvResult<Database> {
        match self {
            Place::Directory { path, .. } => {
                // What a crash left of a new file is of no use.
                self.discard_new_file();
                let there = path.join(DATA_FILE).try_exists();
                if !there.map_err(|error| unusable(path, error))? {
                    create_in(path, cache_bytes, create)?;
                    self.adopt_new_file()?;
                }
                self.reopen(cache_bytes)
            }
            Place::Medium(_) => {
                let database = self.reopen(cache_bytes)?;
                create(&database).map_err(fault)?;
                Ok(database)
            }
        }
    }

    /// Opens the data file, which is there.
    pub(super) fn reopen(&self, cache_bytes: usize) -> KvResult<Database> {
        match self {
            Place::Directory { path, .. } => open_file(path, DATA_FILE, cache_bytes),
            Place::Medium(medium) => builder(cache_bytes)
                .create_with_backend(Guarded(MediumBackend(Arc::clone(medium))))
                .map_err(|error| not_opened(&self.to_string(), fault(error))),
        }
    }

    /// An empty file that may become the data file; none where that cannot be.
    pub(super) fn new_file(&self, cache_bytes: usize) -> KvResult<Option<Database>> {
        match self {
            Place::Directory { path, .. } => {
                self.discard_new_file();
                open_file(path, NEW_FILE, cache_bytes).map(Some)
            }
            Place::Medium(_) => Ok(None),
        }
    }

    /// Makes the new file, which is closed, the data file: at once, and for good.
    pub(super) fn adopt_new_file(&self) -> KvResult<()> {
        let Place::Directory { path, .. } = self else {
            return Ok(());
        };
        let adopt = || {
            let new = path.join(NEW_FILE);
            File::open(&new)?.sync_all()?;
            fs::rename(&new, path.join(DATA_FILE))?;
            sync_directory(path)
        };
        adopt().map_err(|error| unusable(path, error))
    }

    /// Deletes the new file. One that stays is deleted before the next is made.
    pub(super) fn discard_new_file(&self) {
        let Place::Directory { path, .. } = self else { return };
        match fs::remove_file(path.join(NEW_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %path.display(), error = &error as &dyn std::error::Error, "unused file stays");
            }
            _ => {}
        }
    }

    /// Bytes of the data file; none where it cannot be replaced.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        match self {
            Place::Directory { path, .. } => fs::metadata(path.join(DATA_FILE)).ok().map(|data| data.len()),
            Place::Medium(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory { path, .. } => path.display().fmt(f),
            Place::Medium(medium) => write!(f, "{medium:?}"),
        }
    }
}

fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    builder
}

/// Makes a whole new data file under another name, so that a crash in between leaves no half of one.
fn create_in(
    directory: &Path,
    cache_bytes: usize,
    create: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> KvResult<()> {
    let database = open_file(directory, NEW_FILE, cache_bytes)?;
    create(&database).map_err(fault)
}

/// Opens a file of a directory, or makes an empty one that only its owner can read.
fn open_file(directory: &Path, name: &str, cache_bytes: usize) -> KvResult<Database> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(directory.join(name));
    let backend = file.map_err(redb::DatabaseError::from).and_then(FileBackend::new);
    let opened = backend.and_then(|backend| builder(cache_bytes).create_with_backend(Guarded(backend)));
    opened.map_err(|error| not_opened(&directory.display().to_string(), fault(error)))
}

fn not_opened(place: &str, error: KvError) -> KvError {
    match error {
        KvError::Fault(source) => Trouble::DataFile {
            place: place.to_owned(),
            source,
        }
        .into(),
        error => error,
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a new name in the directory survive a power loss.
fn sync_directory(path: &Path) -> io::Result<()> {
    // Elsewhere directories cannot be opened, and renames are journaled.
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    let _ = path;
    Ok(())
}

fn lock(directory: &Path) -> KvResult<File> {
    // A predecessor in this very process may still be writing its last group.
    const ATTEMPTS: usize = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK_FILE));
    let file = file.map_err(|error| unusable(directory, error))?;
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(unusable(directory, error)),
        }
    }
    Err(Trouble::InUse {
        dir: directory.display().to_string(),
    }
    .into())
}

fn unusable(directory: &Path, source: io::Error) -> KvError {
    Trouble::Directory {
        dir: directory.display().to_string(),
        source: Box::new(source),
    }
    .into()
}
