//! The demonstration: real images through the whole mesh, one call followed hop by hop, a deadline that stops work,
//! and jobs.

mod caller;
mod digits;
mod gallery;
mod hops;
mod jobs;
mod stop;

use anyhow::{Context as _, Result};
use weft_runtime::Tasks;

use caller::Caller;
pub use caller::request;

use crate::output::print;

/// Sends the demonstration calls to the mesh at this address; anything that is off is an error. The service that its jobs call ends
/// with `tasks`.
pub async fn show(tasks: &Tasks, address: &str) -> Result<()> {
    let caller = Caller::new(address)?;
    print(&format!("weft serves on {address}; waiting for the model 'digits'"))?;
    caller.wait_ready("digits").await.context("the model 'digits' did not become ready")?;
    digits::show(&caller).await?;
    hops::show(&caller).await?;
    stop::show(&caller).await?;
    jobs::show(&caller, &gallery::serve(tasks).await?).await
}
