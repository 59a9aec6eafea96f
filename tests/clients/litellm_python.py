"""LiteLLM: litellm_python.py BASE_URL; its newer versions need the package `mcp` for tools."""

import json
import os
import sys
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Otherwise it asks the network first.

import litellm
from checks import QUESTION, SCHEMA, TOOL, is_person, is_weather, run

ask = dict(model="openai/policy", api_base=sys.argv[1], api_key="none", messages=QUESTION, max_tokens=200, seed=9,
           num_retries=0)


def chat():
    answer = litellm.completion(**ask)
    return isinstance(answer.choices[0].message.content, str) and answer.usage.total_tokens > 0


def stream():
    whole = litellm.completion(**ask).choices[0].message.content
    chunks = litellm.completion(**ask, stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole


def tools():
    forced = dict(ask, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    call = litellm.completion(**forced).choices[0].message.tool_calls[0]
    chunks = list(litellm.completion(**forced, stream=True))
    rebuilt = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0]
    same = rebuilt.function.arguments == call.function.arguments
    return same and is_weather(call.function.name, call.function.arguments)


def schema():
    answer = litellm.completion(**ask, response_format=SCHEMA)
    return is_person(json.loads(answer.choices[0].message.content))


def logprobs():
    answer = litellm.completion(**ask, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    return tokens and all(len(token.top_logprobs) == 3 for token in tokens)


run(version("litellm"), {"chat": chat, "stream": stream, "tools": tools, "JSON schema": schema, "logprobs": logprobs})
