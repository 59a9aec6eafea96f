//! The report of a run, as committed beside the demo, and the shape of the demo's model.

use std::fmt::Write as _;

use rectify_lab::stats::Interval;
use rectify_lab::{World, data};
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::evaluate::{Evaluation, SIZES};
use crate::stages::Recipe;

/// `config.json` of the policy: a small Llama.
pub(crate) fn model_config(vocab_size: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "initializer_range": 0.06,
        "bos_token_id": null,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "float32",
    })
}

/// The report in Markdown.
pub(crate) fn markdown(
    recipe: &Recipe,
    e: &Evaluation,
    num_pairs: usize,
    blocks: &Blocks,
) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "# The demo's report\n\n\
         A small Llama trained on flawed text of an invented help desk, and a reward model (an adapter and a score head\n\
         on the policy's own base) trained on preferences of the policy's own answers, labelled by a programmatic oracle.\n\n\
         Made by `cargo run --release -p rectify-examples --example lab -- all{} --out DIR --seed {}`.\n",
        if recipe.world == World::Letters { " --world letters" } else { "" },
        recipe.seed
    )?;
    best_of_n(&mut text, e)?;
    accuracy(&mut text, e, recipe.noise)?;
    kv(&mut text, blocks)?;
    made_of(&mut text, recipe, num_pairs)?;
    durations(&mut text, recipe)?;
    Ok(text)
}

fn best_of_n(text: &mut String, e: &Evaluation) -> anyhow::Result<()> {
    writeln!(
        text,
        "## Good answers by best-of-N\n\n\
         Share of answers that the oracle calls good, in percent, when the reward model picks one of N: {} held-out\n\
         prompts, {} candidates each at temperature 1 (mean {:.1} tokens), every consecutive group of N counted; 95 %\n\
         intervals by bootstrap over prompts. `ceiling` is what a perfect reward model would reach.\n\
         Where a larger N does worse, it finds answers that only please the reward model: over-optimisation (Gao et al.\n\
         2022, arXiv:2210.10760).\n",
        e.num_prompts, e.num_candidates, e.mean_tokens
    )?;
    writeln!(text, "| category | {} |", SIZES.map(|n| format!("N = {n}")).join(" | "))?;
    writeln!(text, "|---|{}", "---|".repeat(SIZES.len()))?;
    let row = |name: &str, cells: &[Interval]| {
        let cells: Vec<String> = cells.iter().map(Interval::percent).collect();
        format!("| {name} | {} |", cells.join(" | "))
    };
    writeln!(text, "{}", row("**all**", &e.best_of))?;
    let ceiling: Vec<String> = e.ceiling.iter().map(|value| format!("{:.1}", 100.0 * value)).collect();
    writeln!(text, "| ceiling | {} |", ceiling.join(" | "))?;
    for (category, cells) in &e.by_category {
        writeln!(text, "{}", row(category.label(), cells))?;
    }
    Ok(())
}

fn accuracy(text: &mut String, e: &Evaluation, noise: f64) -> anyhow::Result<()> {
    writeln!(
        text,
        "\n## The reward model on held-out pairs\n\n\
         A good and a bad answer of the policy to the same held-out prompt: how often the good one scores higher\n\
         (Wilson intervals). Against true labels {}; against labels of which {:.0} % are flipped, as in training, {}.\n",
        e.accuracy.percent(),
        100.0 * noise,
        e.noisy_accuracy.percent()
    )?;
    writeln!(text, "| category | right | pairs |\n|---|---|---|")?;
    for (category, (right, pairs)) in &e.accuracy_by_category {
        writeln!(text, "| {category} | {:.1} | {pairs} |", 100.0 * *right as f64 / *pairs as f64)?;
    }
    Ok(())
}

fn kv(text: &mut String, blocks: &Blocks) -> anyhow::Result<()> {
    writeln!(
        text,
        "\n## KV blocks of {n} candidates\n\n\
         A prompt of {} tokens and {n} answers of {} tokens each, in blocks of {} tokens: at most {} blocks were in use at\n\
         once. The prompt's whole blocks once and {n} tails are {}; without sharing it would be {}.",
        blocks.prompt_tokens,
        blocks.answer_tokens,
        blocks.block_size,
        blocks.peak,
        blocks.shared(),
        blocks.n * blocks.alone(),
        n = blocks.n,
    )?;
    Ok(())
}

fn made_of(text: &mut String, recipe: &Recipe, num_pairs: usize) -> anyhow::Result<()> {
    writeln!(
        text,
        "\n## What it was made of\n\n\
         Seed {}; {} examples of SFT text; {} prompts with {} sampled answers each gave {num_pairs} pairs, {:.0} % of\n\
         them with the wrong label. Share of the text and of flawed answers in it by category, in percent:\n\n\
         | category | text | flawed |\n|---|---|---|",
        recipe.seed,
        recipe.examples,
        recipe.preference_prompts,
        recipe.samples,
        100.0 * recipe.noise
    )?;
    for &category in recipe.world.categories() {
        let (share, flawed) = (100.0 * category.train_share(), 100.0 * data::flaw_rate(category));
        writeln!(text, "| {category} | {share:.0} | {flawed:.0} |")?;
    }
    Ok(())
}

fn durations(text: &mut String, recipe: &Recipe) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        text,
        "\n## How long it took\n\n{threads} cores of {}, in seconds:\n\n| stage | seconds |\n|---|---|",
        processor()
    )?;
    let durations = recipe.durations();
    for (stage, seconds) in &durations {
        writeln!(text, "| {stage} | {seconds:.0} |")?;
    }
    writeln!(text, "| **all** | {:.0} |", durations.values().sum::<f64>())?;
    Ok(())
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
