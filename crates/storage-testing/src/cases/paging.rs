//! Lists in pages.

use apiserver_storage_api::{ContinueToken, Entry, KeyPrefix, ListAt, ListOptions, Storage, StorageError};

use crate::fixture::*;
use crate::harness::Harness;

// covers: storage-api/LIST-24, storage-api/LIST-25, storage-api/LIST-26, storage-api/CONT-03, storage-api/CONT-10, storage-api/CONT-19, storage-api/CONT-20
/// Pages follow each other without gap or overlap, count what is left, and all show the first one's state.
pub async fn pages_follow_each_other<H: Harness>(h: H) {
    let store = h.store();
    let entries = create_pods(&*store, &["a", "b", "c", "d", "e"]).await;
    let revision = entries[4].revision();
    let (mut at, mut all_names) = (ListAt::MostRecent, Vec::new());
    for remaining in [Some(3), Some(1), None] {
        let listed = list(&*store, &all(), page(at.clone(), 2)).await;
        assert_eq!((listed.revision, listed.remaining), (revision, remaining), "{at:?}");
        assert_eq!(listed.next.is_some(), remaining.is_some(), "{at:?}");
        all_names.extend(listed.entries.iter().map(|entry| entry.key().clone()));
        at = listed.next.map_or(ListAt::MostRecent, ListAt::Continue);
    }
    assert_eq!(all_names, ["a", "b", "c", "d", "e"].map(|name| key("ns", name)));
    for size in [5, 6] {
        let listed = list(&*store, &all(), page(ListAt::MostRecent, size)).await;
        assert_eq!(
            (listed.entries.len(), listed.next, listed.remaining),
            (5, None, None),
            "limit {size}"
        );
    }
}

// covers: storage-api/LIST-27, storage-api/CONT-01
/// A token without a limit brings all the rest; it survives its wire form.
pub async fn a_token_without_a_limit_brings_the_rest<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b", "c"]).await;
    let first = list(&*store, &all(), page(ListAt::MostRecent, 1)).await;
    let wire = first.next.expect("a token").encode();
    let token = ContinueToken::decode(&wire).expect("our own token");
    assert_eq!(token.start(&all_prefix()), "/pods/ns/a\0");
    assert_eq!(token.revision(), Some(first.revision));
    let rest = list_at(&*store, ListAt::Continue(token)).await;
    assert_eq!((names(&rest.entries), rest.next), (vec!["ns/b", "ns/c"], None));
}

// covers: storage-api/LIST-28
/// What happens between pages does not show in later ones.
pub async fn writes_between_pages_do_not_show<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b", "c", "d"]).await;
    let first = list(&*store, &all(), page(ListAt::MostRecent, 1)).await;
    create_pods(&*store, &["e", "bb"]).await;
    change(&*store, &key("ns", "c"), label("x", "1")).await;
    delete(&*store, &key("ns", "d")).await;
    let (mut at, mut seen, mut calls) = (following(&first.next), first.entries, 1);
    loop {
        let listed = list(&*store, &all(), page(at, 1)).await;
        assert_eq!(listed.revision, first.revision);
        seen.extend(listed.entries);
        calls += 1;
        match listed.next {
            Some(token) => at = ListAt::Continue(token),
            None => break,
        }
    }
    assert_eq!((names(&seen), calls), (vec!["ns/a", "ns/b", "ns/c", "ns/d"], 4));
    assert!(seen.iter().all(|entry| label_of(entry, "x").is_none()));
}

/// Five pods of which two share a name.
async fn five(store: &dyn Storage) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (namespace, name) in [
        ("first", "bar"),
        ("second", "bar"),
        ("second", "foo"),
        ("third", "barfoo"),
        ("third", "foo"),
    ] {
        entries.push(create_pod(store, namespace, name).await);
    }
    entries
}

// covers: storage-api/LIST-29, storage-api/LIST-30, storage-api/CONT-19, storage-api/CONT-21
/// A page with a selector is full of matches; whether a token follows depends on keys that are left, not on matches.
pub async fn a_selected_page_is_filled_with_matches<H: Harness>(h: H) {
    let store = h.store();
    five(&*store).await;
    for (selector, size, want, more) in [
        ("metadata.name=barfoo", 1, vec!["third/barfoo"], true),
        ("metadata.name=barfoo", 2, vec!["third/barfoo"], false),
        ("metadata.name=bar", 2, vec!["first/bar", "second/bar"], true),
        ("metadata.name=foo", 2, vec!["second/foo", "third/foo"], false),
        (
            "metadata.name!=bar",
            5,
            vec!["second/foo", "third/barfoo", "third/foo"],
            false,
        ),
    ] {
        let options = ListOptions {
            predicate: by_field(selector),
            ..page(ListAt::MostRecent, size)
        };
        let listed = list(&*store, &all(), options.clone()).await;
        assert_eq!(
            (names(&listed.entries), listed.next.is_some()),
            (want, more),
            "{selector} {size}"
        );
        assert_eq!(listed.remaining, None, "{selector} {size}");
        if selector == "metadata.name=bar" {
            // Nothing that matches is left: the next page is empty and the last.
            let next = list(
                &*store,
                &all(),
                ListOptions {
                    at: following(&listed.next),
                    ..options
                },
            )
            .await;
            assert_eq!((next.entries.len(), next.next), (0, None));
        }
    }
}

// covers: storage-api/LIST-31, storage-api/LIST-32
/// A token shows what there was behind its start at its revision.
pub async fn a_token_shows_the_state_of_its_revision<H: Harness>(h: H) {
    let store = h.store();
    let entries = five(&*store).await;
    for (at, want) in [
        (&entries[0], vec![]),
        (&entries[1], vec!["second/bar"]),
        (&entries[2], vec!["second/bar", "second/foo"]),
    ] {
        let token = ContinueToken::after(at.revision(), &all_prefix(), "/pods/first/bar");
        let listed = list_at(&*store, following(&token)).await;
        assert_eq!((listed.revision, names(&listed.entries)), (at.revision(), want));
    }
    let token = ContinueToken::after(entries[4].revision(), &all_prefix(), "/pods/second/foo");
    let options = ListOptions {
        predicate: by_field("metadata.name=foo"),
        ..page(following(&token), 1)
    };
    let listed = list(&*store, &all(), options).await;
    assert_eq!((names(&listed.entries), listed.next), (vec!["third/foo"], None));
}

// covers: storage-api/LIST-33, storage-api/CONT-10
/// A token for the latest state goes on there; what follows is pinned again.
pub async fn a_token_for_the_latest_state_goes_on_there<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b", "c", "d"]).await;
    let first = list(&*store, &all(), page(ListAt::MostRecent, 1)).await;
    delete(&*store, &key("ns", "b")).await;
    let token = first.next.expect("a token").at_latest();
    let listed = list(&*store, &all(), page(ListAt::Continue(token), 1)).await;
    assert_eq!(
        (names(&listed.entries), listed.revision),
        (vec!["ns/c"], now(&*store).await)
    );
    let next = listed.next.expect("a token");
    assert_eq!(next.revision(), Some(listed.revision));
}

// covers: storage-api/LIST-34, storage-api/ERR-07, storage-api/CONT-10
/// A token whose state is compacted is answered with one that goes on at the latest state from the same place.
pub async fn a_compacted_token_comes_back_as_one_for_the_latest_state<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b", "c", "d"]).await;
    let first = list(&*store, &all(), page(ListAt::MostRecent, 1)).await;
    delete(&*store, &key("ns", "b")).await;
    let last = create_pod(&*store, "ns", "e").await;
    h.compact(last.revision()).await;
    let token = match try_list(&*store, &all(), page(following(&first.next), 2)).await {
        Err(StorageError::Expired { message, token }) => {
            let text = "The provided continue parameter is too old to display a consistent list result.";
            assert!(message.starts_with(text), "{message}");
            token
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(token.as_ref().and_then(ContinueToken::revision), None);
    let listed = list(&*store, &all(), page(following(&token), 2)).await;
    assert_eq!(
        (names(&listed.entries), listed.revision),
        (vec!["ns/c", "ns/d"], last.revision())
    );
    let rest = list(&*store, &all(), page(following(&listed.next), 2)).await;
    assert_eq!((names(&rest.entries), rest.revision), (vec!["ns/e"], last.revision()));
}

// covers: storage-api/LIST-38
/// A rare match is found by one call, without a token.
pub async fn a_rare_match_is_found_in_one_call<H: Harness>(h: H) {
    let store = h.store();
    for n in 0..1000 {
        create_pod(&*store, "ns", &format!("p{n:04}")).await;
    }
    let options = ListOptions {
        predicate: by_field("metadata.name=p0999"),
        ..page(ListAt::MostRecent, 1)
    };
    let listed = list(&*store, &all(), options).await;
    assert_eq!((names(&listed.entries), listed.next), (vec!["ns/p0999"], None));
}

// covers: storage-api/LIST-39
/// No more objects are decoded than the page needs.
pub async fn no_more_is_decoded_than_needed<H: Harness>(h: H) {
    let store = h.store();
    for name in ["a", "skip", "b", "c"] {
        create_pod(&*store, name, name).await;
    }
    let reads = async |options: ListOptions| {
        h.transformer().take_reads();
        let listed = list(&*store, &all(), options).await;
        (listed.entries.len(), h.transformer().take_reads())
    };
    assert_eq!(reads(page(ListAt::MostRecent, 1)).await, (1, 1));
    let filtered = ListOptions {
        predicate: by_field("metadata.name!=b"),
        ..page(ListAt::MostRecent, 2)
    };
    assert_eq!(reads(filtered).await, (2, 3));
}

// covers: storage-api/LIST-04, storage-api/CONT-17
/// A limited list of an exact revision pages through that state.
pub async fn an_exact_list_pages_through_its_state<H: Harness>(h: H) {
    let store = h.store();
    let entries = create_pods(&*store, &["a", "b", "c"]).await;
    create_pod(&*store, "ns", "d").await;
    let at = ListAt::Exact(entries[2].revision());
    let first = list(&*store, &all(), page(at, 2)).await;
    assert_eq!((first.revision, first.remaining), (entries[2].revision(), Some(1)));
    let second = list(&*store, &all(), page(following(&first.next), 2)).await;
    assert_eq!(
        (second.revision, names(&second.entries), second.next),
        (first.revision, vec!["ns/c"], None)
    );
}

// covers: storage-api/CONT-02, storage-api/CONT-09, storage-api/LIST-20, storage-api/LIST-26
/// Pages of a namespace stay in it; their tokens are relative to it.
pub async fn pages_of_a_namespace_stay_in_it<H: Harness>(h: H) {
    let store = h.store();
    for (namespace, name) in [
        ("a", "z"),
        ("ns", "a"),
        ("ns", "b"),
        ("ns", "c"),
        ("ns-x", "a"),
        ("z", "a"),
    ] {
        create_pod(&*store, namespace, name).await;
    }
    let first = list(&*store, &within("ns"), page(ListAt::MostRecent, 2)).await;
    assert_eq!(
        (names(&first.entries), first.remaining),
        (vec!["ns/a", "ns/b"], Some(1))
    );
    let prefix = KeyPrefix::new(pods().prefix(), "/pods/ns/").expect("a prefix");
    let token = first.next.clone().expect("a token");
    assert_eq!(token.start(&prefix), "/pods/ns/b\0");
    let rest = list(&*store, &within("ns"), page(following(&first.next), 2)).await;
    assert_eq!(
        (names(&rest.entries), rest.next, rest.remaining),
        (vec!["ns/c"], None, None)
    );
}

// covers: storage-api/CONT-23, storage-api/CONT-03, storage-api/LIST-26
/// A page may end with any key there can be, one with empty segments too: the next one begins right behind it.
pub async fn every_key_can_end_a_page<H: Harness>(h: H) {
    let store = h.store();
    let keys = [
        "/pods/",
        "/pods//a",
        "/pods//b/",
        "/pods/ns",
        "/pods/ns//x",
        "/pods/ns/a",
        "/pods/é",
    ];
    for key in keys {
        create(&*store, &raw_key(key), &pod("ns", "x")).await;
    }
    let (mut at, mut seen) = (ListAt::MostRecent, Vec::new());
    loop {
        let listed = list(&*store, &all(), page(at, 1)).await;
        seen.extend(listed.entries.iter().map(|entry| entry.key().to_string()));
        // As a client has it: as text.
        let Some(token) = listed.next.map(|token| token.encode()) else {
            break;
        };
        at = ListAt::Continue(ContinueToken::decode(&token).expect("our own token"));
    }
    assert_eq!(seen, keys);
}
