//! Settings from flags, environment and a file, read once into checked types.
//!
//! A service describes its options in one pass: each [`Section::get`] names a setting, its default and its reason, and
//! returns the value. A mistake does not stop the pass: it is noted, the default stands in, and [`Reader::finish`] then
//! refuses with all mistakes together. That is why the command line is read here, and not by a library that stops at the first one.
//!
//! A setting `max-batch` of section `worker` is `--max-batch` on `weft worker` and `--worker-max-batch` where several
//! sections share a command line ([`Reader::prefixed`]); `WEFT_WORKER_MAX_BATCH`, or `WEFT_MAX_BATCH` where the section has the process
//! to itself; `max-batch` under `[worker]` in the file, or at its top. A flag wins over the environment, that over the file.
//!
//! ```
//! use weft_config::{Outcome, Reader, Setting};
//!
//! let args = ["--max-batch", "16"].map(Into::into);
//! let mut reader = Reader::new("weft worker", "runs models", args, []);
//! let max_batch = reader.section("worker").get(Setting::new("max-batch", 8_u32, "largest batch that is formed").within(1, 1024));
//! assert_eq!(max_batch, 16);
//! assert!(matches!(reader.finish(), Ok(Outcome::Run)));
//! ```

mod report;
mod source;
mod value;

use std::ffi::OsString;
use std::path::Path;

pub use report::{Mistake, Mistakes};
pub use value::{ByteSize, Kind, Secret, Value};

use report::Row;
use source::{Given, Sources};

/// The process's environment, for [`Reader::new`]: nothing else reads it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// What to do once all settings are read.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on.
    Run,
    /// Print this text and exit with success: `--help` or `--print-config` was given.
    Print(String),
}

/// A setting: its name, its default and the reason for both.
pub struct Setting<T> {
    key: &'static str,
    default: T,
    help: &'static str,
    check: Option<Check<T>>,
}

struct Check<T> {
    expected: String,
    holds: Box<dyn Fn(&T) -> bool>,
}

impl<T: Value> Setting<T> {
    /// A setting; `key` is in kebab case, `help` says what it does and why the default is what it is.
    pub fn new(key: &'static str, default: T, help: &'static str) -> Self {
        Self { key, default, help, check: None }
    }

    /// Refuses values for which `holds` is false; `expected` completes the sentence "expected ...".
    #[must_use]
    pub fn check(self, expected: impl Into<String>, holds: impl Fn(&T) -> bool + 'static) -> Self {
        Self { check: Some(Check { expected: expected.into(), holds: Box::new(holds) }), ..self }
    }

    /// Refuses values outside `least..=most`.
    #[must_use]
    pub fn within(self, least: T, most: T) -> Self
    where
        T: PartialOrd + 'static,
    {
        let expected = format!("{} from {} to {}", T::EXPECTED, least.show(), most.show());
        self.check(expected, move |value| (&least..=&most).contains(&value))
    }

    fn parse(&self, text: &str) -> Option<T> {
        T::parse(text).filter(|value| self.check.as_ref().is_none_or(|check| (check.holds)(value)))
    }

    fn expected(&self) -> String {
        self.check.as_ref().map_or_else(|| T::EXPECTED.to_owned(), |check| check.expected.clone())
    }
}

/// Collects the settings of one process.
pub struct Reader {
    program: &'static str,
    about: &'static str,
    sources: Sources,
    beside: Vec<&'static str>,
    rows: Vec<Row>,
    mistakes: Vec<Mistake>,
    wants_help: bool,
    wants_print: bool,
}

impl Reader {
    /// Reads the sources. `args` are what follows the subcommand; `environment` is [`environment`] outside tests.
    pub fn new(
        program: &'static str,
        about: &'static str,
        args: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let (mut sources, mut mistakes) = (Sources::default(), Vec::new());
        sources.read_flags(args, &mut mistakes);
        sources.read_environment(environment, &mut mistakes);
        let (flag, variable) = (sources.flag("--config"), sources.variable("WEFT_CONFIG"));
        if let Some(given) = flag.or(variable) {
            match given.text.as_deref() {
                None | Some("") => mistakes.push(Mistake::new(given.origin, "needs a value: expected a path")),
                Some(path) => sources.read_file(Path::new(path), &mut mistakes),
            }
        }
        let mut switch = |name| {
            let given = sources.flag(name);
            if let Some(Given { text: Some(text), origin, .. }) = &given {
                mistakes.push(Mistake::new(origin, format!("takes no value, got {text:?}")));
            }
            given.is_some()
        };
        let (wants_help, wants_print) = (switch("--help"), switch("--print-config"));
        Self { program, about, sources, beside: Vec::new(), rows: Vec::new(), mistakes, wants_help, wants_print }
    }

    /// Names sections of other processes that share the file and the environment: what they hold is not checked here.
    #[must_use]
    pub fn beside(mut self, sections: &[&'static str]) -> Self {
        self.beside.extend_from_slice(sections);
        self
    }

    /// Settings that belong to no section.
    pub fn shared(&mut self) -> Section<'_> {
        Section { reader: self, name: "", prefix: "" }
    }

    /// The settings of the one service that has this process to itself: flags carry no prefix.
    pub fn section(&mut self, name: &'static str) -> Section<'_> {
        Section { reader: self, name, prefix: "" }
    }

    /// The settings of one service among several in this process: flags carry the section's name.
    pub fn prefixed(&mut self, name: &'static str) -> Section<'_> {
        Section { reader: self, name, prefix: name }
    }

    /// Ends the pass.
    ///
    /// # Errors
    /// Everything that was wrong, together, including whatever was given and no setting has read.
    pub fn finish(mut self) -> Result<Outcome, Mistakes> {
        if self.wants_help {
            return Ok(Outcome::Print(report::help(self.program, self.about, &self.rows)));
        }
        self.mistakes.extend(self.sources.unread(&self.beside));
        if !self.mistakes.is_empty() {
            return Err(Mistakes(self.mistakes));
        }
        Ok(if self.wants_print { Outcome::Print(report::effective(self.program, &self.rows)) } else { Outcome::Run })
    }
}

/// One service's view of the settings.
pub struct Section<'a> {
    reader: &'a mut Reader,
    name: &'static str,
    prefix: &'static str,
}

impl Section<'_> {
    /// The value of `setting`. After a mistake it is the default, and [`Reader::finish`] will refuse.
    pub fn get<T: Value>(&mut self, setting: Setting<T>) -> T {
        let mut row = self.row(&setting);
        if self.reader.rows.iter().any(|other| other.flag == row.flag) {
            self.note(format!("flag {}", row.flag), "two settings have this name");
        }
        let mut value = None;
        if let Some(Given { text, times, origin }) = self.given(&row) {
            let text = text.or_else(|| (T::KIND == Kind::Switch).then(|| "true".to_owned()));
            if times > 1 && T::KIND != Kind::List {
                self.note(origin.clone(), format!("is given {times} times, and takes one value"));
            } else {
                value = text.as_deref().and_then(|text| setting.parse(text));
                if value.is_none() {
                    self.note(origin.clone(), problem(&row, text.as_deref()));
                }
            }
            row.origin = origin;
        }
        let value = value.unwrap_or(setting.default);
        row.value = value.show();
        self.reader.rows.push(row);
        value
    }

    fn row<T: Value>(&self, setting: &Setting<T>) -> Row {
        let alone = self.prefix.is_empty() && !self.name.is_empty();
        let mut variables = vec![source::variable_name(self.name, setting.key)];
        variables.extend(alone.then(|| source::variable_name("", setting.key)));
        Row {
            section: self.name,
            key: setting.key,
            help: setting.help,
            flag: source::flag_name(self.prefix, setting.key),
            variables,
            expected: setting.expected(),
            default: setting.default.show(),
            value: String::new(),
            origin: "default".to_owned(),
            kind: T::KIND,
        }
    }

    /// The text from the strongest source that has one. All are asked, so that a weaker one does not count as unread.
    fn given(&mut self, row: &Row) -> Option<Given> {
        let sources = &mut self.reader.sources;
        let mut found = vec![sources.flag(&row.flag)];
        found.extend(row.variables.iter().map(|name| sources.variable(name)));
        found.push(sources.file(&source::file_key(row.section, row.key)));
        if row.variables.len() > 1 {
            found.push(sources.file(row.key));
        }
        found.into_iter().flatten().next()
    }

    fn note(&mut self, origin: String, problem: impl Into<String>) {
        self.reader.mistakes.push(Mistake::new(origin, problem));
    }
}

fn problem(row: &Row, text: Option<&str>) -> String {
    match text {
        None => format!("needs a value: expected {}", row.expected),
        Some(_) if row.kind == Kind::Secret => format!("the value is not usable: expected {}", row.expected),
        Some(text) => format!("{text:?} is not usable: expected {}", row.expected),
    }
}
