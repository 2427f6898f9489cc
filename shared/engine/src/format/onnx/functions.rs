//! Functions that a model defines of other operators: they must end, and not become too much.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek};

use super::super::refusal::quoted;
use super::super::{Refusal, Rule};
use super::graph::{Reading, Scope};
use super::wire::Wire;
use super::{MAX_NODES, domain_of, is_standard, read_import};

/// The most functions.
const MAX_FUNCTIONS: usize = 4096;

/// How deeply functions may call functions.
const MAX_DEPTH: usize = 64;

/// A function's domain and name.
type Key = (String, String);

/// What a graph or a function consists of.
#[derive(Default)]
pub(super) struct Body {
    pub(super) nodes: u64,
    /// Operators of standard domains, by domain alone; others with how often they stand here.
    standard: HashSet<String>,
    calls: HashMap<Key, u64>,
}

impl Body {
    pub(super) fn call(&mut self, domain: String, name: String) {
        if !is_standard(&domain) {
            *self.calls.entry((domain, name)).or_default() += 1;
        } else if !self.standard.contains(&domain) {
            self.standard.insert(domain);
        }
    }

    /// Whether operators of this standard domain stand here.
    pub(super) fn has_domain(&self, domain: &str) -> bool {
        self.standard.contains(domain)
    }
}

/// All functions of a model.
#[derive(Default)]
pub(super) struct Functions {
    bodies: HashMap<Key, Body>,
    imports: HashMap<String, u64>,
}

impl Functions {
    pub(super) fn read<R: Read + Seek>(&mut self, wire: &mut Wire<R>, end: u64) -> Result<(), Refusal> {
        let (mut body, mut key) = (Body::default(), Key::default());
        let (mut imports, mut results) = (HashMap::new(), Vec::new());
        let mut reading = Reading::new(wire, &mut body);
        let mut scope = Scope::default();
        while let Some(field) = reading.wire.next(end)? {
            match field.number {
                1 => key.1 = field.text(reading.wire)?,
                4 => {
                    let name = field.text(reading.wire)?;
                    scope.give(&mut reading, name)?;
                }
                5 => results.push(field.text(reading.wire)?),
                7 => {
                    let end = field.message(reading.wire)?;
                    scope.read_node(&mut reading, end, 0)?;
                }
                9 => read_import(reading.wire, field.message(reading.wire)?, &mut imports)?,
                10 => key.0 = domain_of(field.text(reading.wire)?),
                _ => {}
            }
            reading.wire.leave(&field)?;
        }
        let results: Vec<u32> = results.into_iter().map(|name| reading.number(name)).collect();
        let graph = scope.finish(&mut reading, &results)?;
        graph.finish_outermost(&reading)?;
        if key.1.is_empty() {
            return Err(wire.refuse(Rule::Name, "a function"));
        }
        // Only one version of a domain counts; the highest is what is checked.
        for (domain, version) in imports {
            let known = self.imports.entry(domain).or_default();
            *known = version.max(*known);
        }
        let place = place(&key);
        let twice = is_standard(&key.0) || self.bodies.insert(key, body).is_some();
        if twice || self.bodies.len() > MAX_FUNCTIONS {
            Err(wire.refuse(Rule::DuplicateFunction, place))
        } else {
            Ok(())
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bodies.len()
    }

    /// The version of a domain that functions import.
    pub(super) fn import(&self, domain: &str) -> Option<&u64> {
        self.imports.get(domain)
    }

    /// Whether operators of this standard domain stand in any function.
    pub(super) fn has_domain(&self, domain: &str) -> bool {
        self.bodies.values().any(|body| body.has_domain(domain))
    }

    /// Every call must lead to a function, none back to itself, and all of them together not become too many nodes.
    pub(super) fn check(&self, main: &Body) -> Result<(), Refusal> {
        let mut sizes = HashMap::new();
        let total = self.size(main, &mut sizes, 0)?;
        for (key, body) in &self.bodies {
            if !sizes.contains_key(key) {
                self.enter(key, body, &mut sizes, 0)?;
            }
        }
        if total > MAX_NODES { Err(Refusal::new(Rule::Expansion, "the functions", 0)) } else { Ok(()) }
    }

    /// Nodes of a body with all calls replaced. Functions being entered have no size yet.
    fn size<'a>(
        &'a self,
        body: &'a Body,
        sizes: &mut HashMap<&'a Key, Option<u64>>,
        depth: usize,
    ) -> Result<u64, Refusal> {
        let mut total = body.nodes;
        for (key, times) in &body.calls {
            let Some((key, callee)) = self.bodies.get_key_value(key) else {
                return Err(Refusal::new(Rule::Domain, place(key), 0));
            };
            let size = match sizes.get(key) {
                Some(Some(size)) => *size,
                Some(None) => return Err(Refusal::new(Rule::Recursion, place(key), 0)),
                None => self.enter(key, callee, sizes, depth)?,
            };
            total = total.saturating_add(size.saturating_mul(*times));
        }
        Ok(total)
    }

    fn enter<'a>(
        &'a self,
        key: &'a Key,
        body: &'a Body,
        sizes: &mut HashMap<&'a Key, Option<u64>>,
        depth: usize,
    ) -> Result<u64, Refusal> {
        if depth > MAX_DEPTH {
            return Err(Refusal::new(Rule::Nesting, place(key), 0));
        }
        sizes.insert(key, None);
        let size = self.size(body, sizes, depth + 1)?;
        sizes.insert(key, Some(size));
        Ok(size)
    }
}

fn place((domain, name): &Key) -> String {
    format!("operator {}::{}", quoted(domain), quoted(name))
}
