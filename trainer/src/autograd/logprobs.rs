//! Log-probabilities and entropies of a language head on the tape, tile of logits by tile: `[tokens, vocab]` is never
//! held beyond a fixed memory. Leaves arithmetic to the kernels, what tokens count to the losses.

use std::ops::Range;
use std::rc::Rc;

use rectify_kernels::train::{self, LogitColumns, LogprobGrads, RowSums, TokenStats, View};

use super::backward::product;
use super::ops::Op;
use super::tape::{LinearData, Tape, Tensor, Weight};

/// Rows of a tile of logits. Tests have several.
const TILE_ROWS: usize = if cfg!(test) { 4 } else { 1024 };
/// Columns of a tile of logits, about: with the rows, 32 MiB.
const TILE_COLUMNS: usize = if cfg!(test) { 16 } else { 8192 };
/// Bytes of logits kept for the backward pass; beyond, they are computed again.
const LOGITS_KEPT: usize = 256 << 20;

/// What [`Tape::logprobs`] gives.
#[derive(Clone, Debug)]
pub struct Logprobs {
    /// Natural logs of the targets' probabilities, `[rows, 1]`.
    pub logprobs: Tensor,
    /// Entropies of the whole distributions in nats, `[rows, 1]`.
    pub entropies: Tensor,
    /// Both, and more, without gradient, `[rows]`.
    pub stats: Vec<TokenStats>,
}

/// What the gradient of [`Tape::logprobs`] needs.
#[derive(Debug)]
pub(super) struct LogprobsOp {
    hidden: Tensor,
    linear: usize,
    targets: Vec<u32>,
    /// Of logits: one over the temperature.
    scale: f32,
    stats: Vec<TokenStats>,
    /// Tiles, in order, if they were kept.
    pub(super) logits: Vec<Vec<f32>>,
    logprobs: Tensor,
    entropies: Tensor,
}

/// Some rows and columns of the logits.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    columns: LogitColumns,
}

impl Tile {
    /// Tiles of all logits, those of the same rows side by side.
    fn all(num_rows: usize, vocab: usize) -> Vec<Self> {
        // Of nearly equal width, each starting on a panel of packed weights.
        let width = vocab.div_ceil(vocab.div_ceil(TILE_COLUMNS).max(1)).next_multiple_of(16);
        let rows = (0..num_rows).step_by(TILE_ROWS).map(|from| from..num_rows.min(from + TILE_ROWS));
        let columns = |from: usize| LogitColumns { first: from, width: width.min(vocab - from) };
        rows.flat_map(|rows| {
            let tile = move |from| Self { rows: rows.clone(), columns: columns(from) };
            (0..vocab).step_by(width).map(tile)
        })
        .collect()
    }

    fn num_elements(&self) -> usize {
        self.rows.len() * self.columns.width
    }
}

impl LogprobsOp {
    pub(super) fn outputs(&self) -> [Tensor; 2] {
        [self.logprobs, self.entropies]
    }
}

impl Tape {
    /// Log-probabilities of `targets` under the head `linear` of `hidden`, and entropies, with logits divided by
    /// `temperature`. Logits exist a tile at a time beyond a fixed memory.
    pub fn logprobs(&mut self, linear: usize, hidden: Tensor, targets: &[u32], temperature: f32) -> Logprobs {
        let head = Rc::clone(&self.linears[linear]);
        let vocab = head.out_features;
        let scale = temperature.recip();
        let keep = self.recording && !self.checkpointing && 4 * vocab * targets.len() <= LOGITS_KEPT;
        let mut sums = vec![RowSums::default(); targets.len()];
        let mut kept = Vec::new();
        for tile in Tile::all(targets.len(), vocab) {
            let logits = self.logits_tile(&head, hidden, &tile, scale);
            let rows = tile.rows.clone();
            train::logprobs(&self.pool, &logits, tile.columns, &targets[rows.clone()], &mut sums[rows]);
            if keep {
                kept.push(logits);
            } else {
                self.buffers.give(logits);
            }
        }
        let stats: Vec<TokenStats> = sums.iter().map(RowSums::finish).collect();
        let needs_grad = self.needs_grad[hidden.id] || head.is_trained();
        let mut push = |of: fn(&TokenStats) -> f32| {
            let out = self.declare(targets.len(), 1, needs_grad);
            self.values[out.id] = stats.iter().map(of).collect();
            out
        };
        let (logprobs, entropies) = (push(|stats| stats.logprob), push(|stats| stats.entropy));
        let (targets, saved) = (targets.to_vec(), stats.clone());
        let op =
            LogprobsOp { hidden, linear, targets, scale, stats: saved, logits: kept, logprobs, entropies };
        self.record(Op::Logprobs(op));
        Logprobs { logprobs, entropies, stats }
    }

    fn logits_tile(&mut self, head: &LinearData, hidden: Tensor, tile: &Tile, scale: f32) -> Vec<f32> {
        let (width, columns) = (hidden.width, tile.columns);
        let mut logits = self.buffers.take(tile.num_elements());
        let x = View::rows(&self.values[hidden.id][tile.rows.start * width..], width);
        let weight = head.matrix(&self.params, columns.first).t();
        let product = product((tile.rows.len(), columns.width, width), x, weight, scale, false);
        train::gemm(&self.pool, &product, &mut logits, columns.width);
        logits
    }

    pub(super) fn logprobs_backward(&mut self, op: &mut LogprobsOp) {
        let LogprobsOp { hidden, linear, ref targets, scale, ref stats, ref mut logits, .. } = *op;
        let (logprobs, entropies) = (self.take_grad(op.logprobs), self.take_grad(op.entropies));
        if logprobs.is_none() && entropies.is_none() {
            return;
        }
        let head = Rc::clone(&self.linears[linear]);
        logits.reverse();
        let mut grad_hidden = match self.needs_grad[hidden.id] {
            true => self.buffers.take(hidden.rows * hidden.width),
            false => Vec::new(),
        };
        for tile in Tile::all(targets.len(), head.out_features) {
            let mut logits = match logits.pop() {
                Some(kept) => kept,
                None => self.logits_tile(&head, hidden, &tile, scale),
            };
            let rows = tile.rows.clone();
            let of = |grad: &Option<Rc<Vec<f32>>>| {
                grad.as_ref().map_or(Vec::new(), |grad| grad[rows.clone()].to_vec())
            };
            let (of_logprobs, of_entropies) = (of(&logprobs), of(&entropies));
            let grads = LogprobGrads { logprobs: &of_logprobs, entropies: &of_entropies };
            let (targets, stats) = (&targets[rows.clone()], &stats[rows]);
            train::logprobs_backward(&self.pool, &mut logits, tile.columns, targets, stats, grads);
            self.logits_backward(&head, hidden, &tile, (&logits, scale), &mut grad_hidden);
            self.buffers.give(logits);
        }
        [logprobs, entropies].into_iter().flatten().for_each(|grad| self.release(grad));
        if !grad_hidden.is_empty() {
            self.add_grad(hidden, grad_hidden);
        }
    }

    /// `dX (+)= scale · dY W` into the tile's rows of `grad_hidden` (unless it is empty), `dW += scale · dYᵀ X` into its
    /// rows of the weight's gradient.
    fn logits_backward(
        &mut self,
        head: &LinearData,
        hidden: Tensor,
        tile: &Tile,
        (grad, scale): (&[f32], f32),
        grad_hidden: &mut [f32],
    ) {
        let (rows, columns, width) = (tile.rows.len(), tile.columns, hidden.width);
        let from = tile.rows.start * width;
        let grad = View::rows(grad, columns.width);
        if !grad_hidden.is_empty() {
            let weight = head.matrix(&self.params, columns.first);
            let shape = (rows, width, columns.width);
            let down = product(shape, grad, weight, scale, columns.first > 0);
            train::gemm(&self.pool, &down, &mut grad_hidden[from..], width);
        }
        if let Weight::Trained(weight) = head.weight {
            let x = View::rows(&self.values[hidden.id][from..], width).into();
            let outer = product((columns.width, width, rows), grad.t(), x, scale, true);
            let into = &mut self.params.get_mut(weight).grad[columns.first * width..];
            train::gemm(&self.pool, &outer, into, width);
        }
    }
}
