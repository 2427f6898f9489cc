//! Conditions: a comparison of two templates, or whether one is there.

use std::cmp::Ordering;

use serde_json::{Number, Value};
use weft_proto::weft::jobs::v1::Comparison;

use super::{Problem, Roots, Template, Values};

/// A condition that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    /// What is compared.
    pub(crate) left: Template,
    /// How.
    pub(crate) comparison: Comparison,
    /// With what; of no meaning where nothing is compared.
    pub(crate) right: Template,
}

impl Condition {
    /// Whether it holds. What is not there is null to those that ask for equality.
    ///
    /// # Errors
    ///
    /// When something is larger or smaller than nothing, or than something of another kind.
    pub(crate) fn holds(&self, values: &Values) -> Result<bool, Problem> {
        let holds = match self.comparison {
            Comparison::Unspecified => !matches!(there(&self.left, values)?, Value::Null | Value::Bool(false)),
            Comparison::Equal => equal(&there(&self.left, values)?, &there(&self.right, values)?),
            Comparison::NotEqual => !equal(&there(&self.left, values)?, &there(&self.right, values)?),
            Comparison::Less => self.order(values)?.is_lt(),
            Comparison::LessOrEqual => self.order(values)?.is_le(),
            Comparison::Greater => self.order(values)?.is_gt(),
            Comparison::GreaterOrEqual => self.order(values)?.is_ge(),
        };
        Ok(holds)
    }

    /// Adds everything that it refers to.
    pub(crate) fn roots(&self, roots: &mut Roots) {
        self.left.roots(roots);
        self.right.roots(roots);
    }

    fn order(&self, values: &Values) -> Result<Ordering, Problem> {
        match (self.left.render(values)?, self.right.render(values)?) {
            (Value::Number(left), Value::Number(right)) => Ok(order(&left, &right)),
            (Value::String(left), Value::String(right)) => Ok(left.cmp(&right)),
            _ => {
                Err(Problem::Unfit("only two numbers or two strings are larger or smaller than each other".to_owned()))
            }
        }
    }
}

fn there(template: &Template, values: &Values) -> Result<Value, Problem> {
    match template.render(values) {
        Err(problem) if problem.is_absence() => Ok(Value::Null),
        rendered => rendered,
    }
}

/// Whole numbers are compared exactly, others as `f64`.
fn order(left: &Number, right: &Number) -> Ordering {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => left.cmp(&right),
        // Neither is NaN, which JSON does not have.
        _ => left.as_f64().partial_cmp(&right.as_f64()).unwrap_or(Ordering::Equal),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => order(left, right).is_eq(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| equal(left, right)))
        }
        _ => left == right,
    }
}
