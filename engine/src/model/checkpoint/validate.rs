//! Whether a checkpoint holds the tensors of a model and no others. Leaves which those are to `layout`.

use std::collections::HashSet;

use super::Checkpoint;
use crate::EngineError;
use crate::model::backend::Result;
use crate::model::config::ModelConfig;
use crate::model::layout;

impl Checkpoint {
    /// Checks that every tensor of the model is there with its shape, and no other.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file and the first tensor that is wrong.
    pub fn validate(&self, config: &ModelConfig) -> Result<()> {
        let specs = layout::tensors(config);
        for spec in &specs {
            self.entry(&spec.name, &spec.shape)?;
        }
        let known: HashSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        // A file of the trunk alone holds all names without what stands before them.
        let trunk = layout::TRUNKS.into_iter().find(|trunk| config.family.names.embedding.starts_with(trunk));
        let is_trunk =
            !self.names().into_iter().any(|name| trunk.is_some_and(|trunk| name.starts_with(trunk)));
        let is_known = |name: &str| known.contains(name) || layout::is_ignored(config, name);
        let prefixed = |name: &str| is_trunk && is_known(&format!("{}{name}", trunk.unwrap_or_default()));
        let extra = self.names().into_iter().find(|name| !is_known(name) && !prefixed(name));
        if let Some(name) = extra {
            let message = format!(
                "holds the tensor `{name}`, which a {} model with this config.json does not have",
                config.family.model_type
            );
            let path = self.tensors.get(name).map_or(self.origin.as_path(), |entry| self.file_of(entry));
            return Err(EngineError::load(path, message));
        }
        Ok(())
    }
}
