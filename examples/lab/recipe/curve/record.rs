//! Candidates of prompts as the engine draws them, with the reward of every part that a strategy may ask for; and the
//! strategies run in the engine itself. Leaves playing them on the recording to `replay`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rectify_engine::alignment::Alignment;
use rectify_engine::model::assemble::{self, ModelsConfig, ServedModels};
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::{Message, ScoreInput, Selection};
use rectify_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, SamplingParams, ScoreRequest};
use rectify_lab::{Item, World, judge};

use super::menu::PARTS;
use super::replay::{Played, play};

const IN_FLIGHT: usize = 4;
/// Seeds that a prompt has to itself.
const SEEDS: u64 = 1_000;

/// One candidate.
#[derive(Clone)]
pub(super) struct Recorded {
    pub(super) text: String,
    pub(super) num_tokens: usize,
    pub(super) reward: f32,
    /// What the oracle has against it.
    pub(super) num_faults: usize,
    /// Rewards of its first tokens, by their number.
    pub(super) parts: BTreeMap<usize, f32>,
}

/// A prompt with its candidates.
#[derive(Clone)]
pub(super) struct Recording {
    pub(super) item: Item,
    /// Of the request that drew them.
    pub(super) seed: u64,
    pub(super) candidates: Vec<Arc<Recorded>>,
    /// Tokens that the reward model read to score all of them once.
    pub(super) scored_tokens: usize,
}

impl Recording {
    /// All candidates, beginning with another one.
    pub(super) fn from(&self, first: usize) -> Vec<&Recorded> {
        let (before, after) = self.candidates.split_at(first);
        after.iter().chain(before).map(|candidate| &**candidate).collect()
    }
}

/// The engine with the models of a world.
pub(super) struct Lab {
    engine: EngineHandle,
    served: ServedModels,
    max_tokens: usize,
    num_candidates: usize,
}

impl Lab {
    pub(super) fn start(folder: &Path, world: World, num_candidates: usize) -> anyhow::Result<Self> {
        let mut models = ModelsConfig::new(ModelSource::Folder(folder.join("policy")));
        models.rewards = vec![("reward".to_owned(), ModelSource::Folder(folder.join("reward")))];
        let (engine, served) = assemble::start(EngineConfig::default(), models)?;
        Ok(Self { engine, served, max_tokens: world.max_new_tokens(), num_candidates })
    }

    /// Draws and scores the candidates of every prompt; a prompt's place decides its seed.
    pub(super) async fn record(&self, items: &[(u64, Item)], what: &str) -> anyhow::Result<Vec<Recording>> {
        let mut recordings = Vec::new();
        let mut all =
            stream::iter(items).map(|(place, item)| self.recording(*place, item)).buffered(IN_FLIGHT);
        while let Some(recording) = all.try_next().await? {
            recordings.push(recording);
            if recordings.len().is_multiple_of(8) || recordings.len() == items.len() {
                let mut out = std::io::stdout().lock();
                // A progress line that nobody reads is no reason to stop.
                let _ = writeln!(out, "recorded {} of {} {what}", recordings.len(), items.len());
            }
        }
        Ok(recordings)
    }

    async fn recording(&self, place: u64, item: &Item) -> anyhow::Result<Recording> {
        let seed = place * SEEDS;
        let (selection, scored_tokens) =
            self.answer(item, Alignment::best_of(self.num_candidates), seed).await?;
        let mut candidates = Vec::new();
        for candidate in &selection.candidates {
            candidates.push(Recorded {
                text: candidate.text.clone(),
                num_tokens: candidate.tokens.len(),
                reward: candidate.reward.context("a candidate has no reward")?,
                num_faults: judge(&item.task, &item.prompt, &candidate.text).reasons.len(),
                parts: BTreeMap::new(),
            });
        }
        for part in PARTS {
            let longer: Vec<usize> =
                (0..candidates.len()).filter(|&index| candidates[index].num_tokens > part).collect();
            let text = |&index: &usize| {
                self.served.tokenizer.decode(&selection.candidates[index].tokens[..part], true)
            };
            let texts: Vec<String> = longer.iter().map(text).collect::<Result<_, _>>()?;
            for (index, reward) in longer.into_iter().zip(self.score(item, texts).await?) {
                candidates[index].parts.insert(part, reward);
            }
        }
        let candidates = candidates.into_iter().map(Arc::new).collect();
        Ok(Recording { item: item.clone(), seed, candidates, scored_tokens })
    }

    /// Runs a strategy on recorded prompts with the recorded draws: what was spent, and the mean of the tokens that the reward
    /// model read. In an engine that has seen none of it, or the reward model finds texts in the prefix cache.
    pub(super) async fn run(
        &self,
        prompts: &[Recording],
        alignment: &Alignment,
    ) -> anyhow::Result<(Vec<Played>, f64)> {
        let each = async |recording: &Recording| self.answer_of(recording, alignment).await;
        let answers: Vec<(Played, usize)> =
            stream::iter(prompts.iter().map(each)).buffered(IN_FLIGHT).try_collect().await?;
        let (played, scored): (Vec<Played>, Vec<usize>) = answers.into_iter().unzip();
        let num_scored: usize = scored.iter().sum();
        Ok((played, num_scored as f64 / scored.len().max(1) as f64))
    }

    /// [`Lab::run`] of a strategy whose replay must give the same answers for as many tokens. Returns what was read.
    pub(super) async fn check(&self, prompts: &[Recording], alignment: &Alignment) -> anyhow::Result<f64> {
        let (run, scored_tokens) = self.run(prompts, alignment).await?;
        for (recording, run) in prompts.iter().zip(run) {
            let replayed = play(&recording.from(0), alignment, recording.seed)?;
            if run != replayed {
                let prompt = &recording.item.prompt;
                bail!("the engine answers `{prompt}` with {run:?}, the replay with {replayed:?}");
            }
        }
        Ok(scored_tokens)
    }

    async fn answer_of(
        &self,
        recording: &Recording,
        alignment: &Alignment,
    ) -> anyhow::Result<(Played, usize)> {
        let item = &recording.item;
        let (selection, scored_tokens) = self.answer(item, alignment.clone(), recording.seed).await?;
        let winner = selection.selected.first().and_then(|&index| selection.candidates.get(index));
        let winner = winner.context("nothing was selected")?;
        let played = Played {
            reward: winner.reward.context("the winner has no reward")?,
            num_faults: judge(&item.task, &item.prompt, &winner.text).reasons.len(),
            num_tokens: selection.num_tokens,
            num_candidates: selection.candidates.len(),
        };
        Ok((played, scored_tokens))
    }

    async fn answer(
        &self,
        item: &Item,
        alignment: Alignment,
        seed: u64,
    ) -> anyhow::Result<(Selection, usize)> {
        let messages = conversation(item);
        let sampling =
            SamplingParams { max_tokens: self.max_tokens, seed: Some(seed), ..SamplingParams::default() };
        let request = GenerateRequest {
            prompt: self.served.encode_chat(&messages)?,
            messages,
            sampling,
            num_choices: 1,
            alignment: Some(alignment),
            adapter: None,
            priority: 0,
        };
        let mut events = self.engine.generate(request).await?;
        let mut selected = None;
        while let Some(event) = events.next().await {
            match event {
                Event::Selected(selection) => selected = Some(selection),
                Event::Done(usage) => {
                    return Ok((selected.context("the engine selected nothing")?, usage.scored_tokens));
                }
                Event::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        bail!("the engine stopped")
    }

    async fn score(&self, item: &Item, candidates: Vec<String>) -> anyhow::Result<Vec<f32>> {
        let mut rewards = vec![f32::NAN; candidates.len()];
        if rewards.is_empty() {
            return Ok(rewards);
        }
        let input = ScoreInput::Candidates { messages: conversation(item), candidates };
        let mut events = self.engine.score(ScoreRequest { reward: None, input, priority: 0 }).await?;
        while let Some(event) = events.next().await {
            match event {
                Event::Scored { index, reward } => rewards[index] = reward,
                Event::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(rewards)
    }
}

fn conversation(item: &Item) -> Arc<[Message]> {
    [Message { role: "user".to_owned(), content: item.prompt.clone() }].into()
}
