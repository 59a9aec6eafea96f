//! `lab curve`: mean reward against tokens spent, for best-of-N and for what is meant to be cheaper. Candidates of held-out
//! prompts are recorded once ([`record`]); the engine's own strategies are played on the recording ([`replay`]), so that
//! hundreds of settings cost minutes; settings are chosen on one half of the prompts and judged on the other, where the
//! engine itself runs them too. Leaves arithmetic to [`statistics`], words to [`report`] and pictures to [`plot`].

mod menu;
mod plot;
mod record;
mod replay;
mod report;
mod statistics;

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use rectify_lab::data::prompts_of;
use rectify_lab::{Category, Split, World};

use menu::Setting;
use record::{Lab, Recording};
use replay::play;
use statistics::{BestOfN, Saving, Spending};

/// Settings of `lab curve`.
#[derive(Args)]
pub(crate) struct Curve {
    /// Where the table, the plots and the report go.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Folder with `policy` and `reward`.
    #[arg(long, value_name = "DIR", default_value = "assets/demo")]
    pub(crate) models: PathBuf,
    /// The world they were made for.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) world: World,
    /// Held-out prompts of each category that settings are judged on; they are chosen on as many others.
    #[arg(long, default_value_t = 20, default_value_if("world", "letters", "48"))]
    pub(crate) prompts: usize,
    /// Candidates of each prompt.
    #[arg(long, default_value_t = 64)]
    pub(crate) candidates: usize,
    /// Prompts of each set that the engine runs the chosen strategies on, to compare with the replay.
    #[arg(long, default_value_t = 16)]
    pub(crate) checked: usize,
    /// Decides every draw.
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
}

/// What best-of-N must need for a setting's reward for the setting to be chosen: of those that reach it the cheapest is.
const TARGETS: [f64; 5] = [4.0, 8.0, 16.0, 32.0, 48.0];

/// Prompts that are looked at together.
pub(crate) struct Set {
    /// For files.
    name: &'static str,
    title: &'static str,
    chosen_on: Vec<Recording>,
    judged_on: Vec<Recording>,
}

/// A setting over the prompts that judge it.
pub(crate) struct Point {
    setting: Setting,
    /// What it was chosen for, among [`TARGETS`]; none for settings that were not chosen.
    target: Option<f64>,
    spent: Spending,
    saving: Saving,
    /// Mean tokens that the reward model read, where the engine ran it.
    scored_tokens: Option<f64>,
}

impl Curve {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let lab = self.lab()?;
        let items = prompts_of(self.world, Split::HeldOut, 2 * self.prompts, self.seed, "curve")?;
        let (mut judging, mut choosing) = (Vec::new(), Vec::new());
        for (place, item) in items.into_iter().enumerate() {
            let half = if place % (2 * self.prompts) < self.prompts { &mut judging } else { &mut choosing };
            half.push((place as u64, item));
        }
        let chosen_on = runtime.block_on(lab.record(&choosing, "prompts to choose settings on"))?;
        let judged_on = runtime.block_on(lab.record(&judging, "prompts to judge them on"))?;
        let mut report = report::Report::new(self);
        for set in sets(self.world, &chosen_on, &judged_on) {
            let best_of_n = BestOfN::of(&set.judged_on);
            let points = runtime.block_on(self.points(&set, &best_of_n))?;
            report.add(&set, &best_of_n, &points)?;
        }
        report.write()
    }

    fn lab(&self) -> anyhow::Result<Lab> {
        Lab::start(&self.models, self.world, self.candidates)
    }

    async fn points(&self, set: &Set, best_of_n: &BestOfN) -> anyhow::Result<Vec<Point>> {
        let checked = 0..self.checked.min(set.judged_on.len());
        let mut points = Vec::new();
        let single = statistics::single_rewards(&set.chosen_on);
        for menu in [menu::speculative_rejection(self.candidates), menu::adaptive(self.candidates, single)] {
            for (target, setting) in choose(&set.chosen_on, menu)? {
                points.push((Some(target), setting));
            }
        }
        points.extend(menu::selections().into_iter().map(|setting| (None, setting)));
        let mut judged = Vec::new();
        for (target, setting) in points {
            let spent = played(&set.judged_on, &setting)?;
            let prompts = &set.judged_on[checked.clone()];
            let scored = self.lab()?.check(prompts, &setting.alignment).await?;
            let point = point(setting, target, spent, best_of_n, Some(scored));
            say(set, &point);
            judged.push(point);
        }
        for setting in menu::blockwise() {
            let (plays, scored) = self.lab()?.run(&set.judged_on, &setting.alignment).await?;
            let mut spent = Spending::default();
            plays.iter().for_each(|play| spent.add(std::slice::from_ref(play)));
            let point = point(setting, None, spent, best_of_n, Some(scored));
            say(set, &point);
            judged.push(point);
        }
        Ok(judged)
    }
}

fn point(
    setting: Setting,
    target: Option<f64>,
    spent: Spending,
    best_of_n: &BestOfN,
    scored_tokens: Option<f64>,
) -> Point {
    let saving = best_of_n.saving(&spent);
    Point { setting, target, spent, saving, scored_tokens }
}

/// Says a point as it comes.
fn say(set: &Set, point: &Point) {
    // A progress line that nobody reads is no reason to stop.
    let _ = writeln!(
        std::io::stdout().lock(),
        "{}: {} {}: best-of-N needs N = {:.1}, {} times the tokens",
        set.name,
        point.setting.strategy,
        point.setting.words,
        point.saving.equal_n,
        report::interval(point.saving.tokens)
    );
}

/// The cheapest setting for each of [`TARGETS`], on the prompts to choose on; each setting once, for its highest target.
fn choose(prompts: &[Recording], menu: Vec<Setting>) -> anyhow::Result<Vec<(f64, Setting)>> {
    let best_of_n = BestOfN::of(prompts);
    let mut tried = Vec::new();
    for setting in menu {
        let equal = best_of_n.equal(&played(prompts, &setting)?);
        tried.push((equal, setting));
    }
    let mut chosen: Vec<(f64, Setting)> = Vec::new();
    for target in TARGETS {
        let reaching = tried.iter().filter(|(equal, _)| equal.n >= target);
        let best = reaching.max_by(|(a, _), (b, _)| a.tokens_ratio.total_cmp(&b.tokens_ratio));
        let Some((_, setting)) = best else { break };
        match chosen.last_mut() {
            Some((last, same)) if same.words == setting.words => *last = target,
            _ => chosen.push((target, setting.clone())),
        }
    }
    Ok(chosen)
}

/// Plays a setting on every prompt, several times with other candidates first.
fn played(prompts: &[Recording], setting: &Setting) -> anyhow::Result<Spending> {
    let mut spent = Spending::default();
    for recording in prompts {
        let rounds = setting.rounds(recording.candidates.len());
        let plays: Vec<_> = (0..rounds)
            .map(|round| {
                let first = round * recording.candidates.len() / rounds;
                play(&recording.from(first), &setting.alignment, recording.seed + round as u64)
            })
            .collect::<anyhow::Result<_>>()?;
        spent.add(&plays);
    }
    Ok(spent)
}

fn sets(world: World, chosen_on: &[Recording], judged_on: &[Recording]) -> Vec<Set> {
    let of = |name, title, keep: &dyn Fn(Category) -> bool| {
        let kept = |all: &[Recording]| all.iter().filter(|r| keep(r.item.category)).cloned().collect();
        Set { name, title, chosen_on: kept(chosen_on), judged_on: kept(judged_on) }
    };
    match world {
        World::Letters => vec![of("letters", "Letters of a hundred tokens and more", &|_| true)],
        World::Demo => vec![
            of("all", "All kinds of prompts", &|_| true),
            of("harmful", "Harmful requests: an answer's first words tell", &|c| c == Category::Harmful),
            of("steps", "Instructions in steps: the demo's longest answers", &|c| c == Category::Steps),
        ],
    }
}
