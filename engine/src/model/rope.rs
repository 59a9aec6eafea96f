//! Rotary frequencies and their stretching for long contexts (`rope_theta`, `rope_scaling`, `rope_parameters`). Leaves
//! rotating to the kernels.

use serde_json::{Value, json};

use super::backend::Result;
use super::config::ModelConfig;
use super::family::Family;
use super::fields::Fields;

/// How frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all (`default`).
    None,
    /// All by the same factor (`linear`).
    Linear {
        /// Frequencies are divided by it.
        factor: f64,
    },
    /// Low frequencies by `factor`, high ones not, with a ramp between (`llama3`, Llama 3.1).
    Llama3 {
        /// Low frequencies are divided by it.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings` over this are low.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings` over this are high.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// The rotary base and scaling of a `config.json`: `rope_parameters` of `transformers` 5, or `rope_theta` and
    /// `rope_scaling` before it.
    pub(super) fn parse(fields: &Fields, family: &Family, max_positions: usize) -> Result<(f64, Self)> {
        let scaling = match fields.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => fields.object("rope_scaling")?,
        };
        let outer = fields.positive("rope_theta")?;
        let Some(scaling) = scaling else { return Ok((outer.unwrap_or(family.rope_theta), Self::None)) };
        let theta = scaling.positive("rope_theta")?.or(outer).unwrap_or(family.rope_theta);
        let field = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
        let require = |name: &str| scaling.positive(name)?.ok_or_else(|| scaling.error(name, "is missing"));
        let kind = match scaling.string(field)?.unwrap_or("default") {
            "default" => Self::None,
            "linear" => Self::Linear { factor: require("factor")? },
            "llama3" => Self::Llama3 {
                factor: require("factor")?,
                low_freq_factor: require("low_freq_factor")?,
                high_freq_factor: require("high_freq_factor")?,
                original_max_position_embeddings: scaling
                    .size("original_max_position_embeddings")?
                    .unwrap_or(max_positions),
            },
            other => {
                let message =
                    format!("is \"{other}\", which is not known; known are default, linear, llama3");
                return Err(scaling.error(field, message));
            }
        };
        Ok((theta, kind))
    }

    pub(super) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
        }
    }

    fn stretch(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                // Turns over the original context: few for low frequencies, many for high ones.
                let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
                if turns < low_freq_factor {
                    frequency / factor
                } else if turns > high_freq_factor {
                    frequency
                } else {
                    let ramp = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - ramp) * frequency / factor + ramp * frequency
                }
            }
        }
    }
}

/// Angle per position of each pair of a head's dimensions, `[head_dim / 2]`: `theta^(-2i / head_dim)`, stretched
/// (Su et al. 2021, arXiv:2104.09864, §3.2.2). Rounded to single precision, as the models were trained.
pub fn inverse_frequencies(config: &ModelConfig) -> Vec<f64> {
    let frequency = |i: usize| config.rope_theta.powf(-((2 * i) as f64) / config.head_dim as f64);
    let round = |x: f64| f64::from(x as f32);
    (0..config.head_dim / 2).map(|i| round(config.rope_scaling.stretch(round(frequency(i))))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn llama3_leaves_high_frequencies_and_divides_low_ones() {
        assert_eq!(LLAMA3.stretch(1.0), 1.0);
        assert_eq!(LLAMA3.stretch(1e-6), 1e-6 / 8.0);
        let middle = 2.0 * std::f64::consts::TAU / 8192.0;
        let stretched = LLAMA3.stretch(middle);
        assert!(middle / 8.0 < stretched && stretched < middle, "{stretched}");
    }

    #[test]
    fn llama3_is_continuous_at_both_ends_of_the_ramp() {
        for turns in [1.0, 4.0] {
            let frequency = turns * std::f64::consts::TAU / 8192.0;
            let (below, above) =
                (LLAMA3.stretch(frequency * (1.0 - 1e-9)), LLAMA3.stretch(frequency * (1.0 + 1e-9)));
            assert!((above - below).abs() < 1e-7 * above, "{below} {above}");
        }
    }
}
