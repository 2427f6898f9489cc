//! What was given: flags, environment variables and the file, before anyone knows which of it means something.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use crate::report::Mistake;

/// Every variable of ours starts with this; one that no setting reads is a mistake.
const PREFIX: &str = "WEFT_";

/// A text that was given for a setting, and where. A flag without a value has no text.
pub(crate) struct Given {
    pub(crate) text: Option<String>,
    pub(crate) times: usize,
    pub(crate) origin: String,
}

#[derive(Default)]
pub(crate) struct Sources {
    flags: Vec<(String, Option<String>)>,
    environment: BTreeMap<String, String>,
    file: File,
    flags_read: BTreeSet<String>,
    variables_read: BTreeSet<String>,
}

/// The file's keys as `section.key`, or `key` at its top.
#[derive(Default)]
struct File {
    name: String,
    keys: BTreeMap<String, Option<String>>,
    read: BTreeSet<String>,
}

pub(crate) fn flag_name(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { format!("--{key}") } else { format!("--{prefix}-{key}") }
}

pub(crate) fn variable_name(section: &str, key: &str) -> String {
    let name = if section.is_empty() { key.to_owned() } else { format!("{section}_{key}") };
    format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

pub(crate) fn file_key(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

impl Sources {
    /// Splits the command line into flags. A flag's value is the next argument unless that is a flag, too, so that a
    /// switch needs no value; `--flag=value` gives any text.
    pub(crate) fn read_flags(&mut self, args: impl IntoIterator<Item = OsString>, mistakes: &mut Vec<Mistake>) {
        let as_text = |arg: OsString| {
            arg.into_string()
                .map_err(|arg| mistakes.push(Mistake::new("command line", format!("{arg:?} is not UTF-8"))))
                .ok()
        };
        let args: Vec<String> = args.into_iter().filter_map(as_text).collect();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            if arg == "-h" {
                self.flags.push(("--help".to_owned(), None));
            } else if !arg.starts_with("--") || arg == "--" {
                mistakes.push(Mistake::new(
                    "command line",
                    format!("{arg:?} is not expected: settings are given as --name value"),
                ));
            } else if let Some((name, value)) = arg.split_once('=') {
                self.flags.push((name.to_owned(), Some(value.to_owned())));
            } else {
                let value = args.next_if(|next| !next.starts_with("--"));
                self.flags.push((arg, value));
            }
        }
    }

    pub(crate) fn read_environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        mistakes: &mut Vec<Mistake>,
    ) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            match value.into_string() {
                Ok(value) if is_service_link(name, &value) => {}
                Ok(value) => drop(self.environment.insert(name.to_owned(), value)),
                Err(_) => mistakes.push(Mistake::new(format!("environment {name}"), "is not UTF-8")),
            }
        }
    }

    pub(crate) fn read_file(&mut self, path: &Path, mistakes: &mut Vec<Mistake>) {
        let name = format!("file {}", path.display());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return mistakes.push(Mistake::new(name, format!("cannot be read: {error}"))),
        };
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let line = |start| 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
                let line = error.span().map_or(1, |span| line(span.start));
                return mistakes.push(Mistake::new(format!("{name} line {line}"), error.message()));
            }
        };
        for (key, value) in &table {
            match value {
                toml::Value::Table(section) => {
                    self.file.keys.extend(section.iter().map(|(inner, value)| (file_key(key, inner), text_of(value))));
                }
                value => drop(self.file.keys.insert(key.clone(), text_of(value))),
            }
        }
        self.file.name = name;
    }

    /// The flag's values, joined by commas when there are several.
    pub(crate) fn flag(&mut self, name: &str) -> Option<Given> {
        self.flags_read.insert(name.to_owned());
        let given = self.flags.iter().filter(|(flag, _)| flag == name);
        let texts: Vec<&str> = given.clone().filter_map(|(_, text)| text.as_deref()).collect();
        let times = given.count();
        let text = (!texts.is_empty()).then(|| texts.join(","));
        (times > 0).then(|| Given { text, times, origin: format!("flag {name}") })
    }

    pub(crate) fn variable(&mut self, name: &str) -> Option<Given> {
        self.variables_read.insert(name.to_owned());
        let text = self.environment.get(name)?.clone();
        Some(Given { text: Some(text), times: 1, origin: format!("environment {name}") })
    }

    pub(crate) fn file(&mut self, key: &str) -> Option<Given> {
        self.file.read.insert(key.to_owned());
        let text = self.file.keys.get(key)?.clone();
        Some(Given { text, times: 1, origin: format!("{}: {key}", self.file.name) })
    }

    /// Everything that was given and that no setting has read, except what belongs to the other processes named.
    pub(crate) fn unread(&self, beside: &[&str]) -> Vec<Mistake> {
        let flags: BTreeSet<&String> = self.flags.iter().map(|(name, _)| name).collect();
        let flags = flags.into_iter().filter(|name| !self.flags_read.contains(*name));
        let variables = self.environment.keys().filter(|name| !self.variables_read.contains(*name));
        let variables =
            variables.filter(|name| !beside.iter().any(|other| name.starts_with(&variable_name(other, ""))));
        let keys = self.file.keys.keys().filter(|key| !self.file.read.contains(*key));
        let keys = keys.filter(|key| !key.split_once('.').is_some_and(|(section, _)| beside.contains(&section)));
        let unknown = |origin, name: &String, known| {
            Mistake::new(origin, format!("no such setting{}", did_you_mean(name, known)))
        };
        flags
            .map(|name| unknown(format!("flag {name}"), name, &self.flags_read))
            .chain(variables.map(|name| unknown(format!("environment {name}"), name, &self.variables_read)))
            .chain(keys.map(|key| unknown(format!("{}: {key}", self.file.name), key, &self.file.read)))
            .collect()
    }
}

/// Kubernetes sets these for a Service called `weft-...`; nobody has typed them.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT") && (value.contains("://") || name.contains("_TCP") || name.contains("_UDP")))
}

/// Lists become comma-separated text; what has no such form has no text, and every type refuses it.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Some(value.to_string()),
        toml::Value::Array(parts) => parts.iter().map(text_of).collect::<Option<Vec<_>>>().map(|parts| parts.join(",")),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// The known name that was probably meant: one that differs in few letters, or only lacks a prefix.
fn did_you_mean(name: &str, known: &BTreeSet<String>) -> String {
    let bare = name.trim_start_matches("--").trim_start_matches(PREFIX);
    let prefixed = |other: &&String| other.len() > bare.len() && other.ends_with(bare) && bare.len() > 2;
    let close = |other: &&String| distance(name, other) <= 1 + bare.len() / 4;
    let best =
        known.iter().filter(close).min_by_key(|other| distance(name, other)).or_else(|| known.iter().find(prefixed));
    best.map_or_else(String::new, |best| format!(": did you mean {best}?"))
}

/// Levenshtein's edit distance.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in right.chars().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (left, right, edits) in
            [("", "", 0), ("a", "", 1), ("listen", "silent", 4), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(left, right), edits, "{left} {right}");
            assert_eq!(distance(right, left), edits, "{right} {left}");
        }
    }

    #[test]
    fn service_links_are_told_from_settings() {
        assert!(is_service_link("WEFT_ROUTER_SERVICE_HOST", "10.0.0.1"));
        assert!(is_service_link("WEFT_ROUTER_PORT_8001_TCP_ADDR", "10.0.0.1"));
        assert!(is_service_link("WEFT_PORT", "tcp://10.0.0.1:8001"));
        assert!(!is_service_link("WEFT_ROUTER_LISTEN", "10.0.0.1:8001"));
    }
}
