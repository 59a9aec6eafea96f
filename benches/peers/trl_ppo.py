"""PPO of a LoRA adapter with TRL and PEFT on torch, the whole step: trl_ppo.py MODEL PROMPTS [--steps 2] [--bf16]. Prints one
JSON line. `train.py --method ppo` runs it, with prompts of `pairs.py`, beside ours.

TRL 1.12 is the last version with a `PPOTrainer`; `install.sh` puts it into the folder `trl-ppo` of the environment. Its critic
is a model of its own, trained whole; ours is a head on the policy's trunk.
"""

import json
import sys
import tempfile
import time

sys.path.insert(0, f"{sys.prefix}/trl-ppo")

import torch
from datasets import load_dataset
from peft import LoraConfig
from torch_peer import MODULES, peak_rss, step_arguments
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

TOKENS = 64


class Clock(TrainerCallback):
    """When steps ended."""

    def __init__(self):
        self.ended = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ended.append(time.perf_counter())


class ByLength(torch.nn.Module):
    """A reward model as TRL asks for one, that judges the length as ours does: its trunk hands on which tokens are there."""

    base_model_prefix = "trunk"

    class Trunk(torch.nn.Module):
        def forward(self, input_ids, attention_mask, **_):
            return type("Output", (), {"hidden_states": [attention_mask.float().unsqueeze(-1)]})

    def __init__(self):
        super().__init__()
        self.trunk = self.Trunk()

    def score(self, present):
        return 1.0 - (present.sum(1, keepdim=True).expand_as(present) - TOKENS).abs() / TOKENS


def main():
    args = step_arguments(__doc__, 2)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    # One that no text holds; TRL masks it before the model sees it.
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    policy = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    critic = AutoModelForSequenceClassification.from_pretrained(args.model, dtype=torch.float32, num_labels=1)
    data = load_dataset("json", data_files=args.prompts, split="train")
    prompts = data.map(lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns=data.column_names)
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        config = PPOConfig(
            output_dir=output, per_device_train_batch_size=64, num_mini_batches=1, num_ppo_epochs=4,
            local_rollout_forward_batch_size=64, total_episodes=64 * args.steps, response_length=TOKENS, temperature=1.0,
            num_sample_generations=0, save_strategy="no", report_to="none", seed=0, use_cpu=True, bf16=args.bf16,
            gradient_checkpointing=False, disable_tqdm=True, learning_rate=1e-4, lr_scheduler_type="constant",
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM")
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=ByLength(),
            value_model=critic, train_dataset=prompts, eval_dataset=prompts.select([]), peft_config=lora, callbacks=[clock],
        )  # fmt: skip
        trainer.train()
    # The first step warms up.
    seconds = (clock.ended[-1] - clock.ended[0]) / (args.steps - 1)
    num_tokens = sum(len(ids) + TOKENS for ids in prompts["input_ids"]) / len(prompts) * 64
    result = {"num_tokens": num_tokens, "seconds": seconds, "steps": 1, "tokens_per_s": num_tokens / seconds}
    print(json.dumps({**result, "peak_rss": peak_rss()}))


if __name__ == "__main__":
    main()
