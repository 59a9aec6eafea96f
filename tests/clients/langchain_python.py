"""LangChain's ChatOpenAI: langchain_python.py BASE_URL"""

import sys
from importlib.metadata import version

from checks import PERSON, QUESTION, TOOL, is_person, is_weather, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="policy", base_url=sys.argv[1], api_key="none", max_retries=0, max_tokens=200, seed=9)
question = [HumanMessage(QUESTION[0]["content"])]


def chat():
    answer = model.invoke(question)
    return isinstance(answer.content, str) and answer.usage_metadata["total_tokens"] > 0


def stream():
    return "".join(chunk.content for chunk in model.stream(question)) == model.invoke(question).content


def tools():
    bound = model.bind_tools([TOOL], tool_choice="required", parallel_tool_calls=False)
    answer = bound.invoke(question)
    call = answer.tool_calls[0]
    streamed = None
    for chunk in bound.stream(question):
        streamed = chunk if streamed is None else streamed + chunk
    after = model.bind_tools([TOOL]).invoke([*question, answer, ToolMessage("sun", tool_call_id=call["id"])], max_tokens=8)
    same = streamed.tool_calls[0]["args"] == call["args"]
    return same and is_weather(call["name"], call["args"]) and isinstance(after.content, str)


def schema():
    return is_person(model.with_structured_output({"title": "person", **PERSON}, method="json_schema").invoke(question))


def logprobs():
    answer = model.bind(logprobs=True, top_logprobs=3).invoke(question)
    tokens = answer.response_metadata["logprobs"]["content"]
    return tokens and all(len(token["top_logprobs"]) == 3 for token in tokens)


run(version("langchain-openai"), {"chat": chat, "stream": stream, "tools": tools, "JSON schema": schema, "logprobs": logprobs})
