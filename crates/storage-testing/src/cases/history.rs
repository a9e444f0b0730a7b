//! Random histories, compared with a model.

use apiserver_storage_api::time::{OsRng, Rng};

use crate::harness::Harness;
use crate::model::{self, Plan};

/// Repeats the history of a seed, as a failed run has printed it.
const SEED: &str = "CONFORMANCE_SEED";

// covers: storage-api/GLOB-01, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/LIST-05, storage-api/LIST-28, storage-api/WATCH-25
/// Whatever was written, every state that is read is the one that the list of all writes makes, and watches show how it
/// came about.
pub async fn random_histories_agree_with_a_map<H: Harness>(mut h: H) {
    let seed = std::env::var(SEED)
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| OsRng.next_u64());
    // Shown by the test runner when the case fails.
    println!("{SEED}={seed}");
    model::run(&mut h, Plan { seed, steps: 250 }).await;
}
