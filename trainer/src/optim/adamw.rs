//! AdamW over all trained weights, with clipping by global norm. Leaves the arithmetic to the kernels.

use rectify_kernels::{Pool, train};

use crate::autograd::Params;
use crate::config::TrainConfig;

/// The settings of AdamW that do not change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Largest global norm; 0 for any.
    pub max_grad_norm: f64,
}

impl From<&TrainConfig> for Hyper {
    fn from(config: &TrainConfig) -> Self {
        Self {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
            max_grad_norm: config.max_grad_norm,
        }
    }
}

/// The optimiser and its moments, in the order of the trained weights.
#[derive(Clone, Debug)]
pub struct AdamW {
    hyper: Hyper,
    /// Steps done.
    pub step: u64,
    /// First and second moment of each trained weight.
    pub moments: Vec<(Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// Moments at zero.
    pub fn new(hyper: Hyper, params: &Params) -> Self {
        let zeros = |len: usize| (vec![0.0; len], vec![0.0; len]);
        Self { hyper, step: 0, moments: params.trainable().map(|param| zeros(param.data.len())).collect() }
    }

    /// Global L2 norm of all gradients.
    pub fn grad_norm(pool: &Pool, params: &Params) -> f64 {
        params.trainable().map(|param| train::sum_squares(pool, &param.grad)).sum::<f64>().sqrt()
    }

    /// Moves every trained weight. `grad_norm` is that of [`AdamW::grad_norm`].
    pub fn step(&mut self, pool: &Pool, params: &mut Params, learning_rate: f64, grad_norm: f64) {
        self.step += 1;
        let Hyper { beta1, beta2, epsilon, weight_decay, max_grad_norm } = self.hyper;
        // As `torch.nn.utils.clip_grad_norm_`.
        let clip = if max_grad_norm > 0.0 { (max_grad_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        for (param, (m, v)) in params.trainable_mut().zip(&mut self.moments) {
            let hyper = train::AdamW {
                learning_rate: learning_rate as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                epsilon: epsilon as f32,
                weight_decay: if param.decay { weight_decay as f32 } else { 0.0 },
                step: self.step,
                grad_scale: clip as f32,
            };
            train::adamw(pool, &hyper, &mut param.data, &param.grad, (m, v));
        }
    }
}
