//! The sampling fields that chat and completion requests share, checked once and turned into the engine's
//! [`SamplingParams`]. Leaves drawing tokens to the engine.

use std::collections::BTreeMap;

use rectify_engine::SamplingParams;

use super::OneOrMany;
use crate::config::Generation;
use crate::error::ApiError;

/// Most stop strings of a request.
const MAX_STOPS: usize = 64;
/// Most alternatives a request may ask for at each token.
pub const MAX_LOGPROBS: usize = 20;

/// Sampling fields as they came, unset ones `None`.
#[derive(Clone, Debug, Default)]
pub struct SamplingFields {
    /// Most tokens to generate; the server's limit when unset.
    pub max_tokens: usize,
    /// `min_tokens`.
    pub min_tokens: Option<usize>,
    /// `temperature`.
    pub temperature: Option<f32>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `top_k`; −1 and 0 keep all.
    pub top_k: Option<i64>,
    /// `min_p`.
    pub min_p: Option<f32>,
    /// `presence_penalty`.
    pub presence_penalty: Option<f32>,
    /// `frequency_penalty`.
    pub frequency_penalty: Option<f32>,
    /// `repetition_penalty`.
    pub repetition_penalty: Option<f32>,
    /// `logit_bias`: token ids as strings.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// `seed`.
    pub seed: Option<i64>,
    /// `stop`.
    pub stop: Option<OneOrMany>,
    /// `stop_token_ids`.
    pub stop_token_ids: Option<Vec<u32>>,
    /// `include_stop_str_in_output`.
    pub include_stop: Option<bool>,
    /// `skip_special_tokens`.
    pub skip_special_tokens: Option<bool>,
    /// `ignore_eos`.
    pub ignore_eos: Option<bool>,
    /// Alternatives to report at each generated token.
    pub logprobs: Option<usize>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<usize>,
}

impl SamplingFields {
    /// Fills in the server's defaults and checks every range.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn into_params(self, defaults: &Generation) -> Result<SamplingParams, ApiError> {
        let top_k = self.top_k.or(defaults.top_k.and_then(|k| i64::try_from(k).ok())).unwrap_or(0);
        if top_k < -1 {
            return Err(ApiError::invalid("top_k", format!("top_k is {top_k}, but must be -1 or more")));
        }
        let stop = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.len() > MAX_STOPS {
            let message =
                format!("stop holds {} strings, but at most {MAX_STOPS} are looked for", stop.len());
            return Err(ApiError::invalid("stop", message));
        }
        let greedy = defaults.do_sample == Some(false);
        let default_temperature = if greedy { Some(0.0) } else { defaults.temperature };
        let params = SamplingParams {
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens.unwrap_or(0),
            temperature: self.temperature.or(default_temperature).unwrap_or(1.0),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(1.0),
            top_k: usize::try_from(top_k).unwrap_or(0),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            logit_bias: biases(self.logit_bias.unwrap_or_default())?,
            // Any 64 bits are a seed; OpenAI's is signed.
            seed: self.seed.map(i64::cast_unsigned),
            stop,
            stop_token_ids: self.stop_token_ids.unwrap_or_default(),
            include_stop: self.include_stop.unwrap_or(false),
            skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            grammar: None,
            logprobs: self.logprobs,
            logprobs_at_temperature: false,
            prompt_logprobs: self.prompt_logprobs,
        };
        params.validate()?;
        if params.min_tokens > params.max_tokens {
            let (min, max) = (params.min_tokens, params.max_tokens);
            let message =
                format!("min_tokens is {min}, but must not be more than max_tokens, which is {max}");
            return Err(ApiError::invalid("min_tokens", message));
        }
        Ok(params)
    }
}

fn biases(by_token: BTreeMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    let bias = |(token, bias): (String, f32)| match token.parse() {
        Ok(token) => Ok((token, bias)),
        Err(_) => Err(ApiError::invalid(
            "logit_bias",
            format!("logit_bias has the key `{token}`, but keys must be token ids"),
        )),
    };
    by_token.into_iter().map(bias).collect()
}

/// Checks a number of alternatives.
///
/// # Errors
/// 400 naming `param`.
pub fn check_logprobs(param: &'static str, count: usize) -> Result<usize, ApiError> {
    if count <= MAX_LOGPROBS {
        return Ok(count);
    }
    Err(ApiError::invalid(param, format!("{param} is {count}, but must lie between 0 and {MAX_LOGPROBS}")))
}

/// Checks vLLM's `prompt_logprobs`, which come with whole answers only.
///
/// # Errors
/// 400.
pub fn check_prompt_logprobs(count: Option<usize>, stream: Option<bool>) -> Result<Option<usize>, ApiError> {
    if count.is_some() && stream.unwrap_or(false) {
        let message = "prompt_logprobs do not come with streams; leave `stream` out";
        return Err(ApiError::invalid("prompt_logprobs", message));
    }
    count.map(|count| check_logprobs("prompt_logprobs", count)).transpose()
}

/// Checks OpenAI's `n`.
///
/// # Errors
/// 400.
pub fn check_num_choices(n: Option<usize>, most: usize) -> Result<usize, ApiError> {
    match n.unwrap_or(1) {
        n if (1..=most).contains(&n) => Ok(n),
        n => Err(ApiError::invalid("n", format!("n is {n}, but must lie between 1 and {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_wins_over_defaults_and_defaults_over_openai() {
        let defaults = Generation { temperature: Some(0.7), top_k: Some(20), ..Generation::default() };
        let fields = SamplingFields { max_tokens: 4, temperature: Some(0.2), ..SamplingFields::default() };
        let params = fields.into_params(&defaults).unwrap();
        assert_eq!((params.temperature, params.top_k, params.top_p), (0.2, 20, 1.0));
        let greedy = Generation { do_sample: Some(false), ..Generation::default() };
        let fields = SamplingFields { max_tokens: 4, ..SamplingFields::default() };
        assert_eq!(fields.into_params(&greedy).unwrap().temperature, 0.0);
    }

    #[test]
    fn fields_out_of_range_are_named() {
        let base = SamplingFields { max_tokens: 4, ..SamplingFields::default() };
        let cases = [
            (SamplingFields { temperature: Some(-1.0), ..base.clone() }, "temperature"),
            (SamplingFields { top_k: Some(-2), ..base.clone() }, "top_k"),
            (SamplingFields { min_tokens: Some(5), ..base.clone() }, "min_tokens"),
            (SamplingFields { stop: Some(OneOrMany::One(String::new())), ..base.clone() }, "stop"),
            (SamplingFields { stop: Some(OneOrMany::Many(vec!["a".into(); 65])), ..base.clone() }, "stop"),
            (SamplingFields { logit_bias: Some([("cat".into(), 1.0)].into()), ..base.clone() }, "logit_bias"),
            (SamplingFields { logit_bias: Some([("5".into(), 101.0)].into()), ..base }, "logit_bias"),
        ];
        for (fields, param) in cases {
            let error = fields.into_params(&Generation::default()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
    }
}
