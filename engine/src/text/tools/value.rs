//! Finds the end of a JSON value in a text that comes character by character. Leaves its meaning to whoever wants it.

/// A value that is being read. It need not be valid inside: brackets are counted, strings are skipped.
#[derive(Clone, Debug, Default)]
pub(super) struct ValueScanner {
    depth: usize,
    kind: Kind,
    in_string: bool,
    is_escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    Nested,
    Text,
    /// A number or a word.
    Plain,
}

/// What a character is to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// White space before it.
    Before,
    /// Part of it.
    Inside,
    /// Its last character.
    Last,
    /// No longer part of it: a number or word ended before this character.
    After,
    /// It cannot begin with this character.
    Wrong,
}

impl ValueScanner {
    /// Whether the value is a string.
    pub(super) fn is_text(&self) -> bool {
        self.kind == Kind::Text
    }

    pub(super) fn step(&mut self, c: char) -> Step {
        if self.in_string {
            match c {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.kind == Kind::Text {
                        return Step::Last;
                    }
                }
                _ => {}
            }
            return Step::Inside;
        }
        match self.kind {
            Kind::Unknown => self.begin(c),
            Kind::Nested => {
                match c {
                    '"' => self.in_string = true,
                    '{' | '[' => self.depth += 1,
                    '}' | ']' => {
                        self.depth -= 1;
                        if self.depth == 0 {
                            return Step::Last;
                        }
                    }
                    _ => {}
                }
                Step::Inside
            }
            Kind::Plain if c == ',' || c == '}' || c == ']' || c.is_ascii_whitespace() => Step::After,
            Kind::Plain | Kind::Text => Step::Inside,
        }
    }

    fn begin(&mut self, c: char) -> Step {
        self.kind = match c {
            c if c.is_ascii_whitespace() => return Step::Before,
            '{' | '[' => {
                self.depth = 1;
                Kind::Nested
            }
            '"' => {
                self.in_string = true;
                Kind::Text
            }
            c if c.is_ascii_alphanumeric() || c == '-' => Kind::Plain,
            _ => return Step::Wrong,
        };
        Step::Inside
    }
}
