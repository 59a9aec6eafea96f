//! The sequences of one request: the prompt while it is prefilled, the candidates forked from it, and what a reward
//! model reads about them. Leaves blocks and steps to the scheduler.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::block_pool::BlockPool;
use crate::ids::{ModelId, RequestId};
use crate::model::reading::Aggregate;
use crate::sequence::{Sequence, SequenceState};

/// Order of admission: priority class first, then arrival. Preemption goes from the greatest down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// Lower runs first.
    pub priority: i32,
    /// Counts up; kept through preemption, so a preempted group returns to its place.
    pub arrival: u64,
}

/// Which sequence of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The prompt, before the fork.
    Prompt,
    /// A candidate.
    Candidate(usize),
    /// A reward model's template of the conversation, computed for its blocks alone; by the model's place among those of
    /// the request.
    ScorePrompt(usize),
    /// A text to score.
    Score {
        /// The reward model's place among those of the request.
        judge: usize,
        /// The candidate, or the index of the text.
        index: usize,
        /// The candidate that it is compared with, by a reward model that compares.
        rival: Option<usize>,
    },
}

/// A prefill-only sequence of a reward model.
#[derive(Debug)]
pub struct ScoreSequence {
    /// [`Part::ScorePrompt`] or [`Part::Score`].
    pub part: Part,
    /// Whose blocks it uses: its own model's, or a policy's for an adapter with a score head.
    pub model: ModelId,
    /// Its tokens and blocks.
    pub sequence: Sequence,
    /// What the outputs it was read at come to.
    pub aggregate: Aggregate,
}

/// The sequences of one request.
#[derive(Debug)]
pub struct SequenceGroup {
    /// The request.
    pub id: RequestId,
    /// The policy that generates; for a request that only scores, the model that reads its texts.
    pub model: ModelId,
    /// Its place in line.
    pub key: GroupKey,
    /// State of the generating part; a request that only scores is `Running` throughout.
    pub state: SequenceState,
    /// The prompt's tokens; none for a request that only scores.
    pub prompt_tokens: Arc<[u32]>,
    /// Exists from admission to the fork.
    pub prompt: Option<Sequence>,
    /// By index; they hold blocks from the fork on.
    pub candidates: Vec<Sequence>,
    /// Unfinished work of reward models.
    pub scores: VecDeque<ScoreSequence>,
    /// Logits of every prompt row are wanted, so nothing may come from the cache.
    pub prompt_logits: bool,
    /// Prompt tokens found in the cache at first admission.
    pub cached_tokens: usize,
    /// Policy blocks it held when it was preempted: it returns when as many are free, or when it is alone.
    pub blocks_when_preempted: usize,
}

impl SequenceGroup {
    /// Candidates that run or may run again.
    pub fn alive(&self) -> impl Iterator<Item = &Sequence> {
        self.candidates.iter().filter(|candidate| candidate.is_alive())
    }

    /// Sequences that take part in steps of the policy's generation.
    pub fn num_running(&self) -> usize {
        let candidates = self.candidates.iter().filter(|candidate| candidate.is_running()).count();
        candidates + usize::from(self.prompt.is_some())
    }

    /// Every sequence with the model whose blocks it may hold.
    pub fn sequences(&self) -> impl Iterator<Item = (ModelId, &Sequence)> {
        let generation = self.prompt.iter().chain(&self.candidates).map(|sequence| (self.model, sequence));
        generation.chain(self.scores.iter().map(|score| (score.model, &score.sequence)))
    }

    /// References it holds to blocks of `model`.
    pub fn num_blocks(&self, model: ModelId) -> usize {
        self.sequences().filter(|(of, _)| *of == model).map(|(_, sequence)| sequence.block_table.len()).sum()
    }

    /// First tokens are still to be drawn.
    pub fn wants_first_tokens(&self) -> bool {
        self.alive().any(|candidate| candidate.output.is_empty() && !candidate.is_held)
    }

    /// More than the next token of a candidate that may run is to be computed.
    pub fn wants_prefill(&self) -> bool {
        self.prompt.is_some() || self.alive().any(|candidate| !candidate.is_held && !candidate.is_decoding())
    }

    /// None of its candidates may run before their strategy says so.
    pub fn is_held(&self) -> bool {
        self.prompt.is_none() && self.alive().all(|candidate| candidate.is_held)
    }

    /// A held candidate gives back what it does not share with the others; it recomputes that when it goes on. Returns
    /// whether there was one that had anything to give.
    pub fn release_held(&mut self, pool: &mut BlockPool, block_size: usize) -> bool {
        self.release_tail(pool, block_size, |candidate| candidate.is_held)
    }

    /// As [`SequenceGroup::release_held`], of one that may go on but does not run yet.
    pub fn release_waiting(&mut self, pool: &mut BlockPool, block_size: usize) -> bool {
        self.release_tail(pool, block_size, |candidate| !candidate.is_running())
    }

    fn release_tail(
        &mut self,
        pool: &mut BlockPool,
        block_size: usize,
        of: impl Fn(&Sequence) -> bool,
    ) -> bool {
        let mut candidates =
            self.candidates.iter_mut().rev().filter(|candidate| candidate.is_alive() && of(candidate));
        candidates.any(|candidate| {
            let num_blocks = candidate.block_table.len();
            candidate.release_tail(pool, block_size);
            candidate.block_table.len() < num_blocks
        })
    }
}
