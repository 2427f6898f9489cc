//! Conditions: a comparison of two templates, or whether one is there.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Number, Value};
use weft_proto::weft::jobs::v1::Comparison;

use super::{Problem, Reference, Root, Roots, Template, Values};

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

    /// The first reference that keeps it from being decided where only some lead anywhere: to equality, what is not there is null.
    pub(crate) fn lacks(&self, is_there: &impl Fn(&Reference) -> bool) -> Option<&Reference> {
        self.orders().then(|| self.left.lacks(is_there).or_else(|| self.right.lacks(is_there))).flatten()
    }

    /// What is there wherever it holds.
    pub(crate) fn proves(&self) -> BTreeSet<Root> {
        let is_value = |side: &Template| matches!(side, Template::Literal(value) if !value.is_null());
        let is_null = |side: &Template| matches!(side, Template::Literal(Value::Null));
        let (left, right) = match self.comparison {
            Comparison::Unspecified => (true, false),
            Comparison::Equal => (is_value(&self.right), is_value(&self.left)),
            Comparison::NotEqual => (is_null(&self.right), is_null(&self.left)),
            _ => (true, true),
        };
        let sides = [(left, &self.left), (right, &self.right)].into_iter().filter(|(proves, _)| *proves);
        let root = |(_, side): (bool, &Template)| match side {
            Template::Reference(reference) => Some(reference.root()),
            _ => None,
        };
        sides.filter_map(root).collect()
    }

    const fn orders(&self) -> bool {
        use Comparison::{Greater, GreaterOrEqual, Less, LessOrEqual};
        matches!(self.comparison, Less | LessOrEqual | Greater | GreaterOrEqual)
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
