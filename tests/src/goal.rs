//! A figure that a benchmark shall reach, with its verdict.

/// A figure that shall be reached.
#[derive(Clone, Debug)]
pub struct Goal {
    name: String,
    measured: f64,
    relation: Relation,
    target: f64,
}

#[derive(Clone, Copy, Debug)]
enum Relation {
    AtMost,
    AtLeast,
}

impl Goal {
    /// No more than `target`.
    pub fn at_most(name: impl Into<String>, target: f64, measured: f64) -> Self {
        Self { name: name.into(), measured, relation: Relation::AtMost, target }
    }

    /// No less than `target`.
    pub fn at_least(name: impl Into<String>, target: f64, measured: f64) -> Self {
        Self { name: name.into(), measured, relation: Relation::AtLeast, target }
    }

    /// What could not be measured.
    pub fn missing(name: impl Into<String>) -> Self {
        Self { name: name.into(), measured: f64::NAN, relation: Relation::AtLeast, target: f64::NAN }
    }

    /// How a benchmark tells it: `GOAL <name> <measured> <relation> <target> met|missed`, or `GOAL <name> missing` where
    /// nothing could be measured.
    pub fn line(&self) -> String {
        if self.measured.is_nan() {
            return format!("GOAL {} missing", self.name);
        }
        let (sign, met) = match self.relation {
            Relation::AtMost => ("<=", self.measured <= self.target),
            Relation::AtLeast => (">=", self.measured >= self.target),
        };
        let verdict = if met { "met" } else { "missed" };
        format!("GOAL {} {:.2} {sign} {} {verdict}", self.name, self.measured, self.target)
    }
}
