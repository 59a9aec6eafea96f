//! How fast the machine could generate at most: each step takes at least the time to read its weights and KV from
//! memory, and at least the time of its multiplications. Leaves measuring the machine to `rectify_kernels::peak`.

use rectify_engine::model::config::ModelConfig;
use rectify_kernels::WeightDtype;
use rectify_kernels::peak::MachineLimits;

/// What a model costs, from its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ModelCost {
    /// Weights of all layers' projections: each meets every row.
    pub(super) layer_params: f64,
    /// Weights of the output head: each meets the rows whose logits are wanted.
    pub(super) head_params: f64,
    /// Bytes of a weight.
    pub(super) param_bytes: f64,
    /// How weights are held, which says what multiplies them.
    pub(super) dtype: WeightDtype,
    /// Bytes of one token's keys and values over all layers.
    pub(super) kv_bytes_per_token: f64,
}

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) prompt_len: usize,
    pub(super) gen_len: usize,
    pub(super) n: usize,
    /// Most tokens of one step, which cuts the prompt.
    pub(super) max_num_batched_tokens: usize,
}

/// Bytes of a number. Codes share a scale with others of their block, which differ in length: it is the mean of all, `whole`
/// bytes.
fn bytes(dtype: WeightDtype, whole: f64) -> f64 {
    match dtype {
        WeightDtype::F32 => 4.0,
        WeightDtype::Bf16 | WeightDtype::F16 => 2.0,
        WeightDtype::Nf4 => 0.5 + 4.0 / 64.0,
        WeightDtype::Int8 | WeightDtype::Blocks => whole,
    }
}

impl ModelCost {
    /// Of a model whose packed matrices take `weight_bytes`.
    pub(super) fn new(
        config: &ModelConfig,
        weights: WeightDtype,
        weight_bytes: usize,
        kv: WeightDtype,
    ) -> Self {
        let (hidden, head_dim) = (config.hidden_size as f64, config.head_dim as f64);
        let (q, kv_width) = (config.num_heads as f64 * head_dim, config.num_kv_heads as f64 * head_dim);
        let attention = hidden * (q + 2.0 * kv_width) + q * hidden;
        let mlp = 3.0 * hidden * config.intermediate_size as f64;
        let layers = config.num_layers as f64;
        let (layer_params, head_params) = (layers * (attention + mlp), config.vocab_size as f64 * hidden);
        let tables = if config.tie_word_embeddings { 1.0 } else { 2.0 };
        let mean = weight_bytes as f64 / (layer_params + tables * head_params);
        Self {
            layer_params,
            head_params,
            param_bytes: bytes(weights, mean),
            dtype: weights,
            kv_bytes_per_token: layers * 2.0 * kv_width * bytes(kv, mean),
        }
    }

    /// Bytes of all weights that a decode step reads.
    pub(super) fn weight_bytes(&self) -> f64 {
        (self.layer_params + self.head_params) * self.param_bytes
    }

    /// Least seconds of one step.
    fn step(&self, machine: &MachineLimits, rows: f64, logit_rows: f64, kv_tokens: f64) -> f64 {
        let head = if logit_rows > 0.0 { self.head_params } else { 0.0 };
        let read = (self.layer_params + head) * self.param_bytes + kv_tokens * self.kv_bytes_per_token;
        let flops = 2.0 * (self.layer_params * rows + self.head_params * logit_rows);
        (read / machine.read_bytes_per_s).max(flops / self.peak(machine))
    }

    fn peak(&self, machine: &MachineLimits) -> f64 {
        match self.dtype {
            WeightDtype::F32 => machine.f32_flops,
            WeightDtype::Bf16 | WeightDtype::Nf4 => machine.bf16_flops,
            WeightDtype::F16 => machine.f16_flops,
            WeightDtype::Int8 | WeightDtype::Blocks => machine.int8_ops,
        }
    }

    /// Least seconds of the whole run: the prompt in chunks, whose last row gives every candidate's first token, then
    /// one row per candidate and step. A shared prompt's KV is read once a step, each candidate's own tail besides.
    pub(super) fn generate(&self, machine: &MachineLimits, work: &Workload) -> f64 {
        let (prompt, n) = (work.prompt_len as f64, work.n as f64);
        let mut seconds = 0.0;
        let mut done = 0;
        while done < work.prompt_len {
            let rows = (work.prompt_len - done).min(work.max_num_batched_tokens);
            done += rows;
            let logit_rows = if done == work.prompt_len { 1.0 } else { 0.0 };
            seconds += self.step(machine, rows as f64, logit_rows, done as f64);
        }
        for generated in 1..work.gen_len {
            seconds += self.step(machine, n, n, prompt + n * generated as f64);
        }
        seconds
    }

    /// Least seconds to read `tokens` as a reward model: arithmetic alone, as the tokens come in full batches.
    pub(super) fn score(&self, machine: &MachineLimits, tokens: usize) -> f64 {
        2.0 * self.layer_params * tokens as f64 / self.peak(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of Qwen2.5-0.5B.
    fn cost() -> ModelCost {
        let (hidden, layers, intermediate, vocab) = (896.0, 24.0, 4864.0, 151_936.0);
        ModelCost {
            layer_params: layers
                * (hidden * (896.0 + 2.0 * 128.0) + 896.0 * hidden + 3.0 * hidden * intermediate),
            head_params: vocab * hidden,
            param_bytes: 2.0,
            dtype: WeightDtype::Bf16,
            kv_bytes_per_token: layers * 2.0 * 128.0 * 2.0,
        }
    }

    const MACHINE: MachineLimits = MachineLimits {
        read_bytes_per_s: 45e9,
        bf16_flops: 990e9,
        f16_flops: 990e9,
        f32_flops: 520e9,
        int8_ops: 2.1e12,
    };

    /// Generated tokens per second at the limit.
    fn limit(n: usize) -> f64 {
        let work = Workload { prompt_len: 256, gen_len: 128, n, max_num_batched_tokens: 2048 };
        (n * 128) as f64 / cost().generate(&MACHINE, &work)
    }

    #[test]
    fn the_limit_is_bandwidth_for_few_rows_and_arithmetic_for_many() {
        // One row reads 0.99 GB in 22 ms; 64 rows multiply for 64 ms.
        for (n, tokens_per_s) in [(1, 43.0), (16, 675.0), (64, 985.0)] {
            assert!((limit(n) / tokens_per_s - 1.0).abs() < 0.02, "N = {n}: {}", limit(n));
        }
    }

    #[test]
    fn chunks_of_the_prompt_read_the_weights_again() {
        let whole = Workload { prompt_len: 64, gen_len: 1, n: 1, max_num_batched_tokens: 64 };
        let chunked = Workload { max_num_batched_tokens: 1, ..whole };
        assert!(cost().generate(&MACHINE, &chunked) > 10.0 * cost().generate(&MACHINE, &whole));
    }

    #[test]
    fn codes_take_the_bytes_that_they_have_on_average() {
        assert_eq!(bytes(WeightDtype::Int8, 1.02), 1.02);
        assert_eq!(bytes(WeightDtype::Bf16, 1.02), 2.0);
    }

    #[test]
    fn f32_weights_are_twice_the_bytes() {
        let f32_cost = ModelCost { param_bytes: 4.0, dtype: WeightDtype::F32, ..cost() };
        assert_eq!(f32_cost.weight_bytes(), 2.0 * cost().weight_bytes());
        assert_eq!(f32_cost.peak(&MACHINE), MACHINE.f32_flops);
    }
}
