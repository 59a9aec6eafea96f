//! Rotary frequencies and their stretching for long contexts (`rope_theta`, `rope_scaling`, `rope_parameters`). Leaves
//! rotating to the kernels.

use serde_json::{Value, json};

use super::backend::Result;
use super::fields::Fields;

/// The rotations of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Dimensions of a head that turn, the first ones.
    pub dim: usize,
    /// How frequencies are stretched.
    pub scaling: RopeScaling,
}

/// How frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all (`default`).
    None,
    /// All by the same factor (`linear`).
    Linear {
        /// Frequencies are divided by it.
        factor: f64,
    },
    /// Past `max_position_embeddings` by a base that grows with the length (`dynamic`). Sequences end there, so here it
    /// stretches nothing.
    Dynamic {
        /// Of the growth.
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
    /// As `llama3`, with the ramp over dimensions (`yarn`: Peng et al. 2023, arXiv:2309.00071).
    Yarn {
        /// Low frequencies are divided by it.
        factor: f64,
        /// Turns over the original context from which on a frequency is high.
        beta_fast: f64,
        /// Turns below which it is low.
        beta_slow: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
        /// The ends of the ramp are whole dimensions.
        truncate: bool,
        /// Cosines and sines are multiplied by it.
        attention_factor: f64,
    },
    /// Each by a factor of its own (`longrope`: Ding et al. 2024, arXiv:2402.13753).
    LongRope {
        /// For sequences within the original context, `[dim / 2]`.
        short_factor: Vec<f64>,
        /// For longer ones, `[dim / 2]`.
        long_factor: Vec<f64>,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
        /// Cosines and sines are multiplied by it.
        attention_factor: f64,
    },
}

/// What a `config.json` says besides its rope objects.
pub(super) struct Shape {
    pub(super) head_dim: usize,
    pub(super) max_position_embeddings: usize,
}

impl Rope {
    /// Rotations by the object `scaling` (of `rope_parameters` or `rope_scaling`), if there is one; `theta` is their base
    /// unless it says otherwise.
    pub(super) fn parse(
        fields: &Fields,
        scaling: Option<&Fields>,
        theta: f64,
        shape: &Shape,
    ) -> Result<Self> {
        const PARTIAL: &str = "partial_rotary_factor";
        let inner = scaling.map(|scaling| scaling.positive(PARTIAL)).transpose()?.flatten();
        let share = inner.or(fields.positive(PARTIAL)?).unwrap_or(1.0);
        let dim = (shape.head_dim as f64 * share) as usize;
        if share > 1.0 || dim == 0 || !dim.is_multiple_of(2) {
            let message = format!(
                "is {share}, but must turn an even number of the {} dimensions of a head",
                shape.head_dim
            );
            return Err(fields.error(PARTIAL, message));
        }
        let Some(scaling) = scaling else { return Ok(Self { theta, dim, scaling: RopeScaling::None }) };
        let theta = scaling.positive("rope_theta")?.unwrap_or(theta);
        Ok(Self { theta, dim, scaling: RopeScaling::parse(fields, scaling, dim, shape)? })
    }

    /// Angle per position of each pair of dimensions, `[dim / 2]`, for sequences of up to `max_positions`:
    /// `theta^(-2i / dim)`, stretched (Su et al. 2021, arXiv:2104.09864, §3.2.2). Rounded to single precision, as the
    /// models were trained.
    pub fn inverse_frequencies(&self, max_positions: usize) -> Vec<f64> {
        let round = |x: f64| f64::from(x as f32);
        let plain = |i: usize| round(self.theta.powf(-((2 * i) as f64) / self.dim as f64));
        (0..self.dim / 2).map(|i| round(self.stretch(i, plain(i), max_positions))).collect()
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        }
    }

    fn stretch(&self, i: usize, frequency: f64, max_positions: usize) -> f64 {
        match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
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
            &RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                truncate,
                ..
            } => {
                // The dimension that turns so often over the original context.
                let dimension = |turns: f64| {
                    let length = original_max_position_embeddings as f64;
                    self.dim as f64 * (length / (turns * std::f64::consts::TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(self.dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * ramp + frequency * (1.0 - ramp)
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                let is_long = max_positions > *original_max_position_embeddings;
                let factors = if is_long { long_factor } else { short_factor };
                frequency / factors.get(i).copied().unwrap_or(1.0)
            }
        }
    }
}

impl RopeScaling {
    fn parse(fields: &Fields, scaling: &Fields, dim: usize, shape: &Shape) -> Result<Self> {
        let field = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
        let require = |name: &str| scaling.positive(name)?.ok_or_else(|| scaling.error(name, "is missing"));
        let original = || {
            const FIELD: &str = "original_max_position_embeddings";
            let length =
                scaling.size(FIELD)?.map_or_else(|| fields.size(FIELD), |length| Ok(Some(length)))?;
            Ok(length.unwrap_or(shape.max_position_embeddings))
        };
        match scaling.string(field)?.unwrap_or("default") {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: require("factor")? }),
            "dynamic" => Ok(Self::Dynamic { factor: require("factor")? }),
            "llama3" => Ok(Self::Llama3 {
                factor: require("factor")?,
                low_freq_factor: require("low_freq_factor")?,
                high_freq_factor: require("high_freq_factor")?,
                original_max_position_embeddings: scaling
                    .size("original_max_position_embeddings")?
                    .unwrap_or(shape.max_position_embeddings),
            }),
            // Early Phi-3 called it by other names.
            kind if kind == "longrope" || kind == "su" || scaling.get("short_factor").is_some() => {
                let original: usize = original()?;
                let factors = |name: &str| match scaling.numbers(name)? {
                    Some(factors) if factors.len() == dim / 2 => Ok(factors),
                    Some(factors) => {
                        let message = format!(
                            "has {} numbers, but {dim} dimensions turn in {} pairs",
                            factors.len(),
                            dim / 2
                        );
                        Err(scaling.error(name, message))
                    }
                    None => Err(scaling.error(name, "is missing")),
                };
                let growth = match scaling.positive("factor")? {
                    Some(factor) => factor,
                    None => shape.max_position_embeddings as f64 / original as f64,
                };
                let implied =
                    if growth <= 1.0 { 1.0 } else { (1.0 + growth.ln() / (original as f64).ln()).sqrt() };
                Ok(Self::LongRope {
                    short_factor: factors("short_factor")?,
                    long_factor: factors("long_factor")?,
                    original_max_position_embeddings: original,
                    attention_factor: scaling.positive("attention_factor")?.unwrap_or(implied),
                })
            }
            "yarn" => {
                let original: usize = original()?;
                let factor = match scaling.positive("factor")? {
                    Some(factor) => factor,
                    None => shape.max_position_embeddings as f64 / original as f64,
                };
                let strength = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let implied = match (scaling.number("mscale")?, scaling.number("mscale_all_dim")?) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => strength(one) / strength(all),
                    _ => strength(1.0),
                };
                Ok(Self::Yarn {
                    factor,
                    beta_fast: scaling.positive("beta_fast")?.unwrap_or(32.0),
                    beta_slow: scaling.positive("beta_slow")?.unwrap_or(1.0),
                    original_max_position_embeddings: original,
                    truncate: scaling.flag("truncate")?.unwrap_or(true),
                    attention_factor: scaling.positive("attention_factor")?.unwrap_or(implied),
                })
            }
            other => {
                let message = format!(
                    "is \"{other}\", which is not known; known are default, linear, dynamic, llama3, yarn, longrope"
                );
                Err(scaling.error(field, message))
            }
        }
    }

    /// As a `config.json` has it since before `transformers` 5; `None` if what was read has to be kept instead.
    pub(super) fn to_json(&self) -> Option<Value> {
        match *self {
            Self::None => Some(Value::Null),
            Self::Linear { factor } => Some(json!({"rope_type": "linear", "factor": factor})),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                Some(json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                }))
            }
            Self::Dynamic { .. } | Self::Yarn { .. } | Self::LongRope { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(scaling: RopeScaling, frequency: f64) -> f64 {
        Rope { theta: 1e4, dim: 64, scaling }.stretch(0, frequency, 1)
    }

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn llama3_leaves_high_frequencies_and_divides_low_ones() {
        assert_eq!(stretch(LLAMA3, 1.0), 1.0);
        assert_eq!(stretch(LLAMA3, 1e-6), 1e-6 / 8.0);
        let middle = 2.0 * std::f64::consts::TAU / 8192.0;
        let stretched = stretch(LLAMA3, middle);
        assert!(middle / 8.0 < stretched && stretched < middle, "{stretched}");
    }

    #[test]
    fn llama3_is_continuous_at_both_ends_of_the_ramp() {
        for turns in [1.0, 4.0] {
            let frequency = turns * std::f64::consts::TAU / 8192.0;
            let (below, above) =
                (stretch(LLAMA3, frequency * (1.0 - 1e-9)), stretch(LLAMA3, frequency * (1.0 + 1e-9)));
            assert!((above - below).abs() < 1e-7 * above, "{below} {above}");
        }
    }

    #[test]
    fn yarn_leaves_fast_dimensions_divides_slow_ones_and_ramps_between() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position_embeddings: 4096,
            truncate: true,
            attention_factor: 1.14,
        };
        let rope = Rope { theta: 1e4, dim: 64, scaling };
        let plain = Rope { scaling: RopeScaling::None, ..rope.clone() }.inverse_frequencies(1);
        let ratios: Vec<f64> =
            rope.inverse_frequencies(1).iter().zip(&plain).map(|(x, plain)| plain / x).collect();
        assert!((ratios[0] - 1.0).abs() < 1e-6 && (ratios[31] - 4.0).abs() < 1e-5, "{ratios:?}");
        assert!(ratios.windows(2).all(|pair| pair[0] <= pair[1] + 1e-6), "{ratios:?}");
        assert_eq!(rope.attention_factor(), 1.14);
    }

    #[test]
    fn longrope_goes_by_the_longest_sequence_there_may_be() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![4.0, 8.0],
            original_max_position_embeddings: 100,
            attention_factor: 1.0,
        };
        let rope = Rope { theta: 1.0, dim: 4, scaling };
        assert_eq!(rope.inverse_frequencies(100), [1.0, 0.5]);
        assert_eq!(rope.inverse_frequencies(101), [0.25, 0.125]);
    }
}
