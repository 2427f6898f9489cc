//! Jobs as Mermaid flowcharts: one that shows how a job stands, and the edges of a definition read from one.
//!
//! The syntax is that of Mermaid's flowcharts (<https://mermaid.js.org/syntax/flowchart.html>); what is read is the part that [`edges`] names.

mod parse;

use std::fmt::Write as _;

use crate::definition::{Definition, Join, Phase, Step};
use crate::job::{Job, Node, StepState};

pub use self::parse::{ParseError, edges};

/// Between the lines of a label: the first is the step's name.
const BREAK: &str = "<br/>";

/// How a step with several items stands as a whole: as the item that asks most for attention, the first of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Stuck,
    Undoing,
    Running,
    Unknown,
    Failed,
    Waiting,
    Done,
    Undone,
    Skipped,
}

impl Standing {
    /// With the style of each: fill, border and text.
    const ALL: [(Self, &'static str); 9] = [
        (Self::Stuck, "fill:#b91c1c,stroke:#450a0a,color:#fff,stroke-width:3px"),
        (Self::Undoing, "fill:#fed7aa,stroke:#c2410c,color:#431407"),
        (Self::Running, "fill:#bfdbfe,stroke:#1d4ed8,color:#172554"),
        (Self::Unknown, "fill:#fef08a,stroke:#a16207,color:#422006"),
        (Self::Failed, "fill:#fecaca,stroke:#b91c1c,color:#450a0a"),
        (Self::Waiting, "fill:#fff,stroke:#6b7280,color:#111827"),
        (Self::Done, "fill:#bbf7d0,stroke:#15803d,color:#052e16"),
        (Self::Undone, "fill:#e5e7eb,stroke:#c2410c,color:#111827"),
        (Self::Skipped, "fill:#f3f4f6,stroke:#9ca3af,color:#6b7280,stroke-dasharray:4"),
    ];

    const fn of(state: StepState) -> Self {
        match state {
            StepState::Idle => Self::Waiting,
            StepState::Started | StepState::Probing => Self::Running,
            StepState::Done => Self::Done,
            StepState::FailedClean => Self::Failed,
            StepState::Unknown => Self::Unknown,
            StepState::Skipped => Self::Skipped,
            StepState::Undoing => Self::Undoing,
            StepState::Undone => Self::Undone,
            StepState::Stuck => Self::Stuck,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Undoing => "undoing",
            Self::Running => "running",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Skipped => "skipped",
        }
    }
}

/// A flowchart of a job, each step coloured by its state. The pivot is a hexagon, steps that run at the end have round ends.
///
/// Names are escaped, so that none can end its label; [`edges`] reads the same edges from it. A step without a node in the job counts as waiting.
pub fn render(definition: &Definition, job: &Job) -> String {
    let mut chart = String::from("flowchart TD\n");
    let untouched = Node::default();
    for (index, step) in definition.steps.iter().enumerate() {
        let node = job.steps.get(index).unwrap_or(&untouched);
        let standing = standing(node);
        let (open, close) = match step.phase {
            Phase::Pivot => ("{{", "}}"),
            Phase::Finally => ("([", "])"),
            Phase::Pre | Phase::Post => ("[", "]"),
        };
        let (name, told, class) = (escaped(&step.name), told(node, standing), standing.as_str());
        // Writing to a string cannot fail.
        let _ = writeln!(chart, "    s{index}{open}\"{name}{BREAK}{told}\"{close}:::{class}");
    }
    for (index, step) in definition.steps.iter().enumerate() {
        for before in &step.needs {
            let _ = writeln!(chart, "    s{before} {} s{index}", link(step));
        }
    }
    for (standing, style) in Standing::ALL {
        let _ = writeln!(chart, "    classDef {} {style}", standing.as_str());
    }
    chart
}

fn standing(node: &Node) -> Standing {
    node.items.iter().map(|item| Standing::of(item.state)).min().unwrap_or(Standing::Waiting)
}

/// A label's second line.
fn told(node: &Node, standing: Standing) -> String {
    let state = standing.as_str();
    if let [item] = node.items.as_slice() {
        let number = match standing {
            Standing::Undoing => item.undo_attempts,
            _ => item.attempts,
        };
        return if number > 1 { format!("{state}, attempt {number}") } else { state.to_owned() };
    }
    let done = node.items.iter().filter(|item| item.state == StepState::Done).count();
    if node.items.is_empty() { state.to_owned() } else { format!("{state}, {done} of {} done", node.items.len()) }
}

fn link(step: &Step) -> String {
    match step.join {
        Join::All => "-->".to_owned(),
        Join::Any => "-- any -->".to_owned(),
        Join::Quorum(least) => format!("-- {least} of {} -->", step.needs.len()),
    }
}

/// A text that ends no label and begins no markup: all but a few characters as Mermaid's entities, `#<code point>;`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() || " _-.".contains(letter) {
            out.push(letter);
        } else {
            let _ = write!(out, "#{};", u32::from(letter));
        }
    }
    out
}

#[cfg(test)]
mod tests;
