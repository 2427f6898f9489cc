//! Writes the seeds of each target into a folder of its name below the one that is named: seeds FOLDER.

use std::io::Result;
use std::path::PathBuf;

// What the compiler counts edges with is defined there.
use libfuzzer_sys as _;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).unwrap_or_default();
    for (target, seeds) in [
        ("frame", weft_fuzz::frame::seeds()),
        ("message", weft_fuzz::message::seeds()),
        ("headers", weft_fuzz::headers::seeds()),
    ] {
        std::fs::create_dir_all(folder.join(target))?;
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(target).join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
