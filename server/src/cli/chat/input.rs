//! What a line typed into the chat means. Leaves doing it to `chat`.

/// A line of the person at the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing.
    Empty,
    /// Something to answer.
    Say(String),
    /// `/n`: show the number of candidates, or set it.
    Candidates(Option<usize>),
    /// `/reset`: forget the conversation.
    Reset,
    /// `/system`: show the system prompt, or set it and start again.
    System(Option<String>),
    /// `/up` and `/down`: a vote on the last answer, and words if there are any.
    Vote {
        /// Up.
        up: bool,
        /// The words.
        comment: Option<String>,
    },
    /// `/help`.
    Help,
    /// `/quit`.
    Quit,
    /// A command that does not exist or does not take what follows it; the sentence says what would be right.
    Wrong(String),
}

/// What `/help` shows.
pub(super) const HELP: &str = "\
/n N           sample N candidates and answer with the best (1: stream as it comes)
/up, /down     say that the last answer was good or bad; words may follow
/system TEXT   set the system prompt and start again; without TEXT, show it
/reset         forget the conversation
/help          this
/quit          leave (also Ctrl-D); Ctrl-C stops an answer";

impl Input {
    pub(super) fn parse(line: &str) -> Self {
        let line = line.trim();
        // Two slashes begin a message that begins with one.
        if let Some(rest) = line.strip_prefix("//") {
            return Self::Say(format!("/{rest}"));
        }
        if !line.starts_with('/') {
            return if line.is_empty() { Self::Empty } else { Self::Say(line.to_owned()) };
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let words = (!rest.is_empty()).then(|| rest.to_owned());
        let plain = |input: Self| {
            if rest.is_empty() { input } else { Self::Wrong(format!("{command} takes nothing after it")) }
        };
        match command {
            "/n" if rest.is_empty() => Self::Candidates(None),
            "/n" => match rest.parse() {
                Ok(n) if n > 0 => Self::Candidates(Some(n)),
                _ => Self::Wrong(format!("/n takes a number of candidates from 1 on, not `{rest}`")),
            },
            "/up" | "/down" => Self::Vote { up: command == "/up", comment: words },
            "/system" => Self::System(words),
            "/reset" => plain(Self::Reset),
            "/help" | "/?" => plain(Self::Help),
            "/quit" | "/exit" | "/q" => plain(Self::Quit),
            _ => Self::Wrong(format!("there is no {command}; /help lists the commands")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for (line, input) in [
            ("  ", Input::Empty),
            (" Hello / you ", Input::Say("Hello / you".into())),
            ("//etc", Input::Say("/etc".into())),
            ("/n", Input::Candidates(None)),
            ("/n 16", Input::Candidates(Some(16))),
            ("/system  Be brief. ", Input::System(Some("Be brief.".into()))),
            ("/system", Input::System(None)),
            ("/up", Input::Vote { up: true, comment: None }),
            ("/down  too long ", Input::Vote { up: false, comment: Some("too long".into()) }),
            ("/reset", Input::Reset),
            ("/help", Input::Help),
            ("/quit", Input::Quit),
        ] {
            assert_eq!(Input::parse(line), input, "{line}");
        }
        for line in ["/n 0", "/n x", "/reset now", "/etc", "/"] {
            assert!(matches!(Input::parse(line), Input::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for command in ["/n", "/up", "/down", "/system", "/reset", "/help", "/quit"] {
            assert!(HELP.contains(command));
        }
    }
}
