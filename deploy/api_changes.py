"""Finds changes of the OpenAPI document that break a client of an earlier one.

A client may send less than the service accepts, and must ignore members of answers that it does not
expect. So a request may be accepted more widely, and an answer may have more members; both break clients
the other way round. Descriptions, examples and errors are not compared: a client must expect any error
code.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

Json = Mapping[str, Any]

_UPPER_BOUNDS: Final = ("maxLength", "maxItems", "maximum", "maxProperties")
_LOWER_BOUNDS: Final = ("minLength", "minItems", "minimum")


def breaking(old: Json, new: Json) -> list[str]:
    """One text for each change that breaks a client of ``old``."""
    return list(_Comparison(old, new).operations())


class _Comparison:
    def __init__(self, old: Json, new: Json) -> None:
        self._old = old
        self._new = new

    def operations(self) -> Iterator[str]:
        for path, methods in self._old["paths"].items():
            for method, before in methods.items():
                where = f"{method.upper()} {path}"
                after = self._new["paths"].get(path, {}).get(method)
                if after is None:
                    yield f"{where}: removed"
                    continue
                yield from self._parameters(where, before, after)
                yield from self._bodies(where, before, after)
                yield from self._answers(where, before, after)
                for scheme in before.get("security", ()):
                    if scheme not in after.get("security", ()):
                        yield f"{where}: authentication by {' and '.join(scheme) or 'nobody'} removed"

    def _parameters(self, where: str, before: Json, after: Json) -> Iterator[str]:
        old = {(one["in"], one["name"]): one for one in before.get("parameters", ())}
        new = {(one["in"], one["name"]): one for one in after.get("parameters", ())}
        for key in old.keys() - new.keys():
            yield f"{where}: parameter {key[1]} removed"
        for key, parameter in new.items():
            if parameter.get("required") and not old.get(key, {}).get("required"):
                yield f"{where}: parameter {key[1]} is required now"
            if key in old:
                yield from self._request(
                    f"{where}: parameter {key[1]}", old[key]["schema"], parameter["schema"]
                )

    def _bodies(self, where: str, before: Json, after: Json) -> Iterator[str]:
        old = before.get("requestBody", {}).get("content", {})
        new = after.get("requestBody", {}).get("content", {})
        if new and not old:
            yield f"{where}: a body is required now"
        for media, content in old.items():
            if media not in new:
                yield f"{where}: {media} is not accepted any more"
            else:
                yield from self._request(f"{where}: body", content["schema"], new[media]["schema"])

    def _answers(self, where: str, before: Json, after: Json) -> Iterator[str]:
        for status, response in before["responses"].items():
            if status >= "400" or "$ref" in response:
                continue
            if status not in after["responses"]:
                yield f"{where}: {status} is not answered any more"
                continue
            now = after["responses"][status]
            for name in response.get("headers", {}).keys() - now.get("headers", {}).keys():
                yield f"{where}: header {name} of {status} removed"
            for media, content in response.get("content", {}).items():
                if media not in now.get("content", {}):
                    yield f"{where}: {status} is not {media} any more"
                else:
                    schema = now["content"][media]["schema"]
                    yield from self._answer(f"{where}: {status}", content["schema"], schema)

    def _request(self, where: str, old: Json, new: Json) -> Iterator[str]:
        """What a client may have sent and must not send any more."""
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if lost := _types(old) - _types(new):
            yield f"{where} must not be {' or '.join(sorted(lost))} any more"
        if "enum" in new and (lost_values := set(old.get("enum", ["(any)"])) - set(new["enum"])):
            yield f"{where} must not be {', '.join(sorted(lost_values))} any more"
        for bound in _UPPER_BOUNDS:
            if bound in new and new[bound] < old.get(bound, float("inf")):
                yield f"{where}: {bound} is {new[bound]} now"
        for bound in _LOWER_BOUNDS:
            if bound in new and new[bound] > old.get(bound, float("-inf")):
                yield f"{where}: {bound} is {new[bound]} now"
        if "pattern" in new and new["pattern"] != old.get("pattern"):
            yield f"{where}: pattern is {new['pattern']} now"
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{where}.{name} is required now"
        needed = [set(choice["required"]) for choice in new.get("anyOf", ()) if "required" in choice]
        for choice in old.get("anyOf", ()):
            if "required" in choice and not any(now <= set(choice["required"]) for now in needed or [set()]):
                yield f"{where}: {', '.join(choice['required'])} are not enough any more"
        for name, member in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where}.{name} removed"
            else:
                yield from self._request(f"{where}.{name}", member, new["properties"][name])
        if "items" in old and "items" in new:
            yield from self._request(f"{where}[]", old["items"], new["items"])

    def _answer(self, where: str, old: Json, new: Json) -> Iterator[str]:
        """What a client may rely on and does not get any more."""
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if gained := _types(new) - _types(old):
            yield f"{where} can be {' or '.join(sorted(gained))} now"
        for name in sorted(set(old.get("required", ())) - set(new.get("required", ()))):
            yield f"{where}.{name} can be absent now"
        for name, member in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where}.{name} removed"
            else:
                yield from self._answer(f"{where}.{name}", member, new["properties"][name])
        if "items" in old and "items" in new:
            yield from self._answer(f"{where}[]", old["items"], new["items"])


def _resolved(schema: Json | bool, document: Json) -> Json:
    """What a reference points at, which is a component; `true` is a schema that allows everything."""
    if isinstance(schema, bool):
        return {}
    found: Json = schema
    while "$ref" in found:
        _, _, kind, name = found["$ref"].split("/")
        found = document["components"][kind][name]
    return found


_ANY: Final = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})


def _types(schema: Json) -> frozenset[str]:
    """The types that a value may have; an integer is a number, too."""
    choices = [choice for choice in schema.get("anyOf", ()) if "type" in choice or "$ref" in choice]
    if choices:
        found = frozenset().union(
            *(_types(choice) if "type" in choice else frozenset({"object"}) for choice in choices)
        )
    else:
        kind = schema.get("type")
        found = _ANY if kind is None else frozenset([kind] if isinstance(kind, str) else kind)
    return found | {"integer"} if "number" in found else found
