//! The watch cache: serves get, list and watch from memory over any storage.
