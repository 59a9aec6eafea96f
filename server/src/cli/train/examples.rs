//! Examples of a dry run for people: the text, and which of its tokens bear loss, in colour on a terminal and in brackets
//! elsewhere. Leaves choosing and rendering them to the trainer.

use std::io::{IsTerminal, Write};

use rectify_trainer::{Example, ExampleText};

/// Green and bold.
const LOSS: &str = "\u{1b}[1;32m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

/// Writes an example to standard output.
pub(super) fn show(example: &Example) {
    let mut out = std::io::stdout().lock();
    let text = render(example, out.is_terminal());
    // A closed standard output is no failure of the data.
    let _ = out.write_all(text.as_bytes());
}

fn render(example: &Example, colour: bool) -> String {
    let mut out = String::new();
    for text in &example.texts {
        let ExampleText { name, num_tokens, num_loss_tokens, .. } = text;
        let head = format!(
            "── example {}, {name}: {num_tokens} tokens, {num_loss_tokens} bear loss",
            example.number
        );
        out += &if colour { format!("{DIM}{head}{RESET}\n") } else { format!("{head}\n") };
        for (piece, learnt) in &text.pieces {
            let piece = plain(piece);
            out += &match (learnt, colour) {
                (false, _) => piece,
                (true, true) => format!("{LOSS}{piece}{RESET}"),
                (true, false) => format!("[[{piece}]]"),
            };
        }
        out += "\n";
    }
    out
}

/// The text without what would move a terminal's cursor.
fn plain(text: &str) -> String {
    let safe =
        |c: char| if c.is_control() && c != '\n' { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bears_loss_stands_in_brackets_or_in_colour() {
        let pieces = vec![("user: Hi\u{7}\n".to_owned(), false), ("Yo<eos>".to_owned(), true)];
        let text = ExampleText { name: "text", num_tokens: 9, num_loss_tokens: 2, pieces };
        let example = Example { number: 1, texts: vec![text] };
        assert_eq!(
            render(&example, false),
            "── example 1, text: 9 tokens, 2 bear loss\nuser: Hi\\u{7}\n[[Yo<eos>]]\n"
        );
        assert!(render(&example, true).contains("\n\u{1b}[1;32mYo<eos>\u{1b}[0m\n"));
    }
}
