//! A small HTTP/1.1 client on `std::net`: requests with a deadline, and watches line by line.
//!
//! Enough for the server under test on the loopback address, and nothing else: no TLS, no redirects, no compression.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long a request may take; a server that hangs longer is a failure.
const LIMIT: Duration = Duration::from_secs(15);
/// More than the server would ever answer here; a length beyond it is nonsense, not data.
const LARGEST: usize = 1 << 30;

/// A client of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http {
    address: SocketAddr,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {:?}", self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer, if its status is this one.
    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }
}

impl Http {
    /// A client of the server on this loopback port.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    /// `GET`
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, &[], None)
    }

    /// `POST` of JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send("POST", path, &[("Content-Type", "application/json")], Some(body))
    }

    /// `PATCH` with a merge patch.
    pub(crate) fn merge(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(
            "PATCH",
            path,
            &[("Content-Type", "application/merge-patch+json")],
            Some(body),
        )
    }

    /// Any request. An `Err` means that no complete answer came; the request may or may not have been carried out.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut response = Response::open(self.address, method, path, headers, body)?;
        let mut body = Vec::new();
        while let Some(piece) = response.piece()? {
            body.extend(piece);
        }
        Ok(Answer {
            status: response.status,
            body,
        })
    }

    /// Opens a watch. It ends with `None` when the server closes it properly.
    pub(crate) fn watch(&self, path: &str) -> Result<Watch> {
        let mut response = Response::open(self.address, "GET", path, &[], None)?;
        if response.status != 200 {
            let mut body = Vec::new();
            while let Some(piece) = response.piece()? {
                body.extend(piece);
            }
            bail!(
                "the watch was refused with {}: {}",
                response.status,
                String::from_utf8_lossy(&body)
            );
        }
        Ok(Watch {
            response,
            rest: Vec::new(),
        })
    }
}

/// A running watch.
#[derive(Debug)]
pub(crate) struct Watch {
    response: Response,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event. `Ok(None)` is a proper end; an `Err` is a cut connection, or nothing within the deadline.
    pub(crate) fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).context("an event is not JSON");
            }
            match self.response.piece()? {
                Some(piece) => self.rest.extend(piece),
                None if self.rest.is_empty() => return Ok(None),
                None => bail!("the watch ended within an event"),
            }
        }
    }
}

/// How the body's end is known.
#[derive(Debug)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

#[derive(Debug)]
struct Response {
    status: u16,
    framing: Framing,
    reader: BufReader<TcpStream>,
}

impl Response {
    fn open(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).context("cannot connect")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str(&format!("Host: {address}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(head.as_bytes()).context("cannot send")?;
        Self::read_head(BufReader::new(stream))
    }

    fn read_head(mut reader: BufReader<TcpStream>) -> Result<Self> {
        let status = line(&mut reader)?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("no status line")?;
        let mut framing = Framing::UntilClose;
        loop {
            let header = line(&mut reader)?;
            if header.is_empty() {
                return Ok(Self {
                    status,
                    framing,
                    reader,
                });
            }
            let (name, value) = header.split_once(':').context("a header without a colon")?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => framing = Framing::Length(value.trim().parse().context("the content length")?),
                "transfer-encoding" if value.trim() == "chunked" => framing = Framing::Chunked,
                _ => {}
            }
        }
    }

    /// The next piece of the body, or its end.
    fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        match &mut self.framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                let length = std::mem::take(left);
                exactly(&mut self.reader, length).map(Some)
            }
            Framing::UntilClose => {
                let mut buffer = vec![0; 64 << 10];
                let count = self.reader.read(&mut buffer).context("the body was cut")?;
                buffer.truncate(count);
                Ok((count > 0).then_some(buffer))
            }
            Framing::Chunked => {
                let size = line(&mut self.reader)?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size =
                    usize::from_str_radix(size, 16).with_context(|| format!("not the size of a chunk: {size:?}"))?;
                let chunk = exactly(&mut self.reader, size)?;
                ensure!(line(&mut self.reader)?.is_empty(), "a chunk is longer than it says");
                if size == 0 {
                    self.framing = Framing::Length(0);
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
        }
    }
}

fn exactly(reader: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    ensure!(length <= LARGEST, "a length beyond reason: {length}");
    let mut buffer = vec![0; length];
    reader.read_exact(&mut buffer).context("the body was cut")?;
    Ok(buffer)
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    let count = reader.read_line(&mut line).context("the answer was cut")?;
    ensure!(
        count > 0 && line.ends_with('\n'),
        "the connection was closed within the answer"
    );
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Serves one connection with a fixed answer.
    fn serve(answer: &'static [u8]) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = BufReader::new(stream.try_clone().expect("a second handle"));
            while !line(&mut request).expect("a request").is_empty() {}
            stream.write_all(answer).expect("the client reads");
        });
        Http::new(port)
    }

    #[test]
    fn bodies_of_all_framings_are_read() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
        ] {
            let got = serve(answer).get("/").expect("a complete answer");
            assert_eq!((got.status, got.text().as_str()), (200, "hello"));
        }
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
            b"HTTP/1.1 200",
        ] {
            assert!(serve(answer).get("/").is_err());
        }
    }

    #[test]
    fn a_watch_yields_events_across_chunks_and_tells_an_end_from_a_cut() {
        let mut watch = serve(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n1\r\n3\r\n2\r\n4\n\r\n0\r\n\r\n",
        )
        .watch("/")
        .expect("accepted");
        let mut seen = Vec::new();
        while let Some(event) = watch.next().expect("no cut") {
            seen.push(event);
        }
        assert_eq!(seen, [1, 2, 34]);
        let mut cut = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n")
            .watch("/")
            .expect("accepted");
        assert_eq!(cut.next().expect("first"), Some(Value::from(1)));
        assert_eq!(cut.next().expect("second"), Some(Value::from(2)));
        assert!(cut.next().is_err());
    }
}
