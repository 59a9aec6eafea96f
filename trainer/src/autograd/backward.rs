//! Gradients of the decoder's operations, from the last to the first. Leaves the forward pass to `forward`.

use std::rc::Rc;

use rectify_kernels::train::{self, AttentionSaved, HeadLayout, NormSaved, Product, View};

use super::forward::{attention_of, head_layouts, lora_seed};
use super::params::ParamId;
use super::tape::{LinearData, Op, Tape, Tensor};

impl Tape {
    /// Adds the gradients of `Σ seeds · tensor` to the weights. Ends the pass: values are gone afterwards.
    pub fn backward(&mut self, seeds: &[(Tensor, &[f32])]) {
        self.grads.resize_with(self.values.len(), || None);
        for (tensor, seed) in seeds {
            self.add_grad(*tensor, seed.to_vec());
        }
        while let Some(op) = self.ops.pop() {
            self.op_backward(op);
        }
        self.reset();
    }

    fn op_backward(&mut self, op: Op) {
        match op {
            Op::Embed { table, ids, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                let pool = std::sync::Arc::clone(&self.pool);
                train::scatter_add_rows(&pool, &grad, out.width, &ids, &mut self.params.get_mut(table).grad);
                self.release(grad);
            }
            Op::Linear { x, linear, mids, dropout_seed, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                self.linear_backward(linear, x, &grad);
                for (index, mid) in mids.into_iter().enumerate() {
                    self.lora_backward(linear, index, x, lora_seed(dropout_seed, index), (&grad, &mid));
                    self.buffers.give(mid);
                }
                self.release(grad);
            }
            Op::RmsNorm { x, norm, rstd, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                self.norm_backward(norm, x, &rstd, &grad);
                self.release(grad);
            }
            Op::AddRmsNorm { residual, x, sum, norm, rstd, out } => {
                if let Some(grad) = self.take_grad(out) {
                    self.norm_backward(norm, sum, &rstd, &grad);
                    self.release(grad);
                }
                let Some(grad) = self.take_grad(sum) else { return };
                // Both addends have the sum's gradient. The operation that made `x` is done with it before anything is
                // added to the residual's, so they share the buffer.
                self.share_grad(x, &grad);
                self.share_grad(residual, &grad);
                self.release(grad);
            }
            Op::QkNorm { x, spec, norms, rstd, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                // Values pass; queries and keys are overwritten below.
                let mut grad_x = self.buffers.take(grad.len());
                grad_x.copy_from_slice(&grad);
                for ((layout, norm), rstd) in head_layouts(&spec).into_iter().zip(norms).zip(&rstd) {
                    self.head_norm_backward((layout, norm), x, rstd, (&grad, &mut grad_x, false));
                }
                self.release(grad);
                self.add_grad(x, grad_x);
            }
            Op::Rope { x, rope, spec, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                let mut grad = Rc::unwrap_or_clone(grad);
                self.rotate(rope, &spec, &mut grad, true);
                self.add_grad(x, grad);
            }
            Op::Attention { qkv, spec, lse, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                let mut grad_qkv = self.buffers.take(qkv.rows * qkv.width);
                let saved =
                    AttentionSaved { qkv: &self.values[qkv.id], out: &self.values[out.id], lse: &lse };
                let attention = attention_of(&spec, &self.batch.cu_seqlens);
                train::attention_backward(&self.pool, &attention, &saved, &grad, &mut grad_qkv);
                self.release(grad);
                self.add_grad(qkv, grad_qkv);
            }
            Op::SwiGlu { gate_up, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                let mut grad_in = self.buffers.take(gate_up.rows * gate_up.width);
                train::swiglu_backward(&self.pool, &self.values[gate_up.id], out.width, &grad, &mut grad_in);
                self.release(grad);
                self.add_grad(gate_up, grad_in);
            }
            Op::GatherRows { x, rows, out } => {
                let Some(grad) = self.take_grad(out) else { return };
                if self.needs_grad[x.id] {
                    let mut grad_x = self.buffers.take(x.rows * x.width);
                    grad_x.fill(0.0);
                    train::scatter_add_rows(&self.pool, &grad, x.width, &rows, &mut grad_x);
                    self.add_grad(x, grad_x);
                }
                self.release(grad);
            }
            Op::Logprobs(op) => self.logprobs_backward(op),
        }
    }

    fn linear_backward(&mut self, linear: usize, x: Tensor, grad: &[f32]) {
        let data = self.linears[linear].clone();
        if let Some(bias) = data.bias {
            let bias = &mut self.params.get_mut(bias).grad;
            if !bias.is_empty() {
                for row in grad.chunks_exact(data.out_features) {
                    bias.iter_mut().zip(row).for_each(|(bias, grad)| *bias += grad);
                }
            }
        }
        let mut grad_x = if self.needs_grad[x.id] { self.buffers.take(x.rows * x.width) } else { Vec::new() };
        self.product_backward(&data, x, grad, &mut grad_x);
        if !grad_x.is_empty() {
            self.add_grad(x, grad_x);
        }
    }

    /// `dX = dY W` (unless `grad_x` is empty) and `dW += dYᵀ X`.
    fn product_backward(&mut self, data: &LinearData, x: Tensor, grad: &[f32], grad_x: &mut [f32]) {
        let (n, k) = (data.out_features, data.in_features);
        let rows = grad.len() / n;
        let param = self.params.get_mut(data.weight);
        if !grad_x.is_empty() {
            let down = product((rows, k, n), View::rows(grad, n), View::rows(&param.data, k), 1.0, false);
            train::gemm(&self.pool, &down, grad_x, k);
        }
        if param.is_trainable() {
            let x = View::rows(&self.values[x.id], k);
            let outer = product((n, k, rows), View::rows(grad, n).t(), x, 1.0, true);
            train::gemm(&self.pool, &outer, &mut param.grad, k);
        }
    }

    fn lora_backward(
        &mut self,
        linear: usize,
        index: usize,
        x: Tensor,
        seed: u64,
        (grad, mid): (&[f32], &[f32]),
    ) {
        let (lora, width) = (self.linears[linear].lora[index].clone(), self.linears[linear].out_features);
        let (rank, scale, dropout) =
            self.lora.as_ref().map_or((0, 0.0, 0.0), |l| (l.rank, l.scale, l.dropout));
        let (rows, outputs) = (x.rows, lora.out_features);
        let grad_part = View::rows(&grad[lora.column..], width);
        let b = self.params.get_mut(lora.b);
        let mut grad_mid = self.buffers.take(rows * rank);
        let down = product((rows, rank, outputs), grad_part, View::rows(&b.data, rank), scale, false);
        train::gemm(&self.pool, &down, &mut grad_mid, rank);
        let grad_b = product((outputs, rank, rows), grad_part.t(), View::rows(mid, rank), scale, true);
        train::gemm(&self.pool, &grad_b, &mut b.grad, rank);

        let mut dropped = Vec::new();
        if dropout > 0.0 {
            dropped = self.buffers.take(rows * x.width);
            train::dropout(&self.pool, &self.values[x.id], dropout, seed, false, &mut dropped);
        }
        let input = if dropped.is_empty() { &self.values[x.id] } else { &dropped };
        let a = self.params.get_mut(lora.a);
        let grad_a = product(
            (rank, x.width, rows),
            View::rows(&grad_mid, rank).t(),
            View::rows(input, x.width),
            1.0,
            true,
        );
        train::gemm(&self.pool, &grad_a, &mut a.grad, x.width);
        if self.needs_grad[x.id] {
            let mut grad_x = self.buffers.take(rows * x.width);
            let up = product(
                (rows, x.width, rank),
                View::rows(&grad_mid, rank),
                View::rows(&a.data, x.width),
                1.0,
                false,
            );
            train::gemm(&self.pool, &up, &mut grad_x, x.width);
            if dropout > 0.0 {
                let mut into = self.buffers.take(rows * x.width);
                train::dropout(&self.pool, &grad_x, dropout, seed, false, &mut into);
                self.buffers.give(std::mem::replace(&mut grad_x, into));
            }
            self.add_grad(x, grad_x);
        }
        self.buffers.give(dropped);
        self.buffers.give(grad_mid);
    }

    /// Adds to the gradient of `x`, and of the norm's weight.
    fn norm_backward(&mut self, norm: ParamId, x: Tensor, rstd: &[f32], grad: &[f32]) {
        let (mut grad_x, accumulate) = match self.grads[x.id].take() {
            Some(grad_x) => (Rc::unwrap_or_clone(grad_x), true),
            None => (self.buffers.take(x.rows * x.width), false),
        };
        let layout = HeadLayout::rows(x.width);
        self.head_norm_backward((layout, norm), x, rstd, (grad, &mut grad_x, accumulate));
        if self.needs_grad[x.id] {
            self.grads[x.id] = Some(Rc::new(grad_x));
        } else {
            self.buffers.give(grad_x);
        }
    }

    fn head_norm_backward(
        &mut self,
        (layout, norm): (HeadLayout, ParamId),
        x: Tensor,
        rstd: &[f32],
        (grad, grad_x, accumulate): (&[f32], &mut [f32], bool),
    ) {
        let param = self.params.get_mut(norm);
        let saved = NormSaved { x: &self.values[x.id], weight: &param.data, rstd };
        let grad_weight = (!param.grad.is_empty()).then_some(param.grad.as_mut_slice());
        train::rms_norm_backward(&self.pool, layout, &saved, grad, (grad_x, accumulate), grad_weight);
    }

    pub(super) fn take_grad(&mut self, tensor: Tensor) -> Option<Rc<Vec<f32>>> {
        let grad = self.grads[tensor.id].take();
        if self.needs_grad[tensor.id] { grad } else { None }
    }

    pub(super) fn add_grad(&mut self, tensor: Tensor, grad: Vec<f32>) {
        if !self.needs_grad[tensor.id] {
            self.buffers.give(grad);
            return;
        }
        self.grads[tensor.id] = Some(match self.grads[tensor.id].take() {
            Some(old) => {
                let mut sum = Rc::unwrap_or_clone(old);
                train::add_assign(&self.pool, &mut sum, &grad);
                self.buffers.give(grad);
                Rc::new(sum)
            }
            None => Rc::new(grad),
        });
    }

    fn share_grad(&mut self, tensor: Tensor, grad: &Rc<Vec<f32>>) {
        if !self.needs_grad[tensor.id] {
            return;
        }
        if self.grads[tensor.id].is_some() {
            self.add_grad(tensor, grad.to_vec());
        } else {
            self.grads[tensor.id] = Some(Rc::clone(grad));
        }
    }
}

pub(super) fn product<'a>(
    (m, n, k): (usize, usize, usize),
    a: View<'a>,
    b: View<'a>,
    alpha: f32,
    accumulate: bool,
) -> Product<'a> {
    Product { m, n, k, a, b, alpha, accumulate }
}
