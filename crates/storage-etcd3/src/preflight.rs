//! Whether anybody listens where the servers should be: a look before anything is built on them.

use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;

use apiserver_storage_api::BoxError;
use apiserver_storage_api::time::{Rng, random_below};

use crate::config::EtcdConfigError;

/// How long a server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Whether one of the servers accepts a connection. Each is tried once, in random order, for a second at most; nothing
/// is sent, so this says nothing about certificates, users or the cluster itself.
///
/// `http`, `https` and `tcp` URLs, and addresses without a scheme, mean TCP; `unix` is followed by a path. Without any
/// server the answer is no. Must be called within a tokio runtime.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use apiserver_storage_api::time::OsRng;
/// let nobody = apiserver_storage_etcd3::any_server_listens(["http://127.0.0.1:9"], &OsRng).await?;
/// assert!(!nobody);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`EtcdConfigError::Server`] when one of them is no URL.
pub async fn any_server_listens<S: AsRef<str>>(
    servers: impl IntoIterator<Item = S>,
    rng: &dyn Rng,
) -> Result<bool, EtcdConfigError> {
    let doors = servers.into_iter().map(|server| door(server.as_ref()));
    let mut doors = doors.collect::<Result<Vec<_>, _>>()?;
    while !doors.is_empty() {
        let bound = u64::try_from(doors.len()).unwrap_or(u64::MAX);
        let chosen = usize::try_from(random_below(rng, bound)).unwrap_or_default();
        if opens(doors.swap_remove(chosen)).await {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a server listens.
#[derive(Debug, PartialEq, Eq)]
enum Door {
    Tcp(String, u16),
    Unix(String),
}

// deviates: storage-etcd3/HEALTH-09: a scheme that means neither TCP nor a Unix socket is refused by name, because no
// connection could be made over it either.
fn door(server: &str) -> Result<Door, EtcdConfigError> {
    let unusable = |source: BoxError| EtcdConfigError::Server {
        server: server.to_owned(),
        source,
    };
    if let Some(path) = server.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok(Door::Unix(path.to_owned()));
    }
    let url = if server.contains("://") {
        server.to_owned()
    } else {
        format!("tcp://{server}")
    };
    let uri: Uri = url.parse().map_err(|error| unusable(Box::new(error)))?;
    let default = match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        Some("tcp") => None,
        scheme => {
            let text = format!(
                "scheme {} is none of http, https, tcp and unix",
                scheme.unwrap_or("(none)")
            );
            return Err(unusable(text.into()));
        }
    };
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| unusable("no host in it".into()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().or(default);
    let port = port.ok_or_else(|| unusable("no port in it".into()))?;
    Ok(Door::Tcp(host.to_owned(), port))
}

async fn opens(door: Door) -> bool {
    let accepted = async {
        match door {
            Door::Tcp(host, port) => TcpStream::connect((host, port)).await.is_ok(),
            #[cfg(unix)]
            Door::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
            #[cfg(not(unix))]
            Door::Unix(_) => false,
        }
    };
    tokio::time::timeout(CONNECT_LIMIT, accepted).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use apiserver_storage_api::time::OsRng;
    use tokio::net::{TcpListener, UnixListener};

    use super::{Door, any_server_listens, door};

    // covers: storage-etcd3/HEALTH-09
    #[test]
    fn urls_say_where_to_knock() {
        let tcp = |host: &str, port| Some(Door::Tcp(host.to_owned(), port));
        let unix = |path: &str| Some(Door::Unix(path.to_owned()));
        for (server, want) in [
            ("http://10.0.0.1:2379", tcp("10.0.0.1", 2379)),
            ("https://etcd.example:2379", tcp("etcd.example", 2379)),
            ("tcp://etcd:2379", tcp("etcd", 2379)),
            ("etcd:2379", tcp("etcd", 2379)),
            ("https://etcd", tcp("etcd", 443)),
            ("http://[::1]:2379", tcp("::1", 2379)),
            ("unix:///run/etcd.sock", unix("/run/etcd.sock")),
            ("unix:etcd.sock", unix("etcd.sock")),
            ("http://[", None),
            ("-invalid uri$@#%", None),
            ("tcp://etcd", None),
            ("ftp://etcd:21", None),
            ("", None),
        ] {
            assert_eq!(door(server).ok(), want, "{server:?}");
        }
    }

    // covers: storage-etcd3/HEALTH-09
    #[tokio::test]
    async fn one_server_that_listens_is_enough() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let path = dir.path().join("etcd.sock");
        let socket = UnixListener::bind(&path).expect("a socket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let live = format!("http://{}", listener.local_addr().expect("an address"));
        let unix = format!("unix://{}", path.display());
        let dead = "http://127.0.0.1:9".to_owned();
        let none: [String; 0] = [];
        assert!(!any_server_listens(none, &OsRng).await.expect("no URL is wrong"));
        assert!(!any_server_listens([&dead], &OsRng).await.expect("sound"));
        for servers in [vec![&live], vec![&dead, &live], vec![&dead, &unix, &dead]] {
            assert!(
                any_server_listens(&servers, &OsRng).await.expect("sound"),
                "{servers:?}"
            );
        }
        let wrong = any_server_listens([live.as_str(), "-invalid uri$@#%"], &OsRng).await;
        assert!(wrong.is_err(), "whichever is tried first");
        drop(socket);
    }
}
