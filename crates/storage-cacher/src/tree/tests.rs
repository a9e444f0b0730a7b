//! The tree against `BTreeMap`, with snapshots.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use apiserver_storage_api::time::{Rng, SeededRng, random_below};

use super::{Item, Probe, Tree};

impl Item for (u32, u32) {
    type Separator = u32;

    fn separator(&self) -> u32 {
        self.0
    }
}

impl Probe<(u32, u32)> for u32 {
    fn item(&self, item: &(u32, u32)) -> Ordering {
        item.0.cmp(self)
    }

    fn separator(&self, separator: &u32) -> Ordering {
        separator.cmp(self)
    }
}

#[track_caller]
fn check(seed: u64, tree: &Tree<(u32, u32)>, model: &BTreeMap<u32, u32>) {
    tree.0.check(true);
    assert_eq!(tree.len(), model.len(), "seed {seed}");
    let all: Vec<(u32, u32)> = model.iter().map(|(&key, &value)| (key, value)).collect();
    assert_eq!(tree.to_vec(), all, "seed {seed}");
}

// covers: storage-cacher/STO-01, storage-cacher/STO-02, storage-cacher/SNAP-08
#[test]
fn behaves_as_an_ordered_map_and_snapshots_stand_still() {
    for seed in 0..24 {
        let rng = SeededRng::new(seed);
        let keys = 1 + random_below(&rng, 3_000);
        let start: BTreeMap<u32, u32> = (0..random_below(&rng, keys) as u32).map(|key| (key * 2, key)).collect();
        let mut model = start.clone();
        let mut tree = Tree::from_sorted(start.into_iter().collect());
        let mut snapshots = vec![(tree.clone(), model.clone())];
        check(seed, &tree, &model);
        for step in 0..4_000 {
            let key = random_below(&rng, keys) as u32;
            // Long runs of one sort, so that the tree grows and shrinks through every shape.
            if (step / 500 + seed) % 2 == 0 {
                assert_eq!(
                    tree.insert((key, step as u32), &key).map(|old| old.1),
                    model.insert(key, step as u32)
                );
            } else {
                assert_eq!(tree.remove(&key).map(|old| old.1), model.remove(&key));
            }
            if step % 500 == 0 {
                check(seed, &tree, &model);
                snapshots.push((tree.clone(), model.clone()));
            }
            let probe = rng.next_u64() as u32 % (keys as u32 + 2);
            assert_eq!(tree.get(&probe).map(|item| item.1), model.get(&probe).copied());
            if step % 10 == 0 {
                assert_eq!(
                    tree.rank(&probe),
                    model.range(..probe).count(),
                    "seed {seed} step {step}"
                );
            }
        }
        for (tree, model) in &snapshots {
            check(seed, tree, model);
        }
    }
}

#[test]
fn visits_from_a_rank_and_stops_when_told() {
    let tree = Tree::from_sorted((0..1_000).map(|key| (key, key)).collect());
    for from in [0, 1, 23, 24, 25, 999, 1_000, 5_000] {
        let mut seen = Vec::new();
        tree.visit(from, &mut |item| {
            seen.push(item.0);
            if seen.len() == 30 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let want: Vec<u32> = (from as u32..1_000).take(30).collect();
        assert_eq!(seen, want, "from {from}");
    }
}

#[test]
fn emptied_trees_are_small_again() {
    let mut tree = Tree::from_sorted((0..10_000).map(|key| (key, key)).collect());
    for key in 0..10_000 {
        assert!(tree.remove(&key).is_some());
        assert!(tree.remove(&key).is_none());
    }
    assert_eq!(tree.0.width(), 0);
    tree.insert((7, 7), &7);
    assert_eq!(tree.to_vec(), [(7, 7)]);
}
