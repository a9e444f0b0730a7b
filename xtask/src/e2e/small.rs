//! Small scenarios: the default address, what must be refused, the ends, and the kube client.

use std::net::TcpListener;

use anyhow::{Context, Result, bail, ensure};

use super::backend::data_directory;
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
        println!("  skipped: something else listens on port {DEFAULT_PORT}");
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
