//! The demonstration: real images through the whole mesh, one call followed hop by hop, a deadline that stops work,
//! and jobs.

mod caller;
mod digits;
mod hops;
mod jobs;
mod stop;

use anyhow::{Context as _, Result};

use caller::Caller;
pub use caller::request;

use crate::output::print;

/// Sends the demonstration calls; anything that is off is an error.
pub async fn show(address: &str) -> Result<()> {
    let caller = Caller::new(address)?;
    print(&format!("weft serves on {address}; waiting for the model 'digits'"))?;
    caller.wait_ready("digits").await.context("the model 'digits' did not become ready")?;
    digits::show(&caller).await?;
    hops::show(&caller).await?;
    stop::show(&caller).await?;
    jobs::show(&caller, address).await
}
