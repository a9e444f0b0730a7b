//! The generic registry store: strategies, subresources, finalizers, dry run, collections, over any storage.
