//! Tokens become text: whole characters, and never a part of a stop text.

use std::collections::VecDeque;

/// A token whose text has not been handed out.
#[derive(Clone, Copy, Debug)]
struct Open {
    token: u32,
    logprob: Option<f32>,
    /// Bytes of `pending` up to where its text begins and ends.
    start: usize,
    end: usize,
}

/// What can be handed out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ready {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// The text of one sequence that has not been handed out.
#[derive(Debug)]
pub(super) struct Text {
    stops: Vec<Vec<u8>>,
    pending: Vec<u8>,
    open: VecDeque<Open>,
}

impl Text {
    /// Empty stop texts are ignored.
    pub(super) fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).map(String::into_bytes).collect();
        Self { stops, pending: Vec::new(), open: VecDeque::new() }
    }

    /// Adds a token and its bytes. Returns whether a stop text is complete: from there on nothing more comes.
    pub(super) fn push(&mut self, token: u32, bytes: &[u8], logprob: Option<f32>) -> bool {
        let start = self.pending.len();
        self.pending.extend_from_slice(bytes);
        self.open.push_back(Open { token, logprob, start, end: self.pending.len() });
        let Some(cut) = self.stops.iter().filter_map(|stop| find(&self.pending, stop)).min() else { return false };
        self.pending.truncate(cut);
        // A token that has a part of its text before the stop belongs to the answer.
        self.open.retain(|one| one.start < cut);
        self.open.iter_mut().for_each(|one| one.end = one.end.min(cut));
        true
    }

    /// Takes what no later token can change: not what may become a stop text, nor the bytes of an unfinished character.
    pub(super) fn take(&mut self) -> Ready {
        let free = self.pending.len() - self.stops.iter().map(|stop| overlap(&self.pending, stop)).max().unwrap_or(0);
        // Bytes that can never become a character go out, as replacement characters.
        let whole = free - unfinished(&self.pending[..free]);
        self.hand_out(whole)
    }

    /// Takes all that is left.
    pub(super) fn finish(&mut self) -> Ready {
        self.hand_out(self.pending.len())
    }

    fn hand_out(&mut self, bytes: usize) -> Ready {
        let mut ready =
            Ready { text: String::from_utf8_lossy(&self.pending[..bytes]).into_owned(), ..Ready::default() };
        let complete = self.open.iter().take_while(|one| one.end <= bytes).count();
        for one in self.open.drain(..complete) {
            ready.tokens.push(one.token);
            ready.logprobs.extend(one.logprob);
        }
        self.pending.drain(..bytes);
        for one in &mut self.open {
            one.start = one.start.saturating_sub(bytes);
            one.end -= bytes;
        }
        ready
    }
}

/// Where a text begins in another.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// How many bytes at the end of a text are the beginning of a stop text.
fn overlap(text: &[u8], stop: &[u8]) -> usize {
    let most = text.len().min(stop.len().saturating_sub(1));
    (1..=most).rev().find(|length| stop.starts_with(&text[text.len() - length..])).unwrap_or(0)
}

/// How many bytes at the end of a text begin a character that could still become whole.
fn unfinished(text: &[u8]) -> usize {
    let begins = |length: &usize| {
        std::str::from_utf8(&text[text.len() - length..])
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=text.len().min(3)).find(begins).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes pieces, and returns what was handed out after each, and whether it stopped.
    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut text = Text::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            if text.push(0, piece, None) {
                out.push(text.finish().text);
                return (out, true);
            }
            out.push(text.take().text);
        }
        out.push(text.finish().text);
        (out, false)
    }

    #[test]
    fn characters_are_whole() {
        let smile = "😀".as_bytes();
        let (out, _) = run(&[], &[b"a", &smile[..1], &smile[1..3], &smile[3..], b"b"]);
        assert_eq!(out, ["a", "", "", "😀", "b", ""]);
        // 0xff never begins one; what follows it may.
        let (out, _) = run(&[], &[&[b'x', 0xff, smile[0]], &smile[1..]]);
        assert_eq!(out, ["x\u{fffd}", "😀", ""]);
        let (out, _) = run(&[], &[&smile[..2]]);
        assert_eq!(out, ["", "\u{fffd}"], "the end does not wait");
    }

    #[test]
    fn stop_texts_are_held_back_and_cut_off() {
        let (out, stopped) = run(&["END", "\n\n"], &[b"one\n", b"two E", b"N", b"O E", b"ND rest"]);
        assert_eq!((out.concat(), stopped), ("one\ntwo ENO ".to_owned(), true));
        assert_eq!(out[..3], ["one", "\ntwo ", ""], "what may become a stop waits");
        let (out, stopped) = run(&["abc"], &[b"ab"]);
        assert_eq!((out, stopped), (vec![String::new(), "ab".into()], false), "the end lets go of what never matched");
    }

    #[test]
    fn tokens_come_with_their_text() {
        let mut text = Text::new(vec!["stop".into()]);
        assert!(!text.push(1, b"a st", Some(-0.5)));
        assert_eq!(text.take(), Ready { text: "a ".into(), ..Ready::default() }, "the token is not out yet");
        assert!(!text.push(2, b"", Some(-0.25)) && !text.push(3, b"ay", Some(-1.0)));
        let all = Ready { text: "stay".into(), tokens: vec![1, 2, 3], logprobs: vec![-0.5, -0.25, -1.0] };
        assert_eq!(text.take(), all);
        assert!(!text.push(4, b"x s", None) && text.push(5, b"top", None));
        assert_eq!(text.finish(), Ready { text: "x ".into(), tokens: vec![4], logprobs: vec![] });
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_changed(
            text in "[ab😀é]{0,30}",
            cuts in proptest::collection::vec(1usize..5, 30),
            stops in proptest::collection::vec("[ab😀]{1,4}", 0..3),
        ) {
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (out, stopped) = run(&stops, &pieces);
            let first = stops.iter().filter_map(|stop| text.find(stop)).min();
            prop_assert_eq!(stopped, first.is_some());
            // One that begins earlier may be complete later.
            let least = first.unwrap_or(text.len());
            let out = out.concat();
            prop_assert!(text.starts_with(&out), "{} of {}", out, text);
            prop_assert!(out.len() >= least && stops.iter().all(|stop| !out.contains(stop)));
        }
    }
}
