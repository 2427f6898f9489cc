//! The edges of a definition, read from a flowchart.

use std::collections::{BTreeMap, BTreeSet};

use super::BREAK;

/// The longest chart.
const MAX_BYTES: usize = 64 * 1024;

/// What is not understood, or does not fit the steps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong there, and what would be right.
    pub problem: String,
}

type Result<T> = std::result::Result<T, ParseError>;

/// Where something stands.
type At = (usize, usize);

/// Reads from a chart which steps each step waits for: for each of `steps`, by its name, the indices of those before it, in rising order.
///
/// Understood are `flowchart` and `graph` with a direction; nodes with or without a label in any of the brackets `[ ] ( ) ([ ]) { } {{ }} (( ))`, with
/// `:::class`; `-->` of any length, `-- text -->` and `-->|text|`; `&`; `;`; comments; and `classDef`, `class`, `style` and `linkStyle`, which
/// say nothing here. A node stands for the step whose name is its label, or the label's first line; otherwise for the one whose name is its id.
/// Every step has to be there. Whether the edges make a cycle is not looked at.
///
/// # Errors
///
/// With the place of whatever else there is: subgraphs, other links, nodes that are no step, two nodes of one name, links of a step to itself; and
/// when the chart is longer than 64 KiB.
pub fn edges(chart: &str, steps: &[&str]) -> Result<Vec<Vec<usize>>> {
    if chart.len() > MAX_BYTES {
        return Err(problem((1, 1), format!("the chart has {} bytes, at most {MAX_BYTES}", chart.len())));
    }
    let mut graph = Graph::default();
    let mut has_header = false;
    let mut last = 1;
    for (number, line) in chart.lines().enumerate() {
        let mut cursor = Cursor { rest: line, line: number + 1, column: 1 };
        last = cursor.line;
        loop {
            cursor.skip_blanks();
            if cursor.rest.is_empty() || cursor.rest.starts_with("%%") {
                break;
            }
            if cursor.take(";") {
                continue;
            }
            if !has_header {
                header(&mut cursor)?;
                has_header = true;
            } else if is_style(&cursor)? {
                break;
            } else {
                statement(&mut cursor, &mut graph)?;
            }
            cursor.skip_blanks();
            if !cursor.rest.is_empty() && !cursor.rest.starts_with(';') && !cursor.rest.starts_with("%%") {
                return Err(cursor.problem("expected '-->', '&', ';' or the end of the line"));
            }
        }
    }
    if !has_header {
        return Err(problem((1, 1), "expected 'flowchart TD' or 'flowchart LR' first"));
    }
    graph.resolve(steps, last)
}

fn problem(at: At, problem: impl Into<String>) -> ParseError {
    ParseError { line: at.0, column: at.1, problem: problem.into() }
}

/// What is left of a line.
struct Cursor<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

impl<'a> Cursor<'a> {
    const fn at(&self) -> At {
        (self.line, self.column)
    }

    fn problem(&self, text: &str) -> ParseError {
        problem(self.at(), text)
    }

    /// Takes so many bytes, which end at a character.
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.column += taken.chars().count();
        self.rest = rest;
        taken
    }

    fn skip_blanks(&mut self) {
        let blanks = self.rest.len() - self.rest.trim_start().len();
        self.advance(blanks);
    }

    fn take(&mut self, text: &str) -> bool {
        let is_there = self.rest.starts_with(text);
        if is_there {
            self.advance(text.len());
        }
        is_there
    }

    /// Up to this text, which is taken, too.
    fn take_until(&mut self, end: &str) -> Option<&'a str> {
        let length = self.rest.find(end)?;
        let taken = self.advance(length);
        self.advance(end.len());
        Some(taken)
    }

    /// Letters, digits and `_`, and single `-` between them; empty when there are none.
    fn word(&mut self) -> &'a str {
        let bytes = self.rest.as_bytes();
        let is_letter = |at: usize| bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let mut length = 0;
        while is_letter(length) || (length > 0 && bytes.get(length) == Some(&b'-') && is_letter(length + 1)) {
            length += 1;
        }
        self.advance(length)
    }
}

fn header(cursor: &mut Cursor<'_>) -> Result<()> {
    let at = cursor.at();
    if !["flowchart", "graph"].contains(&cursor.word()) {
        return Err(problem(at, "expected 'flowchart TD' or 'flowchart LR' first"));
    }
    cursor.skip_blanks();
    let at = cursor.at();
    if !["TD", "TB", "BT", "LR", "RL"].contains(&cursor.word()) {
        return Err(problem(at, "expected a direction: TD, TB, BT, LR or RL"));
    }
    Ok(())
}

/// Whether the rest of the line only says how something looks. What would change the meaning is refused.
fn is_style(cursor: &Cursor<'_>) -> Result<bool> {
    let mut ahead = Cursor { rest: cursor.rest, ..*cursor };
    let word = ahead.word();
    // A node may be named like it: what follows tells.
    let stands_alone = ahead.rest.is_empty() && word == "end";
    if !stands_alone && !ahead.rest.starts_with([' ', '\t']) {
        return Ok(false);
    }
    let begins_link = ["-", "&", "=", "<", "%%", ";"].iter().any(|link| ahead.rest.trim_start().starts_with(link));
    match word {
        _ if begins_link => Ok(false),
        "classDef" | "class" | "style" | "linkStyle" => Ok(!ahead.rest.trim().is_empty()),
        "subgraph" | "end" => Err(cursor.problem("subgraphs are not understood: write the nodes without them")),
        "click" | "direction" => Err(cursor.problem("it is not understood: only nodes and links are")),
        _ => Ok(false),
    }
}

/// `a & b --> c[Label] --> d`.
fn statement(cursor: &mut Cursor<'_>, graph: &mut Graph) -> Result<()> {
    let mut before = group(cursor, graph)?;
    loop {
        cursor.skip_blanks();
        if cursor.rest.is_empty() || cursor.rest.starts_with(';') || cursor.rest.starts_with("%%") {
            return Ok(());
        }
        let at = cursor.at();
        link(cursor)?;
        let after = group(cursor, graph)?;
        graph.links.push(Link { at, from: before, to: after.clone() });
        before = after;
    }
}

fn group(cursor: &mut Cursor<'_>, graph: &mut Graph) -> Result<BTreeSet<String>> {
    let mut nodes = BTreeSet::new();
    loop {
        cursor.skip_blanks();
        nodes.insert(node(cursor, graph)?);
        cursor.skip_blanks();
        if !cursor.take("&") {
            return Ok(nodes);
        }
    }
}

fn node(cursor: &mut Cursor<'_>, graph: &mut Graph) -> Result<String> {
    let at = cursor.at();
    let id = cursor.word().to_owned();
    if id.is_empty() {
        return Err(problem(at, "expected a node: letters, digits, '_' and '-'"));
    }
    let label_at = cursor.at();
    let label = label(cursor)?;
    if cursor.take(":::") && cursor.word().is_empty() {
        return Err(cursor.problem("expected the name of a class"));
    }
    graph.add(&id, at, label.map(|label| (label, label_at)));
    Ok(id)
}

/// The brackets around labels, the longer ones first.
const BRACKETS: [(&str, &str); 6] = [("([", "])"), ("((", "))"), ("{{", "}}"), ("[", "]"), ("(", ")"), ("{", "}")];

/// A node's label: the name in it, without what follows the first line.
fn label(cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    let at = cursor.at();
    let Some((open, close)) = BRACKETS.iter().find(|(open, _)| cursor.rest.starts_with(open)) else { return Ok(None) };
    cursor.advance(open.len());
    let text = if cursor.take("\"") {
        let quoted = cursor.take_until("\"");
        quoted.filter(|_| cursor.take(close))
    } else {
        cursor.take_until(close)
    };
    let Some(text) = text else { return Err(problem(at, format!("the label does not end with '{close}'"))) };
    let first = text.split(BREAK).next().unwrap_or(text);
    Ok(Some(unescaped(first)))
}

/// Entities as [`super::render`] writes them, and those with a name that people write.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('#') {
        out.push_str(before);
        let entity = after.split_once(';').and_then(|(name, after)| Some((entity(name)?, after)));
        let (letter, after) = entity.unwrap_or(('#', after));
        out.push(letter);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    match name {
        "quot" => Some('"'),
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        // `parse` would take a sign.
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok().and_then(char::from_u32),
        _ => None,
    }
}

/// `-->`, `-- text -->` or `-->|text|`.
fn link(cursor: &mut Cursor<'_>) -> Result<()> {
    let at = cursor.at();
    let other = || problem(at, "expected '-->', '-- text -->' or '-->|text|': other links are not understood");
    if !cursor.rest.starts_with("--") {
        return Err(other());
    }
    let dashes = cursor.rest.len() - cursor.rest.trim_start_matches('-').len();
    cursor.advance(dashes);
    if !cursor.take(">") {
        // With a text: it ends with the first arrow.
        if !cursor.rest.starts_with([' ', '"']) || cursor.take_until("-->").is_none() {
            return Err(other());
        }
        return Ok(());
    }
    if cursor.take("|") && cursor.take_until("|").is_none() {
        return Err(problem(at, "the link's text does not end with '|'"));
    }
    Ok(())
}

struct Link {
    at: At,
    from: BTreeSet<String>,
    to: BTreeSet<String>,
}

/// What was read, by the nodes' ids.
#[derive(Default)]
struct Graph {
    /// Where each was first named, and its last label.
    nodes: BTreeMap<String, (At, Option<(String, At)>)>,
    links: Vec<Link>,
}

impl Graph {
    fn add(&mut self, id: &str, at: At, label: Option<(String, At)>) {
        let node = self.nodes.entry(id.to_owned()).or_insert((at, None));
        if label.is_some() {
            node.1 = label;
        }
    }

    fn resolve(self, steps: &[&str], last: usize) -> Result<Vec<Vec<usize>>> {
        let index: BTreeMap<&str, usize> = steps.iter().enumerate().map(|(index, name)| (*name, index)).collect();
        let mut of_node = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (id, (at, label)) in &self.nodes {
            let labelled = label.as_ref().and_then(|(text, at)| Some((*index.get(text.as_str())?, *at)));
            let found = labelled.or_else(|| Some((*index.get(id.as_str())?, *at)));
            let Some((step, at)) = found else { return Err(problem(*at, format!("'{id}' is not a step"))) };
            if !taken.insert(step) {
                return Err(problem(at, format!("a second node for the step '{}'", steps[step])));
            }
            of_node.insert(id.as_str(), step);
        }
        if let Some(absent) = (0..steps.len()).find(|step| !taken.contains(step)) {
            return Err(problem((last, 1), format!("the step '{}' is not in the chart", steps[absent])));
        }
        let mut needs = vec![BTreeSet::new(); steps.len()];
        for link in &self.links {
            let ids = |ids: &BTreeSet<String>| ids.iter().filter_map(|id| of_node.get(id.as_str()).copied()).collect();
            let (from, to): (BTreeSet<usize>, BTreeSet<usize>) = (ids(&link.from), ids(&link.to));
            if let Some(step) = from.intersection(&to).next() {
                return Err(problem(link.at, format!("the step '{}' would wait for itself", steps[*step])));
            }
            for step in to {
                needs[step].extend(&from);
            }
        }
        Ok(needs.into_iter().map(|needs| needs.into_iter().collect()).collect())
    }
}
