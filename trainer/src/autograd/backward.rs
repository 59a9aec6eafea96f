//! Gradients of the decoder's operations, from the last to the first. Leaves the forward pass to `forward`.

use std::rc::Rc;

use rectify_kernels::train::{self, AttentionSaved, Factor, HeadLayout, NormSaved, Product, Term, View};

use super::adapters::LoraPart;
use super::forward::attention_of;
use super::ops::Op;
use super::params::ParamId;
use super::tape::{LinearData, Tape, Tensor, Weight};

impl Tape {
    /// Adds the gradients of `Σ seeds · tensor` to the weights. Ends the pass: values are gone afterwards.
    pub fn backward(&mut self, seeds: &[(Tensor, &[f32])]) {
        self.grads.resize_with(self.values.len(), || None);
        for (tensor, seed) in seeds {
            self.add_grad(*tensor, seed.to_vec());
        }
        loop {
            self.restore_segment();
            let Some(mut op) = self.ops.pop() else { break };
            self.op_backward(&mut op);
            // Whatever reads its results came after it, and is past.
            for out in op.outputs().into_iter().flatten() {
                self.buffers.give(std::mem::take(&mut self.values[out.id]));
            }
            op.forget(&mut self.buffers);
        }
        self.reset();
    }

    fn op_backward(&mut self, op: &mut Op) {
        match op {
            Op::Embed { table, ids, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                if let Weight::Trained(table) = self.linears[*table].weight {
                    let table = self.params.get_mut(table);
                    train::scatter_add_rows(&self.pool, &grad, out.width, ids, &mut table.grad);
                }
                self.release(grad);
            }
            Op::Linear { x, linear, adapted, dropout_seed, mids, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                let linear = Rc::clone(&self.linears[*linear]);
                let adapters = if *adapted { linear.lora.as_slice() } else { &[] };
                self.linear_backward(&linear, adapters, *x, *dropout_seed, (&grad, mids));
                self.release(grad);
            }
            Op::RmsNorm { x, norm, rstd, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                self.norm_backward(norm.weight, *x, rstd, &grad);
                self.release(grad);
            }
            Op::AddRmsNorm { residual, x, sum, norm, rstd, out } => {
                if let Some(grad) = self.take_grad(*out) {
                    self.norm_backward(norm.weight, *sum, rstd, &grad);
                    self.release(grad);
                }
                self.sum_backward(*residual, *x, *sum);
            }
            Op::Add { residual, x, sum } => self.sum_backward(*residual, *x, *sum),
            Op::QkNorm { x, spec, norms, rstd, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                // Values pass; queries and keys are overwritten below.
                let mut grad_x = self.buffers.take(grad.len());
                grad_x.copy_from_slice(&grad);
                for ((layout, norm), rstd) in self.normed_heads(spec, norms).into_iter().zip(norms).zip(rstd)
                {
                    let layout = (layout, norm.weight);
                    self.head_norm_backward(layout, *x, rstd, (&grad, &mut grad_x, false));
                }
                self.release(grad);
                self.add_grad(*x, grad_x);
            }
            Op::Rope { x, rope, spec, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                let mut grad = Rc::unwrap_or_clone(grad);
                self.rotate(*rope, spec, &mut grad, true);
                self.add_grad(*x, grad);
            }
            Op::Attention { qkv, spec, lse, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                let mut grad_qkv = self.buffers.take(qkv.rows * qkv.width);
                let saved = AttentionSaved { qkv: &self.values[qkv.id], out: &self.values[out.id], lse };
                let attention = attention_of(spec, &self.batch);
                train::attention_backward(&self.pool, &attention, &saved, &grad, &mut grad_qkv);
                self.release(grad);
                self.add_grad(*qkv, grad_qkv);
            }
            Op::SwiGlu { gate_up, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                let mut grad_in = self.buffers.take(gate_up.rows * gate_up.width);
                train::swiglu_backward(&self.pool, &self.values[gate_up.id], out.width, &grad, &mut grad_in);
                self.release(grad);
                self.add_grad(*gate_up, grad_in);
            }
            Op::GatherRows { x, rows, out } => {
                let Some(grad) = self.take_grad(*out) else { return };
                if self.needs_grad[x.id] {
                    let mut grad_x = self.buffers.take(x.rows * x.width);
                    grad_x.fill(0.0);
                    train::scatter_add_rows(&self.pool, &grad, x.width, rows, &mut grad_x);
                    self.add_grad(*x, grad_x);
                }
                self.release(grad);
            }
            Op::Logprobs(op) => self.logprobs_backward(op),
        }
    }

    /// Both addends have the sum's gradient.
    fn sum_backward(&mut self, residual: Tensor, x: Tensor, sum: Tensor) {
        let Some(grad) = self.take_grad(sum) else { return };
        // The operation that made `x` is done with it before anything is added to the residual's, so they share the
        // buffer.
        self.share_grad(x, &grad);
        self.share_grad(residual, &grad);
        self.release(grad);
    }

    /// `dX = dY W` and what adapters add to it, `dW += dYᵀ X` if it is trained, `db += Σ dY`.
    fn linear_backward(
        &mut self,
        linear: &LinearData,
        adapters: &[LoraPart],
        x: Tensor,
        dropout_seed: u64,
        (grad, mids): (&[f32], &[Vec<f32>]),
    ) {
        let (outputs, inputs) = (linear.out_features, linear.in_features);
        if let Some(bias) = linear.bias {
            let bias = &mut self.params.get_mut(bias).grad;
            if !bias.is_empty() {
                for row in grad.chunks_exact(outputs) {
                    bias.iter_mut().zip(row).for_each(|(bias, grad)| *bias += grad);
                }
            }
        }
        let grad_mids = self.lora_backward(adapters, x, dropout_seed, (grad, outputs), mids);
        if self.needs_grad[x.id] {
            let mut grad_x = self.buffers.take(x.rows * inputs);
            let base = Term {
                columns: 0..inputs,
                k: outputs,
                a: View::rows(grad, outputs),
                b: linear.matrix(&self.params, 0),
                alpha: 1.0,
            };
            let mut terms = vec![base];
            terms.extend(self.lora_grad_terms(adapters, x, &grad_mids));
            train::gemm_sum(&self.pool, (x.rows, inputs), &terms, false, (&mut grad_x, inputs));
            self.lora_grad_dropped(adapters, x, dropout_seed, &grad_mids, &mut grad_x);
            self.add_grad(x, grad_x);
        }
        grad_mids.into_iter().for_each(|grad_mid| self.buffers.give(grad_mid));
        if let Weight::Trained(weight) = linear.weight {
            let x = View::rows(&self.values[x.id], inputs);
            let shape = (outputs, inputs, grad.len() / outputs);
            let outer = product(shape, View::rows(grad, outputs).t(), x.into(), 1.0, true);
            train::gemm(&self.pool, &outer, &mut self.params.get_mut(weight).grad, inputs);
        }
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
    b: Factor<'a>,
    alpha: f32,
    accumulate: bool,
) -> Product<'a> {
    Product { m, n, k, a, b, alpha, accumulate }
}
