//! Calls in every format: whole, in pieces, broken, and forced by grammars.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::GrammarSpec;
use crate::grammar::tests::{draw_text, grammars};

const FORMATS: [ToolFormat; 4] = [
    ToolFormat::Hermes,
    ToolFormat::Llama3,
    ToolFormat::Mistral { by_name: false },
    ToolFormat::Mistral { by_name: true },
];

/// An answer put together: text, and name and arguments of each call.
type Whole = (String, Vec<(String, String)>);

fn read(format: ToolFormat, pieces: &[&str]) -> Whole {
    let mut parser = ToolParser::new(format, vec!["f".into(), "get_weather".into()]);
    let mut whole = Whole::default();
    let mut take = |deltas: Vec<ToolDelta>| {
        for delta in deltas {
            match delta {
                ToolDelta::Content(text) => whole.0.push_str(&text),
                ToolDelta::Call { index, name } => {
                    assert_eq!(index, whole.1.len());
                    whole.1.push((name, String::new()));
                }
                ToolDelta::Arguments { index, text } => whole.1[index].1.push_str(&text),
            }
        }
    };
    pieces.iter().for_each(|piece| take(parser.push(piece)));
    take(parser.finish());
    assert_eq!(parser.num_calls(), whole.1.len());
    whole
}

fn whole(text: &str, calls: &[(&str, &str)]) -> Whole {
    (text.into(), calls.iter().map(|&(name, arguments)| (name.into(), arguments.into())).collect())
}

#[test]
fn each_formats_calls_are_read() {
    let two = [("f", r#"{"a": {"b": [1, "}"]}}"#), ("get_weather", "{}")];
    for (format, text, wanted) in [
        (
            ToolFormat::Hermes,
            "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": {\"b\": [1, \"}\"]}}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>\n",
            whole("Let me see.", &two),
        ),
        (
            ToolFormat::Llama3,
            r#"<|python_tag|>{"name": "f", "parameters": {"a": {"b": [1, "}"]}}}; {"name": "get_weather", "parameters": {}}"#,
            whole("", &two),
        ),
        (ToolFormat::Llama3, "\n{\"type\": \"function\", \"name\": \"f\"}", whole("", &[("f", "{}")])),
        (
            ToolFormat::Mistral { by_name: false },
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"a": {"b": [1, "}"]}}}, {"arguments": {}, "name": "get_weather", "id": "abc"}]"#,
            whole("", &two),
        ),
        (
            ToolFormat::Mistral { by_name: true },
            r#"One moment.[TOOL_CALLS]f[ARGS]{"a": {"b": [1, "}"]}}[TOOL_CALLS]get_weather{}"#,
            whole("One moment.", &two),
        ),
        (
            ToolFormat::Hermes,
            r#"<tool_call>{"arguments": "{\"x\": 1}", "name": "f"}</tool_call> done"#,
            whole(" done", &[("f", r#"{"x": 1}"#)]),
        ),
    ] {
        assert_eq!(read(format, &[text]), wanted, "{text}");
    }
}

#[test]
fn what_is_no_call_is_text() {
    for (format, text) in [
        (ToolFormat::Hermes, "1 < 2 and <tool> </tool_call> <tool_call"),
        (ToolFormat::Hermes, "<tool_call>\nnot JSON\n</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"nom\": \"f\"}</tool_call> and so on"),
        (ToolFormat::Hermes, "ends with white space \n"),
        (ToolFormat::Llama3, r#" {"name": "Bob", "age": 3} is not a call"#),
        (ToolFormat::Llama3, r#"{"a": [1, 2]}"#),
        (ToolFormat::Llama3, "Say {\"name\": \"f\"}"),
        (ToolFormat::Llama3, "<|python_tag|>print(1)"),
        (ToolFormat::Mistral { by_name: false }, "[1] [TOOL] is [TOOL_CALLS"),
    ] {
        assert_eq!(read(format, &[text]), whole(text, &[]), "{format:?}");
    }
}

#[test]
fn a_call_that_is_cut_off_keeps_what_it_said() {
    let cut = r#"<tool_call>{"name": "f", "arguments": {"city": "Par"#;
    assert_eq!(read(ToolFormat::Hermes, &[cut]), whole("", &[("f", r#"{"city": "Par"#)]));
    assert_eq!(read(ToolFormat::Hermes, &[r#"<tool_call>{"name": "f""#]).1, whole("", &[("f", "")]).1);
    assert_eq!(read(ToolFormat::Hermes, &[r#"<tool_call>{"name": "f"}</tool_"#]), whole("", &[("f", "{}")]));
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut parser = ToolParser::new(ToolFormat::Hermes, vec![]);
    let call = |index, name: &str| ToolDelta::Call { index, name: name.into() };
    let arguments = |index, text: &str| ToolDelta::Arguments { index, text: text.into() };
    assert_eq!(parser.push("Hi <tool_"), [ToolDelta::Content("Hi".into())]);
    assert_eq!(parser.push("call>{\"name\": \"f\", "), [call(0, "f")]);
    assert_eq!(parser.push("\"arguments\": {\"a\""), [arguments(0, "{\"a\"")]);
    assert_eq!(parser.push(": 1}}"), [arguments(0, ": 1}")]);
}

#[test]
fn a_templates_format_is_what_it_tells_its_model() {
    for (template, format) in [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% if tools %}… <tool_call>{% endif %}", Some(ToolFormat::Hermes)),
        ("{% if tools %}{\"name\": x, \"parameters\": y}{% endif %}", Some(ToolFormat::Llama3)),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", Some(ToolFormat::Mistral { by_name: false })),
        ("{% if tools %}[TOOL_CALLS]name[ARGS]{% endif %}", Some(ToolFormat::Mistral { by_name: true })),
    ] {
        assert_eq!(ToolFormat::of_template(template), format, "{template}");
    }
}

fn functions() -> Vec<Function> {
    let city = json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false});
    vec![
        Function { name: "get_weather".into(), parameters: Some(city), strict: true },
        Function { name: "f".into(), parameters: None, strict: false },
    ]
}

#[test]
fn forced_calls_are_read_back() {
    let grammars = grammars();
    for format in FORMATS {
        for parallel in [false, true] {
            let spec = format.grammar(&functions(), parallel, |_| None).unwrap();
            let grammar = grammars.compile(&spec).unwrap();
            for seed in 0..20 {
                let text = draw_text(&grammar, seed);
                let (content, calls) = read(format, &[&text]);
                assert_eq!(content, "", "{text}");
                assert!((1..=if parallel { 16 } else { 1 }).contains(&calls.len()), "{text}");
                for (name, arguments) in calls {
                    let arguments: Value = serde_json::from_str(&arguments).unwrap();
                    match name.as_str() {
                        "f" => assert_eq!(arguments, json!({})),
                        _ => assert!(["Rome", "Oslo"].contains(&arguments["city"].as_str().unwrap())),
                    }
                }
            }
        }
    }
    let special = |text: &str| (text == "[TOOL_CALLS]").then_some(257);
    let spec = ToolFormat::Mistral { by_name: false }.grammar(&functions(), false, special).unwrap();
    assert!(matches!(&spec, GrammarSpec::Lark(lark) if lark.contains("<[257]>")));
    grammars.compile(&spec).unwrap();
    let wrong = vec![Function { parameters: Some(json!([])), ..functions().remove(0) }];
    assert_eq!(ToolFormat::Hermes.grammar(&wrong, true, |_| None).unwrap_err().0, 0);
}

/// Text that looks like calls, whole and broken.
fn answer() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("<tool_call>\n"),
        Just("</tool_call>"),
        Just("<|python_tag|>"),
        Just("[TOOL_CALLS]"),
        Just("[ARGS]"),
        Just(r#"{"name": "f", "arguments": {"a": "é\"}", "b": [1, 2]}}"#),
        Just(r#"{"parameters": {"x": -1.5e3}, "name": "get_weather"}"#),
        Just(r#"{"name": "other", "arguments": "{\"q\": null}"}"#),
        Just(r#"{"name": 7}"#),
        Just("f"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(", "),
        Just("; "),
        Just("\n"),
        Just(" "),
        Just("text"),
        Just("\""),
        Just("\\"),
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(text in answer(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| ends[cut.index(ends.len())]).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        for format in FORMATS {
            prop_assert_eq!(read(format, &pieces), read(format, &[&text]), "{:?}", format);
        }
    }
}
