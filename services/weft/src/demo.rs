//! The demonstration: real images through the whole mesh, one call followed hop by hop, and a deadline that stops work.

mod caller;
mod digits;
mod hops;
mod stop;

use anyhow::{Context as _, Result};

use crate::cli::print;
use crate::dev::Dev;
use crate::process::Process;
use crate::settings;
use caller::Caller;

/// Starts a mesh on free ports, shows that it works, and ends it.
pub async fn run(process: Process, settings: settings::Dev) -> Result<()> {
    let dev = Dev::start(&process, settings).await?;
    let shown = show(dev.address()).await;
    dev.drain().await;
    shown
}

/// Sends the demonstration calls; anything that is off is an error.
pub async fn show(address: &str) -> Result<()> {
    let caller = Caller::new(address)?;
    print(&format!("weft serves on {address}; waiting for the model 'digits'"))?;
    caller.wait_ready("digits").await.context("the model 'digits' did not become ready")?;
    digits::show(&caller).await?;
    hops::show(&caller).await?;
    stop::show(&caller).await
}
