"""What every Python client is asked to do, and how it says what came of it. Leaves the asking to each client's file."""

import json
import sys

QUESTION = [{"role": "user", "content": "What is seventeen plus four?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Of a city.", "parameters": WEATHER}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}


def is_person(value):
    return value.get("name") in ("Ada", "Bob") and 1 <= value.get("age", 0) <= 99 and len(value) == 2


def is_weather(name, arguments):
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return name == "get_weather" and arguments.get("city") in ("Rome", "Oslo")


def run(version, checks):
    """Prints `version: …`, then `NAME: ok` or `NAME: what went wrong` for each check."""
    print(f"version: {version}")
    failed = False
    for name, check in checks.items():
        try:
            outcome = "ok" if check() else "not what was asked for"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        failed |= outcome != "ok"
        print(f"{name}: {outcome}")
    sys.exit(failed)
