//! Grammars over a vocabulary of bytes: texts drawn at random under the masks, as a model of noise would write them.

use proptest::prelude::*;

use super::*;

const EOS: u32 = 256;
const SPECIAL: u32 = 257;

/// Over bytes, an end and one more special token.
pub(crate) fn grammars() -> Grammars {
    let bytes: Vec<u8> = (0..=255).collect();
    Grammars::new(258, &[EOS], |token| match token {
        EOS => Spelling { bytes: b"<end>", is_special: true },
        SPECIAL => Spelling { bytes: b"<call>", is_special: true },
        byte => Spelling { bytes: Box::leak(Box::new([bytes[byte as usize]])), is_special: false },
    })
    .unwrap()
}

fn schema(schema: Value) -> GrammarSpec {
    GrammarSpec::Json { schema, strict: true }
}

/// Draws tokens under the masks until the end, or `most` of them.
fn draw(grammar: &Grammar, seed: u64, most: usize) -> (Vec<u32>, bool) {
    let mut state = GrammarState::new(grammar);
    let mut random = seed;
    let mut tokens = Vec::new();
    while tokens.len() < most {
        let allowed: Vec<u32> = state.mask().unwrap().0.iter().collect();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let token = allowed[(random >> 33) as usize % allowed.len()];
        if token == EOS {
            return (tokens, true);
        }
        tokens.push(token);
        state.advance(token);
    }
    (tokens, false)
}

fn text(tokens: &[u32]) -> String {
    String::from_utf8(tokens.iter().map(|&token| token as u8).collect()).unwrap()
}

/// A text that follows the grammar to its end.
pub(crate) fn draw_text(grammar: &Grammar, seed: u64) -> String {
    let (tokens, ended) = draw(grammar, seed, 4000);
    assert!(ended, "{}", text(&tokens));
    text(&tokens)
}

#[test]
fn texts_under_a_schema_are_its_json() {
    let grammars = grammars();
    let person = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
        "required": ["name", "age", "tags"], "additionalProperties": false});
    let grammar = grammars.compile(&schema(person)).unwrap();
    for seed in 0..40 {
        let (tokens, ended) = draw(&grammar, seed, 4000);
        assert!(ended, "white space is bounded, so is everything");
        let value: Value = serde_json::from_str(&text(&tokens)).unwrap();
        assert!(value["age"].as_u64().unwrap() <= 130, "{value}");
        assert!(value["name"].as_str().unwrap().chars().count() <= 6, "{value}");
        assert_eq!(value.as_object().unwrap().len(), 3);
    }
}

#[test]
fn every_kind_of_grammar_is_followed() {
    let grammars = grammars();
    let end_of = |spec: &GrammarSpec, seed| text(&draw(&grammars.compile(spec).unwrap(), seed, 300).0);
    let regex = GrammarSpec::Regex(r"(\d{3}-)?\d{4}/é".into());
    let choice = GrammarSpec::Choice(vec!["yes".into(), "no \"way\"\n".into(), "noé".into()]);
    let lark = GrammarSpec::Lark("start: \"(\" start \")\" | /[ab]{2}/".into());
    let pattern = regex::Regex::new(r"^([0-9]{3}-)?[0-9]{4}/é$").unwrap();
    for seed in 0..20 {
        let found = end_of(&regex, seed);
        assert!(pattern.is_match(&found), "{found}");
        assert!(["yes", "no \"way\"\n", "noé"].contains(&end_of(&choice, seed).as_str()));
        let nested = end_of(&lark, seed);
        let depth = nested.find(['a', 'b']).unwrap_or(nested.len());
        assert!(nested.len() < 300 && nested.trim_matches(['(', ')']).len() == 2, "{nested}");
        assert_eq!(nested.matches(')').count(), depth);
    }
    let object = grammars.compile(&GrammarSpec::json_object()).unwrap();
    assert!(!GrammarState::new(&object).mask().unwrap().allows(u32::from(b'[')));
    assert!(GrammarState::new(&object).mask().unwrap().allows(u32::from(b'{')));
}

#[test]
fn special_tokens_need_to_be_named() {
    let grammars = grammars();
    let any = grammars.compile(&GrammarSpec::Regex("(?s:.*)".into())).unwrap();
    assert!(!GrammarState::new(&any).mask().unwrap().allows(SPECIAL));
    assert!(GrammarState::new(&any).mask().unwrap().allows(EOS));
    let named = grammars.compile(&GrammarSpec::Lark("start: <call> \"x\"".into())).unwrap();
    let mut state = GrammarState::new(&named);
    assert!(state.mask().unwrap().allows(SPECIAL) && !state.mask().unwrap().allows(u32::from(b'<')));
    state.advance(SPECIAL);
    assert!(state.mask().unwrap().allows(u32::from(b'x')));
    state.advance(u32::from(b'x'));
    assert_eq!(state.mask().unwrap().0.to_list(), [EOS]);
}

#[test]
fn candidates_share_a_beginning_and_go_their_own_ways() {
    let grammars = grammars();
    let grammar = grammars.compile(&GrammarSpec::Choice(vec!["ab".into(), "ac".into()])).unwrap();
    let mut first = GrammarState::new(&grammar);
    first.advance(u32::from(b'a'));
    let mut second = first.clone();
    first.advance(u32::from(b'b'));
    second.advance(u32::from(b'c'));
    let (first, second) = (first.mask().unwrap(), second.mask().unwrap());
    assert_eq!((first.0.to_list(), second.0.to_list()), (vec![EOS], vec![EOS]));
    assert_eq!(GrammarState::new(&grammar).mask().unwrap().0.to_list(), [u32::from(b'a')]);
}

#[test]
fn thoughts_that_the_prompt_has_opened_come_before_the_answer() {
    let grammars = grammars();
    let lark = GrammarSpec::Lark("start: \"{\" \"}\"".into());
    let choice = GrammarSpec::Choice(vec!["{}".into()]);
    for spec in [GrammarSpec::json_object(), lark, choice, GrammarSpec::Regex(r"\{\}".into())] {
        let grammar = grammars.compile(&spec.after_thoughts().unwrap()).unwrap();
        let mut state = GrammarState::new(&grammar);
        for byte in b"I think: {1 < 2}\n</think>\n\n" {
            assert!(state.mask().unwrap().allows(u32::from(*byte)), "{spec:?}");
            state.advance(u32::from(*byte));
        }
        let mask = state.mask().unwrap();
        assert!(
            mask.allows(u32::from(b'{')) && !mask.allows(u32::from(b'a')) && !mask.allows(EOS),
            "{spec:?}"
        );
        b"{}".iter().for_each(|&byte| state.advance(u32::from(byte)));
        assert!(state.mask().unwrap().allows(EOS), "{spec:?}");
    }
}

#[test]
fn what_is_wrong_with_a_grammar_is_told_in_a_clause() {
    let grammars = grammars();
    for (spec, word) in [
        (schema(json!({"type": "strnig"})), "strnig"),
        (schema(json!([1])), "object"),
        (schema(json!({"type": "string", "pattern": "("})), "regex"),
        (schema(json!({"$ref": "#/$defs/missing"})), "missing"),
        (schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (GrammarSpec::Regex("a(".into()), "regex"),
        (GrammarSpec::Lark("start: nothing".into()), "nothing"),
        (GrammarSpec::Lark("stat: \"a\"".into()), "start"),
    ] {
        let cause = grammars.compile(&spec).unwrap_err();
        assert!(cause.to_lowercase().contains(&word.to_lowercase()), "{spec:?}: {cause}");
        assert!(!cause.contains('\n') && cause.chars().count() <= MAX_CAUSE + 1, "{cause}");
    }
    let lenient = GrammarSpec::Json { schema: json!({"type": "array", "uniqueItems": true}), strict: false };
    grammars.compile(&lenient).unwrap();
    let none = Grammars::new(4, &[], |_| Spelling { bytes: b"a", is_special: false }).unwrap_err();
    assert!(none.to_string().contains("end-of-text"), "{none}");
}

#[test]
fn a_grammar_is_compiled_once() {
    let grammars = grammars();
    let spec = schema(json!({"type": "integer"}));
    assert!(Arc::ptr_eq(&grammars.compile(&spec).unwrap(), &grammars.compile(&spec).unwrap()));
    for length in 1..=KEPT {
        grammars.compile(&GrammarSpec::Regex("a".repeat(length))).unwrap();
    }
    assert_eq!(grammars.lock().len(), KEPT);
    assert!(!grammars.lock().iter().any(|known| known.spec == spec));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_place_is_a_function_of_the_tokens(seed: u64, length in 1usize..60) {
        let grammars = grammars();
        let grammar = grammars.compile(&GrammarSpec::json_object()).unwrap();
        let (tokens, _) = draw(&grammar, seed, length);
        let (mut together, mut step_by_step) = (GrammarState::new(&grammar), GrammarState::new(&grammar));
        for &token in &tokens {
            together.advance(token);
            step_by_step.advance(token);
            step_by_step.mask().unwrap();
        }
        prop_assert_eq!(together.mask().unwrap().0.to_list(), step_by_step.mask().unwrap().0.to_list());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_mask_leaves_what_it_allows(
        num_logits in 0usize..200,
        vocab_size in 0usize..200,
        // Words of which all, none or some are allowed.
        words in prop::collection::vec(prop_oneof![Just(u32::MAX), Just(0), any::<u32>()], 7),
    ) {
        let allows = |token: &u32| words[(token / 32) as usize] >> (token % 32) & 1 == 1;
        let mask = Mask::new(vocab_size, (0..200).filter(allows));
        let logits: Vec<f32> = (0..num_logits).map(|i| i as f32).collect();
        let mut out = vec![7.0; 3];
        mask.apply(&logits, &mut out);
        let expected = (0u32..).zip(&logits).map(|(token, &logit)| {
            if allows(&token) && (token as usize) < vocab_size { logit } else { f32::NEG_INFINITY }
        });
        prop_assert_eq!(out, expected.collect::<Vec<_>>());
    }
}
