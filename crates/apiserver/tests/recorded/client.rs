//! A plain HTTP/1.1 client that shows exactly what came: one connection per request, watches line by line.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The time for one answer.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Talks to one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: SocketAddr,
}

/// One complete answer, or the head of a watch.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) watch: Option<Watch>,
}

impl Answer {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// A GET without headers.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], None).await
    }

    /// Sends a request, with a JSON document or none, and reads the whole answer.
    pub(crate) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let headers: Vec<_> = headers.collect();
        let body = body.map(|body| body.to_string().into());
        self.send(method, target, &headers, body).await.unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: Option<Bytes>,
    ) -> Result<Answer, String> {
        let whole = async {
            let (response, connection) = self.open(method, target, headers, body).await?;
            let (parts, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| format!("the body: {error}"))?
                .to_bytes();
            connection.abort();
            let gzip = parts
                .headers
                .get("content-encoding")
                .is_some_and(|value| value == "gzip");
            Ok(Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: if gzip { gunzip(&body)? } else { body },
                watch: None,
            })
        };
        tokio::time::timeout(GIVE_UP, whole)
            .await
            .map_err(|_| "no answer in time".to_owned())?
    }

    /// Sends a request whose answer, when it is 200, is a stream.
    pub(crate) async fn watch(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
    ) -> Result<Answer, String> {
        let opened = tokio::time::timeout(GIVE_UP, self.open(method, target, headers, None)).await;
        let (response, connection) = opened.map_err(|_| "no answer in time".to_owned())??;
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        let chunked = parts
            .headers
            .get("transfer-encoding")
            .is_some_and(|value| value == "chunked");
        let (body, watch) = if status == 200 {
            (Bytes::new(), Some(Watch::new(body, chunked, connection)))
        } else {
            let body = body.collect().await.map_err(|error| format!("the body: {error}"))?;
            (body.to_bytes(), None)
        };
        Ok(Answer {
            status,
            headers: parts.headers,
            body,
            watch,
        })
    }

    async fn open(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: Option<Bytes>,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{method} {target}: {error}");
        let stream = TcpStream::connect(self.address).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let task = tokio::spawn(async move {
            // Its failure is seen by whoever reads the answer.
            let _ = connection.await;
        });
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", self.address.to_string());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
            request = request.header("user-agent", "golden/1.0");
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        Ok((response, task))
    }
}

fn gunzip(bytes: &[u8]) -> Result<Bytes, String> {
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut out)
        .map_err(|error| format!("gzip: {error}"))?;
    Ok(out.into())
}

/// A stream of events, read in the background.
#[derive(Debug)]
pub(crate) struct Watch {
    lines: mpsc::Receiver<Result<Value, String>>,
    tasks: [JoinHandle<()>; 2],
    /// How the stream ended: `clean`, or what was wrong; `None` while it is open.
    pub(crate) ended: Option<String>,
    pub(crate) started: Instant,
}

/// How much of a watch is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collect {
    /// Events that are awaited.
    pub(crate) count: Option<usize>,
    /// For how long.
    pub(crate) within: Duration,
    /// For how long nothing more may come.
    pub(crate) settle: Option<Duration>,
    pub(crate) until_end: bool,
    pub(crate) bookmarks: bool,
}

impl Watch {
    fn new(body: Incoming, chunked: bool, connection: JoinHandle<()>) -> Self {
        let (sender, lines) = mpsc::channel(1024);
        let reader = tokio::spawn(async move {
            let end = if chunked {
                read_lines(body, &sender).await
            } else {
                "the body is not chunked".into()
            };
            // Nobody listens when the scenario is over.
            let _ = sender.send(Err(end)).await;
        });
        Self {
            lines,
            tasks: [reader, connection],
            ended: None,
            started: Instant::now(),
        }
    }

    /// Events until enough came, the stream ended, or time is up.
    pub(crate) async fn collect(&mut self, how: Collect) -> Vec<Value> {
        let Collect {
            mut count, mut settle, ..
        } = how;
        let mut events = Vec::new();
        let mut deadline = tokio::time::Instant::now() + how.within;
        while self.ended.is_none() {
            let enough = !how.until_end && count.is_some_and(|count| events.len() >= count);
            match settle.take_if(|_| enough) {
                Some(quiet) => {
                    count = None;
                    deadline = tokio::time::Instant::now() + quiet;
                }
                None if enough => break,
                None => {}
            }
            match tokio::time::timeout_at(deadline, self.lines.recv()).await {
                Err(_) => break,
                Ok(None) => self.ended = Some("gone".into()),
                Ok(Some(Err(end))) => self.ended = Some(end),
                Ok(Some(Ok(event))) => {
                    if how.bookmarks || event["type"] != "BOOKMARK" {
                        events.push(event);
                    }
                }
            }
        }
        events
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Sends each line as an event; gives how the stream ended.
async fn read_lines(mut body: Incoming, sender: &mpsc::Sender<Result<Value, String>>) -> String {
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return format!("broken: {error}"),
        };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = rest.drain(..=end).collect();
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(event) => {
                    if sender.send(Ok(event)).await.is_err() {
                        return "not read".into();
                    }
                }
                Err(error) => return format!("not one JSON document per line: {error}"),
            }
        }
    }
    if rest.is_empty() {
        "clean".into()
    } else {
        "broken: the last line has no end".into()
    }
}
