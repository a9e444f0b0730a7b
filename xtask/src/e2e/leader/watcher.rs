//! Who watches, and goes on from the last version whenever a watch ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{AGAIN, RECOVERY, name, version};
use crate::e2e::http::Http;
use crate::process;

/// One event of a watch.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) version: u64,
    pub(super) object: Value,
}

#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) last: u64,
    pub(super) events: Vec<Seen>,
    pub(super) wrong: Option<String>,
    pub(super) connections: u32,
}

/// Watches until the last event of all; after each end it goes on from the last version.
pub(super) fn follow(http: Http, path: &str, stop: &AtomicBool, followed: &Mutex<Followed>) {
    let lock = || followed.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stopped = None;
    loop {
        let from = lock().last;
        if stop.load(Ordering::SeqCst) && stopped.get_or_insert_with(Instant::now).elapsed() > RECOVERY {
            lock().wrong = Some(format!("the last event did not come, it is at {from}"));
            return;
        }
        let watch = http.watch(&format!(
            "{path}?watch=true&allowWatchBookmarks=true&resourceVersion={from}"
        ));
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                let text = format!("{error:#}");
                if text.contains("refused with 4") && !text.contains("refused with 429") {
                    lock().wrong = Some(format!("resume from {from}: {text}"));
                    return;
                }
                process::pause(AGAIN);
                continue;
            }
        };
        lock().connections += 1;
        while let Ok(Some(event)) = watch.next() {
            let noted = note(&mut lock(), &event);
            match noted {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    lock().wrong = Some(format!("{error:#}"));
                    return;
                }
            }
        }
    }
}

/// Takes an event; true for the last one of all.
fn note(followed: &mut Followed, event: &Value) -> Result<bool> {
    let (kind, object) = (event["type"].as_str().unwrap_or_default(), &event["object"]);
    ensure!(kind != "ERROR", "the watch reported {object}");
    let version = version(object)?;
    if kind == "BOOKMARK" {
        ensure!(version >= followed.last, "a bookmark goes back to {version}");
        followed.last = version;
        return Ok(false);
    }
    ensure!(
        version > followed.last,
        "an event at {version} after {}: doubled or out of order",
        followed.last
    );
    followed.last = version;
    let name = name(object)?;
    let end = name == "end";
    followed.events.push(Seen {
        kind: kind.to_owned(),
        name,
        version,
        object: object.clone(),
    });
    Ok(end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_watch_that_doubles_or_goes_back_is_noticed() {
        let event = |kind: &str, version: u64| {
            let metadata = json!({ "name": "a", "resourceVersion": version.to_string() });
            json!({ "type": kind, "object": { "metadata": metadata } })
        };
        for (second, good) in [
            (event("MODIFIED", 6), true),
            (event("BOOKMARK", 5), true),
            (event("MODIFIED", 5), false),
            (event("BOOKMARK", 4), false),
            (json!({ "type": "ERROR", "object": { "code": 410 } }), false),
        ] {
            let mut followed = Followed::default();
            note(&mut followed, &event("ADDED", 5)).expect("a good first event");
            assert_eq!(note(&mut followed, &second).is_ok(), good, "{second}");
        }
    }
}
