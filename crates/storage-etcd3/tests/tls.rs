//! TLS and mutual TLS to a server, and what a wrong configuration says.
#![cfg(feature = "tls")]

mod common;

use std::path::{Path, PathBuf};

use apiserver_storage_etcd3::{EtcdConfig, EtcdConfigError, EtcdKv};
use apiserver_storage_kv::{Kv, WatchRequest};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use common::{Etcd, ServerTls, batch, config, connect, create, healthy, soon, update};

/// A signer, and what it signed, as files.
struct Signer {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).expect("written");
        let issuer = Issuer::new(params, key);
        Self { dir, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Certificate and key for either end of a connection.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("sound names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = (
            self.dir.path().join(format!("{name}.pem")),
            self.dir.path().join(format!("{name}.key")),
        );
        std::fs::write(&files.0, cert.pem()).expect("written");
        std::fs::write(&files.1, key.serialize_pem()).expect("written");
        files
    }

    fn server(&self, mutual: bool) -> ServerTls {
        let (cert, key) = self.sign("server");
        let client_ca = mutual.then(|| self.ca());
        ServerTls { cert, key, client_ca }
    }
}

/// The files of a client, which are replaced while it runs.
struct ClientFiles(TempDir);

impl ClientFiles {
    fn signed_by(signer: &Signer) -> Self {
        let files = Self(TempDir::new().expect("a directory"));
        files.replace(signer);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, etcd: &Etcd) -> EtcdConfig {
        let config = etcd.config().with_ca_file(self.path("ca"));
        config.with_client_cert(self.path("cert"), self.path("key"))
    }

    fn put(&self, name: &str, from: &Path) {
        std::fs::copy(from, self.path(name)).expect("copied");
    }

    /// All three by this signer.
    fn replace(&self, signer: &Signer) {
        let (cert, key) = signer.sign("client");
        self.put("ca", &signer.ca());
        self.put("cert", &cert);
        self.put("key", &key);
    }
}

fn quick(etcd: &Etcd) -> EtcdConfig {
    let mut quick = config([etcd.url()]);
    quick.retry_deadline = std::time::Duration::from_millis(200);
    quick
}

// covers: storage-etcd3/CFG-06
#[tokio::test]
async fn a_server_with_tls_is_reached_if_its_signer_is_known() {
    let signer = Signer::new();
    let Some(etcd) = Etcd::start_with(Some(signer.server(false)), &[]).await else {
        return;
    };
    let kv = connect(etcd.config().with_ca_file(signer.ca())).await;
    create(&kv, "/registry/a", "1").await;
    let bare = etcd.url().replace("https://", "");
    connect(config([bare]).with_ca_file(signer.ca())).await;
    let other = Signer::new();
    let kv = EtcdKv::connect(quick(&etcd).with_ca_file(other.ca()))
        .await
        .expect("sound");
    kv.now().await.expect_err("not believed");
    assert!(kv.health().is_err());
}

// covers: storage-etcd3/CFG-09
#[tokio::test]
async fn a_server_that_wants_to_know_its_clients_is_shown_a_certificate() {
    let signer = Signer::new();
    let Some(etcd) = Etcd::start_with(Some(signer.server(true)), &[]).await else {
        return;
    };
    let (cert, key) = signer.sign("client");
    let kv = connect(etcd.config().with_ca_file(signer.ca()).with_client_cert(cert, key)).await;
    create(&kv, "/registry/a", "1").await;
    let anonymous = EtcdKv::connect(quick(&etcd).with_ca_file(signer.ca()))
        .await
        .expect("sound");
    anonymous.now().await.expect_err("not let in");
    assert!(anonymous.health().is_err(), "a real read shows it");
    let other = Signer::new();
    let (cert, key) = other.sign("stranger");
    let stranger = quick(&etcd).with_ca_file(signer.ca()).with_client_cert(cert, key);
    let stranger = EtcdKv::connect(stranger).await.expect("sound");
    stranger.now().await.expect_err("not let in");
}

#[tokio::test]
async fn files_that_are_replaced_are_used_for_new_connections_and_broken_ones_are_not() {
    let signer = Signer::new();
    let Some(mut etcd) = Etcd::start_with(Some(signer.server(true)), &[]).await else {
        return;
    };
    let files = ClientFiles::signed_by(&signer);
    let kv = connect(files.config(&etcd)).await;
    let everything = WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: None,
        previous: false,
    };
    let mut watch = kv.watch(everything).await.expect("accepted");
    let mut last = create(&kv, "/registry/a", "0").await;
    assert_eq!(batch(&mut watch).await.0, last);

    // Half-written: each file broken, or replaced before the others, while all connections have to be made anew.
    let other = Signer::new();
    let (cert, key) = other.sign("client");
    let breaks: [(&str, &str, Vec<u8>); 5] = [
        (
            "truncated certificate",
            "cert",
            std::fs::read(&cert).expect("read")[..200].to_vec(),
        ),
        ("empty key", "key", Vec::new()),
        ("key of another certificate", "key", std::fs::read(&key).expect("read")),
        (
            "certificate of another key",
            "cert",
            std::fs::read(&cert).expect("read"),
        ),
        ("no certificate at all", "ca", b"not a certificate".to_vec()),
    ];
    for (what, name, content) in breaks {
        let sound = std::fs::read(files.path(name)).expect("read");
        std::fs::write(files.path(name), content).expect("written");
        etcd.restart().await;
        healthy(&kv).await;
        // The first write on a connection that was found dead may not be answered; a read is repeated.
        soon(kv.now()).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        last = update(&kv, "/registry/a", what, last).await;
        assert_eq!(batch(&mut watch).await.0, last, "{what}");
        std::fs::write(files.path(name), sound).expect("written");
    }
    std::fs::remove_file(files.path("ca")).expect("removed");
    etcd.restart().await;
    healthy(&kv).await;
    soon(kv.now())
        .await
        .expect("a file that is away for a moment changes nothing");

    // Another signer, for both ends.
    files.replace(&other);
    etcd.kill();
    etcd.set_tls(other.server(true));
    etcd.run();
    etcd.ready().await;
    healthy(&kv).await;
    soon(kv.now()).await.expect("let in with the new files");
    last = update(&kv, "/registry/a", "new", last).await;
    assert_eq!(batch(&mut watch).await.0, last);
    let second = kv.watch(WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: Some(last),
        previous: false,
    });
    assert_eq!(batch(&mut second.await.expect("accepted")).await.0, last);
}

// covers: storage-etcd3/CFG-06
#[tokio::test]
async fn a_wrong_configuration_is_refused_by_name() {
    let signer = Signer::new();
    let (cert, key) = signer.sign("client");
    let https = || EtcdConfig::new(["https://127.0.0.1:2379"]);
    let refused = async |config| EtcdKv::connect(config).await.expect_err("not usable");
    let none = EtcdConfig::new(Vec::<String>::new());
    assert!(matches!(refused(none).await, EtcdConfigError::NoServers));
    assert!(matches!(refused(https()).await, EtcdConfigError::NoCa { .. }));
    let plain = EtcdConfig::new(["http://127.0.0.1:2379"]).with_ca_file(signer.ca());
    assert!(matches!(refused(plain).await, EtcdConfigError::PlainServer { server } if server.contains("2379")));
    let mut half = https().with_ca_file(signer.ca());
    half.cert_file = Some(cert.clone());
    assert!(matches!(refused(half).await, EtcdConfigError::HalfIdentity));
    let missing = https().with_ca_file("/nowhere/ca.pem");
    assert!(matches!(refused(missing).await, EtcdConfigError::File { file, .. } if file.ends_with("ca.pem")));
    let text = signer.dir.path().join("text");
    std::fs::write(&text, "not a certificate").expect("written");
    let garbled = https().with_ca_file(&text).with_client_cert(cert, key);
    assert!(matches!(refused(garbled).await, EtcdConfigError::File { file, .. } if file == text));
    for server in ["ftp://127.0.0.1:1", "http://[", ""] {
        let odd = EtcdConfig::new([server]);
        assert!(
            matches!(refused(odd).await, EtcdConfigError::Server { .. }),
            "{server:?}"
        );
    }
}

#[test]
fn no_secret_is_shown() {
    let shown = format!(
        "{:?}",
        EtcdConfig::new(["127.0.0.1:1"]).with_credentials("root", "hidden")
    );
    assert!(shown.contains("root") && !shown.contains("hidden"), "{shown}");
}
