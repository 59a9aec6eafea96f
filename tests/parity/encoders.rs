//! Encoders as reward models: tokens and logits of `transformers`, whatever shares the batch and however many layers a
//! step runs. Leaves decoders to `model` and `table`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rectify_engine::alignment::Alignment;
use rectify_engine::batch::{Batch, Executor};
use rectify_engine::ids::BlockId;
use rectify_engine::model::assemble::{self, ModelsConfig};
use rectify_engine::model::checkpoint::Checkpoint;
use rectify_engine::model::encoder::{
    EncoderConfig, EncoderExecutor, EncoderFamily, EncoderOptions, EncoderText,
};
use rectify_engine::model::reading::{EncoderInput, RewardReading};
use rectify_engine::model::readout::Readout;
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::{Message, ScoreInput};
use rectify_engine::text::PairTokenizer;
use rectify_engine::{EngineConfig, RewardSpec, ScoreRequest};
use rectify_kernels::{Pool, WeightDtype};
use rectify_tests::fixture::fixtures;
use rectify_tests::outcome::{generate, greedy_request, score};
use serde::Deserialize;

const ENCODERS: [&str; 6] = ["bert", "distilbert", "roberta", "xlm-roberta", "deberta-v2", "deberta-v3"];
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<Case>,
}

/// A text, or a pair of texts.
#[derive(Deserialize)]
struct Case {
    /// None for ids alone.
    a: Option<String>,
    b: Option<String>,
    ids: Vec<u32>,
    types: Vec<u32>,
    logits: Vec<f64>,
}

struct Encoder {
    source: ModelSource,
    config: EncoderConfig,
    cases: Vec<Case>,
}

impl Encoder {
    fn load(name: &str) -> Self {
        let folder = fixtures().join("models").join(name);
        let expected: Expected =
            serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let source = ModelSource::Folder(folder.join("reward"));
        let fields = source.require_json("config.json").unwrap();
        let family = EncoderFamily::find(&fields).unwrap().unwrap();
        let config = EncoderConfig::parse(&fields, family).unwrap();
        Self { source, config, cases: expected.texts }
    }

    fn path(&self) -> PathBuf {
        self.source.path()
    }

    /// An executor whose reward is the output `label`.
    fn executor(&self, label: usize, threads: usize, dtype: WeightDtype) -> EncoderExecutor {
        let labels = BTreeMap::from([(self.config.labels[label].clone(), 1.0)]);
        let reading = RewardReading { labels, ..RewardReading::default() };
        let fields = self.source.require_json("config.json").unwrap();
        let options = EncoderOptions {
            pool: Arc::new(Pool::new(threads).unwrap()),
            dtype,
            memory: 16 << 20,
            max_len: None,
            readout: Readout::new("r", &fields, &self.config.labels, &reading).unwrap(),
        };
        EncoderExecutor::new(&self.config, &Checkpoint::open(&self.source).unwrap(), options).unwrap()
    }

    fn text(&self, input: EncoderInput) -> EncoderText {
        EncoderText {
            name: "r".into(),
            tokenizer: PairTokenizer::load(&self.source).unwrap(),
            vocab_size: self.config.vocab_size,
            num_segments: self.config.num_segments,
            input,
            truncate_to: None,
        }
    }

    /// A case's tokens, segments folded in.
    fn tokens(&self, case: &Case) -> Vec<u32> {
        let vocab_size = self.config.vocab_size as u32;
        let folded = |(id, segment): (&u32, &u32)| id + segment * vocab_size;
        if self.config.num_segments < 2 {
            case.ids.clone()
        } else {
            case.ids.iter().zip(&case.types).map(folded).collect()
        }
    }
}

/// The whole of texts, each in its own block, of which `computed` tokens count.
pub(crate) fn batch(texts: &[(&Vec<u32>, usize)]) -> Batch {
    let mut batch = Batch { cu_seqlens_q: vec![0], cu_blocks: vec![0], ..Batch::default() };
    for (index, (tokens, computed)) in texts.iter().enumerate() {
        batch.token_ids.extend_from_slice(tokens);
        batch.cu_seqlens_q.push(batch.token_ids.len() as u32);
        batch.seq_lens.push(*computed as u32);
        // Not in order, so that places are not taken for numbers of texts.
        batch.block_tables.push(BlockId((texts.len() - index) as u32));
        batch.cu_blocks.push(batch.block_tables.len() as u32);
        if *computed == tokens.len() {
            batch.score_rows.push(batch.token_ids.len() as u32 - 1);
        }
    }
    batch
}

fn alone(executor: &mut EncoderExecutor, tokens: &Vec<u32>) -> f32 {
    executor.execute(&batch(&[(tokens, tokens.len())])).unwrap().scores[0]
}

fn user(content: &str) -> Arc<[Message]> {
    [Message { role: "user".into(), content: content.into() }].into()
}

#[test]
fn texts_and_pairs_have_the_tokens_of_transformers() {
    for name in ENCODERS {
        let encoder = Encoder::load(name);
        let text = encoder.text(EncoderInput::Pair);
        for case in &encoder.cases {
            let Some(a) = &case.a else { continue };
            let found = match &case.b {
                Some(b) => text.candidate_tokens(&user(a), b),
                None => text.text_tokens(a),
            };
            assert_eq!(found.unwrap(), encoder.tokens(case), "{name}: {a:?} {:?}", case.b);
        }
        let answer = encoder.text(EncoderInput::Answer).candidate_tokens(&user("?"), "Thank you!").unwrap();
        assert_eq!(answer, text.text_tokens("Thank you!").unwrap());
    }
}

#[test]
fn table_of_encoders() {
    let mut wrong = Vec::new();
    let mut text =
        format!("{:<14} {:>11} {:>11} {:>7} {:>7}\n", "encoder", "f32 max|Δ|", "bf16", "ragged", "layers");
    for name in ENCODERS {
        let encoder = Encoder::load(name);
        let tokens: Vec<Vec<u32>> = encoder.cases.iter().map(|case| encoder.tokens(case)).collect();
        let (mut f32_max, mut bf16_max, mut ragged, mut sliced) = (0.0f64, 0.0f64, true, true);
        for label in 0..encoder.config.labels.len() {
            let wanted = || encoder.cases.iter().map(|case| case.logits[label]);
            let mut executor = encoder.executor(label, 2, WeightDtype::F32);
            let found: Vec<f32> = tokens.iter().map(|tokens| alone(&mut executor, tokens)).collect();
            let difference = |found: &[f32]| {
                let pairs = found.iter().zip(wanted());
                pairs.map(|(found, wanted)| (f64::from(*found) - wanted).abs()).fold(0.0, f64::max)
            };
            f32_max = f32_max.max(difference(&found));
            let mut half = encoder.executor(label, 2, WeightDtype::Bf16);
            let half: Vec<f32> = tokens.iter().map(|tokens| alone(&mut half, tokens)).collect();
            bf16_max = bf16_max.max(difference(&half));

            // Sixteen at once, on one thread and on two.
            let crowd: Vec<usize> = (0..16).map(|i| i * 3 % tokens.len()).collect();
            for threads in [1, 2] {
                let mut executor = encoder.executor(label, threads, WeightDtype::F32);
                let rows: Vec<_> = crowd.iter().map(|&i| (&tokens[i], tokens[i].len())).collect();
                let together = executor.execute(&batch(&rows)).unwrap().scores.to_vec();
                ragged &= together.iter().zip(&crowd).all(|(together, &i)| *together == found[i]);
            }
            // A few tokens' worth of layers at a time, each text at its own.
            let mut executor = encoder.executor(label, 2, WeightDtype::F32);
            let mut rewards = vec![None; tokens.len()];
            for step in 1..=128 {
                let rows: Vec<_> =
                    tokens.iter().map(|tokens| (tokens, (step * 5).min(tokens.len()))).collect();
                let output = executor.execute(&batch(&rows)).unwrap().scores;
                let done =
                    rows.iter().enumerate().filter(|(_, (tokens, computed))| *computed == tokens.len());
                done.zip(output).for_each(|((index, _), reward)| rewards[index] = Some(*reward));
            }
            sliced &= rewards.iter().zip(&found).all(|(reward, found)| *reward == Some(*found));
        }
        let bits = |same: bool| if same { "bits" } else { "differs" };
        text.push_str(&format!(
            "{name:<14} {f32_max:>11.1e} {bf16_max:>11.1e} {:>7} {:>7}\n",
            bits(ragged),
            bits(sliced)
        ));
        // Written so that NaN is wrong, too.
        if !(f32_max <= TOLERANCE && bf16_max <= 0.1 && ragged && sliced) {
            wrong.push(name);
        }
    }
    eprint!("{text}");
    assert!(wrong.is_empty(), "{wrong:?} differ from PyTorch:\n{text}");
}

#[test]
fn a_place_that_was_left_in_the_middle_serves_the_next_text() {
    let encoder = Encoder::load("bert");
    let [first, second] = [5, 1].map(|i| encoder.tokens(&encoder.cases[i]));
    let mut executor = encoder.executor(0, 1, WeightDtype::F32);
    let wanted = alone(&mut executor, &second);
    let mut executor = encoder.executor(0, 1, WeightDtype::F32);
    executor.execute(&batch(&[(&first, first.len() - 1)])).unwrap();
    assert_eq!(alone(&mut executor, &second), wanted);
    // The same text again starts where it is told to.
    executor.execute(&batch(&[(&second, second.len() / 2)])).unwrap();
    assert_eq!(alone(&mut executor, &second), wanted);
}

fn models(rewards: &[(&str, &Encoder)], readings: &[(&str, RewardReading)]) -> ModelsConfig {
    let policy = fixtures().join("models/llama/policy");
    ModelsConfig {
        rewards: rewards
            .iter()
            .map(|(name, encoder)| ((*name).to_owned(), ModelSource::Folder(encoder.path())))
            .collect(),
        readings: readings.iter().map(|(name, reading)| ((*name).to_owned(), reading.clone())).collect(),
        kv_memory: 64 << 20,
        reward_kv_memory: 16 << 20,
        threads: Some(2),
        ..ModelsConfig::new(ModelSource::Folder(policy))
    }
}

#[tokio::test]
async fn the_engine_scores_pairs_texts_and_candidates() {
    let (bert, sentiment) = (Encoder::load("bert"), Encoder::load("distilbert"));
    let labels = BTreeMap::from([("POSITIVE".to_owned(), 1.0), ("NEGATIVE".to_owned(), -1.0)]);
    let reading = RewardReading { labels, input: EncoderInput::Answer, ..RewardReading::default() };
    // Chunks far below a text, so that its layers are spread over steps.
    let engine = EngineConfig { max_num_batched_tokens: 16, max_num_seqs: 8, ..EngineConfig::default() };
    let models = models(&[("bert", &bert), ("sentiment", &sentiment)], &[("sentiment", reading)]);
    let (engine, _) = assemble::start(engine, models).unwrap();
    for case in &bert.cases {
        let Some(a) = &case.a else { continue };
        let input = match &case.b {
            Some(b) => ScoreInput::Candidates { messages: user(a), candidates: vec!["x".into(), b.clone()] },
            None => ScoreInput::Texts(vec!["x".into(), a.clone()]),
        };
        let found = score(&engine, ScoreRequest { reward: None, input, priority: 0 }).await.unwrap();
        assert!((f64::from(found[1]) - case.logits[0]).abs() <= TOLERANCE, "{a:?}: {found:?}");
    }
    for case in sentiment.cases.iter().filter(|case| case.b.is_none()) {
        let Some(a) = &case.a else { continue };
        let input = ScoreInput::Candidates { messages: user("Anything."), candidates: vec![a.clone()] };
        let request = ScoreRequest { reward: Some("sentiment".into()), input, priority: 0 };
        let found = f64::from(score(&engine, request).await.unwrap()[0]);
        let wanted = case.logits[1] - case.logits[0];
        assert!((found - wanted).abs() <= 2.0 * TOLERANCE, "{a:?}: {found} instead of {wanted}");
    }
    let mut request = greedy_request(&[5, 6, 7], 12);
    request.sampling.temperature = 1.0;
    request.sampling.seed = Some(3);
    request.messages = user("Say something.");
    request.alignment = Some(Alignment::best_of(6));
    let outcome = generate(&engine, request).await.unwrap();
    let selection = outcome.selection.unwrap();
    let rewards: Vec<f32> = selection.candidates.iter().map(|candidate| candidate.reward.unwrap()).collect();
    let candidates = selection.candidates.iter().map(|candidate| candidate.text.clone()).collect();
    let input = ScoreInput::Candidates { messages: user("Say something."), candidates };
    let again = score(&engine, ScoreRequest { reward: None, input, priority: 0 }).await.unwrap();
    assert_eq!(rewards, again);
    let best = rewards.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(rewards[selection.selected[0]], best);
}

#[tokio::test]
async fn a_conversation_that_is_too_long_is_refused_or_loses_its_beginning() {
    let bert = Encoder::load("bert");
    let cut = RewardReading { truncate: true, ..RewardReading::default() };
    let models = models(&[("whole", &bert), ("cut", &bert)], &[("cut", cut)]);
    let (engine, _) = assemble::start(EngineConfig::default(), models).unwrap();
    let scored = |reward: &str, prompt: &str| {
        let input = ScoreInput::Candidates { messages: user(prompt), candidates: vec!["Paris.".into()] };
        let request = ScoreRequest { reward: Some(reward.into()), input, priority: 0 };
        let engine = engine.clone();
        async move { score(&engine, request).await }
    };
    let long = "9 ".repeat(300);
    let error = scored("whole", &long).await.unwrap_err().to_string();
    assert!(error.contains("the reward model takes 128 at most"), "{error}");
    // `[CLS]`, twice `[SEP]`, and two tokens for the answer.
    let kept = scored("cut", &format!("What? {}", "9 ".repeat(123))).await.unwrap();
    assert_eq!(scored("cut", &long).await.unwrap(), kept);
    assert_ne!(scored("cut", "9").await.unwrap(), kept);
}

#[test]
fn refusals_name_file_and_field() {
    let refusal = |name: &str, file: &str, change: &dyn Fn(String) -> String, reading: RewardReading| {
        let encoder = Encoder::load(name);
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(encoder.path()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let path = folder.path().join(file);
        std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
        let mut models = models(&[], &[("r", reading)]);
        models.rewards.push(("r".into(), ModelSource::Folder(folder.path().to_owned())));
        assemble::assemble(&models).unwrap_err().to_string()
    };
    let plain = RewardReading::default;
    let labelled = |label: &str| RewardReading {
        labels: BTreeMap::from([(label.to_owned(), 1.0)]),
        ..RewardReading::default()
    };
    let same = |text: String| text;
    let error = refusal("distilbert", "config.json", &same, plain());
    assert!(
        error.contains("config.json: `id2label` gives the head 2 outputs (NEGATIVE, POSITIVE)"),
        "{error}"
    );
    let error = refusal("distilbert", "config.json", &same, labelled("HAPPY"));
    assert!(error.contains("`rewards.r.labels` names `HAPPY`"), "{error}");
    let wider = |text: String| text.replace("\"intermediate_size\": 72", "\"intermediate_size\": 80");
    let error = refusal("bert", "config.json", &wider, plain());
    assert!(
        error.contains("model.safetensors: the tensor `bert.encoder.layer.0.intermediate.dense.weight` has shape [72, 32]"),
        "{error}"
    );
    let fewer = |text: String| text.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
    let error = refusal("bert", "config.json", &fewer, plain());
    assert!(error.contains("holds the tensor `bert.encoder.layer.2."), "{error}");
    let trunk = |text: String| text.replace("BertForSequenceClassification", "BertModel");
    let error = refusal("bert", "config.json", &trunk, plain());
    assert!(
        error.contains("`architectures` is [\"BertModel\"], but must be BertForSequenceClassification"),
        "{error}"
    );
    let smaller = |text: String| text.replace("\"vocab_size\": 223", "\"vocab_size\": 200");
    let error = refusal("bert", "config.json", &smaller, plain());
    assert!(error.contains("tokenizer.json: has token ids up to 222"), "{error}");
}
