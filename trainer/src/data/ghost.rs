//! Ghost Attention (Llama 2, arXiv:2307.09288 §3.3): in training data the system prompt stands before every user turn, so
//! that a model keeps to it over many turns. Leaves the loss, which the last answer alone bears, to the reader.

use rectify_feedback::Message;

/// The conversation with the text of its system prompt before every user turn; the system turn itself stays, since it
/// is all that a served conversation has. A conversation without one is as it was.
pub fn ghost_attention(messages: &[Message]) -> Vec<Message> {
    let system = messages.iter().find(|message| message.role == "system" && !message.content.is_empty());
    let Some(system) = system else { return messages.to_vec() };
    let repeat = |message: &Message| match message.role.as_str() {
        "user" => Message::new("user", format!("{}\n\n{}", system.content, message.content)),
        _ => message.clone(),
    };
    messages.iter().map(repeat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_turn_begins_with_the_system_prompt() {
        let turn = Message::new;
        let chat =
            [turn("system", "Rhyme."), turn("user", "Hi"), turn("assistant", "Why?"), turn("user", "Bye")];
        let ghost = ghost_attention(&chat);
        let contents: Vec<&str> = ghost.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(contents, ["Rhyme.", "Rhyme.\n\nHi", "Why?", "Rhyme.\n\nBye"]);
        assert_eq!(ghost_attention(&chat[1..]), chat[1..]);
    }
}
