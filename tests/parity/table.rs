//! The table of families: `cargo test --release -p rectify-tests --test parity table -- --nocapture`. Each family beside
//! PyTorch in single precision and bfloat16, alone and in a crowd, under an adapter and as a reward model. Leaves
//! engines to `engine`.

use std::sync::Arc;

use rectify_engine::batch::Executor;
use rectify_engine::model::adapter::Adapter;
use rectify_engine::model::cpu_executor::CpuExecutor;
use rectify_engine::model::source::ModelSource;
use rectify_kernels::{KvDtype, WeightDtype};
use rectify_tests::fixture::{Expectation, Language};
use rectify_tests::harness::Setup;
use rectify_tests::sheet::{Row, Sheet, log_softmax};

/// Folders of `fixtures/models`, and the length up to which `longrope` stays with its short factors.
const FAMILIES: [(&str, Option<usize>); 20] = [
    ("llama", None),
    ("llama-bias", None),
    ("llama2", None),
    ("llama-dynamic", None),
    ("mistral", None),
    ("qwen2", None),
    ("qwen2-window", None),
    ("qwen3", None),
    ("qwen3-yarn", None),
    ("phi3", None),
    ("phi3-longrope", Some(128)),
    ("gemma2", None),
    ("gemma3", None),
    ("smollm3", None),
    ("olmo2", None),
    ("granite", None),
    ("starcoder2", None),
    ("gpt2", None),
    ("qwen3-moe", None),
    ("mixtral", None),
];
/// Of log-probabilities in single precision, and of scores.
const TOLERANCE: f64 = 1e-4;
/// Of the mean divergence in bfloat16.
const BF16_TOLERANCE: f64 = 1e-3;

/// Logits of every position of every prompt, all in one batch: by prompt `[length, vocab_size]`.
fn logits(
    executor: &mut CpuExecutor,
    prompts: &[&Vec<u32>],
    adapter: Option<&Arc<Adapter>>,
) -> Vec<Vec<f32>> {
    let vocab_size = executor.spec().vocab_size;
    let mut sheet = Sheet::new(executor);
    let mut rows: Vec<Row> = prompts.iter().map(|ids| sheet.row(ids, adapter)).collect();
    let lens: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let batch = sheet.batch(&mut rows, &lens, false);
    let mut rest = executor.execute(&batch).unwrap().logits;
    let mut take = |len: &usize| {
        let (mine, others) = rest.split_at(len * vocab_size);
        rest = others;
        mine.to_vec()
    };
    lens.iter().map(&mut take).collect()
}

/// What one family shows.
struct Line {
    /// Largest difference of a log-probability, of all prompts but the longest.
    short: f64,
    /// The same of the longest, past windows and original contexts.
    long: f64,
    /// Under the adapter.
    lora: f64,
    /// Greedy tokens that are PyTorch's, and how many there are.
    greedy: (usize, usize),
    /// Mean divergence of bfloat16.
    bf16: f64,
    f16: f64,
    /// Sixteen sequences at once give the bits that each gives alone.
    ragged: bool,
    /// Largest difference of a score.
    reward: Option<f64>,
}

/// Largest difference between what was found and what PyTorch says of prompt `index`.
fn difference(fixture: &Expectation, label: &str, index: usize, found: &[f32], vocab_size: usize) -> f64 {
    let prompt = &fixture.language(label).prompts[index];
    let table = log_softmax(found, vocab_size);
    let picked = prompt
        .logprobs
        .iter()
        .enumerate()
        .map(|(position, wanted)| (table[position][prompt.ids[position + 1] as usize] - wanted).abs());
    let whole = fixture.rows(label).remove(&index).unwrap_or_default();
    let rows = prompt.rows.iter().zip(&whole).flat_map(|(&position, wanted)| {
        table[position].iter().zip(wanted).map(|(found, wanted)| (found - f64::from(*wanted)).abs())
    });
    picked.chain(rows).fold(0.0, f64::max)
}

/// The greedy continuation of a prompt, as long as `wanted`.
fn greedy(executor: &mut CpuExecutor, ids: &[u32], count: usize) -> Vec<u32> {
    let vocab_size = executor.spec().vocab_size;
    let mut sheet = Sheet::new(executor);
    let mut whole = ids.to_vec();
    whole.resize(ids.len() + count, 0);
    let mut rows = [sheet.row(&whole, None)];
    let mut chunk = ids.len();
    for at in ids.len()..whole.len() {
        let batch = sheet.batch(&mut rows, &[chunk], false);
        let logits = executor.execute(&batch).unwrap().logits;
        let last = &logits[logits.len() - vocab_size..];
        let best = (0..vocab_size).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        rows[0].ids[at] = best as u32;
        chunk = 1;
    }
    rows[0].ids[ids.len()..].to_vec()
}

/// Largest difference of a score; texts up to `short_len` by a model that takes no longer ones.
fn scores(setup: &Setup, fixture: &Expectation, short_len: Option<usize>) -> Option<f64> {
    let reward = fixture.reward()?;
    let conversations = reward.conversations.iter().map(|case| (&case.ids, case.score));
    let random = reward.random.iter().map(|case| (&case.ids, case.score));
    let is_long = |case: &(&Vec<u32>, f64)| short_len.is_some_and(|len| case.0.len() > len);
    let (long, short): (Vec<_>, Vec<_>) = conversations.chain(random).partition(is_long);
    let mut largest = 0.0f64;
    for (cases, max_model_len) in [(short, short_len), (long, None)] {
        let setup = Setup { max_model_len, ..setup.clone() };
        let mut executor = setup.executor(fixture.path("reward"), setup.pool()).unwrap();
        let mut sheet = Sheet::new(&executor);
        let mut rows: Vec<Row> = cases.iter().map(|(ids, _)| sheet.row(ids, None)).collect();
        let lens: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let batch = sheet.batch(&mut rows, &lens, true);
        let found = executor.execute(&batch).unwrap().scores.iter();
        let differences = found.zip(&cases).map(|(found, (_, wanted))| (f64::from(*found) - wanted).abs());
        largest = differences.fold(largest, f64::max);
    }
    Some(largest)
}

fn line(name: &str, short_len: Option<usize>) -> Line {
    let fixture = Expectation::load(name);
    let setup = Setup::default();
    let load = |setup: &Setup, max_model_len| {
        let setup = Setup { max_model_len, ..setup.clone() };
        setup.executor(fixture.path("policy"), setup.pool()).unwrap()
    };
    let language: &Language = fixture.language("policy");
    let prompts: Vec<&Vec<u32>> = language.prompts.iter().map(|prompt| &prompt.ids).collect();
    let last = prompts.len() - 1;

    let mut executor = load(&setup, short_len);
    let vocab_size = executor.spec().vocab_size;
    let alone: Vec<Vec<f32>> =
        prompts[..last].iter().map(|ids| logits(&mut executor, &[ids], None).remove(0)).collect();
    let short =
        alone.iter().enumerate().map(|(i, found)| difference(&fixture, "policy", i, found, vocab_size));
    let short = short.fold(0.0, f64::max);

    let crowd: Vec<usize> = (0..16).map(|i| (i * 5) % last).collect();
    let together = logits(&mut executor, &crowd.iter().map(|&i| prompts[i]).collect::<Vec<_>>(), None);
    let ragged = crowd.iter().zip(&together).all(|(&i, found)| *found == alone[i]);

    let mut agreed = (0, 0);
    for case in &language.greedy {
        let found = greedy(&mut executor, &case.ids, case.tokens.len());
        agreed.0 += found.iter().zip(&case.tokens).take_while(|(found, wanted)| found == wanted).count();
        agreed.1 += case.tokens.len();
    }
    let source = ModelSource::Folder(fixture.path("lora"));
    let adapter = Arc::new(Adapter::load("lora", &source, executor.config(), &setup.pool()).unwrap());
    let under = logits(&mut executor, &prompts[..last], Some(&adapter));
    let lora = under.iter().enumerate().map(|(i, found)| difference(&fixture, "lora", i, found, vocab_size));
    let lora = lora.fold(0.0, f64::max);

    let mut executor = load(&setup, None);
    let found = logits(&mut executor, &prompts[last..], None).remove(0);
    let long = difference(&fixture, "policy", last, &found, vocab_size);

    let [bf16, f16] = [WeightDtype::Bf16, WeightDtype::F16].map(|dtype| {
        let setup = Setup { dtype, kv_dtype: KvDtype::Bf16, ..Setup::default() };
        let (mut sum, mut count) = (0.0, 0);
        for (index, wanted) in fixture.rows("policy") {
            let mut executor = load(&setup, short_len.filter(|_| index != last));
            let found = logits(&mut executor, &[prompts[index]], None).remove(0);
            let table = log_softmax(&found, vocab_size);
            for (&position, wanted) in language.prompts[index].rows.iter().zip(&wanted) {
                let terms = wanted.iter().zip(&table[position]);
                sum += terms.map(|(&p, q)| f64::from(p).exp() * (f64::from(p) - q)).sum::<f64>();
                count += 1;
            }
        }
        sum / f64::from(count)
    });
    let reward = scores(&setup, &fixture, short_len);
    Line { short, long, lora, greedy: agreed, bf16, f16, ragged, reward }
}

#[test]
fn table() {
    let header = format!(
        "{:<14} {:>11} {:>11} {:>11} {:>9} {:>11} {:>11} {:>7} {:>11}\n",
        "family", "f32 max|Δ|", "long", "adapter", "greedy", "bf16 KL", "f16 KL", "ragged", "reward"
    );
    eprint!("{header}");
    let mut text = header;
    let mut wrong = Vec::new();
    for (name, short_len) in FAMILIES {
        let line = line(name, short_len);
        let reward = line.reward.map_or("-".to_owned(), |reward| format!("{reward:.1e}"));
        let greedy = format!("{}/{}", line.greedy.0, line.greedy.1);
        let ragged = if line.ragged { "bits" } else { "differs" };
        let shown = format!(
            "{name:<14} {:>11.1e} {:>11.1e} {:>11.1e} {greedy:>9} {:>11.1e} {:>11.1e} {ragged:>7} {reward:>11}\n",
            line.short, line.long, line.lora, line.bf16, line.f16,
        );
        eprint!("{shown}");
        text.push_str(&shown);
        let f32_max = line.short.max(line.long).max(line.lora).max(line.reward.unwrap_or(0.0));
        let all_greedy = line.greedy.0 == line.greedy.1 && line.greedy.1 > 0;
        // Written so that NaN is wrong, too.
        if !(f32_max <= TOLERANCE && line.bf16.max(line.f16) <= BF16_TOLERANCE && line.ragged && all_greedy) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?} differ from PyTorch:\n{text}");
}
