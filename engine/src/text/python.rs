//! What chat templates expect of Python: `json.dumps`, `str` and `repr` of values. Leaves templates to
//! `chat_template`.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Options of `json.dumps` that templates use.
#[derive(Clone, Debug)]
pub(super) struct JsonStyle {
    /// Spaces (or other text) per level; `None` is all on one line.
    pub(super) indent: Option<String>,
    /// Between items, and between key and value.
    pub(super) separators: (String, String),
    /// `\uXXXX` for everything beyond ASCII.
    pub(super) ensure_ascii: bool,
    /// Keys in order of code points instead of their own.
    pub(super) sort_keys: bool,
}

impl JsonStyle {
    /// `json.dumps` with this `indent` and its other defaults, but not `ensure_ascii`, as `transformers` calls it.
    pub(super) fn new(indent: Option<String>) -> Self {
        let item = if indent.is_some() { "," } else { ", " };
        Self { separators: (item.into(), ": ".into()), indent, ensure_ascii: false, sort_keys: false }
    }
}

/// Python's `json.dumps`.
pub(super) fn to_json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let value = serde_json::to_value(value).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    })?;
    let mut out = String::new();
    write_json(&value, style, 0, &mut out);
    Ok(out)
}

fn write_json(value: &serde_json::Value, style: &JsonStyle, depth: usize, out: &mut String) {
    use serde_json::Value as Json;
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => out.push_str(&float_repr(float)),
            _ => out.push_str(&number.to_string()),
        },
        Json::String(text) => write_json_string(text, style.ensure_ascii, out),
        Json::Array(items) => write_json_items(items, ['[', ']'], style, depth, out, |item, out| {
            write_json(item, style, depth + 1, out);
        }),
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            if style.sort_keys {
                entries.sort_by_key(|(key, _)| *key);
            }
            write_json_items(&entries, ['{', '}'], style, depth, out, |(key, item), out| {
                write_json_string(key, style.ensure_ascii, out);
                out.push_str(&style.separators.1);
                write_json(item, style, depth + 1, out);
            });
        }
    }
}

fn write_json_items<T>(
    items: &[T],
    [open, close]: [char; 2],
    style: &JsonStyle,
    depth: usize,
    out: &mut String,
    mut write_item: impl FnMut(&T, &mut String),
) {
    let new_line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.separators.0);
        }
        new_line(depth + 1, out);
        write_item(item, out);
    }
    if !items.is_empty() {
        new_line(depth, out);
    }
    out.push(close);
}

fn write_json_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !c.is_ascii()) || (ensure_ascii && c == '\u{7f}') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}"); // Writing to a string does not fail.
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python's `repr` of a float: the shortest digits that read back the same, with an exponent outside of 1e-4..1e16.
fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN".into()
        } else if x > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        };
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = x.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// Python's `str`: text as it is, anything else as [`repr`].
pub(super) fn str(value: &Value, out: &mut dyn Write) -> std::fmt::Result {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None if value.is_undefined() => Ok(()),
        None => repr(value, out),
    }
}

fn repr(value: &Value, out: &mut dyn Write) -> std::fmt::Result {
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => out.write_str(&float_repr(float)),
            _ => write!(out, "{value}"),
        },
        ValueKind::String => write_repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.write_str("[")?;
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.write_str(if index > 0 { ", " } else { "" })?;
                repr(&item, out)?;
            }
            out.write_str("]")
        }
        ValueKind::Map => {
            out.write_str("{")?;
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.write_str(if index > 0 { ", " } else { "" })?;
                repr(&key, out)?;
                out.write_str(": ")?;
                repr(&value.get_item(&key).unwrap_or_default(), out)?;
            }
            out.write_str("}")
        }
        _ => write!(out, "{value}"),
    }
}

fn write_repr_string(text: &str, out: &mut dyn Write) -> std::fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", c as u32)?,
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, style: &JsonStyle) -> String {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        to_json(&Value::from_serialize(value), style).unwrap()
    }

    #[test]
    fn writes_json_as_python_does() {
        let text =
            r#"{"b": [1, 2.0, 1e20, 0.00001], "a": {"é<&>'": "\n\u0001\"", "n": null}, "e": [], "o": {}}"#;
        let style = JsonStyle::new(None);
        let expected =
            r#"{"b": [1, 2.0, 1e+20, 1e-05], "a": {"é<&>'": "\n\u0001\"", "n": null}, "e": [], "o": {}}"#;
        assert_eq!(json(text, &style), expected);
        let style = JsonStyle { sort_keys: true, ensure_ascii: true, ..style };
        let expected = r#"{"a": {"n": null, "\u00e9<&>'": "\n\u0001\""}, "b": [1, 2.0, 1e+20, 1e-05], "e": [], "o": {}}"#;
        assert_eq!(json(text, &style), expected);
        let style = JsonStyle::new(Some("  ".into()));
        assert_eq!(
            json(r#"{"a": [1, {}], "b": []}"#, &style),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"
        );
    }

    #[test]
    fn prints_values_as_python_does() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"a": [true, null, 1.5, "it's", "x\ny"], "b": false}"#).unwrap();
        let mut out = String::new();
        str(&Value::from_serialize(value), &mut out).unwrap();
        assert_eq!(out, r#"{'a': [True, None, 1.5, "it's", 'x\ny'], 'b': False}"#);
    }
}
