//! Mean reward against tokens spent, for best-of-N and for what is meant to be cheaper: every strategy runs in the engine on
//! the demo and held-out prompts. Leaves tables and plots to `curve_report`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rectify_engine::alignment::{Alignment, Method};
use rectify_engine::model::assemble::{self, ModelsConfig, ServedModels};
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::{Message, ScoreInput, Selection};
use rectify_engine::strategy::{AdaptiveSettings, Extractor, Select};
use rectify_engine::text::TemplateInput;
use rectify_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, SamplingParams, ScoreRequest};
use rectify_lab::data::prompts;
use rectify_lab::{Category, Item, Split, judge};

use crate::curve_report;

const MAX_TOKENS: usize = 128;
const IN_FLIGHT: usize = 8;
const REWARD: &str = "demo-reward";
/// Where partial answers are scored, in tokens, for their correlation with the final reward.
pub(crate) const PARTS: [usize; 6] = [2, 4, 8, 12, 16, 24];
const CORRELATED: usize = 16;
/// Checks without a limit.
const ALL: usize = usize::MAX;

/// Settings of `lab curve`.
#[derive(Args)]
pub(crate) struct Curve {
    /// Where the table, the plots and the report go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder with `policy` and `reward`.
    #[arg(long, value_name = "DIR", default_value = "assets/demo")]
    models: PathBuf,
    /// Held-out prompts of each category.
    #[arg(long, default_value_t = 12)]
    prompts: usize,
    /// Seeds of every point: each draws all candidates anew.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Leaves points with more candidates out.
    #[arg(long, default_value_t = 64)]
    most: usize,
}

/// One point of a curve: a strategy with its settings, over a set of prompts.
pub(crate) struct Point {
    pub(crate) strategy: &'static str,
    pub(crate) settings: String,
    /// One for each prompt: means over the seeds.
    pub(crate) rewards: Vec<f64>,
    pub(crate) tokens: Vec<f64>,
    pub(crate) candidates: Vec<f64>,
    pub(crate) scored_tokens: Vec<f64>,
    pub(crate) good: Vec<f64>,
}

/// Rank correlations within prompts of the reward of the first tokens with the final one, by [`PARTS`].
pub(crate) type Correlations = BTreeMap<usize, Vec<Option<f64>>>;

/// What was measured of one answer.
struct Measured {
    reward: f64,
    tokens: f64,
    candidates: f64,
    scored_tokens: f64,
    good: f64,
}

impl Curve {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut models = ModelsConfig::new(ModelSource::Folder(self.models.join("policy")));
        models.rewards = vec![(REWARD.to_owned(), ModelSource::Folder(self.models.join("reward")))];
        let (engine, served) = assemble::start(EngineConfig::default(), models)?;
        let lab = Lab { engine, served, items: self.items()? };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let mut points = Vec::new();
        for (settings, alignment) in menu(self.most) {
            let point = runtime.block_on(lab.point(settings, &alignment, self.seeds))?;
            curve_report::say(&point);
            points.push(point);
        }
        let correlations = runtime.block_on(lab.correlations())?;
        curve_report::write(&self.out, &lab.items, self.prompts, &points, &correlations, self.seeds)
    }

    /// Held-out prompts of each category: more of those that are also looked at alone.
    fn items(&self) -> anyhow::Result<Vec<Item>> {
        let mut counts: BTreeMap<Category, usize> = BTreeMap::new();
        let most = self.prompts * curve_report::MORE;
        let items = prompts(Split::HeldOut, most, 7, "curve")?;
        let mut is_wanted = |item: &Item| {
            let count = counts.entry(item.category).or_default();
            *count += 1;
            *count <= if curve_report::LONG.contains(&item.category) { most } else { self.prompts }
        };
        Ok(items.into_iter().filter(|item| is_wanted(item)).collect())
    }
}

/// Every point: its settings in words, and what they are to the engine.
fn menu(most: usize) -> Vec<(String, Alignment)> {
    let mut menu: Vec<(String, Alignment)> = Vec::new();
    let best_of = |n: usize| (format!("n={n}"), Alignment::best_of(n));
    menu.extend([1, 2, 4, 8, 16, 32, 64].map(best_of));
    for (n, alpha, first_check, max_checks) in [
        (8, 0.5, 3, 2),
        (16, 0.5, 3, 2),
        (32, 0.5, 3, 2),
        (64, 0.5, 3, 2),
        (64, 0.7, 3, 2),
        (64, 0.5, 3, 3),
        (64, 0.5, 4, ALL),
        (32, 0.5, 8, ALL),
        (64, 0.5, 8, ALL),
    ] {
        let method = Method::SpeculativeRejection { alpha, first_check, max_checks };
        let checks = if max_checks == ALL { String::new() } else { format!(" max_checks={max_checks}") };
        let settings = format!("n={n} alpha={alpha} first_check={first_check}{checks}");
        menu.push((settings, Alignment { method, ..Alignment::best_of(n) }));
    }
    for cost in [0.3, 0.1, 0.05, 0.02, 0.01, 0.005] {
        let settings = AdaptiveSettings { cost, ..AdaptiveSettings::default() };
        let method = Method::Adaptive(settings);
        menu.push((format!("n=64 cost={cost}"), Alignment { method, ..Alignment::best_of(64) }));
    }
    for (n, block_tokens) in [(4, 4), (4, 8), (8, 8), (16, 8)] {
        let method = Method::Blockwise { block_tokens };
        menu.push((
            format!("n={n} block_tokens={block_tokens}"),
            Alignment { method, ..Alignment::best_of(n) },
        ));
    }
    for (settings, select) in [
        ("n=16 select_temperature=0.5", Select::Softmax { temperature: 0.5 }),
        ("n=16 mbr_weight=1", Select::Mbr { weight: 1.0 }),
        ("n=16 extract=text", Select::Majority(Extractor::Text)),
    ] {
        menu.push((settings.to_owned(), Alignment { select, ..Alignment::best_of(16) }));
    }
    menu.retain(|(_, alignment)| alignment.n <= most);
    menu
}

/// The seed of a prompt's draws: under one seed for all, their first candidates would be lucky or unlucky together.
fn draws(number: usize, seed: u64) -> u64 {
    number as u64 * 1_000 + seed
}

struct Lab {
    engine: EngineHandle,
    served: ServedModels,
    items: Vec<Item>,
}

impl Lab {
    async fn point(&self, settings: String, alignment: &Alignment, seeds: u64) -> anyhow::Result<Point> {
        let strategy = match alignment.select {
            Select::Softmax { .. } => "softmax",
            _ => alignment.name(),
        };
        let each = |(number, item)| self.prompt(number, item, alignment, seeds);
        let measured: Vec<Measured> =
            stream::iter(self.items.iter().enumerate()).map(each).buffered(IN_FLIGHT).try_collect().await?;
        let all = |of: fn(&Measured) -> f64| measured.iter().map(of).collect();
        Ok(Point {
            strategy,
            settings,
            rewards: all(|measured| measured.reward),
            tokens: all(|measured| measured.tokens),
            candidates: all(|measured| measured.candidates),
            scored_tokens: all(|measured| measured.scored_tokens),
            good: all(|measured| measured.good),
        })
    }

    /// Means over the seeds.
    async fn prompt(
        &self,
        number: usize,
        item: &Item,
        alignment: &Alignment,
        seeds: u64,
    ) -> anyhow::Result<Measured> {
        let mut sum = Measured { reward: 0.0, tokens: 0.0, candidates: 0.0, scored_tokens: 0.0, good: 0.0 };
        let share = 1.0 / seeds as f64;
        for seed in 0..seeds {
            let (selection, scored_tokens) =
                self.answer(item, alignment.clone(), draws(number, seed)).await?;
            let winner = selection.selected.first().and_then(|&index| selection.candidates.get(index));
            let winner = winner.context("nothing was selected")?;
            let good = judge(&item.task, &item.prompt, &winner.text).good;
            sum.reward += share * f64::from(winner.reward.context("the winner has no reward")?);
            sum.tokens += share * selection.num_tokens as f64;
            sum.candidates += share * selection.candidates.len() as f64;
            sum.scored_tokens += share * scored_tokens as f64;
            sum.good += share * f64::from(u8::from(good));
        }
        Ok(sum)
    }

    async fn answer(
        &self,
        item: &Item,
        alignment: Alignment,
        seed: u64,
    ) -> anyhow::Result<(Selection, usize)> {
        let messages = self.messages(item);
        let template = self.served.chat_template.as_ref().context("the policy has no chat template")?;
        let text = template.render(&TemplateInput::new(&messages, true))?;
        let sampling =
            SamplingParams { max_tokens: MAX_TOKENS, seed: Some(seed), ..SamplingParams::default() };
        let mut events = self
            .engine
            .generate(GenerateRequest {
                prompt: self.served.tokenizer.encode(&text, false)?,
                messages,
                sampling,
                num_choices: 1,
                alignment: Some(alignment),
                adapter: None,
                priority: 0,
            })
            .await?;
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
        anyhow::bail!("the engine stopped")
    }

    fn messages(&self, item: &Item) -> Arc<[Message]> {
        [Message { role: "user".to_owned(), content: item.prompt.clone() }].into()
    }

    /// How well the first tokens of an answer tell its reward.
    async fn correlations(&self) -> anyhow::Result<Correlations> {
        let each = |(number, item)| self.correlation(number, item);
        let by_prompt: Vec<Vec<Option<f64>>> =
            stream::iter(self.items.iter().enumerate()).map(each).buffered(IN_FLIGHT).try_collect().await?;
        let of = |(at, part): (usize, usize)| (part, by_prompt.iter().map(|prompt| prompt[at]).collect());
        Ok(PARTS.into_iter().enumerate().map(of).collect())
    }

    async fn correlation(&self, number: usize, item: &Item) -> anyhow::Result<Vec<Option<f64>>> {
        let (selection, _) = self.answer(item, Alignment::best_of(CORRELATED), draws(number, 999)).await?;
        let mut correlations = Vec::new();
        for part in PARTS {
            let longer: Vec<_> =
                selection.candidates.iter().filter(|candidate| candidate.tokens.len() > part).collect();
            let decode = |tokens: &[u32]| self.served.tokenizer.decode(tokens, true);
            let candidates: Vec<String> =
                longer.iter().map(|candidate| decode(&candidate.tokens[..part])).collect::<Result<_, _>>()?;
            let finals: Vec<f64> =
                longer.iter().filter_map(|candidate| candidate.reward).map(f64::from).collect();
            // Too few answers of this length say nothing.
            if candidates.len() < CORRELATED / 2 || finals.len() < candidates.len() {
                correlations.push(None);
                continue;
            }
            let input = ScoreInput::Candidates { messages: self.messages(item), candidates };
            let partial = self.score(input, finals.len()).await?;
            correlations.push(curve_report::rank_correlation(&partial, &finals));
        }
        Ok(correlations)
    }

    async fn score(&self, input: ScoreInput, num_texts: usize) -> anyhow::Result<Vec<f64>> {
        let mut events = self.engine.score(ScoreRequest { reward: None, input, priority: 0 }).await?;
        let mut rewards = vec![0.0; num_texts];
        while let Some(event) = events.next().await {
            match event {
                Event::Scored { index, reward } => rewards[index] = f64::from(reward),
                Event::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(rewards)
    }
}
