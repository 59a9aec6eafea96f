"""What a user of OpenAI's Python package does, against a running server: openai_client.py BASE_URL"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
model = client.models.list().data[0].id
ask = dict(model=model, messages=[{"role": "user", "content": "What is seventeen plus four?"}], max_tokens=24, seed=9)


def check(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")


plain = client.chat.completions.create(**ask)
check(plain.choices[0].message.role == "assistant", "role of a plain answer")
check(isinstance(plain.choices[0].message.content, str), "text of a plain answer")
check(plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens, "usage")

pieces, usage = [], None
for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    pieces += [choice.delta.content or "" for choice in chunk.choices]
check("".join(pieces) == plain.choices[0].message.content, "a stream gives the plain answer")
check(usage and usage.total_tokens == plain.usage.total_tokens, "usage of a stream")

four = client.chat.completions.create(**ask, n=4)
check([choice.index for choice in four.choices] == [0, 1, 2, 3], "n=4")

sure = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
tokens = sure.choices[0].logprobs.content
check(tokens and all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens), "logprobs")

best = client.chat.completions.create(**ask, extra_body={"alignment": {"n": 16, "return_candidates": True}})
report = best.model_extra["alignment"]
rewards = [candidate["reward"] for candidate in report["candidates"]]
check(len(rewards) == 16 and report["scoring"] == "ok", "best of 16")
check(best.choices[0].model_extra["reward"] == max(rewards), "the best of 16 came back")

waiting = client.chat.completions.create(**ask, stream=True, extra_body={"alignment": {"n": 16}})
text = "".join(choice.delta.content or "" for chunk in waiting for choice in chunk.choices)
check(text == best.choices[0].message.content, "a stream of best of 16 gives the same winner")

old = client.completions.create(model=model, prompt="The printer is", max_tokens=8, logprobs=2, echo=True, seed=1)
check(old.choices[0].text.startswith("The printer is"), "echo")
check(old.choices[0].logprobs.token_logprobs[0] is None, "the first echoed token has no logprob")

for wrong, kind in [
    (dict(ask, model="no-such-model"), openai.NotFoundError),
    (dict(ask, temperature=-1), openai.BadRequestError),
    (dict(ask, max_tokens=10_000_000), openai.BadRequestError),
]:
    try:
        client.chat.completions.create(**wrong)
    except kind as error:
        check(error.body["message"], f"an error body for {kind.__name__}")
    else:
        sys.exit(f"failed: no {kind.__name__}")

print(f"all checks passed with openai {openai.__version__}")
