//! What a store sees of the transformers: round trips, rotation, selection, and what never leaks.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use apiserver_storage_transform::{
    ConfigOptions, DataContext, Decrypted, ErrorKind, Outcome, TransformError, Transformer, Transformers,
};
use bytes::Bytes;

const KEY_A: &str = "{name: a, secret: A/j5CnrWGB83ylcPkuUhm/6TSyrQtsNJtDPwPHNOj4Q=}";
const KEY_B: &str = "{name: b, secret: TlulwEDiRpG2iMlBrQ32vrPlQ4AJHMNI}";
const PATH: &str = "/registry/secrets/default/password";

fn transformers(entries: &[(&str, &str)]) -> Transformers {
    let mut config = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n".to_owned();
    for (resources, providers) in entries {
        config.push_str(&format!("- resources: [{resources}]\n  providers: [{providers}]\n"));
    }
    Transformers::parse(Path::new("config"), config.as_bytes(), &ConfigOptions::default())
        .expect("a valid configuration")
}

fn aesgcm(keys: &[&str]) -> String {
    format!("{{aesgcm: {{keys: [{}]}}}}", keys.join(", "))
}

fn secrets(providers: &[&str]) -> Arc<dyn Transformer> {
    transformers(&[("secrets", &providers.join(", "))]).for_resource("", "secrets")
}

fn ready<T>(outcome: Outcome<'_, T>) -> T {
    match outcome {
        Outcome::Ready(value) => value,
        Outcome::Pending(_) => panic!("static keys answer at once"),
    }
}

fn write(transformer: &dyn Transformer, plaintext: impl Into<Bytes>) -> Bytes {
    ready(transformer.transform_to_storage(plaintext.into(), &DataContext::new(PATH))).expect("written")
}

fn read(transformer: &dyn Transformer, stored: &Bytes) -> Result<Decrypted, TransformError> {
    ready(transformer.transform_from_storage(stored.clone(), &DataContext::new(PATH)))
}

fn read_stale(transformer: &dyn Transformer, stored: &Bytes) -> Result<bool, ErrorKind> {
    read(transformer, stored)
        .map(|value| value.stale)
        .map_err(|error| error.kind())
}

// covers: storage-transform/TRF-01, storage-transform/TRF-05, storage-transform/TRF-06, storage-transform/GCM-05
#[test]
fn every_length_comes_back_as_it_was_and_fresh() {
    for providers in [aesgcm(&[KEY_A]), aesgcm(&[KEY_B, KEY_A]), "{identity: {}}".to_owned()] {
        let transformer = secrets(&[&providers]);
        for len in (0..=17).chain([128, 1024]) {
            let plaintext: Bytes = (0..len).map(|index| index as u8).collect();
            let value = read(&*transformer, &write(&*transformer, plaintext.clone())).expect("read back");
            assert_eq!(value, Decrypted::new(plaintext, false), "{providers}, {len} bytes");
        }
    }
}

// covers: storage-transform/TRF-07, storage-transform/IDN-01, storage-transform/IDN-02, storage-transform/IDN-03, storage-transform/IDN-05
#[test]
fn identity_hands_back_the_same_memory_and_refuses_encrypted_values() {
    let transformer = Transformers::identity().for_resource("apps", "deployments");
    let data = Bytes::from(b"{\"kind\":\"Deployment\"}".to_vec());
    let stored = write(&*transformer, data.clone());
    assert_eq!(stored.as_ptr(), data.as_ptr());
    assert_eq!(
        read(&*transformer, &stored).expect("read back").bytes.as_ptr(),
        data.as_ptr()
    );
    for (data, want) in [
        ("", Ok(false)),
        ("k8s:enc", Ok(false)),
        ("K8S:ENC:", Ok(false)),
        (" k8s:enc:", Ok(false)),
        ("k8s:enc:", Err(ErrorKind::EncryptedDataInIdentity)),
    ] {
        assert_eq!(read_stale(&*transformer, &Bytes::from(data)), want, "{data:?}");
    }
    assert_eq!(write(&*transformer, "k8s:enc:x"), "k8s:enc:x");
}

// covers: storage-transform/TRF-02, storage-transform/TRF-03, storage-transform/GCM-04, storage-transform/GCM-06, storage-transform/GCM-07
#[test]
fn no_changed_cut_or_moved_value_opens() {
    let transformer = secrets(&[&aesgcm(&[KEY_A])]);
    let stored = write(&*transformer, "plaintext");
    let header = "k8s:enc:aesgcm:v1:a:".len();
    for index in header..stored.len() {
        let mut changed = stored.to_vec();
        changed[index] ^= 1;
        assert_eq!(
            read_stale(&*transformer, &changed.into()),
            Err(ErrorKind::AuthFailed),
            "byte {index}"
        );
    }
    for len in 0..stored.len() {
        let want = match len {
            0..18 => ErrorKind::NoMatchingPrefix,
            18..20 => ErrorKind::NoMatchingKey,
            20..32 => ErrorKind::TooShort,
            _ => ErrorKind::AuthFailed,
        };
        assert_eq!(
            read_stale(&*transformer, &stored.slice(..len)),
            Err(want),
            "{len} bytes"
        );
    }
    for path in [
        "",
        "/registry/secrets/default/passwords",
        "registry/secrets/default/password",
    ] {
        let moved = ready(transformer.transform_from_storage(stored.clone(), &DataContext::new(path)));
        assert_eq!(
            moved.map_err(|error| error.kind()),
            Err(ErrorKind::AuthFailed),
            "{path:?}"
        );
    }
}

// covers: storage-transform/ROT-01, storage-transform/ROT-02, storage-transform/GCM-02
#[test]
fn a_key_is_rotated_by_order() {
    let only_a = secrets(&[&aesgcm(&[KEY_A])]);
    let old = write(&*only_a, "x");
    let prepared = secrets(&[&aesgcm(&[KEY_A, KEY_B])]);
    assert_eq!(read_stale(&*prepared, &old), Ok(false));
    let switched = secrets(&[&aesgcm(&[KEY_B, KEY_A])]);
    assert_eq!(read_stale(&*switched, &old), Ok(true));
    let new = write(&*switched, "x");
    assert!(new.starts_with(b"k8s:enc:aesgcm:v1:b:"));
    assert_eq!(read_stale(&*switched, &new), Ok(false));
    assert_eq!(
        read_stale(&*prepared, &new),
        Ok(true),
        "a server that has not switched yet can read it"
    );
    assert_eq!(read_stale(&*only_a, &new), Err(ErrorKind::NoMatchingKey));
    let only_b = secrets(&[&aesgcm(&[KEY_B])]);
    assert_eq!(read_stale(&*only_b, &new), Ok(false));
}

// covers: storage-transform/ROT-03, storage-transform/PFX-06, storage-transform/PFX-12
#[test]
fn two_providers_of_one_kind_rotate_as_two_keys_do() {
    let old = write(&*secrets(&[&aesgcm(&[KEY_A])]), "x");
    let both = secrets(&[&aesgcm(&[KEY_B]), &aesgcm(&[KEY_A])]);
    assert_eq!(read_stale(&*both, &old), Ok(true));
    let error = read(&*secrets(&[&aesgcm(&[KEY_B])]), &old).expect_err("no such key");
    assert_eq!(error.kind(), ErrorKind::NoMatchingKey);
    assert!(
        error
            .to_string()
            .starts_with("no matching key was found for the provided AES transformer")
    );
}

// covers: storage-transform/ROT-04, storage-transform/ROT-05, storage-transform/ROT-06
#[test]
fn encryption_is_turned_on_enforced_and_turned_off_by_order() {
    let (plain, encrypting) = ("{identity: {}}", aesgcm(&[KEY_A]));
    let value = Bytes::from("{}");
    let on = secrets(&[&encrypting, plain]);
    assert_eq!(read_stale(&*on, &value), Ok(true));
    let encrypted = write(&*on, "{}");
    assert_eq!(read_stale(&*on, &encrypted), Ok(false));
    let enforced = secrets(&[&encrypting]);
    let error = read(&*enforced, &value).expect_err("plain values are refused");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::NoMatchingPrefix, "no matching prefix found")
    );
    let off = secrets(&[plain, &encrypting]);
    assert_eq!(read_stale(&*off, &encrypted), Ok(true));
    assert_eq!(write(&*off, "{}"), "{}");
}

// covers: storage-transform/SEL-05, storage-transform/SEL-06, storage-transform/SEL-08
#[test]
fn the_most_specific_entry_alone_decides() {
    let set = transformers(&[("secrets", "{identity: {}}"), ("'*.'", &aesgcm(&[KEY_A]))]);
    let encrypted = write(&*set.for_resource("", "configmaps"), "x");
    assert!(encrypted.starts_with(b"k8s:enc:aesgcm:"));
    assert_eq!(write(&*set.for_resource("", "secrets"), "x"), "x");
    let denied = read_stale(&*set.for_resource("", "secrets"), &encrypted);
    assert_eq!(
        denied,
        Err(ErrorKind::NoMatchingPrefix),
        "there is no fall-through to the wider entry"
    );
    let unlisted = read_stale(&*set.for_resource("apps", "deployments"), &encrypted);
    assert_eq!(unlisted, Err(ErrorKind::EncryptedDataInIdentity));
}

// covers: storage-transform/SEL-07, storage-transform/BLD-01
#[test]
fn entries_of_the_same_resource_are_appended() {
    let set = transformers(&[("secrets", &aesgcm(&[KEY_A])), ("secrets", &aesgcm(&[KEY_B]))]);
    let stored = write(&*set.for_resource("", "secrets"), "x");
    assert!(stored.starts_with(b"k8s:enc:aesgcm:v1:a:"));
    let older = write(&*secrets(&[&aesgcm(&[KEY_B])]), "x");
    assert_eq!(read_stale(&*set.for_resource("", "secrets"), &older), Ok(true));
}

// covers: storage-transform/TRF-04, storage-transform/GCM-13
#[test]
fn writers_on_many_threads_are_all_counted_under_the_key_they_used() {
    let set = transformers(&[("secrets, configmaps", &aesgcm(&[KEY_A, KEY_B]))]);
    thread::scope(|scope| {
        for resource in ["secrets", "configmaps"].repeat(2) {
            let transformer = set.for_resource("", resource);
            scope.spawn(move || {
                for _ in 0..250 {
                    let stored = write(&*transformer, "x");
                    assert_eq!(read_stale(&*transformer, &stored), Ok(false));
                }
            });
        }
    });
    let usage: Vec<_> = set
        .key_usage()
        .into_iter()
        .map(|key| (key.key_name.clone(), key.writes))
        .collect();
    assert_eq!(usage, [("a".to_owned(), 1000), ("b".to_owned(), 0)]);
    assert!(set.key_usage().iter().all(|key| !key.rotation_due()));
}

#[test]
fn one_secret_under_two_names_wears_out_once() {
    let twin = KEY_A.replace("name: a", "name: twin");
    let set = transformers(&[("secrets", &aesgcm(&[KEY_A])), ("configmaps", &aesgcm(&[&twin]))]);
    write(&*set.for_resource("", "secrets"), "x");
    write(&*set.for_resource("", "configmaps"), "x");
    let writes: Vec<u64> = set.key_usage().iter().map(|key| key.writes).collect();
    assert_eq!(writes, [2, 2]);
}

// covers: storage-transform/CFG-09
#[test]
fn debug_output_shows_neither_plaintext_nor_keys() {
    let set = transformers(&[("secrets", &aesgcm(&[KEY_A]))]);
    let transformer = set.for_resource("", "secrets");
    let stored = write(&*transformer, "hunter2");
    let value = read(&*transformer, &stored).expect("read back");
    let other = secrets(&[&aesgcm(&[&KEY_A.replace("A/j5", "B/j5")])]);
    let error = read(&*other, &stored).expect_err("another secret under the same name");
    // Raw key bytes would be printed as a list of numbers; these are the first four.
    let shown = format!(
        "{set:?} {transformer:?} {value:?} {error:?} {error} {:?}",
        set.key_usage()
    );
    for secret in ["hunter2", "A/j5", "B/j5", "3, 248, 249", "07f8f9", "03f8f9"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(shown.contains("key=a"), "the name of the key is said: {shown}");
}
