//! Writes the items of a list as clients get them: the records' bytes joined, or their compressed segments joined.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use apiserver_storage_api::{BoxError, Entry, FormKey, Forms};

use crate::http::gzip::{Compressor, Document};
use crate::kinds::model::Model;

/// Bytes that are gathered before they go out.
const CHUNK: usize = 128 * 1024;
/// Segments that are made anew before the other tasks get their turn.
const MADE_AT_ONCE: usize = 32;

/// The body of a list, as far as it is written.
pub(crate) struct ListWriter {
    model: Arc<dyn Model>,
    forms: Arc<Forms>,
    buffer: BytesMut,
    zip: Option<Zip>,
    first: bool,
}

struct Zip {
    document: Document,
    compressor: Compressor,
    /// Segments that had to be made since the last chunk.
    made: usize,
}

impl ListWriter {
    /// Begins with everything up to the first item.
    pub(crate) fn new(model: Arc<dyn Model>, forms: Arc<Forms>, head: &[u8], gzip: bool) -> Self {
        let mut buffer = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        let zip = gzip.then(|| Zip {
            document: Document::begin(&mut buffer),
            compressor: Compressor::default(),
            made: 0,
        });
        let mut writer = Self {
            model,
            forms,
            buffer,
            zip,
            first: true,
        };
        writer.plain(head);
        writer
    }

    /// Writes one item.
    ///
    /// Fails for an unreadable entry.
    pub(crate) fn item(&mut self, entry: &Entry) -> Result<(), BoxError> {
        if !std::mem::take(&mut self.first) {
            self.plain(b",");
        }
        let Some(zip) = &mut self.zip else {
            let json = served(&*self.model, &self.forms, entry)?;
            self.buffer.extend_from_slice(&json);
            return Ok(());
        };
        let key = FormKey {
            form: "gzip",
            variant: self.model.form().unwrap_or_default(),
        };
        let segment = self.forms.get_or_make(entry, key, || {
            zip.made += 1;
            let json = served(&*self.model, &self.forms, entry)?;
            let segment = zip.compressor.segment(&json)?;
            let weight = segment.weight();
            Ok::<_, BoxError>((segment, weight))
        })?;
        zip.document.segment(&segment, &mut self.buffer);
        Ok(())
    }

    /// Whether a chunk should go out now.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= CHUNK || self.zip.as_ref().is_some_and(|zip| zip.made >= MADE_AT_ONCE)
    }

    /// What is written so far.
    pub(crate) fn chunk(&mut self) -> Bytes {
        if let Some(zip) = &mut self.zip {
            zip.made = 0;
        }
        let chunk = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK + CHUNK / 4);
        chunk
    }

    /// Writes what follows the last item, and gives the last chunk.
    pub(crate) fn end(mut self) -> Bytes {
        self.plain(b"]}\n");
        if let Some(zip) = self.zip {
            zip.document.end(&mut self.buffer);
        }
        self.buffer.freeze()
    }

    fn plain(&mut self, bytes: &[u8]) {
        match &mut self.zip {
            None => self.buffer.extend_from_slice(bytes),
            Some(zip) => zip.document.stored(bytes, &mut self.buffer),
        }
    }
}

/// The JSON of an entry in the served version: the record's own bytes where that is the stored one.
pub(crate) fn served(model: &dyn Model, forms: &Forms, entry: &Entry) -> Result<Bytes, BoxError> {
    let json = entry.json()?;
    let Some(variant) = model.form() else {
        return Ok(json.clone());
    };
    let key = FormKey {
        form: "served",
        variant,
    };
    forms.get_or_make(entry, key, || {
        let json = model.served(json)?;
        let weight = json.len();
        Ok((json, weight))
    })
}
