//! Small scenarios: the default address, what must be refused, the ends, and the kube client.

use std::net::TcpListener;

use anyhow::{Context, Result, bail, ensure};

use super::backend::{self, data_directory};
use super::certificates::Certificates;
use super::kubectl::Kubectl;
use super::report::{contains, same};
use super::server::{self, Server};
use super::{Report, World};
use crate::process;
use crate::workspace::EVERYTHING;

const DEFAULT_PORT: u16 = 8080;

/// A server without any flag, and a kubectl without any configuration.
pub(super) fn bare_kubectl(world: &World<'_>, report: &mut Report) -> Result<()> {
    if TcpListener::bind(("127.0.0.1", DEFAULT_PORT)).is_err() {
        report.skip(&format!("something else listens on port {DEFAULT_PORT}"));
        return Ok(());
    }
    let _server = report.need("start the server with no argument", || {
        Server::start_as_given(world.server, &world.folder, "server", Vec::new(), DEFAULT_PORT)
    })?;
    let k = Kubectl::new(&world.tools.kubectl, None, &world.folder)?;
    report.step("a bare `kubectl get ns` finds it", || k.prints("get ns", "kube-system"));
    report.step("its data lies in ./apiserver-data", || {
        ensure!(world.folder.join("apiserver-data").is_dir(), "there is no such folder");
        Ok(())
    });
    Ok(())
}

/// What must be refused, what must be answered, and a clean end.
pub(super) fn refusals_and_shutdown(world: &World<'_>, report: &mut Report) -> Result<()> {
    let data = data_directory(&world.folder.join("refused"));
    let refuse = |flags: &[&str], part: &str| {
        let flags: Vec<_> = std::iter::once(data.as_str()).chain(flags.iter().copied()).collect();
        contains(
            &server::refusal(world.server, &world.folder, &flags)?.to_lowercase(),
            part,
        )
    };
    report.step("listening elsewhere without TLS and authentication: refused", || {
        refuse(&["--bind-address=0.0.0.0"], "loopback")
    });
    report.step("etcd2: refused", || {
        refuse(
            &["--storage-backend=etcd2"],
            "etcd2 is no longer a supported storage backend",
        )
    });
    report.step("an unknown storage backend: refused", || {
        refuse(&["--storage-backend=floppy"], "floppy")
    });

    let flags = vec!["--storage-backend=memory".to_owned()];
    let mut server = report.need("start the server in memory", || {
        Server::start(world.server, &world.folder, "memory", flags)
    })?;
    let http = server.http();
    report.step("health, version and metrics answer", || {
        ["/livez", "/readyz", "/healthz", "/version", "/metrics"]
            .iter()
            .try_for_each(|path| http.get(path)?.expect(200).map(drop))
    });
    report.step("a request for another host is refused", || {
        let answer = http.send("GET", "/api/v1/namespaces", &[("Host", "rebound.example")], None)?;
        ensure!(
            [400, 403, 421].contains(&answer.status),
            "it was answered with {}",
            answer.status
        );
        http.send("GET", "/api/v1/namespaces", &[("Host", "localhost")], None)?
            .expect(200)
            .map(drop)
    });
    report.step("SIGTERM ends it with status 0, and an open watch properly", || {
        let mut watch = http.watch("/api/v1/namespaces?watch=true&resourceVersion=0")?;
        ensure!(watch.next()?.is_some(), "the watch has no first event");
        let status = server.terminate()?;
        ensure!(status.success(), "it ended with {status}");
        while watch.next().context("the watch was cut")?.is_some() {}
        Ok(())
    });
    report.step(
        "what was in memory is gone, a client's old revision is 410 and no silent watch",
        || {
            server.start_again()?;
            let old = "/api/v1/namespaces?watch=true&resourceVersion=2";
            match http.watch(old) {
                Err(error) => contains(&error.to_string(), "410"),
                Ok(mut watch) => same(watch.next()?.context("it ended")?["object"]["code"].as_u64(), Some(410)),
            }
        },
    );
    Ok(())
}

/// HTTPS with a certificate and tokens: the way of serving that is allowed everywhere.
pub(super) fn https_with_tokens(world: &World<'_>, report: &mut Report) -> Result<()> {
    let files = report.need("make certificates", || {
        Certificates::make(&world.folder.join("certificates"))
    })?;
    let tokens = world.folder.join("tokens.csv");
    std::fs::write(&tokens, "let-me-in,alice,1,\"system:masters\"\n")?;
    let secure_port = server::free_port()?;
    let flags = vec![
        "--storage-backend=memory".to_owned(),
        format!("--secure-port={secure_port}"),
        format!("--tls-cert-file={}", files.certificate.display()),
        format!("--tls-private-key-file={}", files.key.display()),
        format!("--token-auth-file={}", tokens.display()),
    ];
    let _server = report.need("start the server with HTTPS and a token file", || {
        Server::start(world.server, &world.folder, "server", flags)
    })?;
    let kubectl = |token: &str| -> Result<Kubectl> {
        let url = format!("https://127.0.0.1:{secure_port}");
        let authority = format!("--certificate-authority={}", files.authority.display());
        let kubectl = Kubectl::new(&world.tools.kubectl, Some(url), &world.folder)?;
        Ok(kubectl.with_flags(&[authority, format!("--token={token}")]))
    };
    report.step("kubectl with the token works over HTTPS", || {
        let k = kubectl("let-me-in")?;
        k.run("create configmap over-tls --from-literal=a=b")?;
        k.prints_exactly("get configmap over-tls -o jsonpath={.data.a}", "b")
    });
    report.step("another token is refused", || {
        kubectl("guessed")?.fails("get configmaps", "provide credentials")
    });
    Ok(())
}

/// The other stored form: CBOR is written on request, and both forms are read whatever is written.
pub(super) fn stored_as_cbor(world: &World<'_>, report: &mut Report) -> Result<()> {
    let etcd = report.need("start etcd", || backend::etcd(world, 1, None))?;
    let start = |name: &str, media_type: &str| -> Result<(Server, Kubectl)> {
        let mut flags = etcd.flags();
        flags.push(format!("--storage-media-type={media_type}"));
        let server = Server::start(world.server, &world.folder, name, flags)?;
        let kubectl = Kubectl::new(&world.tools.kubectl, Some(server.url()), &world.folder)?;
        Ok((server, kubectl))
    };
    let stored = |name: &str| {
        etcd.ctl(&[
            "get",
            &format!("/registry/configmaps/default/{name}"),
            "--print-value-only",
            "--hex",
        ])
    };
    let (mut server, k) = report.need("start the server with JSON", || start("json", "application/json"))?;
    report.step("JSON is stored", || {
        k.run("create configmap first --from-literal=a=b")?;
        contains(&stored("first")?, "\\x7b\\x22")
    });
    server.kill();
    let (_server, k) = report.need("start the server with CBOR", || start("cbor", "application/cbor"))?;
    report.step("CBOR is stored, and both are read", || {
        k.run("create configmap second --from-literal=a=b")?;
        contains(&stored("second")?, "\\xd9\\xd9\\xf7")?;
        k.prints_exactly("get configmaps first second -o jsonpath={.items[*].data.a}", "b b")
    });
    Ok(())
}

/// The tests with the kube crate's client: CRUD, watcher, reflector, and convergence after the server's restart.
pub(super) fn kube_client(world: &World<'_>, report: &mut Report) -> Result<()> {
    let tests = world.workspace.root().join("crates/apiserver/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&tests).with_context(|| format!("cannot read {}", tests.display()))? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "rs") && name.contains("kube") {
            names.push(name);
        }
    }
    report.step("CRUD, watcher and reflector, and they converge after a restart", || {
        if names.is_empty() {
            bail!("no test target of crates/apiserver has `kube` in its name");
        }
        let mut command = world.workspace.cargo(&["test", "--quiet"]);
        command.args(EVERYTHING);
        names.iter().for_each(|name| {
            command.args(["--test", name]);
        });
        world.tools.export(&mut command);
        process::run(&mut command)
    });
    Ok(())
}
