//! TLS and mutual TLS to a server, and what a wrong configuration says.
#![cfg(feature = "tls")]

mod common;

use std::path::PathBuf;

use apiserver_storage_etcd3::{EtcdConfig, EtcdConfigError, EtcdKv};
use apiserver_storage_kv::Kv;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use common::{Etcd, ServerTls, config, connect, create};

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
