//! The adapter under training as the engine runs it: packed from memory, no disk between. Leaves when to do so to `run`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_engine::model::adapter::Adapter;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::peft::{LoraPair, PeftAdapter, PeftConfig};
use rectify_kernels::Pool;
use sha2::{Digest, Sha256};

use crate::autograd::Params;
use crate::config::LoraConfig;
use crate::error::TrainError;

/// What answers of a run say about the weights that made them.
const NAME: &str = "rollout";

/// Packs the low-rank pairs among `params` for a policy of shape `base`. The version is a hash of their content, so that
/// cached keys and values of other versions are never met.
///
/// # Errors
/// If a shape is not the base's.
pub fn pack_adapter(
    params: &Params,
    lora: &LoraConfig,
    base: &ModelConfig,
    pool: &Pool,
) -> Result<Arc<Adapter>, TrainError> {
    let scale = lora.lora_alpha / lora.lora_r as f32;
    let mut modules: BTreeMap<String, LoraPair> = BTreeMap::new();
    let mut hash = Sha256::new();
    for (part, values, _) in params.tensors() {
        let module = |matrix: &str| part.name.strip_suffix(&format!(".lora_{matrix}.weight"));
        let (Some(name), is_a) = module("A").map_or((module("B"), false), |name| (Some(name), true)) else {
            continue;
        };
        hash.update(part.name.as_bytes());
        hash.update(bytemuck::cast_slice::<f32, u8>(values));
        let empty = || LoraPair { rank: lora.lora_r, a: Vec::new(), b: Vec::new(), scale };
        let pair = modules.entry(name.to_owned()).or_insert_with(empty);
        *(if is_a { &mut pair.a } else { &mut pair.b }) = values.to_vec();
    }
    let content_hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let config = PeftConfig::new(lora.lora_r, f64::from(lora.lora_alpha), lora.target_modules.clone());
    let adapter = PeftAdapter { config, modules, score_head: None, content_hash };
    let packed = Adapter::pack(NAME, &adapter, base, pool)
        .map_err(|error| TrainError::config("target_modules", error.to_string()))?;
    Ok(Arc::new(packed))
}
