//! Writes the items of a list as clients get them, from forms that are made once for a record: joined, or their compressed
//! segments joined.

pub(crate) mod derived;

use std::time::SystemTime;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;

use apiserver_resources::wire::protobuf;
use apiserver_storage_api::{BoxError, Entry};

use self::derived::{Derived, Shown, publish, write_json};
use crate::http::gzip::{Compressor, Document};
use crate::kinds::model::timestamp;

/// Bytes that are gathered before they go out.
const CHUNK: usize = 128 * 1024;
/// Forms that are made anew before the other tasks get their turn.
pub(crate) const MADE_AT_ONCE: usize = 32;

/// The body of a list, as far as it is written.
pub(crate) struct ListWriter {
    derived: Derived,
    now: Timestamp,
    tail: Vec<u8>,
    buffer: BytesMut,
    zip: Option<Zip>,
    first: bool,
    /// Forms that had to be made since the last chunk.
    made: usize,
}

struct Zip {
    document: Document,
    compressor: Compressor,
}

/// What stands around the items of a list.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) head: Vec<u8>,
    pub(crate) tail: Vec<u8>,
}

impl ListWriter {
    /// Begins with everything up to the first item.
    pub(crate) fn new(derived: Derived, frame: Frame, now: SystemTime, gzip: bool) -> Self {
        let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        let zip = gzip.then(|| Zip {
            document: Document::begin(&mut buffer),
            compressor: Compressor::default(),
        });
        let mut writer = Self {
            derived,
            now: timestamp(now),
            tail: frame.tail,
            buffer,
            zip,
            first: true,
            made: 0,
        };
        writer.plain(&frame.head);
        writer
    }

    /// Writes one item.
    ///
    /// Fails for an unreadable entry.
    pub(crate) fn item(&mut self, entry: &Entry) -> Result<(), BoxError> {
        entry.record()?;
        if self.zip.is_none() {
            let shown = self.derived.show(entry, &mut self.made)?;
            self.shown(&shown);
            return Ok(());
        }
        self.separate();
        if let Some(zip) = &mut self.zip {
            let zipped = self.derived.zipped(entry, &mut zip.compressor, &mut self.made)?;
            zipped.write(self.now, &mut zip.document, &mut self.buffer);
        }
        Ok(())
    }

    /// Writes one item whose length was told before.
    pub(crate) fn measured(&mut self, entry: &Entry, length: usize, shown: Option<Shown>) -> Result<(), BoxError> {
        if self.zip.is_some() {
            // The segment was made of what was measured, or is made of the same record.
            return self.item(entry);
        }
        let shown = match shown {
            Some(shown) => shown,
            None => self.derived.show(entry, &mut self.made)?,
        };
        if shown.len() != length {
            return Err("an object has another length than before".into());
        }
        self.shown(&shown);
        Ok(())
    }

    /// Writes one item of a list that is not compressed.
    fn shown(&mut self, shown: &Shown) {
        self.separate();
        if self.derived.view.is_protobuf() {
            self.buffer.put_slice(&protobuf::item_prefix(shown.len()));
        }
        write_json(shown, self.now, &mut self.buffer);
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) && !self.derived.view.is_protobuf() {
            self.plain(b",");
        }
    }

    /// Whether a chunk should go out now.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= CHUNK || self.made >= MADE_AT_ONCE
    }

    /// What is written so far.
    pub(crate) fn chunk(&mut self) -> Bytes {
        self.made = 0;
        let chunk = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK + CHUNK / 4);
        chunk
    }

    /// Writes what follows the last item, and gives the last chunk.
    pub(crate) fn end(mut self) -> Bytes {
        let tail = std::mem::take(&mut self.tail);
        self.plain(&tail);
        if let Some(zip) = self.zip {
            zip.document.end(&mut self.buffer);
        }
        publish(&self.derived.forms);
        self.buffer.freeze()
    }

    fn plain(&mut self, bytes: &[u8]) {
        match &mut self.zip {
            None => self.buffer.extend_from_slice(bytes),
            Some(zip) => zip.document.stored(bytes, &mut self.buffer),
        }
    }
}
