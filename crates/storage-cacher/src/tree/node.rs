//! Nodes: search, copy-on-write insert with splits, remove with merges, and the build from sorted items.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Item, Probe};

/// Most items of a leaf and most children of a branch. A write copies about one such node per level.
pub(super) const MAX: usize = 16;
/// A node below this size is merged with a neighbour, or filled from it.
const MIN: usize = MAX / 4;
/// How full a build makes nodes: room for some inserts before the first split.
const BUILD: usize = MAX * 3 / 4;

pub(super) enum Node<T: Item> {
    Leaf(Vec<T>),
    Branch(Branch<T>),
}

pub(super) struct Branch<T: Item> {
    /// One less than children. Shared, because most writes change no separator.
    separators: Arc<Vec<T::Separator>>,
    children: Vec<Child<T>>,
}

struct Child<T: Item> {
    count: usize,
    node: Arc<Node<T>>,
}

/// A node with the first place in it.
type Placed<T> = (Option<<T as Item>::Separator>, Arc<Node<T>>);

type Split<T> = Option<(<T as Item>::Separator, Arc<Node<T>>)>;

impl<T: Item> Child<T> {
    fn new(node: Arc<Node<T>>) -> Self {
        Self {
            count: node.count(),
            node,
        }
    }
}

impl<T: Item> Clone for Child<T> {
    fn clone(&self) -> Self {
        Self {
            count: self.count,
            node: Arc::clone(&self.node),
        }
    }
}

impl<T: Item> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(items) => {
                // Room for the insert that is the usual reason for a copy.
                let mut copy = Vec::with_capacity(items.len() + 1);
                copy.extend_from_slice(items);
                Self::Leaf(copy)
            }
            Self::Branch(Branch { separators, children }) => Self::Branch(Branch {
                separators: Arc::clone(separators),
                children: children.clone(),
            }),
        }
    }
}

impl<T: Item> Node<T> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Branch(branch) => branch.children.iter().map(|child| child.count).sum(),
        }
    }

    /// Items of a leaf, children of a branch.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }

    pub(super) fn pair(left: Arc<Self>, separator: T::Separator, right: Arc<Self>) -> Self {
        let children = vec![Child::new(left), Child::new(right)];
        Self::Branch(Branch {
            separators: Arc::new(vec![separator]),
            children,
        })
    }

    pub(super) fn only_child(&self) -> Option<Arc<Self>> {
        match self {
            Self::Branch(Branch { children, .. }) => match children.as_slice() {
                [only] => Some(Arc::clone(&only.node)),
                _ => None,
            },
            Self::Leaf(_) => None,
        }
    }

    pub(super) fn visit(&self, from: usize, visitor: &mut impl FnMut(&T) -> ControlFlow<()>) -> ControlFlow<()> {
        match self {
            Self::Leaf(items) => items.iter().skip(from).try_for_each(visitor),
            Self::Branch(branch) => {
                let mut skip = from;
                for child in &branch.children {
                    if skip >= child.count {
                        skip -= child.count;
                        continue;
                    }
                    child.node.visit(skip, visitor)?;
                    skip = 0;
                }
                ControlFlow::Continue(())
            }
        }
    }
}

impl<T: Item> Branch<T> {
    /// Which child a place lies in.
    pub(super) fn position(&self, probe: &(impl Probe<T> + ?Sized)) -> usize {
        self.separators
            .partition_point(|separator| probe.separator(separator).is_le())
    }

    pub(super) fn child(&self, at: usize) -> Option<&Node<T>> {
        self.children.get(at).map(|child| &*child.node)
    }

    pub(super) fn count_before(&self, at: usize) -> usize {
        self.children.iter().take(at).map(|child| child.count).sum()
    }

    /// Merges the child with a neighbour, or divides their content evenly, once it has become too small.
    fn balance(&mut self, at: usize) {
        if self.children.get(at).is_none_or(|child| child.node.width() >= MIN) || self.children.len() < 2 {
            return;
        }
        let left = at.saturating_sub(1);
        let (Some(first), Some(second)) = (self.children.get(left), self.children.get(left + 1)) else {
            return;
        };
        let Some(between) = self.separators.get(left) else {
            return;
        };
        let mut joined = join(&first.node, between, &second.node);
        let split = if joined.width() > MAX { split(&mut joined) } else { None };
        let separators = Arc::make_mut(&mut self.separators);
        separators.remove(left);
        let mut replacement = vec![Child::new(Arc::new(joined))];
        if let Some((separator, right)) = split {
            separators.insert(left, separator);
            replacement.push(Child::new(right));
        }
        self.children.splice(left..left + 2, replacement);
    }
}

/// The content of two neighbours in one node, which may be too wide.
fn join<T: Item>(left: &Node<T>, between: &T::Separator, right: &Node<T>) -> Node<T> {
    match (left, right) {
        (Node::Branch(left), Node::Branch(right)) => {
            let mut separators = Vec::with_capacity(left.separators.len() + right.separators.len() + 1);
            separators.extend_from_slice(&left.separators);
            separators.push(between.clone());
            separators.extend_from_slice(&right.separators);
            let children = left.children.iter().chain(&right.children).cloned().collect();
            Node::Branch(Branch {
                separators: Arc::new(separators),
                children,
            })
        }
        // Invariant: all leaves have the same depth, so neighbours are of one sort.
        (left, right) => {
            let mut items = Vec::with_capacity(left.count() + right.count());
            for node in [left, right] {
                let _ = node.visit(0, &mut |item| {
                    items.push(item.clone());
                    ControlFlow::Continue(())
                });
            }
            Node::Leaf(items)
        }
    }
}

/// Moves the upper half of a node into a new one.
fn split<T: Item>(node: &mut Node<T>) -> Split<T> {
    let middle = node.width() / 2;
    match node {
        Node::Leaf(items) => {
            let right = items.split_off(middle);
            let separator = right.first()?.separator();
            Some((separator, Arc::new(Node::Leaf(right))))
        }
        Node::Branch(Branch { separators, children }) => {
            let separators = Arc::make_mut(separators);
            let upper = separators.split_off(middle);
            let separator = separators.pop()?;
            let right = Branch {
                separators: Arc::new(upper),
                children: children.split_off(middle),
            };
            Some((separator, Arc::new(Node::Branch(right))))
        }
    }
}

pub(super) fn insert<T: Item>(
    node: &mut Arc<Node<T>>,
    item: T,
    probe: &(impl Probe<T> + ?Sized),
) -> (Option<T>, Split<T>) {
    let node = Arc::make_mut(node);
    let replaced = match node {
        Node::Leaf(items) => match items.binary_search_by(|own| probe.item(own)) {
            Ok(at) => items.get_mut(at).map(|own| std::mem::replace(own, item)),
            Err(at) => {
                items.insert(at, item);
                None
            }
        },
        Node::Branch(branch) => {
            let at = branch.position(probe);
            // Invariant: a branch has one child more than separators.
            let Some(child) = branch.children.get_mut(at) else {
                return (None, None);
            };
            let (replaced, split) = insert(&mut child.node, item, probe);
            child.count += usize::from(replaced.is_none());
            if let Some((separator, right)) = split {
                let right = Child::new(right);
                child.count -= right.count;
                branch.children.insert(at + 1, right);
                Arc::make_mut(&mut branch.separators).insert(at, separator);
            }
            replaced
        }
    };
    let split = if node.width() > MAX { split(node) } else { None };
    (replaced, split)
}

pub(super) fn remove<T: Item>(node: &mut Arc<Node<T>>, probe: &(impl Probe<T> + ?Sized)) -> Option<T> {
    match Arc::make_mut(node) {
        Node::Leaf(items) => {
            let at = items.binary_search_by(|own| probe.item(own)).ok()?;
            Some(items.remove(at))
        }
        Node::Branch(branch) => {
            let at = branch.position(probe);
            let child = branch.children.get_mut(at)?;
            let removed = remove(&mut child.node, probe)?;
            child.count -= 1;
            branch.balance(at);
            Some(removed)
        }
    }
}

/// A tree of sorted items, level by level, without a single comparison.
pub(super) fn build<T: Item>(items: Vec<T>) -> Arc<Node<T>> {
    let leaves = groups(items).map(|leaf| (leaf.first().map(Item::separator), Arc::new(Node::Leaf(leaf))));
    let mut level: Vec<Placed<T>> = leaves.collect();
    while level.len() > 1 {
        let above = groups(level).map(|group| {
            let mut group = group.into_iter();
            let (first, node) = group.next().unzip();
            let mut children: Vec<Child<T>> = node.into_iter().map(Child::new).collect();
            let mut separators = Vec::new();
            for (separator, node) in group {
                separators.extend(separator);
                children.push(Child::new(node));
            }
            (
                first.flatten(),
                Arc::new(Node::Branch(Branch {
                    separators: Arc::new(separators),
                    children,
                })),
            )
        });
        level = above.collect();
    }
    level
        .pop()
        .map_or_else(|| Arc::new(Node::Leaf(Vec::new())), |(_, root)| root)
}

/// Divides into groups that are about equally large, so that no node starts below its smallest size.
fn groups<X>(all: Vec<X>) -> impl Iterator<Item = Vec<X>> {
    let (total, number) = (all.len(), all.len().div_ceil(BUILD));
    let mut rest = all.into_iter();
    (0..number).map(move |at| {
        rest.by_ref()
            .take((at + 1) * total / number - at * total / number)
            .collect()
    })
}

#[cfg(test)]
impl<T: Item> Node<T> {
    /// Checks counts, widths and depths; returns the depth.
    pub(super) fn check(&self, root: bool) -> usize {
        assert!(self.width() <= MAX, "too wide: {}", self.width());
        match self {
            Self::Leaf(items) => {
                assert!(root || !items.is_empty(), "empty leaf");
                1
            }
            Self::Branch(branch) => {
                assert!(branch.children.len() > usize::from(root));
                assert_eq!(branch.separators.len() + 1, branch.children.len());
                let depths: Vec<usize> = branch
                    .children
                    .iter()
                    .map(|child| {
                        assert_eq!(child.count, child.node.count());
                        child.node.check(false)
                    })
                    .collect();
                assert!(
                    depths.windows(2).all(|pair| pair[0] == pair[1]),
                    "depths differ: {depths:?}"
                );
                depths[0] + 1
            }
        }
    }
}
