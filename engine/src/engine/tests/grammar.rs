//! Answers under grammars, on fake models.

use super::*;
use crate::grammar::Spelling;
use crate::testing::VOCAB;
use crate::{Grammar, GrammarSpec, Grammars, TokenBytes};

fn grammar(spec: &GrammarSpec) -> Option<Arc<Grammar>> {
    let vocabulary = FakeVocabulary::new();
    let spelling = |token| match token {
        EOS => Spelling { bytes: b"<end>", is_special: true },
        token => Spelling { bytes: vocabulary.token_bytes(token), is_special: false },
    };
    Some(Grammars::new(VOCAB, &[EOS], spelling).unwrap().compile(spec).unwrap())
}

fn pattern(pattern: &str) -> Option<Arc<Grammar>> {
    grammar(&GrammarSpec::Regex(pattern.into()))
}

#[test]
fn every_candidate_follows_the_grammar_to_its_end() {
    let mut request = generate(&[7, 8, 9], 12, 64);
    request.sampling.grammar = pattern("(ab|cd)*x[a-f]{3}é");
    let answer = Harness::new(Setup::roomy()).run(request);
    let follows = regex::Regex::new("^(ab|cd)*x[a-f]{3}é$").unwrap();
    assert!(answer.texts.iter().all(|text| follows.is_match(text)), "{:?}", answer.texts);
    assert!(answer.reasons.iter().all(|reason| *reason == Some("stop")));
    assert!(answer.tokens.iter().all(|tokens| tokens.last() == Some(&EOS)));
    assert!(answer.texts.iter().any(|text| *text != answer.texts[0]), "{:?}", answer.texts);
}

#[test]
fn preemption_and_company_change_nothing_under_a_grammar() {
    let mut request = generate(&[7, 8, 9], 4, 40);
    request.sampling.grammar = pattern("([a-c][d-f])*z");
    let alone = Harness::new(Setup::roomy()).run(request.clone());
    let mut setup = Setup::roomy();
    setup.num_blocks = 24;
    let mut crowded = Harness::new(setup);
    let first = crowded.send(generate(&[3, 4, 5, 6], 3, 24));
    let second = crowded.send(request);
    let third = crowded.send(generate(&[9, 9], 3, 24));
    crowded.finish();
    assert!(crowded.engine.scheduler.num_preemptions() > 0);
    assert_eq!(crowded.answer(second).essence(), alone.essence());
    // A neighbour's grammar is not theirs.
    let plain = Harness::new(Setup::roomy()).run(generate(&[3, 4, 5, 6], 3, 24));
    assert_eq!(crowded.answer(first).essence(), plain.essence());
    assert_eq!(crowded.answer(third).usage.map(|usage| usage.completion_tokens > 0), Some(true));
}

#[test]
fn the_best_of_n_under_a_grammar_follows_it() {
    let mut request = best_of(&[5, 6, 7], 8, 30, "own");
    request.sampling.grammar = pattern("[a-c]{2,5}");
    let answer = Harness::new(Setup::roomy()).run(request);
    let selection = answer.selection.unwrap();
    let follows = regex::Regex::new("^[a-c]{2,5}$").unwrap();
    assert!(selection.candidates.iter().all(|candidate| follows.is_match(&candidate.text)));
    assert!(selection.candidates.iter().any(|candidate| candidate.text != selection.candidates[0].text));
}

#[test]
fn logprobs_are_of_what_the_grammar_leaves() {
    let mut request = generate(&[7, 8, 9], 1, 10);
    // Every letter has two tokens or three; `x` has two.
    request.sampling.grammar = grammar(&GrammarSpec::Choice(vec!["x".into()]));
    request.sampling.logprobs = Some(4);
    let mut harness = Harness::new(Setup::roomy());
    let id = harness.send(request);
    harness.finish();
    let mut seen = Vec::new();
    while let Some(event) = harness.streams[id.0 as usize].1.try_next() {
        if let Event::Token { logprobs: Some(logprobs), .. } = event {
            seen.push(logprobs);
        }
    }
    assert_eq!(seen.len(), 2);
    let mass: f32 = seen[0].top.iter().map(|entry| entry.logprob.exp()).sum();
    assert!((mass - 1.0).abs() < 1e-5, "{:?}", seen[0]);
    assert_eq!(seen[0].top.iter().filter(|entry| entry.logprob > f32::NEG_INFINITY).count(), 2);
    assert_eq!(seen[1].own.logprob, 0.0, "only the end is left");
}

#[test]
fn a_complete_text_ends_before_min_tokens_and_goes_on_where_it_can() {
    let mut request = generate(&[7, 8, 9], 6, 40);
    request.sampling.min_tokens = 8;
    request.sampling.grammar = grammar(&GrammarSpec::Choice(vec!["abc".into()]));
    let answer = Harness::new(Setup::roomy()).run(request.clone());
    assert!(answer.texts.iter().all(|text| text == "abc"), "{:?}", answer.texts);
    request.sampling.grammar = pattern("[ab]*");
    let answer = Harness::new(Setup::roomy()).run(request);
    assert!(answer.texts.iter().all(|text| text.len() >= 8), "{:?}", answer.texts);
}

#[test]
fn stop_strings_and_lengths_end_a_text_that_is_not_complete() {
    let mut request = generate(&[7, 8, 9], 3, 5);
    request.sampling.grammar = pattern("(abcd)*z");
    request.sampling.logit_bias = vec![(25, -100.0), (51, -100.0)];
    let answer = Harness::new(Setup::roomy()).run(request.clone());
    assert!(answer.texts.iter().all(|text| text == "abcda"), "{:?}", answer.texts);
    assert!(answer.reasons.iter().all(|reason| *reason == Some("length")));
    request.sampling.stop = vec!["cd".into()];
    let answer = Harness::new(Setup::roomy()).run(request);
    assert!(answer.texts.iter().all(|text| text == "ab"), "{:?}", answer.texts);
}
