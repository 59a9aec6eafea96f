//! From a folder to a reward model: an adapter on the policy's base, a decoder or an encoder. Leaves the policy and the
//! whole to `assemble`.

use std::sync::Arc;

use rectify_kernels::Pool;

use super::adapter::Adapter;
use super::assemble::{Dtype, ModelsConfig, ServedModels, stored_dtype};
use super::backend::Result;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::cpu_executor::{CpuExecutor, CpuOptions};
use super::encoder::{
    EncoderConfig, EncoderExecutor, EncoderFamily, EncoderOptions, EncoderPairText, EncoderText,
};
use super::fields::Fields;
use super::layout;
use super::peft::{self, PeftAdapter};
use super::reading::{Aggregate, OutputActivation, RewardReading};
use super::readout::{Readout, label_names};
use super::reward::{RewardText, StepTags};
use super::source::ModelSource;
use super::weights::WeightStore;
use crate::EngineError;
use crate::parts::{RewardParts, RewardSpec, RewardWeights};
use crate::text::{ChatTemplate, PairTokenizer, Tokenizer};

/// The reward model `name` in `source`; an adapter is on the base of the given policy.
///
/// # Errors
/// [`EngineError::Load`] naming the file that does not fit, [`EngineError::InvalidRequest`] naming the setting.
pub(super) fn load_reward(
    name: &str,
    source: &ModelSource,
    models: &ModelsConfig,
    (policy, served): (usize, &ServedModels),
    pool: &Arc<Pool>,
) -> Result<RewardParts> {
    let name: Arc<str> = name.into();
    let unread = RewardReading::default();
    let reading = models.readings.get(&*name).unwrap_or(&unread);
    if PeftAdapter::is_in(source) {
        if *reading != unread {
            let message = format!(
                "`rewards.{name}` says how outputs are read, but {} is an adapter, whose one output is the reward; leave \
                 out all but `path`",
                source.path().display()
            );
            return Err(EngineError::invalid("rewards", message));
        }
        return load_reward_adapter(name, source, (policy, served), pool);
    }
    let fields = source.require_json("config.json")?;
    if let Some(family) = EncoderFamily::find(&fields)? {
        return load_encoder(name, source, (&fields, family), models, reading, pool);
    }
    refuse_lengths(&name, reading)?;
    let checkpoint = Checkpoint::open(source)?;
    let mut config = ModelConfig::load(source)?;
    let mut labels = label_names(&fields)?;
    if config.num_labels.is_none() && checkpoint.contains(&format!("{}.weight", layout::VALUE_HEAD)) {
        config = config.with_value_head();
        labels = vec!["LABEL_0".into()];
    }
    if config.num_labels.is_none() {
        let message = "is of a language model, but a reward model must be a ForSequenceClassification model, or hold a \
                       value head (`v_head.summary.weight`)";
        return Err(EngineError::load(source.path_of("config.json"), message));
    }
    let readout = Readout::new(&name, &fields, &labels, reading)?;
    let tokenizer = Arc::new(Tokenizer::load(source)?);
    tokenizer.check_vocabulary(&config)?;
    let steps = step_tags(&name, &fields, &config, reading, &tokenizer)?;
    let dtype = models.dtype.unwrap_or_else(|| stored_dtype(&checkpoint, &config));
    let options = CpuOptions {
        pool: Arc::clone(pool),
        dtype: dtype.weights(),
        weights: WeightStore::default(),
        kv_dtype: models.kv_dtype.unwrap_or(dtype).kv(),
        kv_memory: models.reward_kv_memory,
        block_size: models.block_size,
        max_model_len: None,
    };
    let executor = CpuExecutor::new(&config, &checkpoint, &options)?.with_readout(readout);
    let chat_template = ChatTemplate::load(source)?.map(Arc::new);
    let spec = Arc::new(RewardText { name: Arc::clone(&name), tokenizer, chat_template, steps });
    Ok(RewardParts { name, spec, weights: RewardWeights::Own(Box::new(executor)) })
}

/// Where a process reward model is read: as whoever serves it says, or its own `config.json`.
fn step_tags(
    name: &str,
    fields: &Fields,
    config: &ModelConfig,
    reading: &RewardReading,
    tokenizer: &Tokenizer,
) -> Result<Option<StepTags>> {
    let own = fields.tokens("step_tag_id")?.and_then(|ids| ids.first().copied());
    let Some(id) = reading.step_tag_id.or(own) else {
        if config.is_token_classifier {
            let message = format!(
                "is of a classifier of tokens, whose reward is read at step tokens: set `rewards.{name}.step_tag_id`"
            );
            return Err(fields.error("architectures", message));
        }
        return Ok(None);
    };
    let invalid = |message: String| Err(EngineError::invalid("rewards", message));
    if id as usize >= tokenizer.vocab_size() {
        let size = tokenizer.vocab_size();
        return invalid(format!("`rewards.{name}.step_tag_id` is {id}, but the tokenizer has {size} tokens"));
    }
    if reading.aggregate == Aggregate::Prod && reading.activation == OutputActivation::None {
        return invalid(format!(
            "`rewards.{name}.aggregate` is prod, which is of probabilities, but outputs are raw logits; set \
             `rewards.{name}.activation` to softmax or sigmoid"
        ));
    }
    if reading.step_separator.as_ref().is_some_and(String::is_empty) {
        return invalid(format!(
            "`rewards.{name}.step_separator` is empty, but must be a text between steps"
        ));
    }
    let text = tokenizer.decode(&[id], false)?;
    Ok(Some(StepTags { id, text, separator: reading.step_separator.clone(), aggregate: reading.aggregate }))
}

/// An adapter with a score head on a policy's base.
fn load_reward_adapter(
    name: Arc<str>,
    source: &ModelSource,
    (policy, served): (usize, &ServedModels),
    pool: &Arc<Pool>,
) -> Result<RewardParts> {
    let own_tokenizer = source.contains("tokenizer.json").then(|| Tokenizer::load(source).map(Arc::new));
    let adapter = Adapter::load(&name, source, &served.config, pool)?;
    if !adapter.info.has_score_head {
        let message = "holds no score head: it is an adapter of a language model, not a reward model";
        return Err(EngineError::load(source.path_of(peft::WEIGHTS_FILE), message));
    }
    let tokenizer = own_tokenizer.transpose()?.unwrap_or_else(|| Arc::clone(&served.tokenizer));
    tokenizer.check_vocabulary(&served.config)?;
    let own_template = ChatTemplate::load(source)?.map(Arc::new);
    let chat_template = own_template.or_else(|| served.chat_template.clone());
    let spec = Arc::new(RewardText { name: Arc::clone(&name), tokenizer, chat_template, steps: None });
    Ok(RewardParts { name, spec, weights: RewardWeights::Adapter { policy, adapter: Arc::new(adapter) } })
}

fn load_encoder(
    name: Arc<str>,
    source: &ModelSource,
    (fields, family): (&Fields, &'static EncoderFamily),
    models: &ModelsConfig,
    reading: &RewardReading,
    pool: &Arc<Pool>,
) -> Result<RewardParts> {
    let config = EncoderConfig::parse(fields, family)?;
    if reading.step_tag_id.is_some() {
        let message =
            format!("`rewards.{name}.step_tag_id` is set, but an encoder has one reward for the whole text");
        return Err(EngineError::invalid("rewards", message));
    }
    let tokenizer = PairTokenizer::load(source)?;
    tokenizer.check_vocabulary(config.vocab_size)?;
    let (spec, max_len, readout): (Arc<dyn RewardSpec>, _, _) = match &config.markers {
        Some(markers) => {
            let lengths = compared_lengths(&name, reading)?;
            let text = EncoderPairText::new(&name, tokenizer, markers, lengths)?;
            let max_len = text.max_len();
            (Arc::new(text), Some(max_len), Readout::mean(config.labels.len()))
        }
        None => {
            refuse_lengths(&name, reading)?;
            let text = EncoderText {
                name: Arc::clone(&name),
                tokenizer,
                vocab_size: config.vocab_size,
                num_segments: config.num_segments,
                input: reading.input,
                truncate_to: reading.truncate.then_some(config.max_len()),
            };
            (Arc::new(text), None, Readout::new(&name, fields, &config.labels, reading)?)
        }
    };
    let checkpoint = Checkpoint::open(source)?;
    let options = EncoderOptions {
        pool: Arc::clone(pool),
        dtype: models
            .dtype
            .unwrap_or_else(|| Dtype::as_stored(&checkpoint, &config.word_embedding()))
            .weights(),
        memory: models.reward_kv_memory,
        max_len,
        readout,
    };
    let executor = EncoderExecutor::new(&config, &checkpoint, options)?;
    Ok(RewardParts { name, spec, weights: RewardWeights::Own(Box::new(executor)) })
}

/// Of a model that scores answers one by one.
fn refuse_lengths(name: &str, reading: &RewardReading) -> Result<()> {
    if reading.source_max_length.is_none() && reading.candidate_max_length.is_none() {
        return Ok(());
    }
    let message = format!(
        "`rewards.{name}` has `source_max_length` or `candidate_max_length`, which belong to models that compare answers; \
         leave them out"
    );
    Err(EngineError::invalid("rewards", message))
}

/// How much a model that compares reads of conversation and answers. It takes no other setting.
fn compared_lengths(name: &str, reading: &RewardReading) -> Result<[Option<usize>; 2]> {
    let &RewardReading { source_max_length, candidate_max_length, .. } = reading;
    let lengths = RewardReading { source_max_length, candidate_max_length, ..RewardReading::default() };
    if *reading == lengths {
        return Ok([source_max_length, candidate_max_length]);
    }
    let message = format!(
        "`rewards.{name}` is of a model that compares answers, which takes `source_max_length` and `candidate_max_length` \
         alone; leave out the others"
    );
    Err(EngineError::invalid("rewards", message))
}
