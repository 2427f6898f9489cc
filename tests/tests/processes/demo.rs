//! The binary as its user meets it.

use std::process::{Command, Output};

use anyhow::Result;
use weft_tests::process::binary;

fn weft(args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(args).env_clear().output()?)
}

#[test]
fn the_demonstration_succeeds_and_shows_every_hop() -> Result<()> {
    let ended = weft(&["demo", "--metrics-http", "", "--lame-duck", "0ms"])?;
    let told = String::from_utf8(ended.stdout)?;
    assert!(ended.status.success(), "{told}{}", String::from_utf8_lossy(&ended.stderr));
    for wanted in [
        "360 as the Python reference",
        "weft-router",
        "weft-worker",
        "queue",
        "compute",
        "DEADLINE_EXCEEDED",
        "stopped",
        "the job is completed",
        "hangs there",
        "the job is compensated",
        "was taken down again",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in:\n{told}");
    }
    let log = String::from_utf8(ended.stderr)?;
    assert!(log.is_empty(), "nothing is to be warned of:\n{log}");
    Ok(())
}

#[test]
fn every_mistake_is_told_at_once() -> Result<()> {
    let ended = weft(&[
        "router",
        "--listne",
        "127.0.0.1:1",
        "--lease-ttl",
        "0s",
        "--trace-ratio",
        "2",
        "--max-message",
        "many",
    ])?;
    assert!(!ended.status.success());
    let told = String::from_utf8(ended.stderr)?;
    for wanted in ["--listne", "--listen", "--lease-ttl", "--trace-ratio", "--max-message"] {
        assert!(told.contains(wanted), "{wanted:?} is not in:\n{told}");
    }
    Ok(())
}

#[test]
fn the_configuration_can_be_printed_and_read_back() -> Result<()> {
    let printed = weft(&["worker", "--print-config", "--threads", "3"])?;
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let text = String::from_utf8(printed.stdout)?;
    assert!(text.contains("threads = 3"), "{text}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &text)?;
    let path = file.path().to_string_lossy().into_owned();
    let again = weft(&["worker", "--print-config", "--config", &path])?;
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(String::from_utf8(again.stdout)?.contains("threads = 3"));
    Ok(())
}

#[test]
fn a_taken_port_is_told_with_the_way_out() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let ended = weft(&["dev", "--router-listen", &address, "--metrics-http", "", "--router-http", ""])?;
    assert!(!ended.status.success());
    let told = String::from_utf8(ended.stderr)?;
    assert!(told.contains(&address) && told.contains("--listen"), "{told}");
    Ok(())
}
