//! Finds keys a YAML file should not have and the known key that was probably meant, by walking the file beside its
//! schema: the configuration and suites. Leaves types and values to serde.

use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;

/// Similar enough to be a slip (Jaro–Winkler).
const SIMILAR: f64 = 0.8;

/// Refuses the first unknown key.
///
/// # Errors
/// One sentence that names the key and what was probably meant.
pub fn check(value: &Yaml, schema: &Json) -> Result<(), String> {
    walk(value, schema, schema, "")
}

fn walk(value: &Yaml, schema: &Json, root: &Json, path: &str) -> Result<(), String> {
    if let Yaml::Sequence(items) = value {
        let Some(schema) = schema.get("items") else { return Ok(()) };
        let at = |(index, item)| walk(item, schema, root, &format!("{path}[{index}]"));
        return items.iter().enumerate().try_for_each(at);
    }
    let Yaml::Mapping(mapping) = value else { return Ok(()) };
    let Some(schema) = object_schema(schema, root) else { return Ok(()) };
    let properties = schema.get("properties").and_then(Json::as_object);
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    for (key, inner) in mapping {
        let Some(key) = key.as_str() else {
            return Err(format!("keys must be words, but `{path}` has another kind of key"));
        };
        let here = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let known = properties.and_then(|properties| properties.get(key));
        match known.or(others) {
            Some(inner_schema) => walk(inner, inner_schema, root, &here)?,
            // A schema without properties takes any key.
            None if properties.is_none() => {}
            None => {
                let names = properties.into_iter().flat_map(|properties| properties.keys());
                return Err(refusal(&here, path, key, names.map(String::as_str).collect()));
            }
        }
    }
    Ok(())
}

/// Follows `$ref` and the `anyOf` of an optional object to the schema with the properties.
fn object_schema<'a>(schema: &'a Json, root: &'a Json) -> Option<&'a Json> {
    if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
        return object_schema(root.pointer(reference.strip_prefix('#')?)?, root);
    }
    if let Some(options) = schema.get("anyOf").and_then(Json::as_array) {
        return options.iter().find_map(|option| object_schema(option, root));
    }
    let is_object = schema.get("properties").is_some() || schema.get("additionalProperties").is_some();
    is_object.then_some(schema)
}

fn refusal(here: &str, path: &str, key: &str, mut names: Vec<&str>) -> String {
    names.sort_unstable();
    let closest = names
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((_, name)) if path.is_empty() => format!("`{here}` is unknown; did you mean `{name}`?"),
        Some((_, name)) => format!("`{here}` is unknown; did you mean `{path}.{name}`?"),
        None => format!("`{here}` is unknown; known here: {}", names.join(", ")),
    }
}
