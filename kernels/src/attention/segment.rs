//! What a unit sees, cut into chunks of tokens and these into segments: levels (places in block tables) at which the same
//! neighbours share their blocks. Leaves units to `plan` and the walk to `walk`.

use std::ops::Range;

use super::AttentionParams;
use super::plan::AttentionPlan;

/// Tokens that a unit's scores are kept of at once, as far as a member sees any.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// Its first token.
    pub(super) first: usize,
    /// Levels that a member sees.
    pub(super) levels: Range<usize>,
    segments: Range<usize>,
}

/// Neighbouring levels with the same runs.
#[derive(Clone, Debug)]
struct Segment {
    levels: Range<usize>,
    runs: Range<usize>,
}

/// Neighbouring members with the same blocks: their rows, one of them, and the keys the furthest sees.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) rows: Range<usize>,
    pub(super) member: usize,
    pub(super) end: usize,
}

/// The chunks of all units of a plan.
#[derive(Debug, Default)]
pub(super) struct Segments {
    pub(super) chunks: Vec<Chunk>,
    segments: Vec<Segment>,
    runs: Vec<Run>,
}

impl Segments {
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.segments.clear();
        self.runs.clear();
    }

    /// The runs of a chunk, each with its levels.
    pub(super) fn of(&self, chunk: &Chunk) -> impl Iterator<Item = (Range<usize>, &Run)> {
        let segments = self.segments[chunk.segments.clone()].iter();
        segments.flat_map(|segment| {
            self.runs[segment.runs.clone()].iter().map(|run| (segment.levels.clone(), run))
        })
    }

    /// Adds what `members` of a plan see of `tokens`, if they see any of them.
    pub(super) fn cut(
        &mut self,
        plan: &AttentionPlan,
        members: Range<usize>,
        tokens: Range<usize>,
        params: &AttentionParams,
        group: usize,
        block_size: usize,
    ) {
        let all = &plan.members;
        let active = || members.clone().filter(|&i| all[i].sees(tokens.clone(), params));
        let Some(end) = active().map(|i| all[i].end().min(tokens.end)).max() else { return };
        let start = active().map(|i| all[i].start(params)).min().unwrap_or(0).max(tokens.start);
        let levels = start / block_size..end.div_ceil(block_size);
        let first_segment = self.segments.len();
        for level in levels.clone() {
            let first_run = self.runs.len();
            for i in active().filter(|&i| all[i].sees(level * block_size..(level + 1) * block_size, params)) {
                let rows = all[i].row..all[i].row + all[i].tokens * group;
                let block = plan.table(i)[level];
                match self.runs[first_run..].last_mut() {
                    Some(run) if run.rows.end == rows.start && plan.table(run.member)[level] == block => {
                        run.rows.end = rows.end;
                        run.end = run.end.max(all[i].end());
                    }
                    _ => self.runs.push(Run { rows, member: i, end: all[i].end() }),
                }
            }
            let (before, runs) = self.runs.split_at(first_run);
            match self.segments[first_segment..].last_mut() {
                Some(last) if same_rows(&before[last.runs.clone()], runs) => {
                    last.levels.end = level + 1;
                    self.runs.truncate(first_run);
                }
                _ => self
                    .segments
                    .push(Segment { levels: level..level + 1, runs: first_run..first_run + runs.len() }),
            }
        }
        let segments = first_segment..self.segments.len();
        self.chunks.push(Chunk { first: tokens.start, levels, segments });
    }
}

/// The same members side by side, whatever their blocks.
fn same_rows(a: &[Run], b: &[Run]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.rows == b.rows)
}
