//! Groups of equal watchers.

use super::*;

#[test]
fn groups_that_nobody_belongs_to_go() {
    let limits = Limits {
        bytes: 1 << 20,
        time: Duration::from_secs(10),
        min_records: 1_000,
    };
    let mut world = World::new(5, limits);
    let readers: Vec<Reader> = (0..50).filter_map(|_| world.subscribe()).collect();
    let groups = world.core.groups.iter().count();
    assert!(groups > 5);
    for _ in 0..50 {
        world.write();
    }
    world.core.tick(world.now, 0);
    assert_eq!(
        world.core.groups.iter().count(),
        groups,
        "somebody belongs to all of them"
    );
    drop(readers);
    world.core.tick(world.now, 0);
    let kept = world.core.groups.iter().count();
    assert!(kept > 0, "who comes back finds what the group has seen");
    world.now += Duration::from_secs(20);
    world.core.tick(world.now, 0);
    assert_eq!(world.core.groups.iter().count(), 0);
    assert!(!world.core.groups.has_deserted());
    // The places are taken again, and what was posted to those who had them does no harm.
    let again = world.subscribe();
    world.write();
    world.now += Duration::from_secs(1_000);
    world.core.tick(world.now, 0);
    drop(again);
}

// covers: storage-cacher/OPP-04, storage-cacher/DISP-12, storage-cacher/SCALE-10
#[test]
fn equal_watchers_are_one_group() {
    let mut world = World::new(6, roomy());
    let all = info().list_scope(None).unwrap();
    let mut watch = |fields: &str| {
        let from = world.core.subscribe(&all, &predicate("", fields), From::Tail);
        from.unwrap().unwrap()
    };
    let mut equal: Vec<Subscription> = (0..100).map(|_| watch("spec.nodeName!=n1")).collect();
    let mut other = watch("spec.nodeName!=n2");
    for _ in 0..50 {
        world.write();
    }
    assert_eq!(world.core.groups.iter().count(), 2);
    let mut seen = 0;
    loop {
        let found: Vec<Next> = equal.iter_mut().map(|one| one.live.advance()).collect();
        let Some(Next::Record(_, first)) = found.first() else {
            break;
        };
        seen += 1;
        for next in &found {
            let Next::Record(_, events) = next else {
                panic!("{next:?}")
            };
            assert!(Arc::ptr_eq(first, events), "looked at once, for all of them");
        }
    }
    assert!(seen > 5 && seen < 50, "{seen}");
    assert!(matches!(other.live.advance(), Next::Record(..)));
}

// covers: storage-cacher/SCOPE-01, storage-cacher/SCOPE-07, storage-cacher/SCOPE-12, storage-cacher/SCOPE-13, storage-cacher/DISP-12, storage-cacher/BUF-03
#[test]
fn a_change_wakes_those_whose_selection_it_touches() {
    let mut world = World::new(11, roomy());
    let all = info().list_scope(None).unwrap();
    let mut watch = |scope: &Scope, labels: &str, fields: &str| {
        world
            .core
            .subscribe(scope, &predicate(labels, fields), From::Tail)
            .unwrap()
            .unwrap()
    };
    let mut watchers = Vec::new();
    for node in 0..100 {
        watchers.push((
            format!("node {node}"),
            watch(&all, "", &format!("spec.nodeName=n{node}")),
        ));
        watchers.push((format!("tier {node}"), watch(&all, &format!("tier=t{node},!app"), "")));
        let namespace = info().list_scope(Some(&format!("ns{node}"))).unwrap();
        watchers.push((format!("namespace {node}"), watch(&namespace, "", "")));
        watchers.push((
            format!("name {node}"),
            watch(&all, "", &format!("metadata.name=p{node}")),
        ));
    }
    watchers.push(("all".into(), watch(&all, "", "")));
    watchers.push(("tier 3 with an app".into(), watch(&all, "tier=t3,app", "")));
    for (name, labels) in [
        ("many", "tier in (t1,t2)"),
        ("many more", "tier in (t3,t4)"),
        ("any tier", "tier"),
        ("any zone", "zone"),
        ("zones", "zone>3"),
        ("no zone", "!zone"),
        ("not tier 3", "tier!=t3"),
    ] {
        watchers.push((name.into(), watch(&all, labels, "")));
    }
    let mut expect = |node: u32, kind: EventKind, want: &[&str]| {
        for (_, watcher) in &watchers {
            watcher.place.wait(&Context::from_waker(Waker::noop()));
        }
        let key = info().object_key(Some("ns7"), "p5").unwrap();
        world.at = world.at.next();
        let json = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p5", "namespace": "ns7", "labels": {"tier": "t3"}},
            "spec": {"nodeName": format!("n{node}")},
        });
        let object = Entry::read(
            &info(),
            key.clone(),
            world.at,
            &serde_json::to_vec(&json).unwrap(),
            false,
        );
        let event = Event {
            kind,
            key,
            revision: world.at,
            object: Some(object),
            previous: None,
        };
        let batch = Batch {
            revision: world.at,
            events: Arc::from([event]),
        };
        let looks = world.core.groups.looks;
        world.core.apply(&batch, world.now).unwrap().perform();
        let looks = world.core.groups.looks - looks;
        let mut woken = Vec::new();
        for (name, watcher) in &watchers {
            if !watcher.place.is_waiting() {
                woken.push(name.as_str());
            }
        }
        woken.sort_unstable();
        assert_eq!(woken, want);
        // Who takes everything reads the log itself. Of the rest only these two looked in vain: one that is about this tier
        // and another label, and one that says only what is not to be.
        assert_eq!(looks, want.len() - 1 + 2, "each of those that it concerns looks once");
    };
    let always = ["all", "any tier", "many more", "name 5", "namespace 7", "no zone"];
    let and = |more: &[&'static str]| [&always, more].concat();
    expect(1, EventKind::Added, &and(&["node 1", "tier 3"]));
    expect(2, EventKind::Modified, &and(&["node 1", "node 2", "tier 3"]));
    expect(2, EventKind::Deleted, &and(&["node 2", "tier 3"]));
}

#[test]
fn a_selector_that_looks_at_everything_does_so_only_while_somebody_waits() {
    let mut world = World::new(37, roomy());
    let all = info().list_scope(None).unwrap();
    let watch = |world: &mut World, node: usize, from: From| {
        let predicate = predicate("", &format!("spec.nodeName!=x{node}"));
        world.core.subscribe(&all, &predicate, from).unwrap().unwrap()
    };
    let watches: Vec<_> = (0..300).map(|node| watch(&mut world, node % 100, From::Tail)).collect();
    assert_eq!(world.core.groups.iter().count(), 100, "equal ones are one group");
    while world.core.history().records == 0 {
        world.write();
    }
    assert_eq!(world.core.groups.looks % 100, 0);
    let (looks, left) = (world.core.groups.looks, world.at);
    assert!(looks > 0 && world.core.history().postings > 0);
    drop(watches);
    for _ in 0..50 {
        world.write();
    }
    assert_eq!(world.core.groups.looks, looks, "nobody looks for those who have left");
    assert_eq!(world.core.groups.iter().count(), 0);
    // Who comes back is told what it has missed.
    let missed = world.history.iter().filter(|event| event.revision > left).count();
    let back = watch(&mut world, 7, From::After(left));
    let mut reader = Reader {
        scope: all.clone(),
        predicate: predicate("", "spec.nodeName!=x7"),
        subscription: back,
        start: left,
        position: left,
        seen: Vec::new(),
        epoch: world.epochs,
    };
    while let Read::More = world.read(&mut reader) {}
    assert_eq!(reader.seen.len(), missed);
}

#[test]
fn postings_are_counted_with_history_and_go_with_it() {
    let limits = Limits {
        bytes: 400_000,
        time: Duration::from_secs(1_000),
        min_records: 10,
    };
    let mut world = World::new(41, limits);
    let all = info().list_scope(None).unwrap();
    let mut watches = Vec::new();
    for node in 0..500 {
        let predicate = predicate("", &format!("spec.nodeName!=x{node}"));
        watches.push(world.core.subscribe(&all, &predicate, From::Tail).unwrap().unwrap());
    }
    for _ in 0..200 {
        world.write();
        let history = world.core.history();
        let chunks: usize = world.core.groups.iter().map(|group| group.ring.weight()).sum();
        assert_eq!(chunks, world.core.groups.weight());
        assert!(history.bytes + history.postings <= limits.bytes, "{history:?}");
    }
    let history = world.core.history();
    assert!(
        history.records < 100 && history.postings > limits.bytes / 2,
        "{history:?}"
    );
    drop(watches);
    world.core.tick(world.now, 0);
    let after = world.core.history();
    assert!(after.postings < history.postings / 2, "{after:?}");
    for _ in 0..400 {
        world.write();
    }
    let after = world.core.history();
    assert!(after.records > 2 * history.records, "{after:?}");
    world.now += Duration::from_secs(10_000);
    world.core.limits.min_records = 0;
    world.core.tick(world.now, 0);
    let history = world.core.history();
    assert_eq!((history.records, history.bytes, history.postings), (0, 0, 0));
}
