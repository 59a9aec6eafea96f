//! The start of an adapter from one that was trained before. Leaves the base to `model`.

use std::collections::BTreeSet;
use std::path::Path;

use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::peft::PeftAdapter;
use rectify_engine::model::source::ModelSource;

use crate::autograd::Params;
use crate::config::LoraConfig;
use crate::error::TrainError;

/// Fills the adapter among `params` from the PEFT folder `folder`, whose rank, strength and modules must be those that are
/// trained.
///
/// # Errors
/// [`TrainError::Model`] naming the folder and what differs.
pub(super) fn from_folder(
    folder: &Path,
    base: &ModelConfig,
    lora: &LoraConfig,
    params: &mut Params,
) -> Result<(), TrainError> {
    let adapter = PeftAdapter::load(&ModelSource::from(folder), base)?;
    let refuse = |reason: String| TrainError::model(folder, reason);
    let scale = lora.lora_alpha / lora.lora_r as f32;
    let mut filled = BTreeSet::new();
    for param in params.trainable_mut() {
        let [part] = param.parts.as_slice() else { continue };
        let of = |matrix: char| part.name.strip_suffix(&format!(".lora_{matrix}.weight"));
        let (Some(module), is_a) = of('A').map_or((of('B'), false), |module| (Some(module), true)) else {
            continue;
        };
        let Some(pair) = adapter.modules.get(module) else {
            return Err(refuse(format!("has no adapter of `{module}`, which target_modules asks for")));
        };
        if pair.rank != lora.lora_r || (pair.scale - scale).abs() > 1e-6 * scale {
            let (rank, found) = (pair.rank, pair.scale * pair.rank as f32);
            let (wanted, alpha) = (lora.lora_r, lora.lora_alpha);
            return Err(refuse(format!(
                "has lora_r {rank} and lora_alpha {found} at `{module}`, but {wanted} and {alpha} are to be trained: \
                 give the same settings"
            )));
        }
        param.data.copy_from_slice(if is_a { &pair.a } else { &pair.b });
        filled.insert(module.to_owned());
    }
    match adapter.modules.keys().find(|module| !filled.contains(*module)) {
        Some(module) => Err(refuse(format!("adapts `{module}`, which target_modules does not name"))),
        None => Ok(()),
    }
}
