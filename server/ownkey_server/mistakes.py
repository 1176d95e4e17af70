"""Mistakes in settings and tenants files, as one would tell them: pydantic finds them, and has a voice of its own."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ownkey_server.domain.patterns import WORDS

_KINDS = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "path": "a path",
    "datetime": "a time such as 2026-01-31T00:00:00Z",
}
_BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


class FromEnvironment(str):
    """The value of an environment variable: a text, whatever the setting's kind."""

    __slots__ = ()


def wrong_kinds(document: Mapping[str, Any], model: type[BaseModel]) -> list[tuple[list[str], str]]:
    """Where a number or a truth value is another kind of thing, and what is wrong there; not in the environment."""
    return list(_wrong_kinds(document, {model}, []))


def _wrong_kinds(
    table: Mapping[str, Any], models: set[type[BaseModel]], at: list[str]
) -> Iterator[tuple[list[str], str]]:
    models = {model for model in models if _is_of_kind(model, table.get("kind", ""))} or models
    for name, value in table.items():
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        below = {one for field in fields for one in _models(field.annotation)}
        if isinstance(value, dict):
            if _are_named(fields):
                for key, one in value.items():
                    yield from _wrong_kinds(one, below, [*at, name, key]) if isinstance(one, dict) else ()
            else:
                yield from _wrong_kinds(value, below, [*at, name])
        elif not isinstance(value, FromEnvironment):
            for field in fields[:1]:
                wanted = _wanted(value, {field.annotation, *get_args(field.annotation)})
                if wanted:
                    # A text is not repeated: it may be a secret, put into the wrong place.
                    shown = "" if isinstance(value, str) else f" (got {str(value).lower()})"
                    yield [*at, name], f"must be {wanted}{shown}"


def _wanted(value: object, kinds: set[Any]) -> str:
    """The kind of thing that a setting must be, if the value is another that pydantic would take for it."""
    if bool in kinds:
        return "" if isinstance(value, bool) else "true or false"
    return "a number" if kinds & {int, float} and isinstance(value, bool | str) else ""


def _are_named(fields: list[FieldInfo]) -> bool:
    """Whether a setting is of tables by names that the user gives."""
    return any(get_origin(field.annotation) is dict for field in fields)


def told(error: Mapping[str, Any], document: type[BaseModel]) -> str:  # noqa: C901, PLR0911 - a kind of mistake a line
    """What is wrong.

    Args:
        error: One of a ``ValidationError``'s.
        document: What the whole must be.
    """
    kind, context = str(error["type"]), error.get("ctx", {})
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return f"there is no such setting{_meant(str(error['loc'][-1]), known_names(document, error['loc']))}"
        case "union_tag_invalid":
            tags = _listed(context["expected_tags"])
            given = context["tag"]
            return f"kind must be one of {tags}{_meant(given, tags.split(', '))}"
        case "union_tag_not_found":
            return "kind is missing: it says what this is"
        case "literal_error" | "enum":
            return f"must be one of {_listed(context['expected'])}"
        case "finite_number":
            return "must be a finite number"
        case "string_pattern_mismatch":
            return WORDS.get(context["pattern"], f"does not match {context['pattern']}")
        case "string_too_short" | "string_too_long":
            return _length(kind, context)
        case "too_short" | "too_long":
            return _length(kind, context, "entries")
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context[name]:g}"
    family = kind.partition("_")[0]
    if family in _KINDS and kind.endswith(("_type", "_parsing", "_from_float", "_attributes_type")):
        return f"must be {_KINDS[family]}"
    return str(error["msg"]).removeprefix("Value error, ")


def known_names(document: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """What there may be beside what the last part of a location names."""
    candidates, named_next = {document}, False
    for part in location[:-1]:
        if named_next:  # by the user
            named_next = False
            continue
        fields = [model.model_fields[str(part)] for model in candidates if part in model.model_fields]
        if fields:
            candidates = {model for field in fields for model in _models(field.annotation)}
            named_next = _are_named(fields)
        else:  # the kind by which pydantic tells the tables of a union apart, or a number in a list
            candidates = {model for model in candidates if _is_of_kind(model, part)} or candidates
    return sorted({name for model in candidates for name in model.model_fields})


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models(part)}


def _is_of_kind(model: type[BaseModel], kind: int | str) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and kind in get_args(field.annotation)


def _meant(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _listed(expected: str) -> str:
    """``'a', 'b' or 'c'`` as ``a, b, c``."""
    return expected.replace(" or ", ", ").replace("'", "")


def _length(kind: str, context: Mapping[str, Any], what: str = "characters") -> str:
    if kind.endswith("short"):
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} {what}"
    return f"must have at most {context['max_length']} {what}"
