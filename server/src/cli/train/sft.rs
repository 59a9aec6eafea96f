//! Options of `rectify train sft` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::SftConfig`].
    "Supervised fine-tuning" SftKeys:
    /// Loss on the completion only; by default for prompt and completion.
    completion_only_loss: bool,
    /// Loss on the assistant's turns only.
    assistant_only_loss: bool,
    /// The system prompt before every user turn, loss on the last answer only.
    ghost_attention: bool,
    /// Which end of a long example stays: keep_start or keep_end.
    truncation_mode: String,
    /// Several examples in one of max_length tokens, without seeing each other.
    packing: bool,
    /// How packing treats longer examples: bfd cuts them off, bfd_split splits them.
    packing_strategy: String,
}
