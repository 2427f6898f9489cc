//! As much HTTP as a scrape needs.

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The body of a page.
pub async fn get(address: &str, path: &str) -> Result<String> {
    send("GET", address, path).await
}

/// The body of the answer to a request that has none.
pub async fn send(method: &str, address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // 1.0, so that no server cuts the page into chunks.
    let request = format!("{method} {path} HTTP/1.0\r\nhost: weft\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let told = text.lines().next().unwrap_or_default();
    ensure!(told.split(' ').nth(1) == Some("200"), "{told}");
    let (_, body) = text.split_once("\r\n\r\n").context("a body")?;
    Ok(body.to_owned())
}
