//! How far the updates of two versions lie apart, from their files alone: no base and no full matrix is needed. Leaves printing
//! to the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use half::{bf16, f16};
use rectify_engine::model::peft::PeftConfig;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{CONFIG, Registry, RegistryError, Version, WEIGHTS};

/// What two versions do to the base's weights, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateDifference {
    /// Frobenius norm of the first version's update of all modules.
    pub old_norm: f64,
    /// Of the second's.
    pub new_norm: f64,
    /// Cosine of the angle between them; NaN if one is zero.
    pub cosine: f64,
    /// Norm of the difference of each module, largest first.
    pub modules: Vec<(String, f64)>,
}

/// One module's low-rank pair: the update is `scale · B A`.
#[derive(Default)]
struct Pair {
    rank: usize,
    /// `[rank, inputs]`.
    a: Vec<f32>,
    /// `[outputs, rank]`.
    b: Vec<f32>,
    scale: f64,
}

impl Registry {
    /// Compares the weights of two versions.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or [`RegistryError::Damaged`] if the files are no LoRA adapter.
    pub async fn update_difference(
        &self,
        old: &Version,
        new: &Version,
    ) -> Result<UpdateDifference, RegistryError> {
        Ok(difference(&self.pairs(old).await?, &self.pairs(new).await?))
    }

    async fn pairs(&self, version: &Version) -> Result<BTreeMap<String, Pair>, RegistryError> {
        let Version { name, number } = version;
        self.manifest(name, *number).await?;
        let config = self.get(name, *number, CONFIG).await?.unwrap_or_default();
        let weights = self.get(name, *number, WEIGHTS).await?.unwrap_or_default();
        read(&config, &weights)
            .map_err(|reason| RegistryError::Damaged { object: version.to_string(), reason })
    }
}

fn read(config: &[u8], weights: &[u8]) -> Result<BTreeMap<String, Pair>, String> {
    let config = PeftConfig::parse(Path::new(CONFIG), config).map_err(|error| error.to_string())?;
    let tensors = SafeTensors::deserialize(weights).map_err(|error| format!("has no {WEIGHTS}: {error}"))?;
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    for (name, tensor) in tensors.tensors() {
        let module = |matrix: &str| name.strip_suffix(&format!(".lora_{matrix}.weight"));
        let (Some(module), is_a) = module("A").map_or((module("B"), false), |name| (Some(name), true)) else {
            continue;
        };
        let pair = pairs.entry(module.to_owned()).or_default();
        let values = values(&tensor).ok_or_else(|| format!("has a tensor {name} of another kind"))?;
        if is_a {
            pair.rank = tensor.shape().first().copied().unwrap_or(0);
            // PEFT saves modules under the names they have inside its own.
            pair.scale = f64::from(config.scale_of(module.trim_start_matches("base_model.model.")));
            pair.a = values;
        } else {
            pair.b = values;
        }
    }
    match pairs.iter().find(|(_, pair)| pair.rank == 0 || !pair.b.len().is_multiple_of(pair.rank)) {
        Some((module, _)) => Err(format!("has half a pair for {module}")),
        None => Ok(pairs),
    }
}

fn values(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = tensor.data();
    let halves = |convert: fn([u8; 2]) -> f32| {
        data.chunks_exact(2).map(|bytes| convert([bytes[0], bytes[1]])).collect()
    };
    match tensor.dtype() {
        Dtype::F32 => Some(
            data.chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect(),
        ),
        Dtype::BF16 => Some(halves(|bytes| bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F16 => Some(halves(|bytes| f16::from_le_bytes(bytes).to_f32())),
        _ => None,
    }
}

fn difference(old: &BTreeMap<String, Pair>, new: &BTreeMap<String, Pair>) -> UpdateDifference {
    let (mut old_square, mut new_square, mut product) = (0.0, 0.0, 0.0);
    let mut modules = Vec::new();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let zero = Pair::default();
    for name in names {
        let (one, other) = (old.get(name).unwrap_or(&zero), new.get(name).unwrap_or(&zero));
        let (ones, others, both) = (inner(one, one), inner(other, other), inner(one, other));
        old_square += ones;
        new_square += others;
        product += both;
        modules.push((name.clone(), (ones + others - 2.0 * both).max(0.0).sqrt()));
    }
    modules.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (old_norm, new_norm) = (old_square.sqrt(), new_square.sqrt());
    UpdateDifference { old_norm, new_norm, cosine: product / (old_norm * new_norm), modules }
}

/// The inner product of two updates, `tr((B A)ᵀ B' A') = Σ (Bᵀ B')ᵢⱼ (A A'ᵀ)ᵢⱼ`: small matrices of the ranks only.
fn inner(one: &Pair, other: &Pair) -> f64 {
    if one.rank == 0 || other.rank == 0 || one.a.len() / one.rank != other.a.len() / other.rank {
        return 0.0;
    }
    let inputs = one.a.len() / one.rank;
    let mut sum = 0.0;
    for i in 0..one.rank {
        for j in 0..other.rank {
            let rows = one.a[i * inputs..(i + 1) * inputs].iter().zip(&other.a[j * inputs..(j + 1) * inputs]);
            let of_a: f64 = rows.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let columns = one.b[i..].iter().step_by(one.rank).zip(other.b[j..].iter().step_by(other.rank));
            let of_b: f64 = columns.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            sum += of_a * of_b;
        }
    }
    sum * one.scale * other.scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scale · B A`, entry by entry.
    fn full(pair: &Pair) -> Vec<f64> {
        let inputs = pair.a.len() / pair.rank;
        let mut out = Vec::new();
        for row in pair.b.chunks_exact(pair.rank) {
            for column in 0..inputs {
                let terms =
                    (0..pair.rank).map(|k| f64::from(row[k]) * f64::from(pair.a[k * inputs + column]));
                out.push(pair.scale * terms.sum::<f64>());
            }
        }
        out
    }

    #[test]
    fn a_module_has_the_strength_that_its_pattern_names() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/qwen3/lora-ranks");
        let [config, weights] = [CONFIG, WEIGHTS].map(|file| std::fs::read(folder.join(file)).unwrap());
        let pairs = read(&config, &weights).unwrap();
        let scale = |module: &str| {
            let found = pairs.iter().find(|(name, _)| name.ends_with(module));
            found.map(|(_, pair)| pair.scale)
        };
        // alpha / √rank: 3 for v_proj, 8 for the others.
        assert_eq!(scale("layers.0.self_attn.v_proj"), Some(1.5));
        assert_eq!(scale("layers.0.mlp.down_proj"), Some(4.0));
    }

    #[test]
    fn differences_are_those_of_the_full_matrices() {
        let one = Pair {
            rank: 2,
            a: vec![1.0, 2.0, -1.0, 0.5, 0.0, 3.0],
            b: vec![1.0, -2.0, 0.5, 4.0],
            scale: 2.0,
        };
        let other = Pair { rank: 1, a: vec![2.0, 1.0, 0.0], b: vec![-1.0, 3.0], scale: 0.5 };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let (w, v) = (full(&one), full(&other));
        let apart: Vec<f64> = w.iter().zip(&v).map(|(x, y)| x - y).collect();
        let found =
            difference(&BTreeMap::from([("m".to_owned(), one)]), &BTreeMap::from([("m".to_owned(), other)]));
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found}, not {wanted}");
        near(found.old_norm, dot(&w, &w).sqrt());
        near(found.new_norm, dot(&v, &v).sqrt());
        near(found.cosine, dot(&w, &v) / (dot(&w, &w) * dot(&v, &v)).sqrt());
        near(found.modules[0].1, dot(&apart, &apart).sqrt());
    }
}
