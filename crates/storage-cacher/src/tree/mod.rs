//! A persistent ordered set with subtree counts: the one structure that state, indexes and kept history are made of.
//!
//! Cloning is O(1) and gives a snapshot; insert and remove copy one path from the root to a leaf where a snapshot
//! shares it, and change it in place where none does. [`rank`](Tree::rank) answers how many items lie before a place in
//! O(log n), so counts, pages and "how many more" cost the same in any snapshot.
//!
//! How: a B+tree. Items lie in the leaves; a branch keeps, for each child, how many items are below it, and between
//! two children a separator: at most the first key of the right one, greater than every key of the left one.
//!
//! What it is not: a general map. Places are described by a [`Probe`], so that a search needs no owned key.
//
// concerns: storage-cacher/CONST-12: nodes are filled by their own measure; the benchmarks of lists say what it is worth.

mod node;

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use self::node::Node;

/// What the tree holds: a shared record that knows its own place in the order.
pub(crate) trait Item: Clone {
    /// The part of an item that branches keep. Must not keep the record alive.
    type Separator: Clone;

    /// The place of this item.
    fn separator(&self) -> Self::Separator;
}

/// A place in the order of the items.
pub(crate) trait Probe<T: Item> {
    /// Where an item lies as seen from this place.
    fn item(&self, item: &T) -> Ordering;
    /// Where a separator lies as seen from this place.
    fn separator(&self, separator: &T::Separator) -> Ordering;
}

impl<T: Item, P: Probe<T> + ?Sized> Probe<T> for &P {
    fn item(&self, item: &T) -> Ordering {
        (**self).item(item)
    }

    fn separator(&self, separator: &T::Separator) -> Ordering {
        (**self).separator(separator)
    }
}

/// A persistent ordered set. Cloning takes a snapshot.
pub(crate) struct Tree<T: Item>(Arc<Node<T>>);

impl<T: Item> Tree<T> {
    /// Builds a tree of items that are in strictly ascending order.
    pub(crate) fn from_sorted(items: Vec<T>) -> Self {
        Self(node::build(items))
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.0.count()
    }

    /// The item at a place.
    pub(crate) fn get(&self, probe: &(impl Probe<T> + ?Sized)) -> Option<&T> {
        let mut node = &*self.0;
        loop {
            match node {
                Node::Leaf(items) => {
                    let at = items.binary_search_by(|item| probe.item(item)).ok()?;
                    return items.get(at);
                }
                Node::Branch(branch) => node = branch.child(branch.position(probe))?,
            }
        }
    }

    /// Number of items before a place.
    pub(crate) fn rank(&self, probe: &(impl Probe<T> + ?Sized)) -> usize {
        let (mut node, mut rank) = (&*self.0, 0);
        loop {
            match node {
                Node::Leaf(items) => return rank + items.partition_point(|item| probe.item(item).is_lt()),
                Node::Branch(branch) => {
                    let at = branch.position(probe);
                    rank += branch.count_before(at);
                    match branch.child(at) {
                        Some(child) => node = child,
                        None => return rank,
                    }
                }
            }
        }
    }

    /// Puts an item at its place, which `probe` describes. Returns what was there.
    pub(crate) fn insert(&mut self, item: T, probe: &(impl Probe<T> + ?Sized)) -> Option<T> {
        let (replaced, split) = node::insert(&mut self.0, item, probe);
        if let Some((separator, right)) = split {
            let left = Arc::clone(&self.0);
            self.0 = Arc::new(Node::pair(left, separator, right));
        }
        replaced
    }

    /// Takes the item at a place out.
    pub(crate) fn remove(&mut self, probe: &(impl Probe<T> + ?Sized)) -> Option<T> {
        // A miss must not copy a path.
        self.get(probe)?;
        let removed = node::remove(&mut self.0, probe);
        while let Some(only) = self.0.only_child() {
            self.0 = only;
        }
        removed
    }

    /// Visits items in order, beginning with the one of this rank, until told to stop.
    pub(crate) fn visit(&self, from: usize, visitor: &mut impl FnMut(&T) -> ControlFlow<()>) {
        // A stopped visit is a finished one.
        let _ = self.0.visit(from, visitor);
    }

    /// All items in order.
    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<T> {
        let mut all = Vec::with_capacity(self.len());
        self.visit(0, &mut |item| {
            all.push(item.clone());
            ControlFlow::Continue(())
        });
        all
    }
}

impl<T: Item> Default for Tree<T> {
    fn default() -> Self {
        Self(Arc::new(Node::Leaf(Vec::new())))
    }
}

impl<T: Item> Clone for Tree<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Item> std::fmt::Debug for Tree<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
