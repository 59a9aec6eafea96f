//! `rectify bench generate`: one random prompt and N candidates through the engine in this process, beside the limit of
//! the machine measured in the same run. Leaves the limit's arithmetic to `limit`.

use std::time::Instant;

use rectify_engine::alignment::Alignment;
use rectify_engine::handle::EngineStats;
use rectify_engine::model::assemble::Dtype;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::{Event, Message};
use rectify_engine::{EngineError, GenerateRequest, SamplingParams};
use rectify_kernels::Pool;
use rectify_kernels::peak::{self, MachineLimits};
use serde::Serialize;
use serde_json::Value;

use super::apart::{self, Apart};
use super::limit::{ModelCost, Workload};
use crate::boot;
use crate::cli::local::Local;
use crate::cli::progress::Progress;
use crate::cli::{CliError, ModelArgs, ProgressMode, random};
use crate::config::Config;

/// Options of `rectify bench generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchGenerateArgs {
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 256, value_parser = crate::cli::args::positive, value_name = "TOKENS")]
    pub prompt_len: usize,
    /// Tokens generated per candidate, end-of-text ignored.
    #[arg(long, default_value_t = 128, value_parser = crate::cli::args::positive, value_name = "TOKENS")]
    pub gen_len: usize,
    /// Candidates.
    #[arg(short, long, default_value_t = 16, value_parser = crate::cli::args::positive, value_name = "N")]
    pub n: usize,
    /// Score the candidates with the first reward model, as best-of-N does; on by itself with --reward.
    #[arg(long)]
    pub score: bool,
    /// Runs; the one with the median speed is reported.
    #[arg(long, default_value_t = 3, value_parser = crate::cli::args::positive)]
    pub repeats: usize,
    /// Decides prompts and samples.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What `--json` prints. Times are in seconds, rates per second; tokens are those of all candidates.
#[derive(Clone, Debug, Serialize)]
struct Report {
    model: String,
    dtype: &'static str,
    prompt_len: usize,
    gen_len: usize,
    n: usize,
    scored: bool,
    /// Of the whole run, prompt and scoring included.
    tokens_per_s: f64,
    /// Of every run, in order.
    runs_tokens_per_s: Vec<f64>,
    total_s: f64,
    prefill_s: f64,
    /// After the prompt, scoring included.
    decode_s: f64,
    /// In forward passes.
    forward_s: f64,
    /// In drawing tokens.
    sampling_s: f64,
    /// In neither: planning steps, taking tokens in, telling of them.
    rest_s: f64,
    generated_tokens: usize,
    scored_tokens: usize,
    steps: u64,
    preemptions: u64,
    limit_tokens_per_s: f64,
    share_of_limit: f64,
    /// With scoring: the same work in two halves.
    #[serde(skip_serializing_if = "Option::is_none")]
    apart: Option<Apart>,
    /// The share of `total_s` beyond the two halves.
    #[serde(skip_serializing_if = "Option::is_none")]
    beyond_apart: Option<f64>,
    kv_blocks: KvBlocks,
    model_bytes: f64,
    kv_bytes_per_token: f64,
    machine: Machine,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct KvBlocks {
    total: usize,
    peak_used: usize,
    /// What N candidates without sharing would use.
    unshared: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Machine {
    threads: usize,
    read_bytes_per_s: f64,
    bf16_flops: f64,
    f16_flops: f64,
    f32_flops: f64,
    int8_ops: f64,
}

/// One measured run.
#[derive(Clone, Copy, Debug)]
struct Run {
    total_s: f64,
    prefill_s: f64,
    generated_tokens: usize,
    scored_tokens: usize,
    steps: u64,
    preemptions: u64,
    forward_s: f64,
    sampling_s: f64,
}

impl Run {
    fn tokens_per_s(&self) -> f64 {
        self.generated_tokens as f64 / self.total_s
    }
}

pub(super) fn run(args: &BenchGenerateArgs, mode: ProgressMode) -> Result<(), CliError> {
    let mut config = boot::configure(&args.model)?;
    let scheduler = &mut config.scheduler;
    scheduler.max_num_seqs = scheduler.max_num_seqs.max(args.n);
    scheduler.max_num_batched_tokens = scheduler.max_num_batched_tokens.max(scheduler.max_num_seqs);
    let threads = config
        .scheduler
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let pool = Pool::new(threads).map_err(|error| CliError::Refused(error.to_string()))?;
    // Before and after: a machine that others use too is at its best at different times.
    let before = peak::measure(&pool);
    let local = Local::boot(&config, mode)?;
    let scored = args.score || !args.model.rewards.is_empty();
    if scored {
        local.require_reward("scoring")?;
    }
    let runtime = crate::cli::runtime()?;
    let mut progress = Progress::new(mode, "runs", args.repeats as u64, 0);
    // The first run meets cold weights and empty caches: it is short and not counted.
    let warm_up = BenchGenerateArgs { gen_len: args.gen_len.min(8), ..args.clone() };
    runtime.block_on(measure(&warm_up, &local, scored, u64::MAX))?;
    let (mut runs, mut halves) = (Vec::with_capacity(args.repeats), Vec::new());
    for repeat in 0..args.repeats {
        let run = runtime.block_on(measure(args, &local, scored, repeat as u64))?;
        runs.push(run);
        if scored {
            // Another prompt: of this one the prefix caches hold everything.
            let alone = request(args, &local, false, (args.repeats + repeat) as u64);
            halves.push(runtime.block_on(apart::measure(&local, alone))?);
        }
        progress.update(repeat as u64 + 1, |_| format!("{:.1} tokens/s", run.tokens_per_s()));
    }
    let stats = runtime.block_on(local.engine.stats())?;
    progress.finish("");
    let machine = best(before, peak::measure(&pool));
    let report =
        Setting { args, config: &config, local: &local, threads, machine }.report(&halves, runs, stats)?;
    if args.json {
        let value = serde_json::to_value(&report).unwrap_or(Value::Null);
        super::print(&value.to_string())
    } else {
        super::print(&table(&report))
    }
}

fn best(a: MachineLimits, b: MachineLimits) -> MachineLimits {
    MachineLimits {
        read_bytes_per_s: a.read_bytes_per_s.max(b.read_bytes_per_s),
        bf16_flops: a.bf16_flops.max(b.bf16_flops),
        f16_flops: a.f16_flops.max(b.f16_flops),
        f32_flops: a.f32_flops.max(b.f32_flops),
        int8_ops: a.int8_ops.max(b.int8_ops),
    }
}

/// Runs one prompt, a new one each time so that the prefix cache has nothing of it.
async fn measure(
    args: &BenchGenerateArgs,
    local: &Local,
    scored: bool,
    repeat: u64,
) -> Result<Run, CliError> {
    let before = local.engine.stats().await?;
    let request = request(args, local, scored, repeat);
    let start = Instant::now();
    let mut events = local.engine.generate(request).await?;
    let mut prefill_s = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Prefilled { .. } => prefill_s = Some(start.elapsed().as_secs_f64()),
            Event::Failed(error) => return Err(error.into()),
            Event::Done(usage) => {
                let total_s = start.elapsed().as_secs_f64();
                let after = local.engine.stats().await?;
                return Ok(Run {
                    total_s,
                    prefill_s: prefill_s.unwrap_or(total_s),
                    generated_tokens: usage.completion_tokens,
                    scored_tokens: usage.scored_tokens,
                    steps: after.steps - before.steps,
                    preemptions: after.preemptions - before.preemptions,
                    forward_s: (after.forward_time - before.forward_time).as_secs_f64(),
                    sampling_s: (after.sampling_time - before.sampling_time).as_secs_f64(),
                });
            }
            _ => {}
        }
    }
    Err(EngineError::Shutdown.into())
}

fn request(args: &BenchGenerateArgs, local: &Local, scored: bool, repeat: u64) -> GenerateRequest {
    let seed = random::mix(args.seed, repeat);
    let vocab_size = local.models.config.vocab_size;
    let token = |position| random::between(seed, position as u64, 0, vocab_size - 1) as u32;
    let sampling = SamplingParams {
        max_tokens: args.gen_len,
        temperature: 1.0,
        seed: Some(seed),
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let n = args.n;
    let alignment = scored.then(|| Alignment::best_of(n));
    let prompt: Vec<u32> = (0..args.prompt_len).map(token).collect();
    // What the reward model reads as the prompt is about as long.
    let content = local.models.tokenizer.decode(&prompt, true).unwrap_or_default();
    GenerateRequest {
        prompt,
        messages: [Message { role: "user".to_owned(), content }].into(),
        sampling,
        num_choices: if scored { 1 } else { n },
        alignment,
        adapter: None,
        priority: 0,
    }
}

/// What the numbers were measured on.
struct Setting<'a> {
    args: &'a BenchGenerateArgs,
    config: &'a Config,
    local: &'a Local,
    threads: usize,
    machine: MachineLimits,
}

impl Setting<'_> {
    fn report(&self, halves: &[Apart], mut runs: Vec<Run>, stats: EngineStats) -> Result<Report, CliError> {
        let (args, models) = (self.args, &self.local.models);
        let scored = !halves.is_empty();
        let apart = scored.then(|| Apart::median(halves));
        let runs_tokens_per_s = runs.iter().map(Run::tokens_per_s).collect();
        runs.sort_by(|a, b| a.total_s.total_cmp(&b.total_s));
        let median = runs[runs.len() / 2];
        let kv_dtype = self.config.cache.dtype.map_or(models.dtype, Dtype::from);
        let cost =
            ModelCost::new(&models.config, models.weight_dtype, models.weight_bytes, kv_dtype.weights());
        let work = Workload {
            prompt_len: args.prompt_len,
            gen_len: args.gen_len,
            n: args.n,
            max_num_batched_tokens: self.config.scheduler.max_num_batched_tokens,
        };
        let mut limit_s = cost.generate(&self.machine, &work);
        if scored {
            limit_s += self.scorer(cost)?.score(&self.machine, median.scored_tokens);
        }
        let limit_tokens_per_s = median.generated_tokens as f64 / limit_s;
        let tokens_per_s = median.tokens_per_s();
        // The last token is never put into the cache.
        let blocks = (args.prompt_len + args.gen_len - 1).div_ceil(self.config.cache.block_size);
        let MachineLimits { read_bytes_per_s, bf16_flops, f16_flops, f32_flops, int8_ops } = self.machine;
        Ok(Report {
            model: models.policy_name.to_string(),
            dtype: models.dtype.as_str(),
            prompt_len: args.prompt_len,
            gen_len: args.gen_len,
            n: args.n,
            scored,
            tokens_per_s,
            runs_tokens_per_s,
            total_s: median.total_s,
            prefill_s: median.prefill_s,
            decode_s: median.total_s - median.prefill_s,
            forward_s: median.forward_s,
            sampling_s: median.sampling_s,
            rest_s: median.total_s - median.forward_s - median.sampling_s,
            generated_tokens: median.generated_tokens,
            scored_tokens: median.scored_tokens,
            steps: median.steps,
            preemptions: median.preemptions,
            limit_tokens_per_s,
            share_of_limit: tokens_per_s / limit_tokens_per_s,
            apart,
            beyond_apart: apart.map(|apart| apart.beyond(median.total_s)),
            kv_blocks: KvBlocks {
                total: stats.total_blocks,
                peak_used: stats.peak_used_blocks,
                unshared: blocks * args.n,
            },
            model_bytes: cost.weight_bytes(),
            kv_bytes_per_token: cost.kv_bytes_per_token,
            machine: Machine {
                threads: self.threads,
                read_bytes_per_s,
                bf16_flops,
                f16_flops,
                f32_flops,
                int8_ops,
            },
        })
    }

    /// What the first reward model costs: its own weights, or those of the policy that it adapts.
    fn scorer(&self, policy: ModelCost) -> Result<ModelCost, CliError> {
        let Some(reward) = self.args.model.rewards.first() else { return Ok(policy) };
        let source = ModelSource::Folder(reward.path.clone());
        if !source.contains("config.json") || source.contains("adapter_config.json") {
            return Ok(policy);
        }
        let dtype = self.local.models.dtype.weights();
        Ok(ModelCost::new(&ModelConfig::load(&source)?, dtype, 0, dtype))
    }
}

fn table(report: &Report) -> String {
    let Report { model, dtype, prompt_len, gen_len, n, .. } = report;
    let machine = &report.machine;
    format!(
        "{model} in {dtype}: prompt {prompt_len}, {n} × {gen_len} tokens{}\n\
         {:.1} tokens/s, {:.1} % of the machine's limit of {:.1}\n\
         prompt {:.3} s, then {:.3} s in {} steps\n\
         of the time {:.2} % in forward passes, {:.2} % in drawing tokens, {:.2} % in the rest\n\
{}\
         KV blocks {} of {} ({} without sharing), weights {:.1} MB, {:.0} bytes of KV per token\n\
         machine: {} threads, {:.1} GB/s, {:.0} GFLOP/s bf16, {:.0} GFLOP/s f16, {:.0} GFLOP/s f32, {:.0} Gop/s int8",
        if report.scored { ", scored" } else { "" },
        report.tokens_per_s,
        100.0 * report.share_of_limit,
        report.limit_tokens_per_s,
        report.prefill_s,
        report.decode_s,
        report.steps,
        100.0 * report.forward_s / report.total_s,
        100.0 * report.sampling_s / report.total_s,
        100.0 * report.rest_s / report.total_s,
        report.apart.map_or_else(String::new, |apart| apart.line(report.total_s) + "\n"),
        report.kv_blocks.peak_used,
        report.kv_blocks.total,
        report.kv_blocks.unshared,
        report.model_bytes / 1e6,
        report.kv_bytes_per_token,
        machine.threads,
        machine.read_bytes_per_s / 1e9,
        machine.bf16_flops / 1e9,
        machine.f16_flops / 1e9,
        machine.f32_flops / 1e9,
        machine.int8_ops / 1e9,
    )
}
