//! What a member says of itself over HTTP: one number of the page that Prometheus reads.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::tls::{Address, Socket};
use super::{Options, connection};
use crate::go::error::reason;
use crate::go::quote::quote;

const TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_PAGE_BYTES: u64 = 16 << 20;

/// The number of that name, or why there is none, as etcdctl words it.
pub async fn read(endpoint: &str, name: &str, options: &Options) -> Result<f64, String> {
    let failed = |why: String| format!("fetch error: {why}");
    let (uri, security) = connection::uri(endpoint).map_err(failed)?;
    let (host, address) = connection::address(&uri).map_err(failed)?;
    let dialer = match security.is_encrypted(options) {
        true => Some(connection::dialer(&uri, options).map_err(failed)?.http1()),
        false => None,
    };
    let fetch = async {
        let socket: Box<dyn Socket> = match dialer.clone() {
            None => address.connect().await?,
            Some(dialer) => Box::new(dialer.dial().await?.into_inner()),
        };
        get(socket, &host).await
    };
    let fetched = timeout(TIMEOUT, fetch).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let page = fetched.map_err(|error| {
        let scheme = if dialer.is_some() { "https" } else { "http" };
        let (_, authority) = uri.split_once("://").unwrap_or_default();
        let url = quote(format!("{scheme}://{authority}/metrics").as_bytes());
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        let place = match &address {
            Address::Tcp(host, port) if refused => format!("dial tcp {host}:{port}: connect: "),
            _ => String::new(),
        };
        format!("fetch error: Get {url}: {place}{}", reason(&error))
    })?;
    number(&page, name)
}

/// The answer whole, its head included. HTTP/1.0 ends an answer with the connection, and knows no chunks.
async fn get(mut socket: Box<dyn Socket>, host: &str) -> io::Result<String> {
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match socket.take(LARGEST_PAGE_BYTES).read_to_end(&mut answer).await {
        // Not every server takes its leave of TLS.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

fn number(page: &str, name: &str) -> Result<f64, String> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    if value.is_empty() {
        return Err(format!("could not find: {name}"));
    }
    let syntax =
        |_| format!("parse error: strconv.ParseFloat: parsing {}: invalid syntax", quote(value.as_bytes()));
    value.parse().map_err(syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_page() {
        let page = "HTTP/1.0 200 OK\r\n\r\n# HELP size_bytes Size.\nsize_bytes 4.5e+07\nother x\n";
        assert_eq!(number(page, "size_bytes"), Ok(45_000_000.0));
        assert_eq!(number(page, "nosuch"), Err("could not find: nosuch".into()));
        let error = "parse error: strconv.ParseFloat: parsing \"x\": invalid syntax";
        assert_eq!(number(page, "other"), Err(error.into()));
    }
}
