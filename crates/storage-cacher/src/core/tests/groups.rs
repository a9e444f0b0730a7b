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
    watchers.push(("many".into(), watch(&all, "tier in (t1,t2)", "")));
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
        world.core.apply(&batch, world.now).unwrap().perform();
        let mut woken = Vec::new();
        for (name, watcher) in &watchers {
            if !watcher.place.is_waiting() {
                woken.push(name.as_str());
            }
        }
        woken.sort_unstable();
        assert_eq!(woken, want);
    };
    expect(
        1,
        EventKind::Added,
        &["all", "name 5", "namespace 7", "node 1", "tier 3"],
    );
    expect(
        2,
        EventKind::Modified,
        &["all", "name 5", "namespace 7", "node 1", "node 2", "tier 3"],
    );
    expect(
        2,
        EventKind::Deleted,
        &["all", "name 5", "namespace 7", "node 2", "tier 3"],
    );
}
