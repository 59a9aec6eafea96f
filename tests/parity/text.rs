//! Chat templates and tokenisations equal to `transformers`'. Leaves token streams to the engine's own tests.

use std::path::Path;

use rectify_engine::model::source::ModelSource;
use rectify_engine::text::{ChatTemplate, TemplateInput, Tokenizer};
use rectify_tests::fixture::fixtures;
use serde_json::Value;

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("text").join(name)).unwrap()).unwrap()
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let folder = fixtures().join("text");
    let special = [("bos_token", "<|bos|>"), ("eos_token", "<|im_end|>"), ("pad_token", "<|pad|>")];
    let special = special.map(|(name, token)| (name.to_owned(), token.to_owned())).to_vec();
    let cases = read("templates.json")["cases"].as_array().unwrap().clone();
    assert!(cases.len() > 50, "{}", cases.len());
    for case in &cases {
        let name = case["template"].as_str().unwrap();
        let text = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::from_text(&text, special.clone()).unwrap();
        let input = TemplateInput {
            tools: Some(&case["tools"]).filter(|tools| !tools.is_null()),
            ..TemplateInput::new(
                case["messages"].as_array().unwrap(),
                case["add_generation_prompt"].as_bool().unwrap(),
            )
        };
        match (template.render(&input), case["rendered"].as_str(), case["error"].as_str()) {
            (Ok(found), Some(wanted), _) => assert_eq!(found, wanted, "{name}: {}", case["messages"]),
            (Err(error), _, Some(wanted)) => {
                assert!(error.to_string().contains(wanted), "{name}: `{error}` instead of `{wanted}`");
            }
            (found, wanted, refused) => panic!("{name}: {found:?} instead of {wanted:?} {refused:?}"),
        }
    }
}

#[test]
fn tokens_are_those_of_transformers_and_decode_to_the_same_text() {
    let cases = read("tokenisations.json")["tokenizers"].as_object().unwrap().clone();
    for (name, texts) in &cases {
        let folder = fixtures().join("text").join(name);
        let tokenizer = Tokenizer::load(&ModelSource::from(Path::new(&folder))).unwrap();
        for case in texts.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids("ids"), "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids("ids_with_special"), "{name}: {text:?}");
            let decoded = tokenizer.decode(&ids("ids"), true).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}: {text:?}");
        }
    }
}

#[test]
fn a_reward_models_template_and_tokenizer_give_pytorchs_ids_without_a_second_bos() {
    use rectify_tests::fixture::{Fixture, REWARD_FAMILIES};
    for family in REWARD_FAMILIES {
        let fixture = Fixture::load(family);
        let source = ModelSource::Folder(fixture.path("reward"));
        let tokenizer = Tokenizer::load(&source).unwrap();
        let template = ChatTemplate::load(&source).unwrap().expect("the folder has a template");
        for case in &fixture.reward("reward").conversations {
            let mut messages = case.messages.clone();
            messages.push(rectify_engine::request::Message {
                role: "assistant".into(),
                content: case.answer.clone(),
            });
            let text = template.render(&TemplateInput::new(&messages, false)).unwrap();
            assert_eq!(text, case.text);
            assert_eq!(tokenizer.encode(&text, false).unwrap(), case.ids);
            assert_eq!(
                tokenizer.encode_whole(&text).unwrap(),
                case.ids,
                "the template wrote the BOS already"
            );
        }
    }
}
