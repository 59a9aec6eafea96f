//! Dry runs: the first examples as the model would meet them. Leaves drawing them to the command line.

use serde_json::Map;

use super::method::{Method, Split};
use super::progress::{Control, Example, ExampleText, Progress, TrainReport};
use super::trainer::Trainer;

/// Examples that a dry run shows.
const PREVIEWED: usize = 3;

impl<M: Method> Trainer<'_, M> {
    /// Shows the first examples as the model would meet them.
    pub(super) fn preview(&self, control: &mut Control<'_>) -> TrainReport {
        let num_examples = self.method.lengths(Split::Train).len();
        for example in 0..num_examples.min(PREVIEWED) {
            let texts = self.method.preview(example).into_iter().map(|text| {
                let num_loss_tokens = text.loss.iter().filter(|loss| **loss).count();
                let mut pieces = Vec::new();
                let mut rest = &text.ids[..];
                for run in text.loss.chunk_by(|a, b| a == b) {
                    let (piece, after) = rest.split_at(run.len());
                    pieces.push((self.model.encoder.spell(piece), run[0]));
                    rest = after;
                }
                ExampleText { name: text.name, num_tokens: text.ids.len(), num_loss_tokens, pieces }
            });
            let example = Example { number: example + 1, texts: texts.collect() };
            (control.progress)(&Progress::Example(example));
        }
        TrainReport {
            steps: 0,
            stopped: false,
            best_step: None,
            metrics: Map::new(),
            tokens_per_second: 0.0,
            output_dir: self.settings.output_dir.clone(),
        }
    }
}
