//! Gradients of whole decoders against central differences.

use std::sync::Arc;

use rectify_engine::model::backend::Values;
use rectify_engine::model::checkpoint::Checkpoint;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::decoder::Decoder;
use rectify_engine::model::layout;
use rectify_engine::model::load::load_decoder;
use rectify_engine::model::weights::WeightStore;
use rectify_kernels::{Pool, WeightDtype};

use super::*;
use crate::config::MixedPrecision;

fn config(model_type: &str, class: &str, tied: bool, labels: bool) -> ModelConfig {
    let task = if labels { "ForSequenceClassification" } else { "ForCausalLM" };
    config_with(model_type, &format!("{class}{task}"), &format!(r#", "tie_word_embeddings": {tied}"#))
}

fn config_with(model_type: &str, class: &str, more: &str) -> ModelConfig {
    let text = format!(
        r#"{{"model_type": "{model_type}", "architectures": ["{class}"], "num_labels": 1, "vocab_size": 23,
            "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 6, "max_position_embeddings": 32{more}}}"#
    );
    ModelConfig::from_json("config.json", &text).unwrap()
}

/// A model whose trained weights are large enough that every part matters.
fn model(config: &ModelConfig, lora: Option<LoraSettings>) -> (Tape, Decoder<Tape>) {
    load(config, &Checkpoint::random(config, 1), lora, FrozenBase::default())
}

fn load(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    lora: Option<LoraSettings>,
    base: FrozenBase,
) -> (Tape, Decoder<Tape>) {
    let mut tape = Tape::new(Arc::new(Pool::new(2).unwrap()), lora).with_base(base);
    let decoder = load_decoder(&mut tape, config, checkpoint).unwrap();
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
        config("mistral", "Mistral", false, false),
        config("phi3", "Phi3", false, false),
        config("smollm3", "SmolLM3", true, false),
        config("olmo2", "Olmo2", false, false),
    ] {
        check(&config, None);
    }
}

#[test]
fn families_without_gradients_are_refused_by_what_they_have() {
    for (model_type, class, what) in [
        ("gemma2", "Gemma2", "other activations than a gated"),
        ("starcoder2", "Starcoder2", "layer norms"),
        ("mixtral", "Mixtral", "mixtures of experts"),
    ] {
        let class = format!("{class}ForCausalLM");
        let config = config_with(model_type, &class, r#", "num_local_experts": 2, "num_experts_per_tok": 1"#);
        let mut tape = Tape::new(Arc::new(Pool::new(1).unwrap()), None);
        let error = load_decoder(&mut tape, &config, &Checkpoint::random(&config, 1)).unwrap_err();
        let wanted =
            format!("config.json: `model_type` is \"{model_type}\", but training does not know {what}");
        assert!(error.to_string().starts_with(&wanted), "{error}");
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

/// Gradients of everything that is trained, and the loss.
fn gradients(tape: &mut Tape, decoder: &Decoder<Tape>) -> (f64, Vec<Vec<f32>>) {
    tape.params.zero_grad();
    let (outputs, loss) = forward(tape, decoder, 5);
    let seeds: Vec<(Tensor, &[f32])> = outputs.iter().map(|out| (*out, &UPSTREAM[..])).collect();
    tape.backward(&seeds);
    (loss, tape.params.trainable().map(|param| param.grad.clone()).collect())
}

#[test]
fn checkpointing_gives_the_same_bits() {
    let cases = [
        (config("qwen3", "Qwen3", true, false), None),
        (config("llama", "Llama", false, false), Some(lora(0.3))),
        (config("qwen2", "Qwen2", true, true), Some(lora(0.0))),
        (config("olmo2", "Olmo2", false, false), None),
        (config("olmo2", "Olmo2", false, true), Some(lora(0.3))),
    ];
    for (config, lora) in cases {
        let (mut tape, decoder) = model(&config, lora);
        let kept = gradients(&mut tape, &decoder);
        tape.set_gradient_checkpointing(true);
        assert_eq!(gradients(&mut tape, &decoder), kept);
        tape.set_gradient_checkpointing(false);
        assert_eq!(gradients(&mut tape, &decoder), kept);
    }
}

#[test]
fn checkpointing_holds_the_inputs_of_layers_alone() {
    let (mut tape, decoder) = model(&config("llama", "Llama", true, false), Some(lora(0.1)));
    let mut held = |checkpointing: bool| {
        tape.set_gradient_checkpointing(checkpointing);
        forward(&mut tape, &decoder, 5);
        tape.values.iter().map(Vec::len).sum::<usize>()
    };
    // Of the first of two layers, by token: two norms of 12, fused heads of 24, attention of 12, a sum of 12, 40 of the
    // MLP and 20 after its activation.
    assert_eq!(held(false) - held(true), 9 * (12 + 24 + 12 + 12 + 12 + 40 + 20));
}

/// Matrices as packed weights of `dtype` stand for them.
fn rounded(config: &ModelConfig, dtype: WeightDtype) -> Checkpoint {
    let (pool, store) = (Pool::new(1).unwrap(), WeightStore::default());
    let mut checkpoint = Checkpoint::random(config, 1);
    for spec in layout::tensors(config).into_iter().filter(|spec| spec.role == layout::TensorRole::Weight) {
        let module = spec.name.trim_end_matches(".weight");
        let matrix = checkpoint.matrix(module, spec.shape[0], spec.shape[1], false).unwrap();
        let values = store.pack(&pool, &[matrix], dtype).unwrap().unpack();
        checkpoint.insert(spec.name, spec.shape, Values::F32(values.into())).unwrap();
    }
    checkpoint
}

#[test]
fn a_frozen_base_of_few_bits_is_the_base_it_stands_for() {
    let on = |config: &ModelConfig, checkpoint: &Checkpoint, dtype| {
        let base = FrozenBase { dtype, mixed_precision: MixedPrecision::No, ..FrozenBase::default() };
        let (mut tape, decoder) = load(config, checkpoint, Some(lora(0.2)), base);
        (gradients(&mut tape, &decoder), tape.base.store.num_bytes())
    };
    for config in [config("qwen2", "Qwen2", true, false), config("llama", "Llama", false, true)] {
        let whole = on(&config, &Checkpoint::random(&config, 1), None);
        assert_eq!(on(&config, &Checkpoint::random(&config, 1), Some(WeightDtype::F32)), whole);
        for dtype in [WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4] {
            let few = on(&config, &Checkpoint::random(&config, 1), Some(dtype));
            let same = on(&config, &rounded(&config, dtype), Some(WeightDtype::F32));
            assert_eq!(few.0, same.0, "{dtype:?}");
            assert_ne!(few.0, whole.0, "{dtype:?}");
            // Whole blocks of eight bits are wider than these matrices.
            assert!(few.1 < same.1 || dtype == WeightDtype::Int8, "{dtype:?}");
        }
    }
}

#[test]
fn without_adapters_the_model_is_its_base() {
    let config = config("llama", "Llama", true, false);
    let (mut tape, decoder) = model(&config, Some(lora(0.2)));
    let mut base = Tape::new(Arc::new(Pool::new(2).unwrap()), None);
    let base_decoder = load_decoder(&mut base, &config, &Checkpoint::random(&config, 1)).unwrap();
    let hidden = |tape: &mut Tape, decoder: &Decoder<Tape>, adapters: bool| {
        tape.set_adapters(adapters);
        tape.begin(PackedBatch::new([&[3u32, 7, 7, 22][..]]), false, 0);
        let ids = tape.ids().ids.clone();
        let hidden = decoder.hidden(tape, &ids).unwrap();
        tape.value(hidden).to_vec()
    };
    let (off, on) = (hidden(&mut tape, &decoder, false), hidden(&mut tape, &decoder, true));
    assert_eq!(off, hidden(&mut base, &base_decoder, true));
    assert_ne!(off, on);
}

#[test]
fn two_tapes_share_one_base() {
    let config = config("llama", "Llama", true, false);
    let base = FrozenBase { dtype: Some(WeightDtype::Bf16), ..FrozenBase::default() };
    let checkpoint = Checkpoint::random(&config, 1);
    let tapes = [1, 2].map(|_| load(&config, &checkpoint, Some(lora(0.0)), base.clone()).0);
    let once = tapes[0].num_parameters() - tapes[0].params.num_elements();
    // Rows of tiles that are missing are padding.
    assert!(base.store.num_bytes() < 2 * 2 * once, "{} bytes for {once} weights", base.store.num_bytes());
}
