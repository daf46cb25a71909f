//! Keep-alive connection of the load generator. HTTP/1.1 by hand, because its cost is taken from the server on the same
//! machine. Supports only answers with a status and a length.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer heads are not from the servers under test.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Many times the answer to the largest batch.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 4 * 1024;

pub struct Connection {
    stream: TcpStream,
    /// The answer so far; reused between requests to avoid allocation.
    received: Vec<u8>,
}

pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Describes a refusal.
    pub fn describe(&self) -> String {
        const CHARS_MAX: usize = 300;
        let body = String::from_utf8_lossy(self.body);
        let body: String = body.chars().take(CHARS_MAX).collect();
        format!("{} {body}", self.status)
    }
}

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Connection::over(stream))
    }

    fn over(stream: TcpStream) -> Connection {
        Connection {
            stream,
            received: Vec::with_capacity(READ_BYTES),
        }
    }

    /// Releases the connection between two requests, so that another runtime can attach it.
    pub fn detach(self) -> anyhow::Result<std::net::TcpStream> {
        self.stream.into_std().context("take a connection along")
    }

    /// Attaches a connection from [`Connection::detach`].
    pub fn attach(stream: std::net::TcpStream) -> anyhow::Result<Connection> {
        let stream = TcpStream::from_std(stream).context("take a connection along")?;
        Ok(Connection::over(stream))
    }

    /// Sends a request and reads its answer. Not cancel safe.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await.context("send a request")?;
        self.received.clear();
        let head = loop {
            self.read_some(READ_BYTES).await?;
            if let Some(head) = Head::parse(&self.received)? {
                break head;
            }
            ensure!(
                self.received.len() <= HEAD_BYTES_MAX,
                "the head of an answer is too long"
            );
        };
        let end = head.bytes + head.body_bytes;
        while self.received.len() < end {
            self.read_some(end - self.received.len()).await?;
        }
        ensure!(self.received.len() == end, "an answer is longer than it says");
        Ok(Answer {
            status: head.status,
            body: &self.received[head.bytes..],
        })
    }

    async fn read_some(&mut self, room: usize) -> anyhow::Result<()> {
        self.received.reserve(room);
        let read = self.stream.read_buf(&mut self.received).await;
        if read.context("read an answer")? == 0 {
            bail!("the server closed a connection before it had answered");
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Length including the empty line.
    bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// Returns `None` while the head is incomplete.
    fn parse(received: &[u8]) -> anyhow::Result<Option<Head>> {
        const STATUS: std::ops::Range<usize> = 9..12;
        let mut line_start = 0;
        let mut body_bytes = None;
        while let Some(length) = received[line_start..].iter().position(|byte| *byte == b'\n') {
            let line = &received[line_start..line_start + length];
            let next_line = line_start + length + 1;
            if line.is_empty() || line == b"\r" {
                let status = number(received.get(STATUS).unwrap_or_default());
                let status = status.and_then(|status| u16::try_from(status).ok());
                let body_bytes = body_bytes.context("an answer does not say how long it is")?;
                ensure!(body_bytes <= BODY_BYTES_MAX, "an answer has {body_bytes} bytes");
                return Ok(Some(Head {
                    status: status.context("an answer has no status")?,
                    bytes: next_line,
                    body_bytes,
                }));
            }
            if let Some(value) = value_of(line, b"content-length:") {
                body_bytes = number(value.trim_ascii());
            }
            line_start = next_line;
        }
        Ok(None)
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_gives_the_length_of_an_answer() {
        let head = |text: &str| Head::parse(text.as_bytes()).unwrap();
        assert_eq!(head("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n"), None);
        let text = "HTTP/1.1 201 Created\r\nlocation: /orders/1\r\nContent-LENGTH:  12 \r\n\r\n{\"a\"";
        assert_eq!(
            head(text),
            Some(Head {
                status: 201,
                bytes: text.len() - 4,
                body_bytes: 12
            })
        );
    }

    #[test]
    fn an_answer_without_a_length_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            "HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n",
        ] {
            assert!(Head::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
