//! Gradients of whole decoders against central differences.

use std::sync::Arc;

use rectify_engine::model::checkpoint::Checkpoint;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::decoder::Decoder;
use rectify_engine::model::load::load_decoder;
use rectify_kernels::Pool;

use super::*;

fn config(model_type: &str, class: &str, tied: bool, labels: bool) -> ModelConfig {
    let task = if labels { "ForSequenceClassification" } else { "ForCausalLM" };
    let text = format!(
        r#"{{"model_type": "{model_type}", "architectures": ["{class}{task}"], "num_labels": 1, "vocab_size": 23,
            "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 6, "max_position_embeddings": 32, "tie_word_embeddings": {tied}}}"#
    );
    ModelConfig::from_json("config.json", &text).unwrap()
}

/// A model whose weights are large enough that every part matters.
fn model(config: &ModelConfig, lora: Option<LoraSettings>) -> (Tape, Decoder<Tape>) {
    let mut tape = Tape::new(Arc::new(Pool::new(2).unwrap()), lora);
    let decoder = load_decoder(&mut tape, config, &Checkpoint::random(config, 1)).unwrap();
    let mut state = 7u32;
    for param in tape.params.trainable_mut() {
        for value in &mut param.data {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *value += ((state >> 8) as f32 / 16_777_216.0 - 0.5) * 0.6;
        }
    }
    (tape, decoder)
}

const UPSTREAM: [f32; 6] = [0.5, -1.0, 0.25, 1.5, -0.75, 1.0];
const TEMPERATURE: f32 = 0.7;

/// What is differentiated, and its value.
fn forward(tape: &mut Tape, decoder: &Decoder<Tape>, seed: u64) -> (Vec<Tensor>, f64) {
    let (first, second) = ([3u32, 7, 7, 22], [5u32, 0, 3, 9, 1]);
    tape.begin(PackedBatch::new([&first[..], &second[..]]), true, seed);
    let ids = tape.ids().ids.clone();
    let picked = decoder.hidden_rows(tape, &ids, &[0, 1, 2, 4, 6, 8]).unwrap();
    let outputs = match &decoder.score_head {
        Some(head) => vec![rectify_engine::model::backend::Backend::linear(tape, head, &picked).unwrap()],
        None => {
            let head = *decoder.lm_head.as_ref().unwrap_or(&decoder.embedding);
            let out = tape.logprobs(head, picked, &[7, 7, 22, 0, 9, 4], TEMPERATURE);
            vec![out.logprobs, out.entropies]
        }
    };
    let values = outputs.iter().flat_map(|out| tape.value(*out).iter().zip(UPSTREAM));
    let loss = values.map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
    (outputs, loss)
}

fn check(config: &ModelConfig, lora: Option<LoraSettings>) {
    let (mut tape, decoder) = model(config, lora);
    tape.params.zero_grad();
    let (outputs, _) = forward(&mut tape, &decoder, 5);
    let seeds: Vec<(Tensor, &[f32])> = outputs.iter().map(|out| (*out, &UPSTREAM[..])).collect();
    tape.backward(&seeds);
    let analytic: Vec<Vec<f32>> = tape.params.iter().map(|param| param.grad.clone()).collect();
    let mut checked = 0;
    for (index, grads) in analytic.iter().enumerate() {
        for (element, grad) in grads.iter().enumerate().step_by(if grads.len() > 30 { 11 } else { 1 }) {
            let mut at = |step: f32| {
                let param = tape.params.get_mut(ParamId(index));
                let old = param.data[element];
                param.data[element] = old + step;
                let loss = forward(&mut tape, &decoder, 5).1;
                tape.params.get_mut(ParamId(index)).data[element] = old;
                loss
            };
            let numeric = (at(4e-3) - at(-4e-3)) / 8e-3;
            let error = (numeric - f64::from(*grad)).abs();
            let name = &tape.params.get(ParamId(index)).parts[0].name;
            assert!(
                error < 6e-3 * f64::from(grad.abs()).max(1.0),
                "{name}[{element}]: {grad}, numerically {numeric}"
            );
            checked += 1;
        }
    }
    assert!(checked > 50);
}

#[test]
fn gradients_of_every_weight_are_the_slope() {
    for config in [
        config("llama", "Llama", true, false),
        config("llama", "Llama", false, false),
        config("qwen2", "Qwen2", true, false),
        config("qwen3", "Qwen3", true, false),
        config("llama", "Llama", false, true),
    ] {
        check(&config, None);
    }
}

fn lora(dropout: f32) -> LoraSettings {
    let target_modules = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"].map(str::to_owned).to_vec();
    LoraSettings { rank: 3, scale: 0.5, dropout, target_modules, seed: 3 }
}

#[test]
fn gradients_of_adapters_are_the_slope_with_and_without_dropout() {
    for dropout in [0.0, 0.3] {
        check(&config("llama", "Llama", true, false), Some(lora(dropout)));
        check(&config("qwen3", "Qwen3", true, true), Some(lora(dropout)));
    }
}

#[test]
fn new_adapters_change_nothing_and_freeze_the_base() {
    let config = config("llama", "Llama", true, false);
    let pool = Arc::new(Pool::new(2).unwrap());
    let run = |lora: Option<LoraSettings>| {
        let mut tape = Tape::new(Arc::clone(&pool), lora);
        let decoder = load_decoder(&mut tape, &config, &Checkpoint::random(&config, 1)).unwrap();
        (forward(&mut tape, &decoder, 1).1, tape.params.num_trainable())
    };
    let (base, adapted) = (run(None), run(Some(lora(0.1))));
    assert_eq!(base.0, adapted.0);
    // Rank 3: q 12→12, v 12→6, o 12→12, up 12→20, down 20→12, two layers.
    assert_eq!(adapted.1, 2 * 3 * (24 + 18 + 24 + 32 + 32));
}

#[test]
fn packing_does_not_change_a_sequence() {
    let config = config("qwen3", "Qwen3", true, false);
    let (mut tape, decoder) = model(&config, None);
    let (first, second) = ([3u32, 7, 7, 22], [5u32, 0, 3, 9, 1]);
    let mut hidden = |sequences: &[&[u32]]| {
        tape.begin(PackedBatch::new(sequences.iter().copied()), false, 0);
        let ids = tape.ids().ids.clone();
        let hidden = decoder.hidden(&mut tape, &ids).unwrap();
        tape.value(hidden).to_vec()
    };
    let (packed, alone) = (hidden(&[&first, &second]), hidden(&[&second]));
    assert_eq!(packed[4 * 12..], alone);
}
