//! Proximal policy optimisation of sampled completions, with a value head on the policy's own trunk as critic. Leaves its
//! losses to `losses`.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::forward::{self, Grads};
use super::learner::Learner;
use super::plan::Shape;
use super::{Online, Sample, check_divergence};
use crate::config::{PpoConfig, TruncationMode};
use crate::data::{SftExample, SftNotes, SftText, read_sft};
use crate::error::TrainError;
use crate::losses::{AdaptiveKl, Clipped, clipped_surrogate, gae, token_rewards, value_loss, whiten};
use crate::run::logprobs::Role;
use crate::run::method::{Pass, Stats};
use crate::run::model::Model;
use crate::run::sft::likelihood;

/// The method.
pub(crate) struct Ppo {
    config: PpoConfig,
    kl: AdaptiveKl,
    /// Texts of the pretraining mix.
    pretraining: Vec<SftExample>,
}

/// A sample and what its loss needs, by token.
pub(crate) struct Unit {
    sample: Sample,
    old_logprobs: Vec<f64>,
    old_values: Vec<f64>,
    advantages: Vec<f64>,
    returns: Vec<f64>,
}

impl Ppo {
    pub(crate) fn load(config: &PpoConfig, model: &mut Model) -> Result<Self, TrainError> {
        model.add_value_head()?;
        let options = SftText {
            completion_only: None,
            assistant_only: false,
            ghost_attention: false,
            max_length: model.max_length(&config.train),
            truncation_mode: TruncationMode::default(),
        };
        let mut pretraining = Vec::new();
        for file in &config.ptx_data {
            pretraining.extend(read_sft(file, &model.encoder, options, &mut SftNotes::default())?);
        }
        if config.ptx_coef > 0.0 && pretraining.is_empty() {
            return Err(TrainError::config(
                "ptx_data",
                "name files with texts to learn, or set ptx_coef to 0",
            ));
        }
        Ok(Self { config: config.clone(), kl: config.kl(), pretraining })
    }

    /// The language-modelling loss on texts of the mix, as many as `count`, weighted by `weight`; which, `seed` decides.
    ///
    /// Ouyang et al. 2022 (arXiv:2203.02155), Eq. 2.
    fn mix(
        &self,
        model: &mut Model,
        (count, weight): (usize, f64),
        seed: u64,
        stats: &mut Stats,
    ) -> Result<(), TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let chosen = index::sample(&mut rng, self.pretraining.len(), count.min(self.pretraining.len()));
        let examples: Vec<&SftExample> = chosen.iter().map(|index| &self.pretraining[index]).collect();
        let tokens: usize = examples.iter().map(|example| example.num_loss_tokens()).sum();
        let mixed = likelihood(model, &examples, tokens as f64 / weight, Some(seed))?;
        stats.loss += mixed.loss;
        stats.num_tokens += mixed.num_tokens;
        stats.add("loss/ptx_avg", mixed.loss / weight, 1.0);
        Ok(())
    }
}

impl Learner for Ppo {
    type Unit = Unit;

    fn num_completions(&self) -> usize {
        1
    }

    fn shape(&self, _: usize) -> Shape {
        Shape {
            units_per_prompt: 1,
            batches_per_rollout: self.config.train.gradient_accumulation_steps * self.config.num_mini_batches,
            epochs_per_rollout: self.config.num_ppo_epochs,
            reshuffles: true,
        }
    }

    fn units(
        &mut self,
        online: &Online,
        model: &mut Model,
        samples: Vec<Sample>,
        stats: &mut Stats,
    ) -> Result<Vec<Unit>, TrainError> {
        let config = &self.config;
        let (temperature, batch_size) =
            (config.rollout.temperature, config.train.per_device_train_batch_size);
        let texts = online.texts(&samples);
        let (mut old, mut values) = (Vec::new(), Vec::new());
        for texts in texts.chunks(batch_size) {
            let policy = model.token_logprobs_at(texts, Role::Policy(None), temperature)?;
            let of_tokens = model.values(&policy.hidden)?;
            let of_tokens: Vec<f64> =
                model.tape.value(of_tokens).iter().map(|value| f64::from(*value)).collect();
            for (index, span) in policy.spans.iter().enumerate() {
                old.push(policy.of(index).to_vec());
                values.push(of_tokens[span.clone()].to_vec());
            }
        }
        let reference = forward::logprobs(model, &texts, Role::Reference, temperature, batch_size)?;
        let advice = "raise kl_coef or lower target, learning_rate or num_ppo_epochs";
        check_divergence(&samples, &reference, config.max_kl, advice)?;
        let mut units = Vec::with_capacity(samples.len());
        let mut rewards = Vec::with_capacity(samples.len());
        let (count, mut mean_kl) = (samples.len() as f64, 0.0);
        for ((sample, old), reference) in samples.iter().zip(&old).zip(&reference) {
            // A completion that no judge can rate is neither good nor bad.
            let mut score = if sample.reward.is_nan() { 0.0 } else { sample.reward };
            if !sample.completion.is_complete {
                score -= config.missing_eos_penalty;
            }
            let kl: f64 = old.iter().zip(reference).map(|(old, reference)| old - reference).sum();
            mean_kl += kl / count;
            let penalty = self.kl.coefficient * kl;
            stats.add("objective/kl", kl, 1.0);
            stats.add("objective/entropy", -old.iter().sum::<f64>(), 1.0);
            stats.add("objective/scores", score, 1.0);
            stats.add("objective/non_score_reward", -penalty, 1.0);
            stats.add("objective/rlhf_reward", score - penalty, 1.0);
            stats.add("val/num_eos_tokens", f64::from(u8::from(sample.completion.is_complete)), 1.0);
            rewards.push(token_rewards(old, reference, score, self.kl.coefficient));
        }
        stats.add("objective/kl_coef", self.kl.coefficient, 1.0);
        self.kl.update(mean_kl, samples.len());
        if config.whiten_rewards {
            whiten(rewards.iter_mut().flatten(), false);
        }
        for (((sample, old_logprobs), old_values), rewards) in
            samples.into_iter().zip(old).zip(values).zip(rewards)
        {
            let (advantages, returns) = gae(&rewards, &old_values, config.gamma, config.lam);
            units.push(Unit { sample, old_logprobs, old_values, advantages, returns });
        }
        whiten(units.iter_mut().flat_map(|unit| &mut unit.advantages), true);
        Ok(units)
    }

    fn weight(&self, unit: &Unit) -> f64 {
        unit.old_logprobs.len() as f64
    }

    fn num_tokens(&self, online: &Online, unit: &Unit) -> Option<usize> {
        Some(online.num_tokens(&unit.sample))
    }

    fn learn(
        &self,
        online: &Online,
        model: &mut Model,
        units: &[&Unit],
        pass: Pass,
    ) -> Result<Stats, TrainError> {
        let config = &self.config;
        let texts = online.texts(units.iter().map(|unit| &unit.sample));
        let role = Role::Policy(pass.dropout_seed);
        let policy = model.token_logprobs_at(&texts, role, config.rollout.temperature)?;
        let value_tensor = model.values(&policy.hidden)?;
        let values: Vec<f64> = model.tape.value(value_tensor).iter().map(|value| f64::from(*value)).collect();
        let mut stats = Stats { num_tokens: policy.num_tokens, ..Stats::default() };
        let mut grads = Grads::new(&policy);
        let mut value_grads = vec![0.0; values.len()];
        let entropy_weight = config.ent_coef / pass.normalizer;
        for (index, unit) in units.iter().enumerate() {
            let logprobs = policy.of(index);
            let count = logprobs.len() as f64;
            let mut slopes = Vec::with_capacity(logprobs.len());
            for (token, logprob) in logprobs.iter().enumerate() {
                let log_ratio = logprob - unit.old_logprobs[token];
                let actor = clipped_surrogate(log_ratio, unit.advantages[token], config.clip());
                slopes.push(actor.slope / pass.normalizer);
                let at = policy.spans[index].start + token;
                let (old_value, target) = (unit.old_values[token], unit.returns[token]);
                let critic = value_loss(values[at], old_value, target, config.cliprange_value);
                value_grads[at] = (config.vf_coef * critic.slope / pass.normalizer) as f32;
                stats.loss += (actor.loss + config.vf_coef * critic.loss) / pass.normalizer;
                let is = |clipped: bool| f64::from(u8::from(clipped));
                stats.add("policy/approxkl_avg", 0.5 * log_ratio * log_ratio, 1.0);
                stats.add("policy/clipfrac_avg", is(actor.clipped != Clipped::No), 1.0);
                stats.add("loss/policy_avg", actor.loss, 1.0);
                stats.add("loss/value_avg", critic.loss, 1.0);
                stats.add("val/clipfrac_avg", is(critic.is_clipped), 1.0);
                stats.add("val/ratio", actor.ratio, 1.0);
            }
            let entropy = policy.entropy(index);
            stats.loss -= entropy_weight * entropy;
            stats.add("policy/entropy_avg", entropy, count);
            grads.set(&policy, index, slopes.into_iter(), -entropy_weight);
        }
        if let Some(seed) = pass.dropout_seed {
            grads.backward(model, &policy, Some((value_tensor, &value_grads)));
            if config.ptx_coef > 0.0 {
                let tokens: f64 = units.iter().map(|unit| self.weight(unit)).sum();
                let weight = config.ptx_coef * tokens / pass.normalizer;
                self.mix(model, (units.len(), weight), seed, &mut stats)?;
            }
        }
        Ok(stats)
    }

    fn state(&self) -> Value {
        // As bits, which JSON keeps exactly.
        json!({ "kl_coefficient": self.kl.coefficient.to_bits() })
    }

    fn resume(&mut self, state: &Value) {
        if let Some(bits) = state.get("kl_coefficient").and_then(Value::as_u64) {
            self.kl.coefficient = f64::from_bits(bits);
        }
    }
}
