//! A model's own generation settings (`generation_config.json`): end-of-text tokens and sampling defaults. Leaves
//! using them to `server` and the assembly of the engine.

use super::backend::Result;
use super::config::ModelConfig;
use super::source::ModelSource;

/// What `generation_config.json` says; `None` is what it leaves out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text: those of this file, or else of `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Greedy if false and nothing else is said.
    pub do_sample: Option<bool>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Most likely tokens.
    pub top_k: Option<usize>,
    /// Share of the most likely token.
    pub min_p: Option<f32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
    /// Most new tokens.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`, which may be missing.
    ///
    /// # Errors
    /// [`crate::EngineError::Load`] naming the field that is wrong.
    pub fn load(source: &ModelSource, model: &ModelConfig) -> Result<Self> {
        let from_model = || model.eos_token_ids.clone();
        let Some(fields) = source.json("generation_config.json")? else {
            return Ok(Self { eos_token_ids: from_model(), ..Self::default() });
        };
        let number = |field| Ok::<_, crate::EngineError>(fields.number(field)?.map(|x| x as f32));
        let top_k = match fields.get("top_k").and_then(serde_json::Value::as_u64) {
            Some(0) => Some(0),
            _ => fields.size("top_k")?,
        };
        Ok(Self {
            eos_token_ids: fields.tokens("eos_token_id")?.unwrap_or_else(from_model),
            do_sample: fields.flag("do_sample")?,
            temperature: number("temperature")?,
            top_p: number("top_p")?,
            top_k,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: fields.size("max_new_tokens")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::EngineError;
    use crate::model::testing::config;

    fn load(file: Option<Value>) -> Result<GenerationConfig> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            std::fs::write(folder.path().join("generation_config.json"), file.to_string()).unwrap();
        }
        GenerationConfig::load(
            &ModelSource::from(folder.path()),
            &config(&json!({"eos_token_id": 7})).unwrap(),
        )
    }

    #[test]
    fn end_of_text_tokens_fall_back_to_the_models() -> std::result::Result<(), EngineError> {
        assert_eq!(load(None)?.eos_token_ids, [7]);
        assert_eq!(load(Some(json!({"top_k": 0})))?.eos_token_ids, [7]);
        let given =
            load(Some(json!({"eos_token_id": [1, 2], "temperature": 0.5, "top_k": 20, "do_sample": true})))?;
        assert_eq!(
            (&*given.eos_token_ids, given.temperature, given.top_k),
            (&[1, 2][..], Some(0.5), Some(20))
        );
        assert_eq!((given.do_sample, given.top_p), (Some(true), None));
        Ok(())
    }

    #[test]
    fn refusals_name_the_field() {
        let error = load(Some(json!({"temperature": "hot"}))).unwrap_err().to_string();
        assert!(
            error.ends_with("generation_config.json: `temperature` is \"hot\", but must be a number"),
            "{error}"
        );
    }
}
