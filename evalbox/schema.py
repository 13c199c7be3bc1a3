"""The JSON form of Plan and Output, as JSON Schema (draft 2020-12).

`plan_schema()` describes what `Plan.to_dict()` makes and `Plan.from_dict()`
takes, `output_schema()` the same for Output. A schema describes the form; rules
that relate two fields (a path that is a file and a directory) are checked by
`from_dict`. Properties, statuses and defaults come from the tables and values
themselves, so the two cannot disagree.

`python -m evalbox.schema DIRECTORY` writes both as files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from evalbox._values import MAX_INT, MAX_SECONDS
from evalbox.limits import Limits
from evalbox.output import LEVELS, OUTPUT_FIELDS, Status
from evalbox.plan import Plan
from evalbox.policy import ISOLATIONS, NETWORK_MODES, ON_DENIED, PROPERTIES, Policy
from evalbox.warm import Warm

Schema = dict[str, Any]

SCHEMA_VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_BOOLEAN: Schema = {"type": "boolean"}
_TEXT: Schema = {"type": "string", "pattern": "^[^\\u0000]*$"}
_ABSOLUTE: Schema = {"type": "string", "pattern": "^/[^\\u0000]*$"}
_RELATIVE: Schema = {
    "type": "string",
    "description": "relative to the workspace; no component is '..'",
    "pattern": "^(?!/)(?!(.*/)?\\.\\.(/|$))[^\\u0000]+$",
}
_BYTES: Schema = {"$ref": "#/$defs/bytes"}
_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": MAX_SECONDS}
_WHOLE: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_INT}


def _object(properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _with_defaults(properties: dict[str, Schema], defaults: dict[str, Any]) -> dict[str, Schema]:
    return {
        name: {**schema, "default": defaults[name]} if name in defaults else schema
        for name, schema in properties.items()
    }


def _definitions() -> dict[str, Schema]:
    return {
        "bytes": _object({"base64": {"type": "string", "contentEncoding": "base64"}}, ("base64",)),
        "argument": {"anyOf": [_TEXT, _BYTES]},
        "limits": _limits(),
    }


def _limits() -> Schema:
    kinds = {
        name: _nullable(_SECONDS if name.endswith("_time") else _WHOLE)
        for name in Limits().to_dict()
    }
    return _object(_with_defaults(kinds, Limits().to_dict()))


def _policy() -> Schema:
    names = _list({"type": "string"}, uniqueItems=True)
    properties: dict[str, Schema] = {
        "read": _list(_ABSOLUTE),
        "write": _list(_ABSOLUTE),
        "network": _object({"mode": {"enum": list(NETWORK_MODES)}}),
        "syscalls": _object({"allowed": names, "denied": names}),
        "isolation": {"enum": list(ISOLATIONS)},
        "require": _list({"enum": list(PROPERTIES)}, uniqueItems=True),
        "on_denied": {"enum": list(ON_DENIED)},
        "system": _BOOLEAN,
    }
    return _object(_with_defaults(properties, Policy().to_dict()))


def _stdin() -> Schema:
    return {"anyOf": [_BYTES, _object({"pipe": {"const": True}}, ("pipe",))]}


def _files() -> Schema:
    content = {
        "description": "a string is its own UTF-8 text",
        "anyOf": [{"type": "string"}, _BYTES],
    }
    file = _object({"content": content, "executable": {**_BOOLEAN, "default": False}}, ("content",))
    return {"type": "object", "propertyNames": _RELATIVE, "additionalProperties": file}


def _env() -> Schema:
    names = {"type": "string", "pattern": "^[^=\\u0000]+$"}
    return {"type": "object", "propertyNames": names, "additionalProperties": _TEXT}


def _warm() -> Schema:
    properties: dict[str, Schema] = {
        "preload": _list({"type": "string", "pattern": "^[^\\u0000]+$"}),
        "warmup": _TEXT,
        "env": _env(),
        "requests": {**_WHOLE, "minimum": 1},
    }
    return _object(_with_defaults(properties, Warm().to_dict()))


def plan_schema() -> Schema:
    """The JSON Schema of a Plan."""
    properties: dict[str, Schema] = {
        "cmd": _list({"$ref": "#/$defs/argument"}, minItems=1),
        "executable": _nullable({"$ref": "#/$defs/argument"}),
        "stdin": _stdin(),
        "env": _env(),
        "cwd": _RELATIVE,
        "files": _files(),
        "collect": _list(_RELATIVE),
        "limits": {"$ref": "#/$defs/limits"},
        "policy": {"$ref": "#/$defs/policy"},
        "stream": _BOOLEAN,
        "hold": _BOOLEAN,
        "warm": _nullable(_warm()),
    }
    defaults = Plan(["-"]).to_dict()
    for name in ("cmd", "limits", "policy"):  # needed, or described where they are defined
        del defaults[name]
    return {
        "$schema": DIALECT,
        "title": "evalbox Plan",
        **_object(_with_defaults(properties, defaults), ("cmd",)),
        "$defs": {**_definitions(), "policy": _policy()},
    }


def _usage() -> Schema:
    times = ("wall_time", "user_time", "system_time", "cpu_time")
    properties = {**dict.fromkeys(times, _SECONDS), "peak_memory": _WHOLE}
    not_always = {
        "processes": _nullable(_WHOLE),
        "steal_share": _nullable({**_SECONDS, "maximum": 1}),
        "throttled_time": _nullable(_SECONDS),
    }
    return _object({**properties, **not_always}, tuple(properties))


def _enforcement() -> Schema:
    return _object(
        {"level": {"enum": list(LEVELS)}, "mechanism": _TEXT, "reason": _TEXT},
        ("level", "mechanism"),
    )


def output_schema() -> Schema:
    """The JSON Schema of an Output."""
    enforcement = {"$ref": "#/$defs/enforcement"}
    properties: dict[str, Schema] = {
        "status": {"enum": [status.value for status in Status]},
        "exit_code": _nullable({"type": "integer"}),
        "signal": _nullable({"type": "integer"}),
        "stdout": _BYTES,
        "stderr": _BYTES,
        "truncated": _BOOLEAN,
        "usage": _usage(),
        "enforcement": _object(dict.fromkeys(PROPERTIES, enforcement), PROPERTIES),
        "files": {"type": "object", "propertyNames": _RELATIVE, "additionalProperties": _BYTES},
        "limits": {"$ref": "#/$defs/limits"},
        "denied": _nullable({"type": "string"}),
    }
    return {
        "$schema": DIALECT,
        "title": "evalbox Output",
        **_object(properties, OUTPUT_FIELDS[:-2]),
        "$defs": {**_definitions(), "enforcement": _enforcement()},
    }


# File name -> what stands in it.
SCHEMAS = {"plan.json": plan_schema, "output.json": output_schema}


def rendered(schema: Schema) -> str:
    """The text of the published file."""
    return json.dumps(schema, indent=2) + "\n"


def main(folder: str) -> None:
    for name, make in SCHEMAS.items():
        Path(folder, name).write_text(rendered(make()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
