//! Random histories.

use super::*;

// covers: storage-cacher/ORD-01, storage-cacher/ORD-03, storage-cacher/ORD-04, storage-cacher/EVT-01, storage-cacher/EVT-03, storage-cacher/EVT-06, storage-cacher/EVT-02, storage-cacher/HIST-02, storage-cacher/HIST-08, storage-cacher/HIST-11, storage-cacher/SCOPE-06, storage-cacher/SCOPE-08, storage-cacher/WATCH-12, storage-cacher/WATCH-20, storage-cacher/BKM-09
#[test]
fn watchers_see_what_happened_in_random_histories() {
    let mut complete = 0;
    for seed in 0..80 {
        let rng = SeededRng::new(seed);
        let limits = if seed % 2 == 0 { roomy() } else { tight(&rng) };
        let mut world = World::new(seed, limits);
        let mut readers: Vec<Reader> = Vec::new();
        for _ in 0..400 {
            world.now += Duration::from_secs(world.below(2));
            match world.below(40) {
                0..20 => world.write(),
                20..22 => world.progress(),
                22..26 => readers.extend(world.subscribe()),
                26 => world.core.tick(world.now, 0),
                27 if world.below(8) == 0 => {
                    world.at = revision(world.at.get() + world.below(4));
                    let state = world.state();
                    world.list(state);
                }
                _ => {
                    let over: Vec<bool> = readers
                        .iter_mut()
                        .map(|reader| rng.next_u64().is_multiple_of(2) && matches!(world.read(reader), Read::Over))
                        .collect();
                    let mut over = over.into_iter();
                    readers.retain(|_| !over.next().unwrap());
                }
            }
        }
        for reader in &mut readers {
            complete += loop {
                match world.read(reader) {
                    Read::More => {}
                    Read::Nothing => break usize::from(!reader.seen.is_empty()),
                    Read::Over => break 0,
                }
            };
        }
    }
    assert!(complete > 500, "only {complete} watchers saw something to its end");
}

// covers: storage-cacher/SNAP-01, storage-cacher/SNAP-02, storage-cacher/SNAP-04, storage-cacher/SNAP-07, storage-cacher/SNAP-11, storage-cacher/OPP-01, storage-cacher/LIST-07, storage-cacher/IDX-01, storage-cacher/IDX-03, storage-cacher/STO-03
#[test]
fn every_state_that_history_reaches_back_to_can_be_read() {
    for seed in 0..40 {
        let rng = SeededRng::new(seed);
        let limits = if seed % 2 == 0 { roomy() } else { tight(&rng) };
        let mut world = World::new(seed, limits);
        for _ in 0..600 {
            world.now += Duration::from_secs(world.below(2));
            if world.below(10) == 0 {
                world.progress()
            } else {
                world.write()
            }
        }
        let current = world.published.load_full().unwrap();
        assert_eq!(current.revision, world.at);
        for (&at, state) in &world.states {
            let Some(past) = world.core.past(at) else {
                assert!(at < world.core.base, "{at} is forgotten without a reason");
                continue;
            };
            let root = past.build(info().indexes());
            root.check(info().indexes());
            let epoch = Arc::clone(world.core.epoch());
            if at.get() % 5 == 0 {
                world.core.keep(Arc::clone(&root), &epoch);
            }
            for predicate in [
                predicate("", ""),
                predicate("app=a1", ""),
                predicate("", "spec.nodeName=n2"),
            ] {
                for scope in [
                    info().list_scope(None).unwrap(),
                    info().list_scope(Some("ns1")).unwrap(),
                ] {
                    let mut got = Vec::new();
                    let mut walk = root.walk(&scope, None, &predicate, info().indexes());
                    while walk.left() > 0 {
                        walk.examine(7, |entry| {
                            if entry
                                .attributes()
                                .is_none_or(|attributes| predicate.matches(attributes))
                            {
                                got.push((entry.key().to_string(), entry.revision()));
                            }
                            Step::Next
                        })
                        .unwrap();
                    }
                    let want: Vec<_> = state
                        .values()
                        .filter(|entry| scope.contains(entry.key()))
                        .filter(|entry| {
                            entry
                                .attributes()
                                .is_none_or(|attributes| predicate.matches(attributes))
                        })
                        .map(|entry| (entry.key().to_string(), entry.revision()))
                        .collect();
                    assert_eq!(got, want, "seed {seed} at {at} in {scope} by {predicate:?}");
                }
            }
        }
        assert!(world.core.past(world.at.next()).is_none());
    }
}

/// A core that begins in the middle of a world's history, and is told later what was before.
fn joined_late(seed: u64) -> Option<usize> {
    let rng = SeededRng::new(seed);
    let mut world = World::new(seed, roomy());
    let mut written = Vec::new();
    let mut late: Option<World> = None;
    let rounds = 60 + random_below(&rng, 60);
    let joins = random_below(&rng, rounds);
    for round in 0..rounds {
        if round == joins {
            let mut other = World::new(seed + 1, roomy());
            (other.at, other.now) = (world.at, world.now);
            other.list(world.state());
            late = Some(other);
        }
        let before = world.history.len();
        let at = world.at;
        if rng.next_u64().is_multiple_of(6) {
            world.progress();
        } else {
            world.write();
        }
        let events: Arc<[Event]> = world.history.get(before..).unwrap_or_default().into();
        if events.is_empty() {
            if let Some(late) = &mut late {
                late.core.progress(world.at);
            }
            continue;
        }
        assert!(world.at > at);
        let batch = Batch {
            revision: world.at,
            events,
        };
        match &mut late {
            Some(late) => late.core.apply(&batch, world.now).unwrap().perform(),
            None => written.push(batch),
        }
    }
    let late = &mut late?;
    let (epoch, base) = late.core.begins();
    let since = revision(10 + random_below(&rng, base.get() - 9)).min(base.previous()?);
    written.retain(|batch| batch.revision > since);
    let wrong = late
        .core
        .extend((&epoch, base.next()), since, written.clone(), world.now);
    assert!(!wrong, "the log has moved since");
    if since >= base {
        return None;
    }
    let count = written.len();
    assert!(late.core.extend((&epoch, base), since, written, world.now));
    assert_eq!(late.core.history().base, since);
    for _ in 0..30 {
        let Some(mut reader) = world.subscribe() else { continue };
        if reader.start < since {
            continue;
        }
        let from = From::After(reader.start);
        let own = late.core.subscribe(&reader.scope, &reader.predicate, from).unwrap();
        let mut subscription = own.unwrap();
        std::mem::swap(&mut reader.subscription, &mut subscription);
        while matches!(world.read(&mut reader), Read::More) {}
        check(&reader, &world.expected(&reader, world.at));
    }
    for (&at, state) in world.states.range(since..) {
        let root = late.core.past(at).unwrap().build(info().indexes());
        root.check(info().indexes());
        let all = info().list_scope(None).unwrap();
        let mut got = Vec::new();
        let mut walk = root.walk(&all, None, &SelectionPredicate::default(), info().indexes());
        walk.examine(usize::MAX, |entry| {
            got.push((entry.key().to_string(), entry.revision()));
            Step::Next
        })
        .unwrap();
        let want: Vec<_> = state
            .iter()
            .map(|(key, entry)| (key.clone(), entry.revision()))
            .collect();
        assert_eq!(got, want, "seed {seed} at {at}");
    }
    Some(count)
}

#[test]
fn history_that_is_put_in_front_is_as_good_as_one_that_was_seen() {
    let counts: Vec<usize> = (0..60).filter_map(joined_late).collect();
    assert!(counts.len() > 40 && counts.iter().sum::<usize>() > 500, "{counts:?}");
}

/// Others wait for the core's lock: what a list makes superfluous is freed behind it, and what it needs is made before.
#[test]
fn a_list_frees_nothing_under_the_lock() {
    let mut world = World::new(3, roomy());
    for _ in 0..300 {
        world.write();
    }
    let old = Arc::downgrade(&world.published.load_full().unwrap());
    let logged: Vec<_> = world
        .core
        .log
        .between(revision(1), world.at)
        .iter()
        .map(Arc::downgrade)
        .collect();
    let kept: Vec<_> = world
        .core
        .recent
        .iter()
        .chain(&world.core.checkpoints)
        .map(Arc::downgrade)
        .collect();
    assert!(logged.len() > 200 && !kept.is_empty());
    let listed = Listed::new(
        world.at.next(),
        None,
        Vec::new(),
        info().indexes(),
        world.published.load_full(),
    );
    let effects = world.core.take_over(listed);
    assert_eq!(world.published.load_full().unwrap().len(), 0);
    let alive = logged.iter().filter(|record| record.strong_count() > 0).count();
    assert_eq!(alive, logged.len(), "records are freed later");
    assert!(
        old.strong_count() > 0 && kept.iter().all(|root| root.strong_count() > 0),
        "states are freed later"
    );
    effects.perform();
    assert_eq!(old.strong_count(), 0);
    assert!(logged.iter().all(|record| record.strong_count() == 0));
    assert!(kept.iter().all(|root| root.strong_count() == 0));
}
