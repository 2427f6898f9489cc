//! What a person reads: the mistakes, the help, the effective configuration.

use std::fmt;

use crate::value::Kind;

/// One thing that is wrong, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    origin: String,
    problem: String,
}

impl Mistake {
    pub(crate) fn new(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { origin: origin.into(), problem: problem.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.origin, self.problem)
    }
}

/// Everything that is wrong with a configuration, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub(crate) Vec<Mistake>);

impl Mistakes {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the configuration is not usable:")?;
        self.0.iter().try_for_each(|mistake| write!(formatter, "\n  {mistake}"))
    }
}

/// A setting as it was declared and as it came out.
pub(crate) struct Row {
    pub(crate) section: &'static str,
    pub(crate) key: &'static str,
    pub(crate) help: &'static str,
    pub(crate) flag: String,
    pub(crate) variables: Vec<String>,
    pub(crate) expected: String,
    pub(crate) default: String,
    pub(crate) value: String,
    pub(crate) origin: String,
    pub(crate) kind: Kind,
}

impl Row {
    fn line(&self) -> String {
        let Self { key, value, origin, .. } = self;
        match self.kind {
            // Commented out, so that reading the output back does not set the mask.
            Kind::Secret if !value.is_empty() => format!("# {key} = \"***\"  # {origin}\n"),
            Kind::Number | Kind::Switch if !value.is_empty() => format!("{key} = {value}  # {origin}\n"),
            _ => format!("{key} = {}  # {origin}\n", toml::Value::String(value.clone())),
        }
    }

    fn help(&self) -> String {
        let default = match self.default.as_str() {
            "" => "none".to_owned(),
            _ if self.kind == Kind::Secret => "***".to_owned(),
            default => default.to_owned(),
        };
        let variables = self.variables.join(" or ");
        format!(
            "  {}\n      {}\n      expected {}; default {default}; environment {variables}\n",
            self.flag, self.help, self.expected
        )
    }
}

/// Each section once, the unnamed one first: TOML's top-level keys come before its tables.
fn sections(rows: &[Row]) -> Vec<&'static str> {
    let mut names = vec![""];
    for row in rows {
        if !names.contains(&row.section) {
            names.push(row.section);
        }
    }
    names
}

/// The effective configuration as a file that gives it again.
pub(crate) fn effective(program: &str, rows: &[Row]) -> String {
    let mut text = format!("# {program}: effective settings and where each came from\n");
    for section in sections(rows) {
        if !section.is_empty() {
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.extend(rows.iter().filter(|row| row.section == section).map(Row::line));
    }
    text
}

pub(crate) fn help(program: &str, about: &str, rows: &[Row]) -> String {
    let mut text = format!("{program}: {about}\n\nUsage: {program} [--name value]...\n");
    for section in sections(rows) {
        if rows.iter().any(|row| row.section == section) {
            text.push_str(&format!("\n{}:\n", if section.is_empty() { "shared" } else { section }));
            text.extend(rows.iter().filter(|row| row.section == section).map(Row::help));
        }
    }
    text.push_str(
        "\n  --config\n      a TOML file with the same names, per service under [section]; environment WEFT_CONFIG\n  \
         --print-config\n      print the effective settings and where each came from, and exit\n  \
         -h, --help\n      print this, and exit\n\n\
         A flag wins over the environment, the environment over the file, the file over the default.\n",
    );
    text
}
