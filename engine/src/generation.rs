//! A generating request as its client sees it: text, ends, logprobs, rewards and the events that tell of them. Leaves
//! tokens in blocks to the scheduler and what happens next to the engine.

use std::sync::Arc;
use std::time::Instant;

use crate::alignment::{Alignment, Method};
use crate::detokenizer::Detokenizer;
use crate::events::{Closed, EventSender};
use crate::grammar::GrammarState;
use crate::ids::ModelId;
use crate::parts::WithSpecial;
use crate::request::{Candidate, Event, FinishReason, GenerateRequest, Logprobs, Message, Selection, Usage};
use crate::sampler::{Draw, SampleRow, Sampled};
use crate::scoring::{Judging, Verdicts};
use crate::stop::StopMatcher;
use crate::strategy::{Action, Outcome, Strategy, strategy, token_share};
use crate::{EngineError, SamplingParams, TokenBytes};

/// A candidate's text so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CandidateText {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) reward: Option<f32>,
    /// What the reward models said of its latest text, as far as they have.
    pub(crate) verdicts: Verdicts,
    pub(crate) finish_reason: Option<FinishReason>,
    pub(crate) is_dropped: bool,
    /// Tokens after which it is held.
    pub(crate) until: usize,
    /// When its text went to the reward model.
    pub(crate) score_started: Option<Instant>,
    grammar: Option<GrammarState>,
    max_tokens: usize,
    logprob: f64,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    last_token: Option<Instant>,
}

impl CandidateText {
    fn is_open(&self) -> bool {
        self.finish_reason.is_none() && !self.is_dropped
    }

    /// It has begun.
    fn is_drawn(&self) -> bool {
        !self.tokens.is_empty() || self.finish_reason.is_some()
    }
}

/// Best-of-N of a request.
#[derive(Debug)]
pub(crate) struct Aligned {
    name: &'static str,
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) judging: Judging,
    committed: Committed,
    /// Tokens of what was given up on the way.
    num_pruned_tokens: usize,
}

/// The part of the answer that is certain.
#[derive(Clone, Copy, Debug, Default)]
struct Committed {
    text_bytes: usize,
    num_tokens: usize,
    /// Where its last block begins.
    last_block: usize,
    num_blocks: usize,
}

/// What the engine adds to a request.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) policy: ModelId,
    pub(crate) seed: u64,
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) policy_version: Arc<str>,
    /// With `alignment`.
    pub(crate) judging: Option<Judging>,
    pub(crate) events: EventSender,
}

/// A generating request.
#[derive(Debug)]
pub(crate) struct Generating {
    pub(crate) policy: ModelId,
    pub(crate) params: SamplingParams,
    pub(crate) prompt: Arc<[u32]>,
    pub(crate) messages: Arc<[Message]>,
    pub(crate) candidates: Vec<CandidateText>,
    pub(crate) aligned: Option<Aligned>,
    pub(crate) usage: Usage,
    pub(crate) arrived: Instant,
    seed: u64,
    end_tokens: Vec<u32>,
    policy_version: Arc<str>,
    prompt_logprobs: Vec<Option<Logprobs>>,
    is_prefilled: bool,
    events: EventSender,
}

impl Generating {
    pub(crate) fn new(request: GenerateRequest, admission: Admission) -> Self {
        let GenerateRequest { prompt, messages, sampling: params, num_choices, alignment, .. } = request;
        let n = alignment.as_ref().map_or(num_choices, |alignment| alignment.n);
        let budget = alignment.as_ref().and_then(|alignment| alignment.max_total_tokens);
        // Candidates that become copies of each other have one length.
        let is_blockwise = |alignment: &Alignment| matches!(alignment.method, Method::Blockwise { .. });
        let is_even = alignment.as_ref().is_some_and(is_blockwise);
        let share = |index| {
            let index = if is_even { n - 1 } else { index };
            budget.map_or(usize::MAX, |budget| token_share(index, n, budget))
        };
        let candidate = |index| CandidateText {
            grammar: params.grammar.as_deref().map(GrammarState::new),
            max_tokens: params.max_tokens.min(share(index)),
            ..CandidateText::default()
        };
        let aligned = alignment.zip(admission.judging).map(|(alignment, judging)| Aligned {
            name: alignment.name(),
            strategy: strategy(&alignment, num_choices, admission.seed, judging.compares()),
            judging,
            committed: Committed::default(),
            num_pruned_tokens: 0,
        });
        let num_judges = aligned.as_ref().map_or(0, |aligned| aligned.judging.judges.len());
        let mut candidates: Vec<CandidateText> = (0..n).map(candidate).collect();
        candidates.iter_mut().for_each(|candidate| {
            // Without a strategy nothing holds anybody.
            candidate.until = if aligned.is_none() { usize::MAX } else { 0 };
            candidate.verdicts = Verdicts::new(num_judges);
        });
        let mut end_tokens = params.stop_token_ids.clone();
        if !params.ignore_eos {
            end_tokens.extend(&admission.eos_token_ids);
        }
        let num_targets = params.prompt_logprobs.map_or(0, |_| prompt.len() - 1);
        Self {
            policy: admission.policy,
            candidates,
            usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
            prompt: prompt.into(),
            messages,
            aligned,
            arrived: Instant::now(),
            seed: admission.seed,
            end_tokens,
            policy_version: admission.policy_version,
            prompt_logprobs: vec![None; num_targets],
            is_prefilled: false,
            events: admission.events,
            params,
        }
    }

    /// Most tokens that any candidate may have.
    pub(crate) fn max_tokens(&self) -> usize {
        self.candidates.iter().map(|candidate| candidate.max_tokens).max().unwrap_or(0)
    }

    /// What the sampler needs to draw the next token of a candidate.
    pub(crate) fn sample_row<'a>(&'a self, candidate: usize, logits: &'a [f32]) -> SampleRow<'a> {
        let CandidateText { tokens: output, grammar, .. } = &self.candidates[candidate];
        SampleRow {
            logits,
            mask: grammar.as_ref().map(GrammarState::mask),
            params: &self.params,
            draw: Draw { seed: self.seed, candidate, position: output.len() },
            prompt: &self.prompt,
            output,
            end_tokens: &self.end_tokens,
            wants_logprob: self.aligned.is_some(),
        }
    }

    /// Candidates that have neither ended nor been dropped.
    pub(crate) fn open_candidates(&self) -> impl Iterator<Item = usize> {
        let open = |(index, candidate): (usize, &CandidateText)| candidate.is_open().then_some(index);
        self.candidates.iter().enumerate().filter_map(open)
    }

    /// Open candidates that wait for their first token.
    pub(crate) fn wants_first_token(&self) -> impl Iterator<Item = usize> {
        self.open_candidates().filter(|&index| {
            let candidate = &self.candidates[index];
            candidate.tokens.is_empty() && candidate.until > 0
        })
    }

    /// What the strategy wants to begin with.
    pub(crate) fn start(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(aligned) = &mut self.aligned {
            aligned.strategy.start(&mut actions);
        }
        actions
    }

    /// The prompt's token at `position`, whose logprob is wanted.
    pub(crate) fn prompt_target(&self, position: usize) -> Option<u32> {
        (position > 0 && position <= self.prompt_logprobs.len()).then(|| self.prompt[position])
    }

    /// Keeps the logprobs of the prompt's token at `position`.
    pub(crate) fn set_prompt_logprobs(&mut self, position: usize, logprobs: Logprobs) {
        if let Some(slot) = self.prompt_logprobs.get_mut(position - 1) {
            *slot = Some(logprobs);
        }
    }

    /// The prompt is computed; told once, whatever is recomputed later.
    pub(crate) fn prefilled(&mut self, cached_tokens: usize) -> Result<(), Closed> {
        if std::mem::replace(&mut self.is_prefilled, true) {
            return Ok(());
        }
        self.usage.cached_tokens = cached_tokens;
        let logprobs = std::mem::take(&mut self.prompt_logprobs);
        let prompt_logprobs = self.params.prompt_logprobs.map(|_| logprobs.into_iter().flatten().collect());
        let policy_version = Arc::clone(&self.policy_version);
        self.send(Event::Prefilled { cached_tokens, prompt_logprobs, policy_version })
    }

    /// Takes a candidate's next token. Returns whether the candidate ended with it, and the time since the one before.
    pub(crate) fn accept(
        &mut self,
        index: usize,
        sampled: Sampled,
        vocabulary: &dyn TokenBytes,
        now: Instant,
    ) -> Result<Accepted, Closed> {
        let (params, candidate) = (&self.params, &mut self.candidates[index]);
        // A grammar allows an end only where the text is complete.
        let can_stop = candidate.tokens.len() >= params.min_tokens || candidate.grammar.is_some();
        candidate.tokens.push(sampled.token);
        candidate.logprob += f64::from(sampled.logprob);
        self.usage.completion_tokens += 1;
        let since_last = now - candidate.last_token.replace(now).unwrap_or(self.arrived);

        let is_end = can_stop && self.end_tokens.contains(&sampled.token);
        let piece = match is_end && !params.include_stop {
            true => String::new(),
            false if params.skip_special_tokens => candidate.detokenizer.push(sampled.token, vocabulary),
            false => candidate.detokenizer.push(sampled.token, &WithSpecial(vocabulary)),
        };
        let is_armed = candidate.tokens.len() >= params.min_tokens;
        let result = candidate.stop.push(piece, &params.stop, params.include_stop, is_armed);
        candidate.text.push_str(&result.text);
        let reason = match () {
            () if is_end || result.stopped => Some(FinishReason::Stop),
            () if candidate.tokens.len() >= candidate.max_tokens => Some(FinishReason::Length),
            () => None,
        };
        if let (None, Some(grammar)) = (reason, &mut candidate.grammar) {
            grammar.advance(sampled.token);
        }
        let is_first = candidate.tokens.len() == 1;
        let Sampled { token, logprobs, .. } = sampled;
        self.send(Event::Token { index, token, text: result.text, logprobs })?;
        if let Some(reason) = reason {
            self.finish(index, reason, result.stopped)?;
        }
        let candidate = &self.candidates[index];
        let is_held = reason.is_none() && candidate.tokens.len() >= candidate.until;
        Ok(Accepted { has_ended: reason.is_some(), is_held, is_first, since_last })
    }

    /// Ends a candidate; what was held back becomes text, unless a stop string ended it.
    pub(crate) fn finish(
        &mut self,
        index: usize,
        reason: FinishReason,
        by_stop_string: bool,
    ) -> Result<(), Closed> {
        let params = &self.params;
        let candidate = &mut self.candidates[index];
        let mut text = String::new();
        if !by_stop_string {
            let rest = candidate.detokenizer.finish();
            text = candidate.stop.push(rest.to_owned(), &params.stop, params.include_stop, true).text;
            text.push_str(&candidate.stop.finish());
        }
        candidate.text.push_str(&text);
        candidate.finish_reason = Some(reason);
        self.send(Event::Finished { index, reason, text })
    }

    /// The reward models have answered.
    pub(crate) fn scored(&mut self, index: usize, reward: f32) -> Result<(), Closed> {
        let candidate = &mut self.candidates[index];
        candidate.reward = Some(reward);
        let has_ended = candidate.finish_reason.is_some();
        if has_ended { self.send(Event::Scored { index, reward }) } else { Ok(()) }
    }

    /// A candidate is stopped on the way.
    pub(crate) fn drop_candidate(&mut self, index: usize) -> Result<(), Closed> {
        let candidate = &mut self.candidates[index];
        candidate.is_dropped = true;
        if let Some(aligned) = &mut self.aligned {
            aligned.num_pruned_tokens += candidate.tokens.len();
        }
        self.send(Event::Dropped { index })
    }

    /// A candidate becomes a copy of another, as far as that has come. Its own draws go on from there.
    pub(crate) fn copy(&mut self, from: usize, index: usize) {
        if let Some(aligned) = &mut self.aligned {
            let num_tokens = self.candidates[index].tokens.len();
            aligned.num_pruned_tokens += num_tokens.saturating_sub(aligned.committed.last_block);
        }
        let max_tokens = self.candidates[index].max_tokens;
        self.candidates[index] = CandidateText { max_tokens, ..self.candidates[from].clone() };
    }

    /// What a candidate has is the answer's beginning.
    pub(crate) fn commit(&mut self, index: usize) -> Result<(), Closed> {
        let Some(aligned) = &mut self.aligned else { return Ok(()) };
        let CandidateText { text, tokens, .. } = &self.candidates[index];
        let before = aligned.committed;
        let block = text.get(before.text_bytes..).unwrap_or_default().to_owned();
        aligned.committed = Committed {
            text_bytes: text.len(),
            num_tokens: tokens.len(),
            last_block: before.num_tokens,
            num_blocks: before.num_blocks + 1,
        };
        self.send(Event::Block { index, text: block })
    }

    /// The strategy has decided: tells so, and that all is done.
    pub(crate) fn select(&mut self, outcome: Outcome) -> Result<(), Closed> {
        let Some(aligned) = &self.aligned else { return Ok(()) };
        let Outcome { selected, scoring } = outcome;
        let kept: usize = selected.iter().map(|&index| self.candidates[index].tokens.len()).sum();
        self.usage.rejected_tokens = self.usage.completion_tokens.saturating_sub(kept);
        let max_candidates = self.candidates.len();
        let drawn = self.candidates.iter_mut().take_while(|candidate| candidate.is_drawn());
        let candidates = drawn.map(|candidate| Candidate {
            text: std::mem::take(&mut candidate.text),
            tokens: std::mem::take(&mut candidate.tokens),
            reward: candidate.reward,
            rewards: candidate.verdicts.rewards(),
            logprob: candidate.logprob,
            finish_reason: candidate.finish_reason,
        });
        let selection = Selection {
            strategy: aligned.name,
            max_candidates,
            candidates: candidates.collect(),
            selected,
            scoring,
            reward_model: aligned.judging.name(),
            judges: aligned.judging.judges.iter().map(|judge| Arc::clone(&judge.name)).collect(),
            num_tokens: self.usage.completion_tokens,
            num_pruned_tokens: aligned.num_pruned_tokens,
            num_blocks: aligned.committed.num_blocks,
        };
        self.send(Event::Selected(selection))?;
        self.done()
    }

    /// Without a strategy: all is done once every candidate has ended.
    pub(crate) fn is_complete(&self) -> bool {
        self.aligned.is_none() && self.open_candidates().next().is_none()
    }

    /// Tells that all is done.
    pub(crate) fn done(&self) -> Result<(), Closed> {
        self.send(Event::Done(self.usage))
    }

    /// Ends the request.
    pub(crate) fn fail(&self, error: EngineError) {
        let _ = self.events.send(Event::Failed(error));
    }

    fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event)
    }
}

/// What a token led to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) has_ended: bool,
    pub(crate) is_held: bool,
    pub(crate) is_first: bool,
    pub(crate) since_last: std::time::Duration,
}
