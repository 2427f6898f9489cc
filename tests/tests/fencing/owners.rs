//! Processes that own a register in turn, and the history that they tell.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;
use weft_tests::calls::PATIENCE;
use weft_tests::linearizable::{Call, Effect};
use weft_tests::register::Line;

/// How long a step of the test may take, whatever the owners tell meanwhile: some elections, each after a lease.
const STEP: Duration = Duration::from_secs(120);

/// Lines that may wait to be looked at; an owner that has more to tell waits.
const LINES: usize = 1024;

/// An owner's write, by owner and number.
pub(crate) type Write = (usize, u64);

/// The processes and what they have told so far.
pub(crate) struct Owners {
    children: Vec<Child>,
    lines: mpsc::Receiver<(usize, Line)>,
    pub(crate) history: History,
}

/// What the owners did.
#[derive(Default)]
pub(crate) struct History {
    calls: Vec<Call>,
    open: BTreeMap<Write, Call>,
    pub(crate) done: usize,
    pub(crate) refused: usize,
    pub(crate) terms: usize,
}

impl History {
    fn note(&mut self, owner: usize, line: Line) {
        match line {
            Line::Elected(_) => self.terms += 1,
            Line::Read { invoked, returned, value } => {
                self.calls.push(Call { effect: Effect::Read(value), invoked, returned: Some(returned) });
            }
            Line::Begun { write, invoked, found, left, .. } => {
                let call = Call { effect: Effect::Swap(found, left), invoked, returned: None };
                self.open.insert((owner, write), call);
            }
            Line::Done { write, returned } => {
                let call = self.open.remove(&(owner, write));
                self.calls.extend(call.map(|call| Call { returned: Some(returned), ..call }));
                self.done += 1;
            }
            // It did nothing, so it is no part of the history.
            Line::Refused { write } => {
                self.open.remove(&(owner, write));
                self.refused += 1;
            }
            // It stays open: the checker may place it anywhere after its begin, or nowhere.
            Line::Unknown { .. } => {}
        }
    }

    /// Every call that happened or may have happened.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.iter().chain(self.open.values()).copied().collect()
    }

    /// Writes whose outcome nobody knows.
    pub(crate) fn unknown(&self) -> usize {
        self.open.len()
    }
}

impl Owners {
    pub(crate) fn start(endpoint: &str, count: usize, flags: &[&str]) -> Result<Self> {
        let (sender, lines) = mpsc::channel(LINES);
        let mut owners = Self { children: Vec::new(), lines, history: History::default() };
        for number in 1..=count {
            let mut child = Command::new(env!("CARGO_BIN_EXE_owner"))
                .arg(endpoint)
                .arg(number.to_string())
                .args(flags)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            let output = child.stdout.take().context("stdout is piped")?;
            let (sender, index) = (sender.clone(), owners.children.len());
            owners.children.push(child);
            // Ends with the process.
            std::thread::spawn(move || follow(output, index, &sender));
        }
        Ok(owners)
    }

    /// The next line, as it is told.
    pub(crate) async fn next(&mut self) -> Result<(usize, Line)> {
        let told = tokio::time::timeout(PATIENCE, self.lines.recv()).await.context("the owners say nothing")?;
        let (owner, line) = told.context("every owner has ended")?;
        self.history.note(owner, line);
        Ok((owner, line))
    }

    /// The next write that takes its time, or that does not: in a slow one there is a while to interfere between the
    /// decision and the write.
    pub(crate) async fn next_write(&mut self, wanted: bool) -> Result<Write> {
        let found = async {
            loop {
                match self.next().await? {
                    (owner, Line::Begun { write, slow, .. }) if slow == wanted => return Ok((owner, write)),
                    _ => {}
                }
            }
        };
        within("a write to interfere with", found).await
    }

    /// Waits until owners other than this one have written so often.
    pub(crate) async fn succeeded(&mut self, before: usize, writes: usize) -> Result<()> {
        let succeeded = async {
            let mut written = 0;
            while written < writes {
                let (owner, line) = self.next().await?;
                written += usize::from(owner != before && matches!(line, Line::Done { .. }));
            }
            Ok(())
        };
        within("a successor's writes", succeeded).await
    }

    /// Waits until a write's outcome is known, or known to stay unknown.
    pub(crate) async fn settled(&mut self, (owner, write): Write) -> Result<()> {
        let settled = async {
            while self.history.open.contains_key(&(owner, write)) {
                let (teller, line) = self.next().await?;
                if teller == owner && matches!(line, Line::Unknown { .. }) {
                    break;
                }
            }
            Ok(())
        };
        within("a write's outcome", settled).await
    }

    pub(crate) fn signal(&self, owner: usize, name: &str) -> Result<()> {
        let child = self.children.get(owner).context("no such owner")?;
        let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status()?;
        ensure!(sent.success(), "cannot send {name} to an owner");
        Ok(())
    }

    /// Kills everybody, and takes what they have told until then.
    pub(crate) async fn end(mut self) -> Result<History> {
        self.kill();
        while let Some((owner, line)) = self.lines.recv().await {
            self.history.note(owner, line);
        }
        Ok(std::mem::take(&mut self.history))
    }

    fn kill(&mut self) {
        for child in &mut self.children {
            // It may have been killed already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A bound over all: owners that go on telling other things would otherwise keep a test waiting for ever.
async fn within<T>(what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(STEP, step).await.with_context(|| format!("gave up waiting for {what}"))?
}

fn follow(output: impl Read, owner: usize, sender: &mpsc::Sender<(usize, Line)>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        // A line that was cut off by the end of the process tells nothing.
        let Ok(line) = line.parse() else { continue };
        if sender.blocking_send((owner, line)).is_err() {
            return;
        }
    }
}
