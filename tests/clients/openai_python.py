"""OpenAI's Python package: openai_python.py BASE_URL"""

import json
import sys

import openai
from checks import QUESTION, SCHEMA, TOOL, is_person, is_weather, run

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
ask = dict(model="policy", messages=QUESTION, max_tokens=200, seed=9)


def chat():
    answer = client.chat.completions.create(**ask)
    return isinstance(answer.choices[0].message.content, str) and answer.usage.total_tokens > 0


def stream():
    whole = client.chat.completions.create(**ask).choices[0].message.content
    chunks = client.chat.completions.create(**ask, stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole


def tools():
    forced = dict(ask, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    call = client.chat.completions.create(**forced).choices[0].message.tool_calls[0]
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**forced, stream=True):
        for choice in chunk.choices:
            for news in choice.delta.tool_calls or []:
                name += news.function.name or ""
                arguments += news.function.arguments or ""
    same = (name, arguments) == (call.function.name, call.function.arguments)
    turn = [*QUESTION, {"role": "assistant", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "sun"}]
    after = client.chat.completions.create(**dict(ask, messages=turn, tools=[TOOL], max_tokens=8))
    return same and is_weather(name, arguments) and after.choices[0].finish_reason in ("stop", "length")


def schema():
    answer = client.chat.completions.create(**ask, response_format=SCHEMA)
    return is_person(json.loads(answer.choices[0].message.content))


def logprobs():
    answer = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    return tokens and all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)


def responses():
    answer = client.responses.create(model="policy", input="Hi", max_output_tokens=24)
    kinds = [event.type for event in client.responses.create(model="policy", input="Hi", max_output_tokens=24, stream=True)]
    return isinstance(answer.output_text, str) and kinds[0] == "response.created" and kinds[-1] in (
        "response.completed", "response.incomplete")


run(openai.__version__, {"chat": chat, "stream": stream, "tools": tools, "JSON schema": schema, "logprobs": logprobs,
                         "responses": responses})
