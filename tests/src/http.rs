//! Plain HTTP/1.0 requests and raw bytes over TCP, for what no gRPC client would send.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for the end of an answer, or for the other side to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

/// Sends one request with the given extra header lines.
pub async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "no whole answer");
    tokio::time::timeout(CLOSE_LIMIT, read_answer(&mut stream)).await.map_err(timed_out)?
}

/// An answer ends where its Content-Length says, or else with the connection.
async fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    loop {
        let ended = stream.read_buf(&mut bytes).await? == 0;
        let text = String::from_utf8_lossy(&bytes);
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {text:?}"));
        let Some((headers, body)) = text.split_once("\r\n\r\n") else {
            if ended {
                return Err(malformed());
            }
            continue;
        };
        let length = headers.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
        });
        if ended || length.is_some_and(|length| body.len() >= length) {
            let status =
                headers.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
            return Ok(Answer { status, headers: headers.to_string(), body: body.to_string() });
        }
    }
}

pub async fn get(address: &str, path: &str) -> io::Result<Answer> {
    request(address, "GET", path, &[], b"").await
}

/// Sends bytes, ends that direction, and reads until the other side closes; a reset ends the answer as well.
pub async fn exchange(address: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut answer = Vec::new();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        // A server may refuse before it has read everything.
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
    };
    let read = async {
        match reader.read_to_end(&mut answer).await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
            _ => Ok(()),
        }
    };
    let both = async { tokio::join!(write, read).1 };
    match tokio::time::timeout(CLOSE_LIMIT, both).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection stays open")),
    }
    Ok(answer)
}

/// The sum over all label sets of a metric.
pub async fn metric(address: &str, name: &str) -> io::Result<f64> {
    let text = get(address, "/metrics").await?.body;
    let of_metric = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    Ok(text.lines().filter(of_metric).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
