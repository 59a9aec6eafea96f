//! Options of `rectify train sft` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::SftConfig`].
    "Supervised fine-tuning" SftKeys:
    /// Loss on the completion only.
    completion_only_loss: bool,
    /// Loss on the assistant's turns only.
    assistant_only_loss: bool,
}
