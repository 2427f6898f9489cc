//! Calls that shall go wrong.

use weft_participant::Mark;
use weft_types::{Error, Result};

use super::messages::{Fault, FaultKind};

/// The most that can be planned.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
}

/// Whether a key, `<job id>/<step>` or `<job id>/<step>/<item>`, is of a step, or of the item of one.
fn is_of(key: &str, step: &str) -> bool {
    let Some((_, place)) = key.split_once('/') else { return false };
    place.strip_prefix(step).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Plan {
    /// Checks what is planned. Only a process of its own can be told to crash.
    pub(super) fn try_new(faults: Vec<Fault>, may_crash: bool) -> Result<Self> {
        if faults.len() > MOST {
            return Err(Error::invalid("faults", format_args!("at most {MOST}")));
        }
        for (index, fault) in faults.iter().enumerate() {
            if !["action", "undo", "probe"].contains(&fault.direction.as_str()) {
                let field = format!("faults[{index}].direction");
                return Err(Error::invalid(field, "must be 'action', 'undo' or 'probe'"));
            }
            let problem = match fault.kind() {
                FaultKind::Unspecified => Some("must be one of the kinds"),
                FaultKind::CrashBefore | FaultKind::CrashAfter if !may_crash => {
                    Some("this ledger is not a process of its own")
                }
                FaultKind::Silent if fault.direction != "probe" => Some("only a probe's answer can tell nothing"),
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(Error::invalid(format!("faults[{index}].kind"), problem));
            }
        }
        Ok(Self { faults })
    }

    /// What shall become of this call; each takes one off the plan.
    pub(super) fn take(&mut self, mark: &Mark) -> Option<FaultKind> {
        let fits = |fault: &Fault| {
            fault.direction == mark.direction.as_str()
                && (fault.step.is_empty() || is_of(mark.key.as_str(), &fault.step))
        };
        let at = self.faults.iter().position(fits)?;
        let fault = self.faults.get_mut(at)?;
        let kind = fault.kind();
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            self.faults.remove(at);
        }
        Some(kind)
    }
}
