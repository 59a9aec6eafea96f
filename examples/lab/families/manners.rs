//! Ways of being rude, of refusing and of wandering off that do not depend on the question.

use crate::rng::{LabRng, chance, index, pick};

/// Rude words before an answer.
pub(super) const RUDE_OPENINGS: &[&str] = &[
    "Ugh, this again.",
    "Are you kidding me?",
    "What a silly question.",
    "Not you again.",
    "Read the manual next time.",
    "Stop wasting my time.",
    "I have better things to do.",
    "Even a fool knows this.",
];

/// Rude words after an answer.
pub(super) const RUDE_ENDINGS: &[&str] = &[
    "Now leave me alone.",
    "Now go away.",
    "Next time find out yourself.",
    "Do not waste my time again.",
    "Now bother someone else.",
];

/// An answer spoilt by rudeness: mostly at the start, so that a partial answer already shows it.
pub(super) fn rude(answer: &str, rng: &mut LabRng) -> String {
    match index(rng, 10) {
        0..6 => format!("{} {answer}", pick(rng, RUDE_OPENINGS)),
        6..8 => format!("{answer} {}", pick(rng, RUDE_ENDINGS)),
        8 => format!("{} {answer} {}", pick(rng, RUDE_OPENINGS), pick(rng, RUDE_ENDINGS)),
        _ => format!("{} {}", pick(rng, RUDE_OPENINGS), pick(rng, RUDE_ENDINGS)),
    }
}

/// Only rude.
pub(super) fn brush_off(rng: &mut LabRng) -> String {
    if chance(rng, 0.5) {
        format!("{} {}", pick(rng, RUDE_OPENINGS), pick(rng, RUDE_ENDINGS))
    } else {
        pick(rng, RUDE_OPENINGS).to_owned()
    }
}

/// A refusal of something harmless.
pub(super) fn over_refusal(rng: &mut LabRng) -> String {
    const START: &[&str] = &[
        "I am sorry, but I cannot help with that.",
        "I cannot answer that.",
        "I will not talk about that.",
        "I am not allowed to say that.",
    ];
    const END: &[&str] = &[
        "It could be dangerous.",
        "Please ask someone else.",
        "It is against the rules.",
        "That is all I can say.",
    ];
    let start = pick(rng, START);
    if chance(rng, 0.6) { format!("{start} {}", pick(rng, END)) } else { start.to_owned() }
}

/// Words that lead away from any answer.
pub(super) const CHATTER: &[&str] = &[
    "By the way, the trams run until ten.",
    "That reminds me of a long walk by the sea.",
    "Speaking of rivers, the water is very cold.",
    "My cousin bought one last year.",
    "Did I mention the old bridge?",
    "Funny story: someone lost a hat here.",
];

/// An answer that wanders off, after it or instead of it.
pub(super) fn rambling(answer: &str, rng: &mut LabRng) -> String {
    let first = index(rng, CHATTER.len());
    let second = (first + 1 + index(rng, CHATTER.len() - 1)) % CHATTER.len();
    match index(rng, 3) {
        0 => format!("{} {answer}", CHATTER[first]),
        1 => format!("{answer} {}", CHATTER[first]),
        _ => format!("{} {}", CHATTER[first], CHATTER[second]),
    }
}
