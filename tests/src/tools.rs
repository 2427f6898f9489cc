//! The third-party clients that `make test` has installed beside the build.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A file below the tools' folder.
pub fn tool(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().map(|folder| folder.join("weft-tools").join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not installed; run `make test`, which installs it"))
}

/// A proxy that `tests/scripts/proxies.sh` installs, or why it could not be had.
pub fn proxy(name: &str) -> Result<PathBuf> {
    if let Ok(reason) = tool(&format!("proxies/{name}.missing")) {
        bail!("{name}: {}", std::fs::read_to_string(reason)?.trim());
    }
    tool(&format!("proxies/bin/{name}")).context("run tests/scripts/proxies.sh")
}

/// The folder that `make models` fills.
pub fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("models")
}

/// Runs a script of `tests/python` in one of the tools' environments; what it printed is the error when it fails.
pub fn python(environment: &str, script: &str, arguments: &[&str]) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let ended = Command::new(tool(environment)?.join("bin/python")).arg(path).args(arguments).output()?;
    let told = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if ended.status.success() { Ok(told) } else { bail!("{script} failed:\n{told}") }
}
