//! Options of sampling, shared by the commands that generate. What is absent is the model's `generation_config.json`,
//! and then the engine's default.

use serde_json::Value;

/// How tokens are drawn; the names are OpenAI's and vLLM's.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens of an answer.
    #[arg(long, value_name = "TOKENS", value_parser = super::args::positive)]
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Keep the smallest set of tokens with this probability.
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Keep this many most likely tokens; 0 keeps all.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Drop tokens less likely than this share of the most likely.
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Penalty for tokens that were generated before.
    #[arg(long, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Penalty for tokens by how often they were generated.
    #[arg(long, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Divides the logits of tokens seen before.
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// A string that ends the answer; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Same seed, same text.
    #[arg(long)]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The options that were given, as the fields of an OpenAI request.
    pub(crate) fn given(&self) -> Vec<(&'static str, Value)> {
        let given = [
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("temperature", self.temperature.map(number)),
            ("top_p", self.top_p.map(number)),
            ("top_k", self.top_k.map(Value::from)),
            ("min_p", self.min_p.map(number)),
            ("presence_penalty", self.presence_penalty.map(number)),
            ("frequency_penalty", self.frequency_penalty.map(number)),
            ("repetition_penalty", self.repetition_penalty.map(number)),
            ("stop", (!self.stop.is_empty()).then(|| Value::from(self.stop.clone()))),
            ("seed", self.seed.map(Value::from)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn number(value: f32) -> Value {
    Value::from(super::widen(value))
}
