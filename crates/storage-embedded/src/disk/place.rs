//! Where the data file is, and that nobody else uses it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Builder, Database};

use apiserver_storage_kv::{KvError, KvResult};

use super::fault;
use crate::config::Location;
use crate::error::Trouble;
use crate::medium::{Medium, MediumBackend};

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
                if !path
                    .join(DATA_FILE)
                    .try_exists()
                    .map_err(|error| unusable(path, error))?
                {
                    make_file(&builder(cache_bytes), path, create)?;
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
        let opened = match self {
            Place::Directory { path, .. } => builder(cache_bytes).open(path.join(DATA_FILE)),
            Place::Medium(medium) => builder(cache_bytes).create_with_backend(MediumBackend(Arc::clone(medium))),
        };
        opened.map_err(|error| match fault(error) {
            KvError::Fault(source) => Trouble::DataFile {
                place: self.to_string(),
                source,
            }
            .into(),
            error => error,
        })
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

/// Makes a whole new data file under another name, then names it: a crash in between leaves no half of one.
fn make_file(
    builder: &Builder,
    directory: &Path,
    create: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> KvResult<()> {
    let new = directory.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(directory, error)),
        _ => {}
    }
    let database = builder.create(&new).map_err(fault)?;
    create(&database).map_err(fault)?;
    drop(database);
    let publish = || {
        File::open(&new)?.sync_all()?;
        fs::rename(&new, directory.join(DATA_FILE))?;
        sync_directory(directory)
    };
    publish().map_err(|error| unusable(directory, error))
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
