//! The sections `model`, `models` and `adapters`: which policies are served, and how they are held. Leaves loading to `boot`.

use std::path::PathBuf;

use rectify_engine::EngineError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, Config};

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// Folder in Hugging Face's layout, a GGUF file, or an id on the hub (`owner/name[@revision]`); the embedded demo if
    /// unset and there are no `models`.
    pub path: Option<PathBuf>,
    /// Names requests use; the folder's name, or the id, if unset. In `models`, further names.
    pub served_names: Vec<String>,
    /// Precision of the weights; the checkpoint's own if unset.
    pub precision: Option<Precision>,
    /// Weights in fewer bits, and activations too where they meet them.
    pub quantize: Option<Quantization>,
    /// Longest sequence in tokens; the model's own if unset.
    pub max_model_len: Option<usize>,
    /// Its part of `cache.memory`, as `1GiB`; a share of what the other policies leave if unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_memory: Option<ByteSize>,
}

/// An adapter of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterSection {
    /// PEFT folder, or an id on the hub.
    pub path: PathBuf,
    /// The policy it is for, by name; the default one if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// Precision of weights or KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    Float32,
    /// Half the memory and more than twice the speed.
    Bfloat16,
    /// As much memory as bfloat16, and faster where the processor multiplies in half precision (AVX512-FP16).
    /// Keys and values are kept in bfloat16.
    Float16,
}

/// Bits of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// Eight.
    Int8,
}

/// A policy to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedPolicy {
    /// Its names, as far as the configuration says: the first is the main one. Without any it is called after its source.
    pub names: Vec<String>,
    /// Where it is and how it is held.
    pub section: ModelSection,
}

impl Config {
    /// Whether the embedded demo is served.
    pub fn is_demo(&self) -> bool {
        self.model.path.is_none() && self.models.is_empty()
    }

    /// The policies, the default one first.
    pub fn policies(&self) -> Vec<NamedPolicy> {
        let main = (self.model.path.is_some() || self.models.is_empty())
            .then(|| NamedPolicy { names: self.model.served_names.clone(), section: self.model.clone() });
        let more = self.models.iter().map(|(name, section)| NamedPolicy {
            names: std::iter::once(name).chain(&section.served_names).cloned().collect(),
            section: ModelSection {
                precision: section.precision.or(self.model.precision),
                quantize: section.quantize.or(self.model.quantize),
                max_model_len: section.max_model_len.or(self.model.max_model_len),
                ..section.clone()
            },
        });
        let mut policies: Vec<_> = main.into_iter().chain(more).collect();
        if let Some(default) = &self.default_model
            && let Some(at) = policies.iter().position(|policy| policy.names.contains(default))
        {
            policies[..=at].rotate_right(1);
        }
        policies
    }

    /// The same with one policy, the default one or that of this name, and what is on its base.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn only(&self, name: Option<&str>) -> Result<Self, EngineError> {
        let policies = self.policies();
        let is_named =
            |policy: &&NamedPolicy| name.is_none_or(|name| policy.names.iter().any(|own| own == name));
        // The name of a policy that is called after its source is known when it is loaded.
        let alone = policies.first().filter(|policy| policies.len() == 1 || policy.names.is_empty());
        let Some(policy) = policies.iter().find(is_named).or(alone) else {
            let known = crate::names(policies.iter().flat_map(|policy| &policy.names));
            let (kind, name) = ("policy", name.unwrap_or_default().to_owned());
            return Err(EngineError::NotFound { kind, name, known: format!("available: {known}") });
        };
        let is_default = policies.first() == Some(policy);
        let is_own = |of: &Option<String>| match of {
            Some(of) => policies.len() == 1 || policy.names.contains(of),
            None => is_default,
        };
        let mut config = self.clone();
        config.models.clear();
        config.default_model = None;
        config.model = ModelSection { served_names: policy.names.clone(), ..policy.section.clone() };
        // Reward models with weights of their own are everybody's, and only their files tell.
        config.rewards.retain(|_, reward| reward.policy.as_ref().is_none_or(|_| is_own(&reward.policy)));
        config.adapters.retain(|_, adapter| is_own(&adapter.policy));
        for policy in config.rewards.values_mut().map(|reward| &mut reward.policy) {
            *policy = None;
        }
        for policy in config.adapters.values_mut().map(|adapter| &mut adapter.policy) {
            *policy = None;
        }
        Ok(config)
    }

    /// Checks what types cannot say of policies.
    pub(super) fn validate_policies(&self) -> Result<(), String> {
        let main = ("model".to_owned(), &self.model);
        let more = self.models.iter().map(|(name, section)| (format!("models.{name}"), section));
        for (key, section) in std::iter::once(main).chain(more) {
            if section.max_model_len == Some(0) {
                return Err(format!("`{key}.max_model_len` is 0, but must be at least 1"));
            }
        }
        for (name, section) in &self.models {
            if section.path.is_none() {
                return Err(format!(
                    "`models.{name}.path` is missing: give a folder, a GGUF file or an id on the hub"
                ));
            }
        }
        if self.model.path.is_none() && !self.models.is_empty() {
            let without = [
                ("served_names", !self.model.served_names.is_empty()),
                ("kv_memory", self.model.kv_memory.is_some()),
            ];
            if let Some((key, _)) = without.iter().find(|(_, set)| *set) {
                return Err(format!(
                    "`model.{key}` is of no policy, since `model.path` is unset; set it in one of `models`"
                ));
            }
        }
        let policies = self.policies();
        for name in policies.iter().flat_map(|policy| &policy.names) {
            check_name(name)?;
        }
        if let Some(default) = &self.default_model
            && !policies.iter().any(|policy| policy.names.contains(default))
        {
            let known = crate::names(policies.iter().flat_map(|policy| &policy.names));
            return Err(format!("`default_model` is `{default}`, which is not among the policies: {known}"));
        }
        Ok(())
    }
}

/// Checks what requests could name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("the model name `{name}` must not be empty or contain spaces"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(yaml: &str) -> Vec<Vec<String>> {
        Config::from_yaml(yaml).unwrap().policies().into_iter().map(|policy| policy.names).collect()
    }

    #[test]
    fn the_default_policy_comes_first() {
        assert_eq!(names(""), [Vec::<String>::new()]);
        assert!(Config::default().is_demo());
        assert_eq!(
            names("models: {b: {path: x}, a: {path: y, served_names: [c]}}"),
            [vec!["a", "c"], vec!["b"]]
        );
        assert_eq!(names("model: {path: z}\nmodels: {a: {path: y}}"), [vec![], vec!["a"]]);
        assert_eq!(names("models: {b: {path: x}, a: {path: y}}\ndefault_model: b"), [["b"], ["a"]]);
    }

    #[test]
    fn what_a_policy_leaves_open_is_as_the_model_section_says() {
        let yaml = "
model: {precision: float32, max_model_len: 64}
models: {a: {path: x}, b: {path: y, precision: bfloat16, max_model_len: 32, quantize: int8}}
";
        let policies = Config::from_yaml(yaml).unwrap().policies();
        let held = |at: usize| {
            let section: &ModelSection = &policies[at].section;
            (section.precision, section.quantize, section.max_model_len)
        };
        assert_eq!(held(0), (Some(Precision::Float32), None, Some(64)));
        assert_eq!(held(1), (Some(Precision::Bfloat16), Some(Quantization::Int8), Some(32)));
    }

    #[test]
    fn policies_that_cannot_be_are_refused_by_key() {
        let refused = |yaml: &str| Config::from_yaml(yaml).unwrap_err().message;
        assert!(refused("models: {a: {precision: float32}}").starts_with("`models.a.path` is missing"));
        assert!(
            refused("models: {a: {path: x, max_model_len: 0}}").starts_with("`models.a.max_model_len` is 0")
        );
        assert!(refused("models: {a b: {path: x}}").contains("`a b` must not be empty or contain spaces"));
        assert!(
            refused("models: {a: {path: x}}\nmodel: {served_names: [c]}").starts_with("`model.served_names`")
        );
        assert_eq!(
            refused("models: {a: {path: x}}\ndefault_model: b"),
            "`default_model` is `b`, which is not among the policies: a"
        );
    }
}
