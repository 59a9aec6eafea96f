//! Fakes for the engine's own tests: a model whose answers depend on what it reads through its block tables, so that a
//! stale, shared or lost block shows as a wrong answer; a vocabulary; a reward template. Leaves real models to `model`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::batch::{Batch, Executor, ExecutorSpec, StepOutput};
use crate::ids::BlockId;
use crate::model::adapter::{Adapter, AdapterInfo};
use crate::request::Message;
use crate::{EngineError, RewardSpec, TokenBytes};

/// Tokens of every fake model.
pub(crate) const VOCAB: usize = 64;
/// The token that ends a text.
pub(crate) const EOS: u32 = 0;
/// Two halves of one character.
pub(crate) const HALVES: [u32; 2] = [1, 2];

/// An adapter without weights.
pub(crate) fn adapter(name: &str, version: &str) -> Arc<Adapter> {
    adapter_with_head(name, version, false)
}

/// An adapter without weights that claims to have a score head or not.
pub(crate) fn adapter_with_head(name: &str, version: &str, has_score_head: bool) -> Arc<Adapter> {
    let (name, version, content_hash) = (name.into(), version.into(), version.into());
    let info = AdapterInfo { name, version, content_hash, rank: 1, has_score_head };
    Arc::new(Adapter::identity(info))
}

/// What one slot of the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    token: u32,
    position: u32,
    version: u64,
}

/// A model that remembers tokens in slots and answers from what it finds there.
#[derive(Debug)]
pub(crate) struct FakeModel {
    spec: ExecutorSpec,
    slots: Vec<Option<Slot>>,
    logits: Vec<f32>,
    scores: Vec<f32>,
    switches: Rc<Switches>,
}

/// Failures that a test can order, and what the model has seen.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// Refuse the next batch.
    pub(crate) fail: Cell<bool>,
    /// Panic at the next batch.
    pub(crate) panic: Cell<bool>,
    /// Answer NaN to every row whose last token is this.
    pub(crate) nan_after: Cell<Option<u32>>,
    /// Batches run.
    pub(crate) num_batches: Cell<usize>,
    /// Tokens run.
    pub(crate) num_tokens: Cell<usize>,
    /// The most tokens of a batch that also had a decode.
    pub(crate) most_beside_decode: Cell<usize>,
}

impl FakeModel {
    pub(crate) fn new(num_blocks: usize, block_size: usize, has_score_head: bool) -> Self {
        let spec = ExecutorSpec {
            vocab_size: VOCAB,
            max_model_len: 512,
            num_blocks,
            block_size,
            has_score_head,
            reads_whole: false,
        };
        let slots = vec![None; num_blocks * block_size];
        Self { spec, slots, logits: vec![], scores: vec![], switches: Rc::default() }
    }

    pub(crate) fn switches(&self) -> Rc<Switches> {
        Rc::clone(&self.switches)
    }

    /// Everything that position `position` of sequence `index` can see, or a panic about what is wrong with it.
    fn history(&self, table: &[BlockId], position: usize, version: u64) -> Vec<u32> {
        let block_size = self.spec.block_size;
        let read = |p: usize| {
            let slot = self.slots[table[p / block_size].0 as usize * block_size + p % block_size];
            let slot = slot.unwrap_or_else(|| panic!("position {p} was never written"));
            assert_eq!(slot.position as usize, p, "position {p} was overwritten");
            assert_eq!(slot.version, version, "position {p} belongs to another adapter");
            slot.token
        };
        (0..=position).map(read).collect()
    }
}

impl Executor for FakeModel {
    fn spec(&self) -> ExecutorSpec {
        self.spec
    }

    fn execute(&mut self, batch: &Batch) -> Result<StepOutput<'_>, EngineError> {
        let block_size = self.spec.block_size;
        self.switches.num_batches.set(self.switches.num_batches.get() + 1);
        self.switches.num_tokens.set(self.switches.num_tokens.get() + batch.num_tokens());
        if self.switches.fail.take() {
            return Err(EngineError::Execution("a fuse blew".into()));
        }
        assert!(!self.switches.panic.take(), "the fuse box blew");
        for &(from, to) in &batch.block_copies {
            for offset in 0..block_size {
                self.slots[to.0 as usize * block_size + offset] =
                    self.slots[from.0 as usize * block_size + offset];
            }
        }
        let mut versions = vec![0; batch.num_tokens()];
        for run in &batch.adapter_runs {
            versions[run.tokens.clone()].fill(version_hash(&run.adapter));
        }
        let mut written = std::collections::HashSet::new();
        for (token, &version) in versions.iter().enumerate() {
            let slot = batch.slot_mapping[token];
            assert!(written.insert(slot), "two tokens went to one slot");
            self.slots[slot.0 as usize] =
                Some(Slot { token: batch.token_ids[token], position: batch.positions[token], version });
        }
        let mut histories = Vec::new();
        let mut has_decode = false;
        for index in 0..batch.num_seqs() {
            let tokens = batch.cu_seqlens_q[index] as usize..batch.cu_seqlens_q[index + 1] as usize;
            let table =
                &batch.block_tables[batch.cu_blocks[index] as usize..batch.cu_blocks[index + 1] as usize];
            assert_eq!(table.len(), (batch.seq_lens[index] as usize).div_ceil(block_size));
            assert_eq!(batch.positions[tokens.end - 1] + 1, batch.seq_lens[index]);
            has_decode |= tokens.len() == 1 && batch.seq_lens[index] > 1;
            for token in tokens {
                histories.push(self.history(table, batch.positions[token] as usize, versions[token]));
            }
        }
        if has_decode {
            let most = self.switches.most_beside_decode.get().max(batch.num_tokens());
            self.switches.most_beside_decode.set(most);
        }
        assert!(batch.logit_rows.is_sorted());
        self.logits.clear();
        for &row in &batch.logit_rows {
            let history = &histories[row as usize];
            let mut logits = fake_logits(history, versions[row as usize]);
            if history.last().copied() == self.switches.nan_after.get() {
                logits[3] = f32::NAN;
            }
            self.logits.extend(logits);
        }
        self.scores.clear();
        for &row in &batch.score_rows {
            self.scores.push(fake_score(&histories[row as usize], versions[row as usize]));
        }
        Ok(StepOutput { logits: &self.logits, scores: &self.scores })
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn hash(history: &[u32], version: u64) -> u64 {
    history.iter().fold(mix(version ^ 0x9e37), |hash, &token| mix(hash ^ u64::from(token)).wrapping_add(1))
}

/// Of an adapter; 0 is none.
pub(crate) fn version_hash(adapter: &Adapter) -> u64 {
    adapter.info.content_hash.bytes().fold(1, |hash, byte| mix(hash ^ u64::from(byte)) | 1)
}

/// The fake model's logits after `history`, in [-2, 2).
pub(crate) fn fake_logits(history: &[u32], version: u64) -> Vec<f32> {
    let seed = hash(history, version);
    let logit = |token: u64| (mix(seed ^ (token << 7)) >> 40) as f32 / (1 << 22) as f32 - 2.0;
    (0..VOCAB as u64).map(logit).collect()
}

/// The fake model's score of `history`, in [-8, 8).
pub(crate) fn fake_score(history: &[u32], version: u64) -> f32 {
    (mix(hash(history, version) ^ 77) >> 40) as f32 / (1 << 20) as f32 - 8.0
}

/// Letters, and the two halves of `é`.
#[derive(Debug)]
pub(crate) struct FakeVocabulary(Vec<Vec<u8>>);

impl FakeVocabulary {
    pub(crate) fn new() -> Self {
        let bytes = |token: u32| match token {
            EOS => vec![],
            token if token == HALVES[0] => vec![0xc3],
            token if token == HALVES[1] => vec![0xa9],
            token => vec![b'a' + (token % 26) as u8],
        };
        Self((0..VOCAB as u32).map(bytes).collect())
    }
}

impl TokenBytes for FakeVocabulary {
    fn token_bytes(&self, token: u32) -> &[u8] {
        self.0.get(token as usize).map_or(&[], Vec::as_slice)
    }
}

/// Each byte is a token; a turn ends with token 63. Refuses answers that hold `refuse`, and pairs whose first does.
#[derive(Debug, Default)]
pub(crate) struct FakeTemplate {
    pub(crate) refuse: Option<&'static str>,
    pub(crate) compares: bool,
}

impl RewardSpec for FakeTemplate {
    fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError> {
        let turns: Vec<Vec<u32>> = messages.iter().map(|message| self.turn(&message.content)).collect();
        Ok(turns.concat())
    }

    fn candidate_tokens(&self, messages: &[Message], answer: &str) -> Result<Vec<u32>, EngineError> {
        if self.refuse.is_some_and(|refuse| answer.contains(refuse)) {
            return Err(EngineError::invalid("messages", "the reward model's template refuses the answer"));
        }
        Ok([self.prompt_tokens(messages)?, self.turn(answer)].concat())
    }

    fn text_tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        Ok(self.turn(text))
    }

    fn compares(&self) -> bool {
        self.compares
    }

    fn pair_tokens(&self, messages: &[Message], [first, second]: [&str; 2]) -> Result<Vec<u32>, EngineError> {
        Ok([self.candidate_tokens(messages, first)?, self.turn(second)].concat())
    }
}

impl FakeTemplate {
    fn turn(&self, text: &str) -> Vec<u32> {
        text.bytes().map(|byte| u32::from(byte) % 60 + 1).chain([63]).collect()
    }
}
