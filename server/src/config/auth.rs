//! `auth:`, the API keys of the server. Leaves checking requests to `crate::auth`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_yaml_ng::Value;

use crate::auth::ApiKeys;

/// Who may use the API. With keys, from here or from the options, requests must carry one as `Authorization: Bearer KEY`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSection {
    /// Keys.
    pub api_keys: Vec<Secret>,
    /// A file of more: a YAML list of keys, or a mapping of names for people to keys.
    pub keys_file: Option<PathBuf>,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl AuthSection {
    /// All keys.
    ///
    /// # Errors
    /// One sentence that names the option or the file.
    pub fn keys(&self) -> Result<ApiKeys, String> {
        let given: Vec<&str> = self.api_keys.iter().map(|key| key.0.as_str()).collect();
        check(&given, "an API key (--api-key, RECTIFY_API_KEY or `auth.api_keys`)")?;
        let Some(path) = &self.keys_file else { return Ok(ApiKeys::new(given)) };
        let read = read_file(path)?;
        check(&read, &format!("{}: a key", path.display()))?;
        if read.is_empty() {
            // Nobody names a file of keys to let everybody in.
            return Err(format!("{}: there is no key in it", path.display()));
        }
        Ok(ApiKeys::new(given.into_iter().chain(read.iter().map(String::as_str))))
    }
}

/// What a header can carry.
fn check<K: AsRef<str>>(keys: &[K], what: &str) -> Result<(), String> {
    let is_sendable =
        |key: &&K| !key.as_ref().is_empty() && key.as_ref().bytes().all(|byte| byte.is_ascii_graphic());
    match keys.iter().all(|key| is_sendable(&key)) {
        true => Ok(()),
        false => {
            Err(format!("{what} is empty or has spaces or letters beyond ASCII, which no header carries"))
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<String>, String> {
    let wrong = || format!("{}: must be a YAML list of keys, or a mapping of names to keys", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{}: `auth.keys_file` cannot be read: {error}", path.display()))?;
    let value: Value = serde_yaml_ng::from_str(&text).map_err(|_| wrong())?;
    let keys: Vec<Value> = match value {
        Value::Sequence(keys) => keys,
        Value::Mapping(keys) => keys.into_iter().map(|(_, key)| key).collect(),
        Value::Null => Vec::new(),
        _ => return Err(wrong()),
    };
    keys.into_iter().map(|key| key.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, header};

    use super::*;

    #[test]
    fn keys_come_from_options_and_from_lists_or_names_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.yaml");
        let passes = |text: &str, key: &str| {
            std::fs::write(&file, text).unwrap();
            let auth = AuthSection { api_keys: vec![Secret("one".into())], keys_file: Some(file.clone()) };
            let headers =
                HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())]);
            auth.keys().map(|keys| keys.check(&headers).is_ok())
        };
        for text in ["- two\n- three", "alice: two\nbob: three"] {
            for (key, ok) in [("one", true), ("two", true), ("three", true), ("alice", false)] {
                assert_eq!(passes(text, key), Ok(ok), "{text}: {key}");
            }
        }
        for (text, words) in [
            ("", "there is no key"),
            ("two", "a YAML list of keys"),
            ("- [two]", "a YAML list of keys"),
            ("- ''", "is empty or has spaces"),
            ("- a b", "is empty or has spaces"),
        ] {
            let error = passes(text, "one").unwrap_err();
            assert!(error.contains("keys.yaml") && error.contains(words), "{text}: {error}");
        }
        let empty = AuthSection { api_keys: vec![Secret(String::new())], keys_file: None };
        assert!(empty.keys().unwrap_err().contains("--api-key"));
    }

    #[test]
    fn keys_are_never_shown() {
        let auth = AuthSection { api_keys: vec![Secret("sk-one".into())], keys_file: None };
        let shown = serde_yaml_ng::to_string(&auth).unwrap() + &format!("{auth:?}");
        assert!(!shown.contains("sk-one"), "{shown}");
    }
}
