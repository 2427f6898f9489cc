//! Clients that others wrote, against real processes: each script prints a line per check and fails at the first that does
//! not hold.

use anyhow::Result;
use weft_tests::calls::Caller;
use weft_tests::process::Weft;
use weft_tests::tools::python;

async fn with_mesh(check: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", ""])?;
    let caller = Caller::new(&mesh.address)?;
    for model in ["digits", "identity", "sleep", "fail"] {
        caller.wait_ready(model).await?;
    }
    let told = tokio::task::block_in_place(|| check(&mesh.address))?;
    assert!(told.lines().filter(|line| line.starts_with("ok ")).count() > 10, "too few checks:\n{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tritons_own_client_works_unchanged() -> Result<()> {
    with_mesh(|address| python("triton_client.py", &[address])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_grpcio_works() -> Result<()> {
    with_mesh(|address| python("grpcio_client.py", &[address])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_needs_no_proto_files() -> Result<()> {
    with_mesh(|address| python("grpcurl_calls.py", &[address])).await
}
