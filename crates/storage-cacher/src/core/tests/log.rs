//! The log: what continues it, what is kept of it, and what is put in front of it.

use super::*;

// covers: storage-cacher/INIT-10, storage-cacher/ORD-07, storage-cacher/DISP-01
#[test]
fn what_cannot_continue_the_log_is_a_fault() {
    let mut world = World::new(1, roomy());
    world.write();
    let at = world.at;
    for again in [at, at.previous().unwrap()] {
        let batch = Batch {
            revision: again,
            events: Arc::from([]),
        };
        let fault = world.core.apply(&batch, world.now).unwrap_err();
        assert_eq!(fault, Fault::OutOfOrder { at, batch: again });
    }
    world.core.unload().perform();
    let batch = Batch {
        revision: at.next(),
        events: Arc::from([]),
    };
    assert_eq!(world.core.apply(&batch, world.now).unwrap_err(), Fault::NotLoaded);
}

#[test]
fn a_list_of_the_very_same_state_lets_caught_up_watchers_go_on() {
    let mut world = World::new(3, roomy());
    for _ in 0..20 {
        world.write();
    }
    let all = info().list_scope(None).unwrap();
    let none = SelectionPredicate::default();
    let mut behind = world
        .core
        .subscribe(&all, &none, From::After(revision(10)))
        .unwrap()
        .unwrap();
    let mut there = world.core.subscribe(&all, &none, From::Tail).unwrap().unwrap();
    let (at, state) = (world.at, world.state());
    world.list(state.clone());
    assert_eq!(there.epoch.end(), Some(End::Listed(Some(at))));
    assert!(matches!(there.live.advance(), Next::Empty), "it has seen everything");
    assert!(matches!(behind.live.advance(), Next::Lost));
    let next = world.core.subscribe(&all, &none, From::After(at)).unwrap().unwrap();
    // The same revision with another state is another store.
    let mut other = state;
    let key = info().object_key(Some("ns0"), "stranger").unwrap();
    other.insert(key.to_string(), pod(&SeededRng::new(9), &key, at));
    world.list(other);
    assert_eq!(next.epoch.end(), Some(End::Listed(None)));
}

// covers: storage-cacher/IVAL-01, storage-cacher/HIST-13, storage-cacher/HIST-14, storage-cacher/HIST-15
#[test]
fn a_long_chain_that_nobody_reads_is_freed_without_a_deep_stack() {
    let mut world = World::new(7, roomy());
    let all = info().list_scope(None).unwrap();
    let mut reader = world
        .core
        .subscribe(&all, &SelectionPredicate::default(), From::Tail)
        .unwrap()
        .unwrap();
    for _ in 0..103_000 {
        let key = world.key();
        world.at = world.at.next();
        let gone = Event {
            kind: EventKind::Deleted,
            key: key.clone(),
            revision: world.at,
            object: None,
            previous: None,
        };
        let object = Entry::unreadable(
            key,
            world.at,
            apiserver_storage_api::UnreadableReason::Decode("x".into()),
        );
        let event = match world.published.load_full().unwrap().get(gone.key.as_str()) {
            Some(_) => gone,
            None => Event {
                kind: EventKind::Added,
                object: Some(object),
                ..gone
            },
        };
        let batch = Batch {
            revision: world.at,
            events: Arc::from([event]),
        };
        world.core.apply(&batch, Duration::ZERO).unwrap().perform();
    }
    assert_eq!(world.core.history().records, 103_000);
    drop(world);
    assert!(matches!(reader.live.advance(), Next::Lost));
}

// covers: storage-cacher/IVAL-02, storage-cacher/IVAL-03, storage-cacher/OPP-03
#[test]
fn a_cursor_keeps_nothing_alive_that_the_log_has_forgotten() {
    let limits = Limits {
        bytes: 1 << 20,
        time: Duration::from_secs(10),
        min_records: 0,
    };
    let mut world = World::new(13, limits);
    let all = info().list_scope(None).unwrap();
    let from = world.core.subscribe(&all, &SelectionPredicate::default(), From::Tail);
    let mut reader = from.unwrap().unwrap();
    world.write();
    assert!(matches!(reader.live.advance(), Next::Record(..)));
    for _ in 0..50 {
        world.write();
    }
    let records: Vec<_> = world.core.log.between(revision(1), world.at);
    let weak: Vec<_> = records.iter().map(Arc::downgrade).collect();
    drop(records);
    assert!(weak.len() >= 40 && weak.iter().all(|record| record.strong_count() > 0));
    world.now += Duration::from_secs(20);
    world.core.tick(world.now, 0);
    let alive = weak.iter().filter(|record| record.strong_count() > 0).count();
    assert!(
        alive <= 1,
        "{alive} records outlive the log, of which the cursor stands at one"
    );
    assert!(matches!(reader.live.advance(), Next::Lost));
    assert_eq!(world.core.history().bytes, 0);
}

// covers: storage-cacher/IVAL-06, storage-cacher/OPP-05, storage-cacher/SCALE-02
#[test]
fn a_walk_looks_at_what_it_is_about() {
    let mut world = World::new(17, roomy());
    let state: State = (0..600)
        .map(|at| {
            let key = info()
                .object_key(Some(&format!("ns{}", at % 20)), &format!("p{at:03}"))
                .unwrap();
            let json = serde_json::json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{at:03}")},
                "spec": {"nodeName": format!("n{}", at % 200)},
            });
            let json = serde_json::to_vec(&json).unwrap();
            (key.to_string(), Entry::read(&info(), key, world.at, &json, false))
        })
        .collect();
    world.list(state);
    let root = world.published.load_full().unwrap();
    let left = |scope: &Scope, fields: &str| root.walk(scope, None, &predicate("", fields), info().indexes()).left();
    let all = info().list_scope(None).unwrap();
    let namespace = info().list_scope(Some("ns3")).unwrap();
    let one = Scope::Key(info().object_key(Some("ns3"), "p003").unwrap());
    for (scope, fields, want) in [
        (&all, "", 600),
        (&namespace, "", 30),
        (&one, "", 1),
        (&all, "spec.nodeName=n7", 3),
        (&all, "spec.nodeName=none", 0),
        (&all, "spec.nodeName!=n7", 600),
        (&namespace, "spec.nodeName=n3", 3),
        (&namespace, "metadata.name=p003", 30),
    ] {
        assert_eq!(left(scope, fields), want, "{scope} {fields:?}");
    }
}

// covers: storage-cacher/SNAP-06, storage-cacher/SNAP-12
// deviates: storage-cacher/SNAP-06: a cache that is found to be wrong is listed anew; nothing of it is kept.
#[test]
fn nothing_of_a_state_outlives_the_list_that_replaces_it() {
    let mut world = World::new(19, roomy());
    for _ in 0..300 {
        world.write();
    }
    let before = world.at.previous().unwrap();
    assert!(world.core.past(before).is_some());
    let (epoch, rebuilt) = (Arc::clone(world.core.epoch()), world.core.past(before).unwrap());
    let rebuilt = rebuilt.build(info().indexes());
    world.at = world.at.next();
    let state = world.state();
    world.list(state);
    world.core.keep(rebuilt, &epoch);
    assert!(world.core.past(before).is_none(), "not even what was rebuilt meanwhile");
    assert!(world.core.past(world.at).is_some());
    assert_eq!((world.core.history().records, world.core.history().bytes), (0, 0));
}

// covers: storage-cacher/SNAP-08
#[test]
fn states_between_checkpoints_are_kept_until_somebody_needs_the_room() {
    let limits = Limits {
        bytes: 1 << 20,
        time: Duration::from_secs(100),
        min_records: 10,
    };
    let mut world = World::new(29, limits);
    let mut changed = vec![world.at];
    while changed.len() < 40 {
        let before = world.published.load_full().unwrap().changed;
        world.write();
        if world.published.load_full().unwrap().changed > before {
            changed.push(world.at);
        }
        world.progress();
    }
    let is_kept = |world: &World, at| world.core.past(at).unwrap().is_kept();
    let latest: Vec<_> = changed.iter().rev().take(5).copied().collect();
    assert!(
        latest.iter().all(|&at| is_kept(&world, at)),
        "the current one and four before it"
    );
    assert!(!is_kept(&world, *changed.iter().rev().nth(5).unwrap()));
    // Room is needed for an answer under way.
    world.core.tick(world.now, 2 << 20);
    assert!(is_kept(&world, latest[0]), "the current state is not history");
    assert!(!is_kept(&world, latest[1]), "nothing else is kept as it was");
    assert!(
        world.core.history().records > 30,
        "but it can be rebuilt, because the log is still there"
    );
}

#[test]
fn answers_that_are_over_are_forgotten_while_an_older_one_goes_on() {
    let mut world = World::new(31, roomy());
    world.write();
    let root = world.published.load_full().unwrap();
    let all = info().list_scope(None).unwrap();
    let walk = || root.walk(&all, None, &SelectionPredicate::default(), info().indexes());
    let pins = Pins::default();
    let slow = walk();
    pins.add(&slow);
    for _ in 0..10_000 {
        pins.add(&walk());
        assert!(pins.len() <= 64, "{}", pins.len());
    }
    // Those that go on are all kept, and the oldest is the first to give way.
    let others: Vec<_> = (0..500).map(|_| walk()).collect();
    for other in &others {
        pins.add(other);
        pins.add(&walk());
    }
    assert!((501..=1_100).contains(&pins.len()), "{}", pins.len());
    assert!(pins.release_oldest());
    assert!(slow.root().is_err() && others.iter().all(|other| other.root().is_ok()));
    drop((slow, others));
    assert!(pins.is_empty());
}

// Nine kinds, each with all the history that a cache keeps by default: more than all may keep together by default.
#[test]
fn by_default_too_quiet_caches_give_way() {
    let config = crate::CacherConfig::default();
    let limits = Limits {
        bytes: config.history_bytes,
        time: config.history_time,
        min_records: config.history_min_records,
    };
    let budget = config.history_budget;
    // The same large object again and again: what is counted is not what it takes here.
    let key = info().object_key(Some("ns0"), "large").unwrap();
    let json = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "large", "padding": "x".repeat(1 << 20)},
    });
    let json = serde_json::to_vec(&json).unwrap();
    let large = Entry::read(&info(), key.clone(), revision(1), &json, false);
    assert!(large.attributes().is_some());
    let mut cores: Vec<Core> = Vec::new();
    for _ in 0..9 {
        let mut core = Core::new(&info(), limits, budget.share(), Arc::new(ArcSwapOption::default()));
        core.load(revision(1), None, vec![large.clone()]).perform();
        for at in 2..=62 {
            let event = Event {
                kind: EventKind::Modified,
                key: key.clone(),
                revision: revision(at),
                object: Some(large.clone()),
                previous: None,
            };
            let batch = Batch {
                revision: revision(at),
                events: Arc::from([event]),
            };
            core.apply(&batch, Duration::ZERO).unwrap().perform();
        }
        cores.push(core);
    }
    assert!(budget.used() > 512 << 20, "{}", budget.used());
    assert!(cores.iter().all(|core| core.history().records < limits.min_records));
    let (_, quiet) = cores.split_last_mut().unwrap();
    for core in quiet.iter_mut().filter(|core| core.owes()) {
        core.tick(Duration::from_secs(1), 0);
    }
    assert!(
        budget.used() <= 512 << 20 && !budget.is_exhausted(),
        "{}",
        budget.used()
    );
    assert!(
        quiet.iter().all(|core| core.history().records > 40),
        "no more than needed"
    );
}
