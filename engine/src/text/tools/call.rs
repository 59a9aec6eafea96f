//! Reads one call, an object with a name and arguments in any order, from a text that comes character by character.
//! Leaves what stands around it to `parser`.

use super::value::{Step, ValueScanner};

/// The object of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct CallScanner {
    state: State,
    key: String,
    value: String,
    name: Option<String>,
    /// Arguments whose name is not known yet.
    early: String,
    has_arguments: bool,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Open,
    Key,
    InKey {
        is_escaped: bool,
    },
    Colon,
    Value(ValueScanner),
    Comma,
}

/// What a character led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallEvent {
    /// The name is known.
    Name(String),
    /// More of the arguments.
    Arguments(String),
    /// The object is complete.
    Done,
    /// It is no call.
    Failed,
}

impl CallScanner {
    /// Takes the next character; what it led to goes to `events`.
    pub(super) fn push(&mut self, c: char, events: &mut Vec<CallEvent>) {
        match &mut self.state {
            State::Open if c == '{' => self.state = State::Key,
            State::Key if c == '"' => {
                self.key.clear();
                self.state = State::InKey { is_escaped: false };
            }
            State::InKey { is_escaped } => match c {
                '"' if !*is_escaped => self.state = State::Colon,
                c => {
                    *is_escaped = c == '\\' && !*is_escaped;
                    self.key.push(c);
                }
            },
            State::Colon if c == ':' => {
                self.value.clear();
                self.state = State::Value(ValueScanner::default());
            }
            State::Value(scanner) => {
                let step = scanner.step(c);
                let is_text = scanner.is_text();
                match step {
                    Step::Before => {}
                    Step::Inside => self.more(c, is_text, events),
                    Step::Last => {
                        self.more(c, is_text, events);
                        self.end_of_value(is_text, events);
                    }
                    Step::After => {
                        self.end_of_value(is_text, events);
                        self.push(c, events);
                    }
                    Step::Wrong => events.push(CallEvent::Failed),
                }
            }
            State::Comma if c == ',' => self.state = State::Key,
            State::Comma | State::Key if c == '}' => self.end(events),
            State::Open | State::Key | State::Colon | State::Comma if c.is_ascii_whitespace() => {}
            _ => events.push(CallEvent::Failed),
        }
    }

    fn are_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    fn more(&mut self, c: char, is_text: bool, events: &mut Vec<CallEvent>) {
        // Arguments go out as they come; a name, and arguments in a string, only when they are whole.
        if self.are_arguments() && !is_text {
            self.arguments(c.to_string(), events);
        } else if is_text || self.key == "name" {
            self.value.push(c);
        }
    }

    fn end_of_value(&mut self, is_text: bool, events: &mut Vec<CallEvent>) {
        self.state = State::Comma;
        let text = || serde_json::from_str::<String>(&self.value).ok().filter(|_| is_text);
        if self.key == "name" {
            let Some(name) = text().filter(|name| !name.is_empty()) else {
                return events.push(CallEvent::Failed);
            };
            if self.name.is_none() {
                self.name = Some(name.clone());
                events.push(CallEvent::Name(name));
                let early = std::mem::take(&mut self.early);
                if !early.is_empty() {
                    events.push(CallEvent::Arguments(early));
                }
            }
        } else if self.are_arguments() && is_text {
            // Some models write the arguments' JSON into a string.
            match text() {
                Some(arguments) => self.arguments(arguments, events),
                None => events.push(CallEvent::Failed),
            }
        }
    }

    fn arguments(&mut self, text: String, events: &mut Vec<CallEvent>) {
        self.has_arguments = true;
        if self.name.is_some() {
            events.push(CallEvent::Arguments(text));
        } else {
            self.early.push_str(&text);
        }
    }

    fn end(&mut self, events: &mut Vec<CallEvent>) {
        if self.name.is_none() {
            return events.push(CallEvent::Failed);
        }
        if !self.has_arguments {
            events.push(CallEvent::Arguments("{}".to_owned()));
        }
        events.push(CallEvent::Done);
    }
}
