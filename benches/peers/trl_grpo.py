"""GRPO of a LoRA adapter with TRL and PEFT on torch, the whole step: trl_grpo.py MODEL PROMPTS [--steps 3] [--bf16]. Prints
one JSON line. `train.py --method grpo` runs it, with prompts of `pairs.py`, beside ours.
"""

import json
import tempfile
import time

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from torch_peer import MODULES, peak_rss, step_arguments
from trl import GRPOConfig, GRPOTrainer


class Clock(TrainerCallback):
    """When steps began; sampling happens inside of a step."""

    def __init__(self):
        self.begun = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun.append(time.perf_counter())

    def on_step_end(self, args, state, control, **kwargs):
        self.end = time.perf_counter()


def length_reward(completion_ids, **_):
    return [1.0 - abs(len(ids) - 64) / 64 for ids in completion_ids]


def main():
    args = step_arguments(__doc__, 3)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = load_dataset("json", data_files=args.prompts, split="train").select_columns(["prompt"])
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output, per_device_train_batch_size=64, num_generations=8, max_completion_length=64,
            max_steps=args.steps, logging_steps=1, save_strategy="no", report_to="none", seed=0, use_cpu=True, bf16=args.bf16,
            gradient_checkpointing=False, disable_tqdm=True, learning_rate=1e-4, lr_scheduler_type="constant",
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM")
        trainer = GRPOTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora,
            reward_funcs=length_reward, callbacks=[clock],
        )  # fmt: skip
        trainer.train()
        logs = [row for row in trainer.state.log_history if "loss" in row]
    # The first step warms up.
    seconds = (clock.end - clock.begun[1]) / (args.steps - 1)
    tokens = [b["num_tokens"] - a["num_tokens"] for a, b in zip(logs, logs[1:])]
    mean_tokens = sum(tokens) / len(tokens)
    length = logs[-1]["completions/mean_length"]
    result = {"num_tokens": mean_tokens, "seconds": seconds, "steps": 1, "tokens_per_s": mean_tokens / seconds}
    print(json.dumps({**result, "mean_length": length, "peak_rss": peak_rss()}))


if __name__ == "__main__":
    main()
