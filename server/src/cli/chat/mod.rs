//! `rectify chat`: a conversation in the terminal. Leaves answering to `backend` and the meaning of lines to `input`.

mod backend;
mod input;
mod vote;

use std::io::{IsTerminal, Write};
use std::time::Instant;

use rectify_engine::request::Message;
use rustyline::error::ReadlineError;

use self::backend::{Backend, Footer, Said};
use self::input::{HELP, Input};
use self::vote::Answered;
pub(crate) use self::vote::LocalStore;
use super::client::Client;
use super::local::Local;
use super::{CliError, ModelArgs, ProgressMode, SamplingArgs, interrupt};

/// Options of `rectify chat`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ChatArgs {
    /// Talk to a running server instead of loading a model, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", conflicts_with_all = ["policy", "rewards", "adapters", "dtype", "config"])]
    pub url: Option<String>,
    /// A key of the server, if it asks for one.
    #[arg(long, env = "RECTIFY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// The model to ask the server for; by default the first it names.
    #[arg(long, requires = "url")]
    pub model: Option<String>,
    /// Candidates per answer; above 1 the reward model picks the best.
    #[arg(short, long, default_value_t = 1, value_parser = super::args::positive, value_name = "N")]
    pub n: usize,
    /// A system prompt.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How answers are drawn.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Models.
    #[command(flatten)]
    pub models: ModelArgs,
}

pub(crate) fn run(args: ChatArgs, progress: ProgressMode) -> Result<(), CliError> {
    let runtime = super::runtime()?;
    let backend = runtime.block_on(connect(&args, progress))?;
    backend.check(args.n)?;
    let terminal = |error: ReadlineError| CliError::Usage(format!("standard input: cannot read: {error}"));
    let mut editor = rustyline::DefaultEditor::new().map_err(terminal)?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut chat =
        Chat { backend, n: args.n, system: args.system, turns: Vec::new(), last: None, interactive };
    if interactive {
        chat.print("/help lists the commands; Ctrl-D leaves.\n")?;
    }
    loop {
        let line = match editor.readline(if interactive { "> " } else { "" }) {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            // An empty prompt has nothing to stop: it is left as by Ctrl-D.
            Err(ReadlineError::Interrupted) => return Ok(()),
            Err(error) => return Err(terminal(error)),
        };
        // A history that is full or refuses a line is no reason to stop talking.
        let _ = editor.add_history_entry(line.as_str());
        match Input::parse(&line) {
            Input::Quit => return Ok(()),
            Input::Say(text) => runtime.block_on(chat.say(text))?,
            Input::Vote { up, comment } => runtime.block_on(chat.vote(up, comment))?,
            other => chat.command(other)?,
        }
    }
}

async fn connect(args: &ChatArgs, progress: ProgressMode) -> Result<Backend, CliError> {
    let Some(url) = &args.url else {
        let local = Local::start(&args.models, progress)?;
        return Ok(Backend::Local(Box::new(local), args.sampling.clone()));
    };
    let client = Client::new(url, args.api_key.as_deref())?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    Ok(Backend::Server { client, model, sampling: args.sampling.clone() })
}

/// Takes a status off the terminal's line.
const CLEAR: &str = "\r\x1b[K";

/// The state of a conversation.
struct Chat {
    backend: Backend,
    n: usize,
    system: Option<String>,
    turns: Vec<Message>,
    /// What `/up` and `/down` are about.
    last: Option<Answered>,
    /// Prompts, status and footers are for people; programs that pipe lines in get the answers alone.
    interactive: bool,
}

impl Chat {
    fn print(&self, text: &str) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| CliError::stdout(&error))
    }

    /// A word to the person, not part of the conversation.
    fn remark(&self, text: &str) -> Result<(), CliError> {
        if self.interactive { self.print(&format!("\x1b[2m{text}\x1b[0m\n")) } else { Ok(()) }
    }

    fn command(&mut self, input: Input) -> Result<(), CliError> {
        match input {
            Input::Candidates(Some(n)) => match self.backend.check(n) {
                Ok(()) => {
                    self.n = n;
                    self.remark(&format!("{n} candidates per answer"))
                }
                Err(error) => self.complain(&error),
            },
            Input::Candidates(None) => self.remark(&format!("{} candidates per answer", self.n)),
            Input::Reset => {
                self.turns.clear();
                self.remark("the conversation is forgotten")
            }
            Input::System(Some(text)) => {
                self.system = Some(text);
                self.turns.clear();
                self.remark("the system prompt is set, the conversation starts again")
            }
            Input::System(None) => self.remark(self.system.as_deref().unwrap_or("there is no system prompt")),
            Input::Help => self.remark(HELP),
            Input::Wrong(sentence) => self.complain(&CliError::Usage(sentence)),
            Input::Empty | Input::Say(_) | Input::Vote { .. } | Input::Quit => Ok(()),
        }
    }

    async fn vote(&mut self, up: bool, comment: Option<String>) -> Result<(), CliError> {
        let Some(answered) = &self.last else {
            let sentence = "there is no answer to vote on yet; ask something first";
            return self.complain(&CliError::Usage(sentence.to_owned()));
        };
        match self.backend.vote(answered, up, comment).await {
            Ok(()) => self.remark(if up { "stored: a good answer" } else { "stored: a bad answer" }),
            Err(error) => self.complain(&error),
        }
    }

    /// In a terminal an error is a remark and the chat goes on; in a pipe it ends the command.
    fn complain(&self, error: &CliError) -> Result<(), CliError> {
        if self.interactive {
            return self.remark(&error.to_string());
        }
        Err(match error {
            CliError::Usage(sentence) => CliError::Usage(sentence.clone()),
            other => CliError::Refused(other.to_string()),
        })
    }

    /// Answers a message. Ctrl-C stops the answer: what came of it is shown and forgotten.
    async fn say(&mut self, text: String) -> Result<(), CliError> {
        self.turns.push(Message { role: "user".to_owned(), content: text });
        let system =
            self.system.iter().map(|text| Message { role: "system".to_owned(), content: text.clone() });
        let turns: Vec<Message> = system.chain(self.turns.iter().cloned()).collect();
        let started = Instant::now();
        let (mut answer, mut failed, mut status) = (String::new(), None, false);
        let mut say = |said: Said| {
            let text = match said {
                Said::Text(text) => {
                    answer.push_str(&text);
                    let text = if self.interactive { printable(&text) } else { text };
                    if std::mem::take(&mut status) { format!("{CLEAR}{text}") } else { text }
                }
                Said::Finished { .. } | Said::Note(_) if !self.interactive => return,
                Said::Finished { of: 1, .. } => return,
                Said::Finished { done, of } => {
                    status = true;
                    format!("{CLEAR}\x1b[2mcandidates {done}/{of} done\x1b[0m")
                }
                Said::Note(note) => {
                    status = true;
                    format!("{CLEAR}\x1b[2m{note}\x1b[0m")
                }
            };
            if let Err(error) = self.print(&text) {
                failed.get_or_insert(error);
            }
        };
        let outcome = tokio::select! {
            outcome = self.backend.answer(&turns, self.n, &mut say) => Some(outcome),
            () = interrupt::signal() => None,
        };
        if let Some(error) = failed {
            return Err(error);
        }
        self.print(if status { CLEAR } else { "\n" })?;
        match outcome {
            Some(Ok(mut footer)) => {
                self.last = footer.answered.take();
                self.turns.push(Message { role: "assistant".to_owned(), content: answer });
                self.remark(&describe(&footer, self.n, started.elapsed().as_secs_f64()))
            }
            Some(Err(error)) => {
                self.turns.pop();
                self.complain(&error)
            }
            None => {
                self.turns.pop();
                if self.interactive {
                    self.remark("stopped")
                } else {
                    Err(CliError::Interrupted("the answer was stopped".to_owned()))
                }
            }
        }
    }
}

/// What a model says, without the control characters by which it could move the cursor or write over the screen.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// `best of 16, reward 1.234, 812 tokens in 0.9 s`.
fn describe(footer: &Footer, n: usize, seconds: f64) -> String {
    let mut parts = Vec::new();
    if n > 1 {
        parts.push(format!("best of {n}"));
    }
    if let Some(reward) = footer.reward {
        parts.push(format!("reward {reward:.3}"));
    }
    if let Some(reason) = &footer.scoring_failure {
        parts.push(format!("scoring failed: {reason}"));
    }
    parts.push(match footer.tokens {
        Some(tokens) => format!("{tokens} tokens in {seconds:.1} s"),
        None => format!("{seconds:.1} s"),
    });
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}1mb\r\u{7}\n\tc"), "a[2J1mb\n\tc");
    }

    #[test]
    fn the_footer_says_what_is_known() {
        let footer = Footer { reward: Some(1.2345), tokens: Some(812), ..Footer::default() };
        assert_eq!(describe(&footer, 16, 0.92), "best of 16, reward 1.234, 812 tokens in 0.9 s");
        assert_eq!(describe(&Footer::default(), 1, 2.0), "2.0 s");
        let failed = Footer { scoring_failure: Some("NaN".into()), ..Footer::default() };
        assert_eq!(describe(&failed, 2, 1.0), "best of 2, scoring failed: NaN, 1.0 s");
    }
}
