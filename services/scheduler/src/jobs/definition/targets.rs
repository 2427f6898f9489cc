//! Which outside services jobs may call: whoever may submit a job must not thereby reach whatever the scheduler can reach.

use std::str::FromStr;

use http::uri::Authority;
use weft_proto::weft::jobs::v1::JobDefinition;
use weft_proto::weft::jobs::v1::action::Kind;
use weft_types::{Error, Reason, Result};

/// The services that jobs may call. None may be called by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets(Vec<Pattern>);

/// One pattern: `host`, `host:port`, `*.domain`, `*.domain:port`; an IPv6 address is written in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// In small letters.
    host: String,
    /// The hosts of a domain, which then begins with a dot.
    is_domain: bool,
    /// `None` is any port.
    port: Option<u16>,
}

impl Targets {
    /// Every port of this machine, for a mesh on one machine.
    pub fn loopback() -> Self {
        let host = |host: &str| Pattern { host: host.to_owned(), is_domain: false, port: None };
        Self(["127.0.0.1", "[::1]", "localhost"].map(host).into())
    }

    /// Whether this `host:port` may be called. Names are compared, not addresses: what a listed name resolves to is the operator's choice.
    pub(crate) fn allow(&self, target: &str) -> bool {
        let Some((host, port)) = parse(target) else { return false };
        self.0.iter().any(|pattern| pattern.fits(&host, port))
    }

    /// Refuses a definition that calls something else.
    pub(super) fn check(&self, definition: &JobDefinition) -> Result<()> {
        for (index, step) in definition.steps.iter().enumerate() {
            let actions = [("action", &step.action), ("undo", &step.undo), ("probe", &step.probe)];
            for (place, action) in actions {
                let Some(Kind::Call(call)) = action.as_ref().and_then(|action| action.kind.as_ref()) else { continue };
                if !self.allow(&call.target) {
                    let field = format!("definition.steps[{index}].{place}.call.target");
                    return Err(Error::of_field(Reason::PreconditionFailed, field, REFUSAL));
                }
            }
        }
        Ok(())
    }
}

/// What is told of a target that is not listed.
pub(crate) const REFUSAL: &str = "the scheduler's setting --jobs-targets does not list this service";

impl FromStr for Targets {
    type Err = String;

    /// Patterns separated by commas; none is none.
    fn from_str(text: &str) -> Result<Self, String> {
        let patterns = text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        patterns.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' must be host, host:port, *.domain or *.domain:port");
        let is_domain = text.starts_with("*.");
        let rest = if is_domain { &text[1..] } else { text };
        let probe = if is_domain { format!("x{rest}") } else { rest.to_owned() };
        let authority: Authority = probe.parse().map_err(|_| wrong())?;
        if probe.contains(['@', '*'])
            || authority.host().is_empty()
            || authority.host().ends_with('.')
            // What follows the host is a port, or nothing.
            || (authority.port_u16().is_none() && authority.host().len() < probe.len())
        {
            return Err(wrong());
        }
        let port = authority.port_u16();
        let host = authority.host();
        let host = if is_domain { &host[1..] } else { host };
        Ok(Self { host: host.to_ascii_lowercase(), is_domain, port })
    }
}

impl Pattern {
    fn fits(&self, host: &str, port: u16) -> bool {
        let fits = match self.is_domain {
            true => host.len() > self.host.len() && host.ends_with(&self.host),
            false => host == self.host,
        };
        fits && self.port.is_none_or(|own| own == port)
    }
}

/// Host in small letters and port of `host:port`; `None` for anything else, credentials included.
pub(super) fn parse(target: &str) -> Option<(String, u16)> {
    let authority: Authority = target.parse().ok()?;
    let port = authority.port_u16()?;
    (!target.contains('@') && !authority.host().is_empty()).then(|| (authority.host().to_ascii_lowercase(), port))
}
