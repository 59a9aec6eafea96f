//! From the outputs of a head to one reward: what each label is worth. Leaves computing the outputs to the executors.

use super::backend::Result;
use super::fields::Fields;
use super::reading::{OutputActivation, RewardReading};
use crate::EngineError;

/// What the outputs of a head come to: `Σ weight · f(outputs)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Readout {
    /// `[num_labels]`.
    weights: Vec<f32>,
    activation: OutputActivation,
}

impl Default for Readout {
    /// The only output, as it is.
    fn default() -> Self {
        Self { weights: vec![1.0], activation: OutputActivation::None }
    }
}

impl Readout {
    /// The readout of a head whose outputs are `labels`, for the reward model `name` with the configuration `fields`.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming `config.json` if there are several outputs and nothing says what they are worth;
    /// [`EngineError::InvalidRequest`] naming the setting that does not fit.
    pub fn new(name: &str, fields: &Fields, labels: &[String], reading: &RewardReading) -> Result<Self> {
        let known = || labels.join(", ");
        let activation = reading.activation;
        if reading.labels.is_empty() {
            if labels.len() == 1 {
                return Ok(Self { weights: vec![1.0], activation });
            }
            let example = labels.last().map_or("LABEL_1", String::as_str);
            let message = format!(
                "gives the head {} outputs ({}), but nothing says what they are worth: set `rewards.{name}.labels`, such \
                 as {{{example}: 1}}",
                labels.len(),
                known()
            );
            return Err(fields.error("id2label", message));
        }
        let setting = format!("rewards.{name}.labels");
        if let Some(other) = reading.labels.keys().find(|label| !labels.contains(*label)) {
            let message = format!(
                "`{setting}` names `{other}`, but `id2label` in {} has {}",
                fields.path().display(),
                known()
            );
            return Err(EngineError::invalid("rewards", message));
        }
        let weights: Vec<f32> =
            labels.iter().map(|label| reading.labels.get(label).copied().unwrap_or(0.0)).collect();
        if weights.iter().any(|weight| !weight.is_finite()) || weights.iter().all(|&weight| weight == 0.0) {
            let message = format!("`{setting}` must hold finite numbers, at least one of them other than 0");
            return Err(EngineError::invalid("rewards", message));
        }
        Ok(Self { weights, activation })
    }

    /// The mean of `num_outputs` outputs.
    pub fn mean(num_outputs: usize) -> Self {
        let weight = 1.0 / num_outputs.max(1) as f32;
        Self { weights: vec![weight; num_outputs], activation: OutputActivation::None }
    }

    /// Outputs it reads.
    pub fn num_outputs(&self) -> usize {
        self.weights.len()
    }

    /// The reward, of `outputs` `[num_outputs]`.
    pub fn reward(&self, outputs: &[f32]) -> f32 {
        let weigh = |values: &mut dyn Iterator<Item = f32>| {
            self.weights.iter().zip(values).fold(0.0, |sum, (weight, value)| sum + weight * value)
        };
        match self.activation {
            OutputActivation::None => weigh(&mut outputs.iter().copied()),
            OutputActivation::Sigmoid => weigh(&mut outputs.iter().map(|x| 1.0 / (1.0 + (-x).exp()))),
            OutputActivation::Softmax => {
                let max = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f32 = outputs.iter().map(|x| (x - max).exp()).sum();
                weigh(&mut outputs.iter().map(|x| (x - max).exp() / total))
            }
        }
    }
}

/// The names of a classifier's outputs, in order.
///
/// # Errors
/// [`EngineError::Load`] naming the field if `id2label` does not number its labels from 0.
pub fn label_names(fields: &Fields) -> Result<Vec<String>> {
    let generic = |count: usize| (0..count).map(|index| format!("LABEL_{index}")).collect::<Vec<_>>();
    let num_labels = fields.size("num_labels")?;
    let Some(object) = fields.object("id2label")? else {
        // Two is what `transformers` means when nothing is said.
        return Ok(generic(num_labels.unwrap_or(2)));
    };
    let count = object.names().count();
    // Files of old say one without the other having followed.
    if num_labels.is_some_and(|num_labels| num_labels != count) {
        return Ok(generic(num_labels.unwrap_or(count)));
    }
    let label = |index: usize| {
        let label = object.string(&index.to_string())?.map(str::to_owned);
        label.ok_or_else(|| {
            fields.error("id2label", format!("has {count} labels, but none of the number {index}"))
        })
    };
    (0..count).map(label).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::parse("config.json".into(), value.to_string().as_bytes()).unwrap()
    }

    fn reading(labels: &[(&str, f32)], activation: OutputActivation) -> RewardReading {
        let labels = labels.iter().map(|(label, weight)| ((*label).to_owned(), *weight)).collect();
        RewardReading { labels, activation, ..RewardReading::default() }
    }

    #[test]
    fn labels_are_weighed_after_what_was_asked_for() {
        let fields = fields(json!({"id2label": {"1": "POSITIVE", "0": "NEGATIVE"}}));
        let labels = label_names(&fields).unwrap();
        assert_eq!(labels, ["NEGATIVE", "POSITIVE"]);
        let reward = |weights: &[(&str, f32)], activation, outputs: &[f32]| {
            Readout::new("r", &fields, &labels, &reading(weights, activation)).unwrap().reward(outputs)
        };
        let both = [("POSITIVE", 1.0), ("NEGATIVE", -1.0)];
        // The log-odds of the softmax: large numbers stay apart.
        assert_eq!(reward(&both, OutputActivation::None, &[-20.0, 30.5]), 50.5);
        assert_eq!(reward(&both[..1], OutputActivation::None, &[-20.0, 30.5]), 30.5);
        assert_eq!(reward(&both[..1], OutputActivation::Sigmoid, &[9.0, 0.0]), 0.5);
        assert_eq!(reward(&both, OutputActivation::Softmax, &[100.0, 100.0]), 0.0);
        let share = reward(&both[..1], OutputActivation::Softmax, &[0.0, 3.0f32.ln()]);
        assert!((share - 0.75).abs() < 1e-6, "{share}");
    }

    #[test]
    fn one_output_is_the_raw_reward() {
        let fields = fields(json!({"id2label": {"0": "LABEL_0"}}));
        let labels = label_names(&fields).unwrap();
        let raw = Readout::new("r", &fields, &labels, &RewardReading::default()).unwrap();
        assert_eq!((raw.clone(), raw.num_outputs()), (Readout::default(), 1));
        assert_eq!(raw.reward(&[-123.456]), -123.456);
    }

    #[test]
    fn refusals_name_the_setting() {
        let fields = fields(json!({"id2label": {"0": "bad", "1": "good"}}));
        let labels = label_names(&fields).unwrap();
        let error = |weights: &[(&str, f32)]| {
            let reading = reading(weights, OutputActivation::None);
            Readout::new("helpful", &fields, &labels, &reading).unwrap_err().to_string()
        };
        let none = error(&[]);
        assert!(none.starts_with("config.json: `id2label` gives the head 2 outputs (bad, good)"), "{none}");
        assert!(none.ends_with("set `rewards.helpful.labels`, such as {good: 1}"), "{none}");
        let unknown = error(&[("POSITIVE", 1.0)]);
        assert!(
            unknown.contains("names `POSITIVE`, but `id2label` in config.json has bad, good"),
            "{unknown}"
        );
        assert!(error(&[("good", 0.0)]).contains("at least one of them other than 0"));
        assert!(error(&[("good", f32::NAN)]).contains("finite"));
    }

    #[test]
    fn labels_are_numbered_from_zero() {
        assert_eq!(label_names(&fields(json!({}))).unwrap(), ["LABEL_0", "LABEL_1"]);
        assert_eq!(label_names(&fields(json!({"num_labels": 1}))).unwrap(), ["LABEL_0"]);
        let error = label_names(&fields(json!({"id2label": {"1": "a"}}))).unwrap_err().to_string();
        assert!(error.contains("`id2label` has 1 labels, but none of the number 0"), "{error}");
    }
}
