//! Separates an answer into text and calls while it comes, wherever its pieces end. Leaves reasoning to `reasoning` and
//! ids of calls to `server`.

use super::ToolFormat;
use super::call::{CallEvent, CallScanner};
use super::value::{Step, ValueScanner};

/// Something that became certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolDelta {
    /// Text beside the calls.
    Content(String),
    /// A call begins.
    Call {
        /// Counts the answer's calls.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of a call's arguments: JSON as the model writes it.
    Arguments {
        /// The call.
        index: usize,
        /// The next part.
        text: String,
    },
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct ToolParser {
    format: ToolFormat,
    /// Functions there are; Llama's calls look like any JSON, so there only these are calls.
    known: Vec<String>,
    state: State,
    /// Text that may be the beginning of a call, or white space before one.
    held: String,
    /// What is read of a call that has no name yet: it is text if it turns out to be no call.
    raw: String,
    calls: usize,
    /// Nothing but white space so far.
    at_start: bool,
}

#[derive(Clone, Debug)]
enum State {
    Text,
    /// Behind a marker.
    Opened,
    Object {
        scanner: CallScanner,
        has_name: bool,
        in_list: bool,
    },
    /// Behind an object.
    Closed {
        in_list: bool,
    },
    /// Mistral's later form: the name, then the arguments.
    Name,
    Arguments(ValueScanner),
    /// Whatever comes is text.
    Rest,
}

impl ToolParser {
    /// At the start of an answer; `known` are the functions' names.
    pub fn new(format: ToolFormat, known: Vec<String>) -> Self {
        Self {
            format,
            known,
            state: State::Text,
            held: String::new(),
            raw: String::new(),
            calls: 0,
            at_start: true,
        }
    }

    /// Calls that have begun.
    pub fn num_calls(&self) -> usize {
        self.calls
    }

    /// Takes the next piece; what became certain with it, neighbours of a kind joined.
    pub fn push(&mut self, piece: &str) -> Vec<ToolDelta> {
        let mut out = Vec::new();
        piece.chars().for_each(|c| self.step(c, &mut out));
        out
    }

    /// What was held back, at the end of the answer.
    pub fn finish(&mut self) -> Vec<ToolDelta> {
        let mut out = Vec::new();
        if matches!(self.state, State::Closed { .. }) {
            self.held.clear();
        }
        let raw = std::mem::take(&mut self.raw);
        self.held.push_str(&raw);
        let held = std::mem::take(&mut self.held);
        // White space behind the last call says nothing.
        if self.calls == 0 || !held.trim().is_empty() {
            content(held, &mut out);
        }
        self.state = State::Rest;
        out
    }

    fn step(&mut self, c: char, out: &mut Vec<ToolDelta>) {
        match &mut self.state {
            State::Rest => content(c.to_string(), out),
            State::Text => self.text(c, out),
            State::Opened => self.opened(c, out),
            State::Object { scanner, has_name, .. } => {
                let mut events = Vec::new();
                scanner.push(c, &mut events);
                if !*has_name {
                    self.raw.push(c);
                }
                events.into_iter().for_each(|event| self.call(event, out));
            }
            State::Closed { in_list } => match (self.format, c) {
                (ToolFormat::Mistral { .. }, ',') if *in_list => self.object(true),
                (ToolFormat::Mistral { .. }, ']') if *in_list => self.state = State::Text,
                (ToolFormat::Llama3, ';' | ',') => self.state = State::Opened,
                (ToolFormat::Llama3, '{') => {
                    self.object(false);
                    self.step(c, out);
                }
                (ToolFormat::Hermes, _) => {
                    // Only the closing tag is expected here; anything else goes on as text behind it.
                    self.held.push(c);
                    if self.held.trim_start() == "</tool_call>" {
                        self.held.clear();
                        self.state = State::Text;
                    } else if !"</tool_call>".starts_with(self.held.trim_start()) {
                        self.again(out);
                    }
                }
                (_, c) if c.is_whitespace() => {}
                _ => {
                    self.state = State::Text;
                    self.step(c, out);
                }
            },
            State::Name => {
                self.raw.push(c);
                if c == '{' {
                    let name = self.raw.trim_start_matches(self.format.opening()).trim_end_matches('{');
                    // Markers such as `[ARGS]` stand behind it.
                    let name = name.split('[').next().unwrap_or(name).trim().to_owned();
                    self.begin(name, out);
                    self.state = State::Arguments(ValueScanner::default());
                    self.step(c, out);
                } else if self.raw.len() > 256 {
                    self.fail(out);
                }
            }
            State::Arguments(scanner) => match scanner.step(c) {
                step @ (Step::Inside | Step::Last) => {
                    self.arguments(c.to_string(), out);
                    if step == Step::Last {
                        self.state = State::Text;
                    }
                }
                Step::Before | Step::After | Step::Wrong => {}
            },
        }
    }

    fn text(&mut self, c: char, out: &mut Vec<ToolDelta>) {
        let opening = self.format.opening();
        self.held.push(c);
        let trimmed = self.held.trim_start();
        if trimmed == opening {
            self.raw = std::mem::take(&mut self.held);
            self.state = State::Opened;
        } else if self.at_start && self.format == ToolFormat::Llama3 && trimmed == "{" {
            self.raw = std::mem::take(&mut self.held);
            self.raw.pop();
            self.object(false);
            self.step(c, out);
        } else if !opening.starts_with(trimmed) {
            // The first character is certain to be text; what follows it may yet begin a call.
            self.at_start = false;
            let whitespace = self.held.len() - trimmed.len();
            let first = trimmed.chars().next().map_or(0, char::len_utf8);
            let rest = self.held.split_off(whitespace + first);
            content(std::mem::take(&mut self.held), out);
            rest.chars().for_each(|c| self.text(c, out));
        }
    }

    fn opened(&mut self, c: char, out: &mut Vec<ToolDelta>) {
        match (self.format, c) {
            (_, c) if c.is_whitespace() => self.raw.push(c),
            (ToolFormat::Mistral { .. }, '[') => {
                self.raw.push(c);
                self.object(true);
            }
            (_, '{') => {
                self.object(false);
                self.step(c, out);
            }
            (ToolFormat::Mistral { .. }, _) => {
                self.raw.push(c);
                self.state = State::Name;
            }
            _ => {
                self.raw.push(c);
                self.fail(out);
            }
        }
    }

    fn object(&mut self, in_list: bool) {
        self.state = State::Object { scanner: CallScanner::default(), has_name: false, in_list };
    }

    fn call(&mut self, event: CallEvent, out: &mut Vec<ToolDelta>) {
        let State::Object { has_name, in_list, .. } = &mut self.state else { return };
        match event {
            CallEvent::Name(name) => {
                let is_call = self.format != ToolFormat::Llama3 || self.known.contains(&name);
                if !is_call {
                    return self.fail(out);
                }
                *has_name = true;
                self.begin(name, out);
            }
            CallEvent::Arguments(text) => self.arguments(text, out),
            CallEvent::Done => {
                self.state = State::Closed { in_list: *in_list };
                self.raw.clear();
            }
            // Half a call was told already: what follows is text.
            CallEvent::Failed if *has_name => self.state = State::Text,
            CallEvent::Failed => self.fail(out),
        }
    }

    fn begin(&mut self, name: String, out: &mut Vec<ToolDelta>) {
        self.raw.clear();
        out.push(ToolDelta::Call { index: self.calls, name });
        self.calls += 1;
    }

    fn arguments(&mut self, more: String, out: &mut Vec<ToolDelta>) {
        let index = self.calls.saturating_sub(1);
        match out.last_mut() {
            Some(ToolDelta::Arguments { index: last, text }) if *last == index => text.push_str(&more),
            _ => out.push(ToolDelta::Arguments { index, text: more }),
        }
    }

    /// It was no call: it is text, and so is the rest of an answer that began like Llama's JSON.
    fn fail(&mut self, out: &mut Vec<ToolDelta>) {
        let raw = std::mem::take(&mut self.raw);
        self.at_start = false;
        self.state = if self.format == ToolFormat::Llama3 { State::Rest } else { State::Text };
        content(raw, out);
    }

    /// Reads what was held once more, as text.
    fn again(&mut self, out: &mut Vec<ToolDelta>) {
        self.state = State::Text;
        let held = std::mem::take(&mut self.held);
        held.chars().for_each(|c| self.text(c, out));
    }
}

fn content(more: String, out: &mut Vec<ToolDelta>) {
    if more.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(ToolDelta::Content(text)) => text.push_str(&more),
        _ => out.push(ToolDelta::Content(more)),
    }
}
