//! Chat templates: the Jinja dialect of `transformers`, over minijinja. Leaves tokens to `tokenizer` and Python's
//! habits to `python`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use serde::Serialize;
use serde_json::Map;

use super::python::{self, JsonStyle};
use super::reasoning::marks_reasoning;
use super::tools::ToolFormat;
use crate::EngineError;
use crate::model::backend::Result;
use crate::model::fields::Fields;
use crate::model::source::ModelSource;

/// The template that is used if a model has several and no tools are given.
const DEFAULT: &str = "default";
/// The template that is used if a model has it and tools are given.
const TOOL_USE: &str = "tool_use";

/// The compiled templates of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tool_format: Option<ToolFormat>,
    marks_reasoning: bool,
}

/// What a template is applied to.
#[derive(Clone, Debug)]
pub struct TemplateInput<'a, M> {
    /// The conversation; messages as maps with `role`, `content` and whatever the template knows.
    pub messages: &'a [M],
    /// Tools as JSON schemas, if any.
    pub tools: Option<&'a serde_json::Value>,
    /// Documents, if any.
    pub documents: Option<&'a serde_json::Value>,
    /// End with the opening of an assistant turn.
    pub add_generation_prompt: bool,
    /// Further variables (`chat_template_kwargs`).
    pub variables: Option<&'a Map<String, serde_json::Value>>,
}

impl<'a, M> TemplateInput<'a, M> {
    /// A conversation without tools, documents or further variables.
    pub fn new(messages: &'a [M], add_generation_prompt: bool) -> Self {
        Self { messages, tools: None, documents: None, add_generation_prompt, variables: None }
    }
}

impl ChatTemplate {
    /// The template of a model's folder: `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` (one text
    /// or a list of named ones); `None` if it has none.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file if the template does not compile.
    pub fn load(source: &ModelSource) -> Result<Option<Self>> {
        let config = source.json("tokenizer_config.json")?;
        let special = special_tokens(source, config.as_ref())?;
        const FILE: &str = "chat_template.jinja";
        let (path, templates) = if let Some(text) = source.text(FILE)? {
            (source.path_of(FILE), vec![(DEFAULT.to_owned(), text)])
        } else {
            let Some(config) = config else { return Ok(None) };
            let Some(templates) = named_templates(&config)? else { return Ok(None) };
            (config.path().to_owned(), templates)
        };
        Self::compile(templates, special).map(Some).map_err(|error| {
            EngineError::load(path, format!("the chat template does not compile: {}", tell(&error)))
        })
    }

    /// A template from its text; `special` are variables it may use, such as `bos_token`.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if it does not compile.
    pub fn from_text(text: &str, special: Vec<(String, String)>) -> Result<Self> {
        Self::compile(vec![(DEFAULT.to_owned(), text.to_owned())], special).map_err(|error| {
            EngineError::invalid(
                "chat_template",
                format!("the chat template does not compile: {}", tell(&error)),
            )
        })
    }

    fn compile(
        templates: Vec<(String, String)>,
        special: Vec<(String, String)>,
    ) -> std::result::Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(|out: &mut Output, _: &State, value: &Value| {
            python::str(value, out).map_err(Error::from)
        });
        environment.add_filter("tojson", to_json);
        environment.add_filter("string", to_string);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        for (name, token) in special {
            environment.add_global(name, token);
        }
        let all: Vec<&str> = templates.iter().map(|(_, text)| text.as_str()).collect();
        let all = all.concat();
        let (tool_format, marks_reasoning) = (ToolFormat::of_template(&all), marks_reasoning(&all));
        for (name, text) in templates {
            environment.add_template_owned(name, without_generation_tags(&text))?;
        }
        Ok(Self { environment, tool_format, marks_reasoning })
    }

    /// How the template tells its model to write calls of tools; `None` if it knows none.
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.tool_format
    }

    /// Whether its models write their thoughts between marks.
    pub fn marks_reasoning(&self) -> bool {
        self.marks_reasoning
    }

    /// The conversation as one text.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] with what the template says, if it refuses the conversation.
    pub fn render<M: Serialize>(&self, input: &TemplateInput<'_, M>) -> Result<String> {
        let mut variables: Map<String, serde_json::Value> = input.variables.cloned().unwrap_or_default();
        let messages = serde_json::to_value(input.messages)
            .map_err(|error| EngineError::invalid("messages", format!("messages are not JSON: {error}")))?;
        variables.insert("messages".into(), messages);
        variables.insert("tools".into(), input.tools.cloned().unwrap_or_default());
        variables.insert("documents".into(), input.documents.cloned().unwrap_or_default());
        variables.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        let has_tools = input.tools.is_some();
        let template = match self.environment.get_template(TOOL_USE) {
            Ok(template) if has_tools => Ok(template),
            _ => self.environment.get_template(DEFAULT),
        };
        template.and_then(|template| template.render(Value::from_serialize(&variables))).map_err(|error| {
            EngineError::invalid(
                "messages",
                format!("the chat template refuses the conversation: {}", tell(&error)),
            )
        })
    }
}

/// `bos_token` and the like, as templates see them.
fn special_tokens(source: &ModelSource, config: Option<&Fields>) -> Result<Vec<(String, String)>> {
    let map = source.json("special_tokens_map.json")?;
    let mut tokens = Vec::new();
    for name in ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"] {
        let token =
            [config, map.as_ref()].into_iter().flatten().find_map(|fields| special_token(fields, name));
        tokens.extend(token.map(|token| (name.to_owned(), token)));
    }
    Ok(tokens)
}

/// A special token of `tokenizer_config.json`: a text, or an object with `content`.
pub(super) fn special_token(fields: &Fields, name: &str) -> Option<String> {
    let value = fields.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn named_templates(config: &Fields) -> Result<Option<Vec<(String, String)>>> {
    const FIELD: &str = "chat_template";
    let wrong = || config.error(FIELD, "must be a text or a list of {\"name\", \"template\"}");
    let Some(value) = config.get(FIELD) else { return Ok(None) };
    if let Some(text) = value.as_str() {
        return Ok(Some(vec![(DEFAULT.to_owned(), text.to_owned())]));
    }
    let mut templates = Vec::new();
    for entry in value.as_array().ok_or_else(wrong)? {
        let text = |key: &str| entry.get(key).and_then(|text| text.as_str()).map(str::to_owned);
        templates.push((text("name").ok_or_else(wrong)?, text("template").ok_or_else(wrong)?));
    }
    if templates.iter().all(|(name, _)| name != DEFAULT) {
        return Err(config.error(FIELD, "names no template \"default\""));
    }
    Ok(Some(templates))
}

/// What went wrong, in one line: the innermost message.
fn tell(error: &Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match (error.kind(), error.line()) {
        (ErrorKind::InvalidOperation, _) if error.detail().is_some_and(|text| text.starts_with(REFUSED)) => {
            text[REFUSED.len()..].to_owned()
        }
        (_, Some(line)) => format!("{text} (line {line} of the template)"),
        _ => text,
    }
}

/// Marks what a template itself says, so that it is told without line numbers. A character no text has.
const REFUSED: &str = "\u{10ffff}";

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSED}{message}")))
}

fn strftime_now(format: &str) -> std::result::Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("\"{format}\" is not a format of strftime"))
    })?;
    Ok(text)
}

/// `tojson` of `transformers`: Python's `json.dumps` without HTML escapes.
fn to_json(value: &Value, kwargs: Kwargs) -> std::result::Result<Value, Error> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_usize() {
        Some(spaces) => " ".repeat(spaces),
        None => indent.to_string(),
    });
    let mut style = JsonStyle::new(indent);
    style.ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if let Some(separators) = kwargs.get::<Option<Value>>("separators")?.filter(|value| !value.is_none()) {
        style.separators =
            (separators.get_item_by_index(0)?.to_string(), separators.get_item_by_index(1)?.to_string());
    }
    kwargs.assert_all_used()?;
    if value.kind() == ValueKind::Undefined {
        return Err(Error::new(ErrorKind::UndefinedError, "an undefined value cannot be written as JSON"));
    }
    python::to_json(value, &style).map(Value::from)
}

fn to_string(value: &Value) -> std::result::Result<String, Error> {
    let mut text = String::new();
    python::str(value, &mut text)?;
    Ok(text)
}

/// `{% generation %}` marks the assistant's words for training, and opens a scope; for rendering, a `with` block is
/// the same.
fn without_generation_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start + 2..start + length];
        let (left, right) = (tag.starts_with(['-', '+']), tag.ends_with(['-', '+']));
        let inner = &tag[usize::from(left)..tag.len() - usize::from(right && tag.len() > usize::from(left))];
        let keyword = match inner.trim() {
            "generation" => Some(" with "),
            "endgeneration" => Some(" endwith "),
            _ => None,
        };
        out.push_str(&rest[..start + 2]);
        match keyword {
            Some(keyword) => {
                out.push_str(&tag[..usize::from(left)]);
                out.push_str(keyword);
                out.push_str(&tag[tag.len() - usize::from(right)..]);
            }
            None => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Message;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn render(template: &str, messages: &[Message]) -> Result<String> {
        let special = vec![("bos_token".to_owned(), "<s>".to_owned())];
        ChatTemplate::from_text(template, special)?.render(&TemplateInput::new(messages, true))
    }

    #[test]
    fn renders_blocks_without_their_lines() {
        let template = "{{ bos_token }}\n{% for m in messages %}\n  {% if loop.first %}\n{{ m.role }}: {{ m['content'] }}\n  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}A:{% endif %}\n";
        assert_eq!(render(template, &[message("user", "hi & <b>")]).unwrap(), "<s>\nuser: hi & <b>\nA:");
    }

    #[test]
    fn knows_generation_blocks_loop_controls_and_python_methods() {
        let template = "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{%- generation -%}  {{ m.content.strip().title() }} {%- endgeneration %}!{% endfor %}{{ messages[0].items() | list | length }}";
        assert_eq!(render(template, &[message("user", " a b "), message("user", "c")]).unwrap(), "A B!2");
    }

    #[test]
    fn tells_what_the_template_says() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert_eq!(error, "the chat template refuses the conversation: roles must alternate");
        let error = render("\n{{ messages.foo.bar }}", &[]).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let error = render("{% for %}", &[]).unwrap_err().to_string();
        assert!(error.starts_with("the chat template does not compile: "), "{error}");
    }

    #[test]
    fn absent_tools_are_none_and_undefined_variables_print_nothing() {
        assert_eq!(
            render("{{ tools is none }}{{ nothing }}{{ none }}{{ 1 == 1 }}", &[]).unwrap(),
            "TrueNoneTrue"
        );
    }

    #[test]
    fn formats_dates_and_refuses_wrong_formats() {
        let year = render("{{ strftime_now('%Y') }}", &[]).unwrap();
        assert!(year.len() == 4 && year.parse::<u32>().is_ok(), "{year}");
        assert!(render("{{ strftime_now('%Q!') }}", &[]).unwrap_err().to_string().contains("strftime"));
    }

    #[test]
    fn takes_the_template_for_tools_if_tools_are_given() {
        let templates = [(DEFAULT, "plain"), (TOOL_USE, "{{ tools[0] | tojson }}")];
        let templates = templates.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
        let template = ChatTemplate::compile(templates, vec![]).unwrap();
        let tools = serde_json::json!([{"name": "f", "x": [1, 2]}]);
        let messages = [message("user", "hi")];
        let input = TemplateInput::new(&messages, false);
        assert_eq!(template.render(&input).unwrap(), "plain");
        let input = TemplateInput { tools: Some(&tools), ..input };
        assert_eq!(template.render(&input).unwrap(), r#"{"name": "f", "x": [1, 2]}"#);
    }
}
