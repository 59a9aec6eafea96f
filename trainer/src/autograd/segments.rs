//! Gradient checkpointing, layer by layer (Chen et al. 2016, arXiv:1604.06174): of a layer only its input is kept, and
//! the backward pass runs the layer again before it goes through it. Leaves running to `forward`.

use std::ops::Range;

use super::ops::Op;
use super::tape::Tape;

/// The operations and values of one layer.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    ops: Range<usize>,
    values: Range<usize>,
    /// The layer's input, if it is made by its own first operation: the sum of the residual stream.
    input: Option<usize>,
}

impl Tape {
    /// Ends the layer before, which its successor's first operation still reads.
    pub(super) fn open_segment(&mut self) {
        let (op, value) = (self.ops.len(), self.values.len());
        let opened = Segment { ops: op..op, values: value..value, input: None };
        if let Some(mut ended) = self.open.replace(opened) {
            (ended.ops.end, ended.values.end) = (op, value);
            self.ended = Some(ended);
        }
    }

    /// Says that the next value is a sum of the residual stream.
    pub(super) fn note_input(&mut self) {
        let next = self.values.len();
        if let Some(open) = &mut self.open
            && open.values.start == next
        {
            open.input = Some(next);
        }
    }

    /// Forgets the layer that has ended, unless its values are kept for the backward pass.
    pub(super) fn close_segment(&mut self) {
        let Some(ended) = self.ended.take() else { return };
        if self.recording && !self.checkpointing {
            return;
        }
        for id in ended.values.clone().filter(|id| Some(*id) != ended.input) {
            self.buffers.give(std::mem::take(&mut self.values[id]));
        }
        for op in &mut self.ops[ended.ops.clone()] {
            op.forget(&mut self.buffers);
        }
        if self.recording {
            self.segments.push(ended);
        }
    }

    /// Runs the last recorded layer again if it was forgotten.
    pub(super) fn restore_segment(&mut self) {
        let Some(segment) = self.segments.pop_if(|segment| segment.ops.end == self.ops.len()) else { return };
        let mut ops: Vec<Op> = self.ops.split_off(segment.ops.start);
        for op in &mut ops {
            self.run(op);
        }
        self.ops.append(&mut ops);
    }
}
