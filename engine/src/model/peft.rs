//! LoRA adapters in PEFT's folder format: `adapter_config.json`, `adapter_model.safetensors` and the names in them, for
//! reading and writing. Leaves packing to `adapter`.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::backend::Result;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::fields::Fields;
use super::layout::{self, Part, Projection};
use super::source::ModelSource;
use crate::EngineError;

/// Settings of an adapter.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Tensors of an adapter.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Modules that PEFT's sequence classification saves whole; the second is the head of every decoder.
const SAVED_MODULES: [&str; 2] = ["classifier", layout::SCORE_HEAD];

/// The settings of an adapter that matter for its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    /// Rank of modules that `rank_pattern` does not name.
    pub rank: usize,
    /// Strength of modules that `alpha_pattern` does not name.
    pub alpha: f64,
    /// Scale by `alpha / √rank` (Kalajdzievski 2023, arXiv:2312.03732) instead of `alpha / rank`.
    pub use_rslora: bool,
    /// Modules that are adapted, by the last components of their names.
    pub target_modules: Vec<String>,
    /// Ranks of modules whose names end with a pattern.
    pub rank_pattern: Vec<(String, usize)>,
    /// Strengths of modules whose names end with a pattern.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Comes with a score head (`task_type` `SEQ_CLS`).
    pub score_head: bool,
    /// Dropout of training; only written down.
    pub dropout: f64,
    /// Where the base is; only written down.
    pub base_model: Option<String>,
}

/// The low-rank pair of one module: `W + scale · B A`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// Rank.
    pub rank: usize,
    /// `[rank, in_features]`.
    pub a: Vec<f32>,
    /// `[out_features, rank]`.
    pub b: Vec<f32>,
    /// Factor of the product.
    pub scale: f32,
}

/// An adapter as stored.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    /// Settings.
    pub config: PeftConfig,
    /// Pairs by module, e.g. `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, LoraPair>,
    /// `[1, hidden_size]`.
    pub score_head: Option<Vec<f32>>,
    /// SHA-256 of both files, in hexadecimal.
    pub content_hash: String,
}

/// Name of a module's A or B matrix in `adapter_model.safetensors`; `matrix` is `A` or `B`.
pub fn lora_tensor(module: &str, matrix: char) -> String {
    format!("base_model.model.{module}.lora_{matrix}.weight")
}

/// Name of the score head in `adapter_model.safetensors`.
pub fn score_tensor() -> String {
    format!("base_model.model.{}.weight", layout::SCORE_HEAD)
}

impl PeftConfig {
    /// An adapter of one rank and strength for these modules.
    pub fn new(rank: usize, alpha: f64, target_modules: Vec<String>) -> Self {
        Self {
            rank,
            alpha,
            use_rslora: false,
            target_modules,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            score_head: false,
            dropout: 0.0,
            base_model: None,
        }
    }

    /// Reads `adapter_config.json`; `path` is what errors call it.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the key.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Ok(parse_config(&Fields::parse(path.to_owned(), bytes)?)?.0)
    }

    /// `adapter_config.json` as PEFT reads it.
    pub fn to_json(&self) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": if self.score_head { "SEQ_CLS" } else { "CAUSAL_LM" },
            "base_model_name_or_path": self.base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "target_modules": self.target_modules,
            "modules_to_save": self.score_head.then_some([layout::SCORE_HEAD]),
            "rank_pattern": self.rank_pattern.iter().map(|(key, rank)| (key.clone(), json!(rank))).collect::<Map<_, _>>(),
            "alpha_pattern": self.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), json!(alpha))).collect::<Map<_, _>>(),
        })
    }

    /// Rank of `module`.
    pub fn rank_of(&self, module: &str) -> usize {
        find_pattern(&self.rank_pattern, module).unwrap_or(self.rank)
    }

    /// Factor of `module`'s product.
    pub fn scale_of(&self, module: &str) -> f32 {
        let alpha = find_pattern(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let rank = self.rank_of(module) as f64;
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }
}

/// The first pattern that `module` is, or ends with after a dot.
fn find_pattern<T: Copy>(patterns: &[(String, T)], module: &str) -> Option<T> {
    let matches = |key: &str| match pattern_regex(key) {
        Ok(pattern) => pattern.is_match(module),
        Err(_) => module == key,
    };
    patterns.iter().find(|(key, _)| matches(key)).map(|&(_, value)| value)
}

fn pattern_regex(key: &str) -> std::result::Result<Regex, regex::Error> {
    Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
}

impl PeftAdapter {
    /// Whether the folder holds an adapter.
    pub fn is_in(source: &ModelSource) -> bool {
        source.contains(CONFIG_FILE)
    }

    /// Reads an adapter and checks it against the base it is for: kinds, shapes, ranks, finiteness, and that nothing
    /// is missing or left over.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file and what is wrong in it.
    pub fn load(source: &ModelSource, base: &ModelConfig) -> Result<Self> {
        let config_bytes = source.require(CONFIG_FILE)?;
        let fields = Fields::parse(source.path_of(CONFIG_FILE), &config_bytes)?;
        let (config, targets) = parse_config(&fields)?;
        if !source.contains(WEIGHTS_FILE) && source.contains("adapter_model.bin") {
            let message = "is missing; adapter_model.bin is not read: save the adapter as safetensors";
            return Err(EngineError::load(source.path_of(WEIGHTS_FILE), message));
        }
        let weights_bytes = source.require(WEIGHTS_FILE)?;
        let tensors = Checkpoint::open_file(source, WEIGHTS_FILE)?;
        let path = source.path_of(WEIGHTS_FILE);
        let fail = |message: String| EngineError::load(&path, message);

        let mut modules = BTreeMap::new();
        let mut unread: std::collections::BTreeSet<String> =
            tensors.names().into_iter().map(str::to_owned).collect();
        for (module, part) in all_modules(base) {
            let names = [lora_tensor(&module, 'A'), lora_tensor(&module, 'B')];
            let present = names.each_ref().map(|name| unread.remove(name));
            if present == [false, false] {
                if targets.requires(&module, part) {
                    return Err(fail(format!(
                        "lacks the tensor `{}`, which target_modules asks for",
                        names[0]
                    )));
                }
                continue;
            }
            let rank = config.rank_of(&module);
            let a = finite(&tensors, &names[0], &[rank, part.in_features])?;
            let b = finite(&tensors, &names[1], &[part.out_features, rank])?;
            modules.insert(module.clone(), LoraPair { rank, a, b, scale: config.scale_of(&module) });
        }
        let score = score_tensor();
        let score_head = if unread.remove(&score) {
            let outputs = tensors.shape(&score).and_then(|shape| shape.first().copied()).unwrap_or(0);
            if outputs != 1 {
                return Err(fail(format!(
                    "the tensor `{score}` has {outputs} outputs, but a reward model has 1"
                )));
            }
            Some(finite(&tensors, &score, &[1, base.hidden_size])?)
        } else if config.score_head {
            return Err(fail(format!(
                "lacks the tensor `{score}`, but the task_type of {CONFIG_FILE} is SEQ_CLS"
            )));
        } else {
            None
        };
        if let Some(name) = unread.first() {
            return Err(fail(unknown_tensor(name, base)));
        }
        if modules.is_empty() && score_head.is_none() {
            return Err(fail("holds no adapted module".to_owned()));
        }
        let digest = Sha256::new().chain_update(&*config_bytes).chain_update(&*weights_bytes).finalize();
        let content_hash = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { config, modules, score_head, content_hash })
    }
}

fn unknown_tensor(name: &str, base: &ModelConfig) -> String {
    if name.contains("lora_embedding_") || name.contains(&format!("{}.lora_", layout::LM_HEAD)) {
        return format!(
            "adapts the embedding or the output head (`{name}`), but only layers' projections can be"
        );
    }
    if name.contains("lora_magnitude_vector") {
        return format!("holds `{name}`: DoRA is not supported, only plain LoRA");
    }
    format!(
        "holds the tensor `{name}`, which no module of this {} base with its sizes has",
        base.family.model_type
    )
}

fn all_modules(base: &ModelConfig) -> impl Iterator<Item = (String, Part)> {
    (0..base.num_layers).flat_map(move |layer| {
        let of_layer = move |projection| layout::parts(base, layer, projection);
        let parts = Projection::ALL.into_iter().flat_map(of_layer);
        parts.map(move |part| (part.module(layer), part))
    })
}

fn finite(tensors: &Checkpoint, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let values = tensors.f32_values(name, shape)?;
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(values),
        Some(value) => Err(EngineError::load(
            tensors.origin(),
            format!("the tensor `{name}` holds {value}, which is no number"),
        )),
    }
}

/// Which modules must be there.
enum Targets {
    /// Those that are, or end with, one of these.
    Names(Vec<String>),
    /// Those that match.
    Pattern(Regex),
    /// All linear modules of the layers.
    AllLinear,
    /// A rule of its own narrows them down: whatever is there.
    Any,
}

impl Targets {
    fn requires(&self, module: &str, part: Part) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| {
                name == part.short_name() || module == name || module.ends_with(&format!(".{name}"))
            }),
            Self::Pattern(pattern) => pattern.is_match(module),
            Self::AllLinear => true,
            Self::Any => false,
        }
    }
}

fn parse_config(fields: &Fields) -> Result<(PeftConfig, Targets)> {
    match fields.string("peft_type")? {
        Some("LORA") => {}
        Some(other) => {
            return Err(fields.error("peft_type", format!("is \"{other}\", but only LORA is supported")));
        }
        None => return Err(fields.error("peft_type", "is missing, but must be LORA")),
    }
    refuse_variants(fields)?;
    let score_head = fields.string("task_type")? == Some("SEQ_CLS");
    let saved = match fields.get("modules_to_save") {
        None => Vec::new(),
        Some(_) => fields.strings("modules_to_save")?.unwrap_or_default(),
    };
    if let Some(module) = saved.iter().find(|module| !SAVED_MODULES.contains(module)) {
        let message = format!("holds \"{module}\", but only the head \"score\" can be saved with an adapter");
        return Err(fields.error("modules_to_save", message));
    }
    let rank = fields.require_size("r")?;
    let mut config = PeftConfig::new(rank, fields.number("lora_alpha")?.unwrap_or(8.0), Vec::new());
    config.use_rslora = fields.flag("use_rslora")?.unwrap_or(false);
    config.score_head = score_head;
    config.dropout = fields.number("lora_dropout")?.unwrap_or(0.0);
    config.base_model = fields.string("base_model_name_or_path")?.map(str::to_owned);
    if let Some(patterns) = fields.object("rank_pattern")? {
        for key in patterns.names() {
            check_pattern(&patterns, key)?;
            config.rank_pattern.push((key.to_owned(), patterns.require_size(key)?));
        }
    }
    if let Some(patterns) = fields.object("alpha_pattern")? {
        for key in patterns.names() {
            check_pattern(&patterns, key)?;
            config.alpha_pattern.push((key.to_owned(), patterns.number(key)?.unwrap_or(config.alpha)));
        }
    }
    let targets = parse_targets(fields, &mut config)?;
    Ok((config, targets))
}

fn check_pattern(patterns: &Fields, key: &str) -> Result<()> {
    pattern_regex(key).map(|_| ()).map_err(|_| patterns.error(key, "is not a pattern of module names"))
}

/// Variants of LoRA that compute something else.
fn refuse_variants(fields: &Fields) -> Result<()> {
    for (field, name) in [
        ("use_dora", "DoRA"),
        ("use_qalora", "QA-LoRA"),
        ("use_bdlora", "BD-LoRA"),
        ("lora_bias", "a bias on LoRA"),
    ] {
        // Some newer variants hold a configuration object instead of a flag.
        if fields.get(field).is_some_and(|value| *value != Value::Bool(false)) {
            return Err(fields.error(field, format!("is set, but {name} is not supported, only plain LoRA")));
        }
    }
    if let Some(bias) = fields.string("bias")?
        && bias != "none"
    {
        return Err(fields
            .error("bias", format!("is \"{bias}\", but trained biases are not supported: only \"none\"")));
    }
    for field in ["layer_replication", "alora_invocation_tokens", "arrow_config", "trainable_token_indices"] {
        if fields.get(field).is_some() {
            return Err(fields.error(field, "is set, but is not supported: only plain LoRA is"));
        }
    }
    if fields.get("target_parameters").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(fields.error("target_parameters", "is set, but is not supported: only target_modules is"));
    }
    Ok(())
}

fn parse_targets(fields: &Fields, config: &mut PeftConfig) -> Result<Targets> {
    const FIELD: &str = "target_modules";
    let narrowed = ["layers_to_transform", "layers_pattern", "exclude_modules"].iter().any(|field| {
        fields.get(field).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()))
    });
    let targets = match fields.get(FIELD) {
        None => Targets::Any,
        Some(Value::String(text)) => {
            config.target_modules = vec![text.clone()];
            match text.as_str() {
                "all-linear" => Targets::AllLinear,
                // Python's expressions may hold what ours cannot; the tensors then speak for themselves.
                pattern => Regex::new(&format!("^(?:{pattern})$")).map_or(Targets::Any, Targets::Pattern),
            }
        }
        Some(_) => {
            let names: Vec<String> =
                fields.strings(FIELD)?.unwrap_or_default().into_iter().map(str::to_owned).collect();
            config.target_modules.clone_from(&names);
            Targets::Names(names)
        }
    };
    Ok(if narrowed { Targets::Any } else { targets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::Values;
    use crate::model::save::NamedTensor;
    use crate::model::testing::{adapter_tensors, config, write_adapter};

    fn load_with(change: impl Fn(&mut Vec<NamedTensor<'static>>), settings: Value) -> Result<PeftAdapter> {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = adapter_tensors(settings.get("task_type").is_some());
        change(&mut tensors);
        let source = write_adapter(folder.path(), &tensors, &settings);
        PeftAdapter::load(&source, &config(&json!({})).unwrap())
    }

    #[test]
    fn reads_what_it_writes() {
        let adapter = load_with(|_| {}, json!({"task_type": "SEQ_CLS"})).unwrap();
        assert_eq!(adapter.modules.len(), 4);
        assert_eq!(adapter.modules["model.layers.1.mlp.down_proj"].scale, 2.0);
        assert_eq!(adapter.score_head.unwrap().len(), 32);
        let bare = load_with(|_| {}, json!({})).unwrap();
        assert_eq!(bare.score_head, None);
        assert_ne!(bare.content_hash, adapter.content_hash);
        assert_eq!(bare.content_hash.len(), 64);
    }

    #[test]
    fn patterns_set_rank_and_alpha_of_names_that_end_with_them() {
        let mut config = PeftConfig::new(8, 16.0, vec![]);
        config.rank_pattern = vec![("layers.1.self_attn.q_proj".into(), 4), ("down_proj".into(), 2)];
        config.alpha_pattern = vec![(r"layers\.\d+\.mlp\.down_proj".into(), 3.0)];
        let at = |layer: usize, name: &str| format!("model.layers.{layer}.{name}");
        assert_eq!(config.rank_of(&at(1, "self_attn.q_proj")), 4);
        assert_eq!(config.rank_of(&at(11, "self_attn.q_proj")), 8);
        assert_eq!(config.scale_of(&at(0, "mlp.down_proj")), 1.5);
        assert_eq!(config.rank_of(&at(0, "mlp.not_down_proj")), 8);
        config.use_rslora = true;
        assert_eq!(config.scale_of(&at(0, "self_attn.v_proj")), (16.0 / 8f64.sqrt()) as f32);
    }

    #[test]
    fn targets_may_be_names_an_expression_or_all_linear() {
        for targets in [
            json!(r"model\.layers\.\d+\.(self_attn\.q|mlp\.down)_proj"),
            json!(["layers.0.self_attn.q_proj"]),
        ] {
            load_with(|_| {}, json!({"target_modules": targets})).unwrap();
        }
        for targets in [json!("all-linear"), json!(["q_proj", "down_proj", "v_proj"]), json!(".*v_proj")] {
            let error = load_with(|_| {}, json!({"target_modules": targets})).unwrap_err().to_string();
            assert!(error.contains("which target_modules asks for"), "{error}");
        }
        let narrowed = json!({"target_modules": ["v_proj"], "layers_to_transform": [0]});
        load_with(|_| {}, narrowed).unwrap();
    }

    #[test]
    fn refuses_what_computes_something_else() {
        for (settings, words) in [
            (json!({"peft_type": "IA3"}), "`peft_type` is \"IA3\", but only LORA is supported"),
            (json!({"use_dora": true}), "`use_dora` is set, but DoRA is not supported"),
            (json!({"bias": "all"}), "`bias` is \"all\", but trained biases are not supported"),
            (json!({"modules_to_save": ["lm_head"]}), "`modules_to_save` holds \"lm_head\""),
            (json!({"layer_replication": [[0, 1]]}), "`layer_replication` is set"),
            (json!({"r": 0}), "`r` is 0, but must be a whole number from 1"),
            (json!({"r": 3}), "has shape [2, 32], but must have [3, 32]"),
            (json!({"rank_pattern": {"(": 3}}), "`rank_pattern.(` is not a pattern"),
        ] {
            let error = load_with(|_| {}, settings).unwrap_err().to_string();
            assert!(error.contains(words), "{error}\nlacks: {words}");
        }
    }

    #[test]
    fn refuses_tensors_that_are_missing_unknown_or_not_finite() {
        let error = load_with(|tensors| drop(tensors.remove(1)), json!({})).unwrap_err().to_string();
        assert!(
            error.contains(
                "lacks the tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight`"
            ),
            "{error}"
        );
        let rename = |name: &'static str| {
            move |tensors: &mut Vec<NamedTensor<'static>>| {
                let extra = NamedTensor { name: name.into(), ..tensors[0].clone() };
                tensors.push(extra);
            }
        };
        let error = load_with(rename("base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"), json!({}));
        assert!(error.unwrap_err().to_string().contains("which no module of this llama base"));
        let error = load_with(rename("base_model.model.lm_head.lora_A.weight"), json!({})).unwrap_err();
        assert!(error.to_string().contains("adapts the embedding or the output head"), "{error}");
        let error = load_with(
            |tensors| {
                if let Values::F32(values) = &mut tensors[0].values {
                    values.to_mut()[3] = f32::NAN;
                }
            },
            json!({}),
        );
        assert!(error.unwrap_err().to_string().contains("holds NaN, which is no number"));
        let two = |tensors: &mut Vec<NamedTensor<'static>>| {
            let last = tensors.last_mut().unwrap();
            last.shape = vec![2, 32];
            last.values = Values::F32(vec![0.0; 64].into());
        };
        let error = load_with(two, json!({"task_type": "SEQ_CLS"})).unwrap_err().to_string();
        assert!(error.contains("has 2 outputs, but a reward model has 1"), "{error}");
        let error = load_with(|tensors| drop(tensors.pop()), json!({"task_type": "SEQ_CLS"})).unwrap_err();
        assert!(error.to_string().contains("task_type of adapter_config.json is SEQ_CLS"), "{error}");
    }
}
