//! A claim of size costs nothing: memory follows what arrives.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::StreamBody;
use tonic::body::Body;
use weft_client::{Channel, ChannelOptions};
use weft_runtime::Tasks;
use weft_tests::calls::{Caller, identity};
use weft_tests::process::Weft;

/// The most that the process ever had in memory, in KiB.
fn peak(weft: &Weft) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", weft.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_claims_gigabytes_allocates_nothing() -> Result<()> {
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", ""])?;
    let caller = Caller::new(&mesh.address)?;
    caller.wait_ready("identity").await?;
    caller.infer(identity(16), Duration::from_secs(20)).await?;
    let before = peak(&mesh)?;
    let channel = Channel::new(&mesh.address, ChannelOptions::default(), &Tasks::new())?;
    for claimed in [u32::MAX, 3 << 30, (64 << 20) + 1] {
        for _ in 0..20 {
            let mut prefix = vec![0];
            prefix.extend(claimed.to_be_bytes());
            // The rest never comes: the answer must not wait for it.
            let first =
                futures_util::stream::iter([Ok::<_, tonic::Status>(http_body::Frame::data(Bytes::from(prefix)))]);
            let body = Body::new(StreamBody::new(first.chain(futures_util::stream::pending())));
            let request = http::Request::post("/inference.GRPCInferenceService/ModelInfer")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body)?;
            let response = channel.send(request).await?;
            assert_eq!(response.headers()["grpc-status"], "8", "{:?}", response.headers());
        }
    }
    let grown = peak(&mesh)?.saturating_sub(before);
    assert!(grown < 16 << 10, "the process grew by {grown} KiB");
    caller.infer(identity(16), Duration::from_secs(20)).await?;
    Ok(())
}
