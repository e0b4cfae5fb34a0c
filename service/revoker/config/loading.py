"""Reads a file, overlays the environment on it, and turns pydantic's errors into messages.

It knows no setting by name: it works on plain values and their pydantic model.
"""

import difflib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from revoker.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "REVOKER_"

Kind = TypeVar("Kind", bound=BaseModel)


def read(path: Path) -> dict[str, Any]:
    """The values in a file; raises ``ConfigError`` where it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            [f"{path}: can't be read ({error.strerror}); check --config or REVOKER_CONFIG"]
        ) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from None


def tables_of(values: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The tables of a section such as ``issuers``; an empty one for what is no table."""
    tables = values.get(section)
    return [table if isinstance(table, dict) else {} for table in tables] if isinstance(tables, list) else []


def list_of(value: Any) -> list[Any]:
    """A value that is a list; an empty one for what is none."""
    return value if isinstance(value, list) else []


def variables(environ: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Environment variables that are settings, with their paths, sorted so that list indices ascend.

    Only names with ``__`` count: Kubernetes itself injects ``REVOKER_PORT`` and the like.
    """
    named = []
    for name in environ:
        section, separator, rest = name.removeprefix(ENVIRONMENT_PREFIX).partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and section and separator:
            named.append((name, [section.lower(), *rest.lower().split("__")]))

    def order(item: tuple[str, list[str]]) -> list[tuple[bool, int, str]]:
        return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in item[1]]

    return sorted(named, key=order)


def overlay(values: dict[str, Any], environ: Mapping[str, str], model: type[BaseModel]) -> Iterator[str]:
    """Write the environment into ``values``; yields a message for each variable that does not fit."""
    for variable, path in variables(environ):
        problem = _place(values, path, _parsed(environ[variable], _kind(model, path)))
        if problem:
            yield f"{dotted(path)}: {problem} (environment variable {variable})"


def _place(values: dict[str, Any], path: list[str], value: Any) -> str | None:
    """Set one value, and return the problem if it does not fit; the model refuses unknown names later."""
    into: Any = values
    for depth, part in enumerate(path):
        last = depth + 1 == len(path)
        new: Any = value if last else [] if path[depth + 1].isdecimal() else {}
        match into:
            case dict():
                into[part] = value if last else into.get(part, new)
                into = into[part]
            case list() if part.isdecimal() and int(part) <= len(into):
                if int(part) == len(into):
                    into.append(new)
                elif last:
                    into[int(part)] = value
                into = into[int(part)]
            case list():
                return f"the next index of this list is {len(into)}"
            case _:
                return "is below a value that has no parts"
    return None


def _parsed(text: str, kind: Any) -> Any:
    """The text as a value of ``kind``; unchanged if it is not one, so that the model refuses it."""
    if kind is None or kind is str or get_origin(kind) is Literal:
        return text
    try:
        if get_origin(kind) is tuple or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return json.loads(text)
        return TypeAdapter(kind).validate_strings(text)
    except (ValueError, RecursionError):
        return text


def _kind(model: type[BaseModel], path: list[str]) -> Any:
    """The bare type of the setting at ``path``; None if there is no such setting."""
    kind: Any = model
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = _bare(field.annotation) if field else None
        elif get_origin(kind) is tuple and part.isdecimal():
            kind = _bare(get_args(kind)[0])
        else:
            return None
    return kind


def _bare(kind: Any) -> Any:
    """The type without constraints; of a union, the first."""
    if get_origin(kind) is Annotated or isinstance(kind, UnionType):
        return _bare(get_args(kind)[0])
    return kind


def dotted(path: list[str] | list[str | int]) -> str:
    """The path as it is written in documentation: ``issuers[0].jwks_uri``."""
    text = ""
    for part in path:
        index = isinstance(part, int) or part.isdecimal()
        text += f"[{part}]" if index else f".{part}" if text else str(part)
    return text


MESSAGES: Final[Mapping[str, Callable[[dict[str, Any]], str]]] = {
    "missing": lambda _: "is required",
    "string_type": lambda _: "must be a string",
    "bool_type": lambda _: "must be true or false",
    "int_type": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "tuple_type": lambda _: "must be a list",
    "model_type": lambda _: "must be a table of settings",
    "string_too_short": lambda _: "must not be empty",
    "string_too_long": lambda at: f"must have at most {at['max_length']} characters",
    "too_long": lambda at: f"may have at most {at['max_length']} entries",
    "literal_error": lambda at: f"must be one of {at['expected']}",
    "greater_than": lambda at: f"must be greater than {at['gt']}",
    "greater_than_equal": lambda at: f"must be at least {at['ge']}",
    "less_than_equal": lambda at: f"must be at most {at['le']}",
    "finite_number": lambda _: "must be a finite number",
    "setting": lambda at: str(at["problem"]),
}


def validated(values: dict[str, Any], problems: list[str], model: type[Kind]) -> Kind:
    """The settings of these values; raises ``ConfigError`` with their problems after ``problems``."""
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        problems += [
            message_of(details, model) for details in error.errors(include_url=False, include_input=False)
        ]
    else:
        if not problems:
            return settings
    raise ConfigError(list(dict.fromkeys(problems)))


def message_of(details: ErrorDetails, model: type[BaseModel]) -> str:
    """The message for an error that pydantic found; without the value."""
    path, context = list(details["loc"]), details.get("ctx", {})
    if neighbour := context.get("at"):
        path[-1] = neighbour
    if details["type"] == "extra_forbidden":
        return f"{dotted(path)}: is not a setting{_suggestion(path, model)}; remove or correct it"
    message = MESSAGES.get(details["type"])
    return f"{dotted(path)}: {message(context) if message else details['msg'].lower()}"


def _suggestion(path: list[str | int], model: type[BaseModel]) -> str:
    table = _kind(model, [str(part) for part in path[:-1]])
    fields = table.model_fields if isinstance(table, type) and issubclass(table, BaseModel) else ()
    close = difflib.get_close_matches(str(path[-1]), fields, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
