//! Separates what a model thinks (`<think>` … `</think>`) from what it answers, while it comes. Leaves calls of tools to
//! `tools`.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Something that became certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReasoningDelta {
    /// A thought.
    Reasoning(String),
    /// A part of the answer.
    Content(String),
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct ReasoningParser {
    state: State,
    /// White space, or the beginning of a mark.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far.
    Start,
    /// White space behind the opening mark.
    Opened,
    Thinking,
    /// White space behind the closing mark.
    Closed,
    Answering,
}

/// Whether the models of a chat template write their thoughts between the marks.
pub fn marks_reasoning(template: &str) -> bool {
    template.contains(CLOSE)
}

/// Whether an answer behind this prompt begins inside the thoughts: some templates open them.
pub fn is_open_after(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

impl ReasoningParser {
    /// At the start of an answer behind a prompt that did (`is_open`) or did not open the thoughts.
    pub fn new(is_open: bool) -> Self {
        Self { state: if is_open { State::Opened } else { State::Start }, held: String::new() }
    }

    /// Takes the next piece; what became certain with it, neighbours of a kind joined.
    pub fn push(&mut self, piece: &str) -> Vec<ReasoningDelta> {
        let mut out = Vec::new();
        if self.state == State::Answering {
            emit(ReasoningDelta::Content(piece.to_owned()), &mut out);
        } else {
            piece.chars().for_each(|c| self.step(c, &mut out));
        }
        out
    }

    /// What was held back, at the end of the answer.
    pub fn finish(&mut self) -> Vec<ReasoningDelta> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::new();
        match self.state {
            State::Opened | State::Thinking => emit(ReasoningDelta::Reasoning(held), &mut out),
            State::Closed => {}
            State::Start | State::Answering => emit(ReasoningDelta::Content(held), &mut out),
        }
        out
    }

    fn step(&mut self, c: char, out: &mut Vec<ReasoningDelta>) {
        match self.state {
            State::Answering => emit(ReasoningDelta::Content(c.to_string()), out),
            State::Start => {
                self.held.push(c);
                let trimmed = self.held.trim_start();
                if trimmed == OPEN {
                    self.held.clear();
                    self.state = State::Opened;
                } else if !OPEN.starts_with(trimmed) {
                    self.state = State::Answering;
                    emit(ReasoningDelta::Content(std::mem::take(&mut self.held)), out);
                }
            }
            State::Opened if c.is_whitespace() => {}
            State::Closed if c.is_whitespace() => {}
            State::Closed => {
                self.state = State::Answering;
                self.step(c, out);
            }
            State::Opened | State::Thinking => {
                self.state = State::Thinking;
                self.held.push(c);
                let trimmed = self.held.trim_start();
                if trimmed == CLOSE {
                    self.held.clear();
                    self.state = State::Closed;
                } else if !CLOSE.starts_with(trimmed) {
                    let whitespace = self.held.len() - trimmed.len();
                    let first = trimmed.chars().next().map_or(0, char::len_utf8);
                    let rest = self.held.split_off(whitespace + first);
                    emit(ReasoningDelta::Reasoning(std::mem::take(&mut self.held)), out);
                    rest.chars().for_each(|c| self.step(c, out));
                }
            }
        }
    }
}

fn emit(delta: ReasoningDelta, out: &mut Vec<ReasoningDelta>) {
    match (delta, out.last_mut()) {
        (ReasoningDelta::Reasoning(more) | ReasoningDelta::Content(more), _) if more.is_empty() => {}
        (ReasoningDelta::Reasoning(more), Some(ReasoningDelta::Reasoning(text)))
        | (ReasoningDelta::Content(more), Some(ReasoningDelta::Content(text))) => text.push_str(&more),
        (delta, _) => out.push(delta),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Thoughts and answer.
    fn read(is_open: bool, pieces: &[&str]) -> (String, String) {
        let (mut parser, mut thoughts, mut answer) =
            (ReasoningParser::new(is_open), String::new(), String::new());
        let mut deltas: Vec<ReasoningDelta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        deltas.extend(parser.finish());
        for delta in deltas {
            match delta {
                ReasoningDelta::Reasoning(text) => thoughts.push_str(&text),
                ReasoningDelta::Content(text) => answer.push_str(&text),
            }
        }
        (thoughts, answer)
    }

    #[test]
    fn thoughts_and_answer_are_told_apart() {
        for (is_open, text, thoughts, answer) in [
            (
                false,
                "<think>\nIs 1 < 2?\n\nYes. </b>\n</think>\n\nYes.\n",
                "Is 1 < 2?\n\nYes. </b>",
                "Yes.\n",
            ),
            (true, "\nHm.</think>Yes.", "Hm.", "Yes."),
            (true, "cut off </thi", "cut off </thi", ""),
            (false, " no thoughts <think>", "", " no thoughts <think>"),
            (false, "<thin", "", "<thin"),
            (false, "\n<think>\n</think>\n", "", ""),
        ] {
            assert_eq!(read(is_open, &[text]), (thoughts.into(), answer.into()), "{text:?}");
        }
        assert!(is_open_after("<|assistant|><think>\n") && !is_open_after("<think>\n\n</think>\n\n"));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            parts in prop::collection::vec(prop::sample::select(vec!["<think>", "</think>", "<", "/", "a", "é", "\n", " "]), 0..12),
            is_open: bool,
            size in 1usize..5,
        ) {
            let text = parts.concat();
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(size).map(|chunk| chunk.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(read(is_open, &pieces), read(is_open, &[&text]));
        }
    }
}
