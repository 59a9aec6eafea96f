//! The curves in words: a CSV file and `README.md`, with a plot for each set of prompts. Leaves measuring to the rest.

use std::fmt::Write as _;
use std::fs;

use anyhow::Context as _;
use rectify_lab::World;
use rectify_lab::stats::Interval;

use super::menu::PARTS;
use super::statistics::{BestOfN, mean, rank_correlation};
use super::{Curve, Point, Set, plot};

/// The report as it grows, set by set.
pub(super) struct Report<'a> {
    curve: &'a Curve,
    text: String,
    csv: String,
}

/// `2.31 [2.10, 2.55]`.
pub(super) fn interval(Interval { value, low, high }: Interval) -> String {
    format!("{value:.2} [{low:.2}, {high:.2}]")
}

impl<'a> Report<'a> {
    pub(super) fn new(curve: &'a Curve) -> Self {
        let csv = "prompts,strategy,settings,target,reward,tokens,candidates,scored_tokens,good,faults,equal_n,\
                   tokens_ratio,tokens_ratio_low,tokens_ratio_high,candidates_ratio,candidates_ratio_low,\
                   candidates_ratio_high\n";
        let (world, models) = match curve.world {
            World::Demo => ("", ""),
            World::Letters => (
                " --world letters --models LETTERS",
                "\n`LETTERS` is made by `cargo run --release -p rectify-examples --example lab -- all --world letters --out LETTERS`.\n",
            ),
        };
        let text = format!(
            "# Reward against tokens\n\n\
             Mean reward of the answer that comes back against the tokens generated for it: temperature 1, {} candidates of every\n\
             prompt drawn once by the engine. The row of best-of-N is its mean over all groups of N of them. The engine's own\n\
             strategies are played on the same candidates; `blockwise` draws its own.\n\n\
             Settings of `speculative_rejection` and `adaptive` are chosen on other prompts than the ones of the tables: of those\n\
             whose mean reward best-of-N reaches with 4, 8, 16, 32, 48 candidates or more, the one that spends the fewest tokens.\n\
             `as best-of-N` is the N that gives the same mean reward here; then come its tokens and its candidates over those that\n\
             were spent, with 95 % intervals by bootstrap over prompts: above 1 is cheaper than best-of-N. `good` is the share of\n\
             answers in which the oracle finds no fault, `faults` their mean number. `tokens read` are those of the reward model,\n\
             measured in the engine on {} prompts, where answer and tokens of every replayed strategy were found to be the replay's.\n\n\
             Made by `cargo run --release -p rectify-examples --example lab -- curve{world} --out DIR`.\n{models}",
            curve.candidates, curve.checked
        );
        Self { curve, text, csv: csv.to_owned() }
    }

    pub(super) fn add(&mut self, set: &Set, best_of_n: &BestOfN, points: &[Point]) -> anyhow::Result<()> {
        let title = set.title;
        let file = format!("{}.svg", set.name);
        writeln!(
            self.text,
            "\n## {title}\n\n{} prompts, and {} others for the choice of settings.\n\n![{title}: mean reward by tokens]({file})\n",
            set.judged_on.len(),
            set.chosen_on.len()
        )?;
        self.text.push_str(
            "| strategy | settings | reward | tokens | candidates | tokens read | good (%) | faults | as best-of-N | its tokens | its candidates |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        self.best_of_n(set, best_of_n)?;
        for point in points {
            self.point(set.name, point)?;
        }
        self.parts(set)?;
        fs::create_dir_all(&self.curve.out)
            .with_context(|| format!("cannot create {}", self.curve.out.display()))?;
        plot::plot(&self.curve.out.join(file), title, best_of_n, points)
    }

    fn best_of_n(&mut self, set: &Set, best_of_n: &BestOfN) -> anyhow::Result<()> {
        let curve = best_of_n.curve();
        let checked = self.curve.checked.min(set.judged_on.len());
        let scored = mean(&best_of_n.scored[..checked]);
        let mut n = 1;
        while n <= best_of_n.most() {
            let (tokens, reward) = curve[n - 1];
            let over = |of: &[Vec<f64>]| mean(&of.iter().map(|by_n| by_n[n - 1]).collect::<Vec<_>>());
            let (good, faults, scored) = (over(&best_of_n.good), over(&best_of_n.faults), scored * n as f64);
            writeln!(
                self.text,
                "| best_of_n | n={n} | {reward:.3} | {tokens:.0} | {n} | {scored:.0} | {:.1} | {faults:.2} | | | |",
                100.0 * good
            )?;
            writeln!(
                self.csv,
                "{},best_of_n,n={n},,{reward:.4},{tokens:.1},{n},{scored:.1},{good:.4},{faults:.3},{n},1,1,1,1,1,1",
                set.name
            )?;
            n *= 2;
        }
        Ok(())
    }

    fn point(&mut self, set: &str, point: &Point) -> anyhow::Result<()> {
        let Point { setting, target, spent, saving, scored_tokens } = point;
        let [reward, tokens, candidates, good, faults] =
            [&spent.rewards, &spent.tokens, &spent.candidates, &spent.good, &spent.faults].map(|of| mean(of));
        let scored = scored_tokens.map_or(String::new(), |tokens| format!("{tokens:.0}"));
        let target = target.map_or(String::new(), |target| format!("{target}"));
        writeln!(
            self.text,
            "| {} | {} | {reward:.3} | {tokens:.0} | {candidates:.1} | {scored} | {:.1} | {faults:.2} | {:.1} | {} | {} |",
            setting.strategy,
            setting.words,
            100.0 * good,
            saving.equal_n,
            interval(saving.tokens),
            interval(saving.candidates)
        )?;
        let numbers = |Interval { value, low, high }: Interval| format!("{value:.4},{low:.4},{high:.4}");
        writeln!(
            self.csv,
            "{set},{},{},{target},{reward:.4},{tokens:.1},{candidates:.2},{scored},{good:.4},{faults:.3},{:.2},{},{}",
            setting.strategy,
            setting.words,
            saving.equal_n,
            numbers(saving.tokens),
            numbers(saving.candidates)
        )?;
        Ok(())
    }

    /// What the first tokens of an answer tell of its reward.
    fn parts(&mut self, set: &Set) -> anyhow::Result<()> {
        let (mut numbers, mut cells) = (Vec::new(), Vec::new());
        for part in PARTS {
            let within = |recording: &super::Recording| {
                let longer =
                    recording.candidates.iter().filter_map(|c| Some((c.parts.get(&part)?, c.reward)));
                let (parts, finals): (Vec<f64>, Vec<f64>) =
                    longer.map(|(&part, reward)| (f64::from(part), f64::from(reward))).unzip();
                // Too few answers of this length say nothing.
                (parts.len() * 2 >= recording.candidates.len()).then(|| rank_correlation(&parts, &finals))?
            };
            let known: Vec<f64> = set.judged_on.iter().filter_map(within).collect();
            if known.len() * 2 >= set.judged_on.len() {
                numbers.push(part.to_string());
                cells.push(format!("{:.2}", mean(&known)));
            }
        }
        writeln!(
            self.text,
            "\nRank correlation (Spearman) of the reward of the first tokens with that of the whole answer, within a prompt, mean\n\
             over prompts:\n\n| tokens | {} |\n|---|{}\n| correlation | {} |",
            numbers.join(" | "),
            "---|".repeat(numbers.len()),
            cells.join(" | ")
        )?;
        Ok(())
    }

    pub(super) fn write(&self) -> anyhow::Result<()> {
        for (name, content) in [("README.md", &self.text), ("curve.csv", &self.csv)] {
            let path = self.curve.out.join(name);
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
