"""DPO of a LoRA adapter with TRL and PEFT on torch: trl_dpo.py MODEL PAIRS [--checkpointing] [--bf16]. Prints one
JSON line."""

import json
import sys
import tempfile
import time

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from torch_peer import MODULES, peak_rss
from trl import DPOConfig, DPOTrainer


class Clock(TrainerCallback):
    """Seconds from the first step's start to the last one's end."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.start


def main(folder, pairs, checkpointing, bf16):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = load_dataset("json", data_files=pairs, split="train")
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        config = DPOConfig(
            output_dir=output, per_device_train_batch_size=8, num_train_epochs=1, max_length=1024, bf16=bf16,
            gradient_checkpointing=checkpointing, logging_steps=1, save_strategy="no", report_to="none", seed=0,
            use_cpu=True, disable_tqdm=True, learning_rate=1e-4, lr_scheduler_type="constant", beta=0.1,
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.05, target_modules=MODULES, task_type="CAUSAL_LM")
        trainer = DPOTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora,
            callbacks=[clock],
        )  # fmt: skip
        prepared = trainer.train_dataset
        columns = [name for name in prepared.column_names if name.endswith("_ids")]
        prompt = sum(len(ids) for name in columns if "prompt" in name for ids in prepared[name])
        answers = sum(len(ids) for name in columns if "prompt" not in name for ids in prepared[name])
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    # Each prompt is seen with both of its answers.
    num_tokens = 2 * prompt + answers
    result = {"num_tokens": num_tokens, "seconds": clock.seconds, "tokens_per_s": num_tokens / clock.seconds}
    print(json.dumps({**result, "peak_rss": peak_rss(), "first_loss": losses[0], "last_loss": losses[-1]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--checkpointing" in sys.argv, "--bf16" in sys.argv)
