//! The words that an answer may be made of: those of the world's own texts, and the common words of English. A policy
//! that writes `upsem` for `upset` is told from one that words things differently.

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::rng::rng_for;
use crate::task::{Split, World};
use crate::text::Answer;

/// Texts drawn per category to gather the world's words: enough that each of its sentences comes many times.
const DRAWS: usize = 1500;

/// Common words that other ways of saying things need.
const COMMON: &str = "a about above across after again against all almost alone along already also although always am among an \
    and angry annoying another answer any anybody anyone anything apologise apologize are around as ask at away back \
    bad badly be because been before begin begins behind being below best better between big bit both but by call \
    called calm came can cannot capital capitals care carefully change check choose clear close colder come comes \
    correct cost costs could count day days dear decline did didn't difference different difficult do does doesn't \
    doing don't done down each easily easy either else email end ends enough even evening ever every everyone \
    everything example explain false far fast feel few fifth find fine first five follow for forty found four fourth \
    friendly from full further gave get gets give given glad go goes going good got great had happen happened happens \
    happy hard has have having he hear hello help helped helpful here hers him his hold hour hours how however i i'd \
    i'll i'm i've idea if important in indeed instead into is isn't it it's its itself job just keep kind kindly know \
    known last late later least left less let let's letter letters like likely little long longer look looks lot made \
    make makes man many matter may maybe me mean means meant meet might mind minute minutes mistake moment money month \
    more morning most much must my myself name need needed needs never new next nice night no nobody none noon nor not \
    nothing now number numbers of off offer often ok okay old on once one ones only open opens or order other others \
    otherwise our out over own part past people perhaps person phone place plan please pleased plug point possible \
    press problem put question questions quick quickly quite rather read ready really reason regret repeat reply rest \
    result right said same say says second seconds see seem sees send sent set several shall she short should show \
    shows simple simply since single six small so some somebody someone something sometimes somewhere soon sorry \
    speak spell spelled spelt start starts stay step steps still stop such sum sure take taken takes talk tell ten \
    than thank thanks that that's the their theirs them themselves then there there's these they thing things think \
    third this those though three through time times to today together told tomorrow too total true try turn two type \
    unable under understand unfair unfortunately unkind until up upon upset us use used useful uses using usual very \
    wait want wants was wasn't way we well went were what what's whatever when where whether which while who whole \
    whose why will wish with within without won't word words work worked works worry worse would write writes wrong \
    year years yes yesterday yet you you'd you'll you're you've your yours plus minus equals equal makes add adding \
    subtract subtracting gives carry zero seven eight nine eleven twelve pid signal shell become becomes";

/// The first word that neither the world nor common English has; letters alone and numbers are words, and so is what
/// `may_say` allows.
pub fn unknown_word<'a>(answer: &'a Answer, may_say: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    let known = lexicon();
    let strange = |word: &&String| {
        let is_name = word.chars().count() < 2 || word.chars().all(|c| c.is_ascii_digit());
        !is_name && !known.contains(*word) && !may_say(word)
    };
    answer.words().iter().find(strange).map(String::as_str)
}

fn lexicon() -> &'static HashSet<String> {
    static LEXICON: OnceLock<HashSet<String>> = OnceLock::new();
    LEXICON.get_or_init(|| {
        let mut words: HashSet<String> = COMMON.split_whitespace().map(str::to_owned).collect();
        let mut rng = rng_for(0, "lexicon");
        for &category in World::Demo.categories() {
            for draw in 0..DRAWS {
                let split = if draw % 2 == 0 { Split::Train } else { Split::HeldOut };
                let item = category.sample(split, &mut rng);
                let flaw = category.draw_flaw(&mut rng);
                for text in [item.task.good(&mut rng), item.task.flawed(flaw, &mut rng), item.prompt] {
                    words.extend(Answer::new(&text).words().iter().cloned());
                }
            }
        }
        words
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_words_are_told_from_other_words() {
        assert_eq!(unknown_word(&Answer::new("I am sorry that you are upsem."), &|_| false), Some("upsem"));
        assert_eq!(
            unknown_word(&Answer::new("I understand. Maybe we could start again tomorrow?"), &|_| false),
            None
        );
        assert_eq!(unknown_word(&Answer::new("It costs 40 credits; p l u m."), &|_| false), None);
    }
}
