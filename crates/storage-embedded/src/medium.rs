//! What the data file is stored on, when it is not a plain file: the seam for simulated disks.

use std::fmt;
use std::io;

/// A growable array of bytes that survives a crash up to its last [`sync`](Medium::sync). Writes since then may be
/// kept, lost or kept in part.
pub trait Medium: fmt::Debug + Send + Sync + 'static {
    /// Bytes it has.
    ///
    /// # Errors
    ///
    /// When the medium fails; so for all of them.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    ///
    /// As [`len`](Medium::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from `offset` on; reading beyond the end is an error.
    ///
    /// # Errors
    ///
    /// As [`len`](Medium::len).
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Cuts, or grows with zeroes.
    ///
    /// # Errors
    ///
    /// As [`len`](Medium::len).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    ///
    /// As [`len`](Medium::len).
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Returns when everything written before is safe.
    ///
    /// # Errors
    ///
    /// As [`len`](Medium::len).
    fn sync(&self) -> io::Result<()>;
}
