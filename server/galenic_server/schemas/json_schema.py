"""
Accepts the JSON schemas that the grammar compiler obeys, and compiles in little time.

The compiler (xgrammar) ignores keywords that it does not know, and those beside a keyword that it
takes alone. An answer could then violate an accepted schema, so they are refused by name and place.
Callers' names of properties are not repeated in errors: properties are numbered.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from galenic_adapters.errors import BadInput
from galenic_server.schemas.patterns import check_pattern

MAX_BYTES = 64 << 10
MAX_LEVELS = 128
MAX_OPTIONAL = 64
MAX_EXCLUSIVE = 64
MAX_HOPS = 32

SETTLING = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
"""Beside one of these keywords, the compiler ignores all others; the first one wins."""
BY_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"),
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
        "minProperties",
        "maxProperties",
    ),
    "boolean": (),
    "null": (),
}
BOUNDS = {"integer": BY_TYPE["number"], **BY_TYPE}
BINDING = frozenset(keyword for keywords in BY_TYPE.values() for keyword in keywords)
IGNORED = frozenset(
    [
        "$dynamicRef",
        "$recursiveRef",
        "contains",
        "contentSchema",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "disallow",
        "divisibleBy",
        "else",
        "extends",
        "if",
        "maxContains",
        "minContains",
        "multipleOf",
        "not",
        "then",
        "uniqueItems",
    ]
)
"""Keywords that constrain an answer, and that the compiler does not obey."""
FORMATS = frozenset(
    [
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "json-pointer",
        "relative-json-pointer",
        "time",
        "uri",
        "uri-reference",
        "uri-template",
        "uuid",
    ]
)
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MAX_COUNT = 100_000
MAX_WHOLE = 2**63 - 1

Schema = dict[str, Any]


def check_schemas(schemas: Mapping[str, Any]) -> None:
    """Raise `BadInput` if one of *schemas*, by path, is not accepted."""
    total = 0
    for path, schema in schemas.items():
        total += _check_size(path, schema)
        if total > 4 * MAX_BYTES:
            problem = f"is more than all schemas together may have, {4 * MAX_BYTES:,} bytes"
            raise BadInput(path, problem)
        check_schema(path, schema)


def check_schema(path: str, schema: Any) -> None:
    """Raise `BadInput`, with the keyword's path, for what the compiler would not obey."""
    _check_size(path, schema)
    pending, seen = [(path, schema)], set()
    while pending:
        where, inner = pending.pop()
        if id(inner) in seen or inner is True:
            continue
        seen.add(id(inner))
        if not isinstance(inner, dict):
            problem = "allows nothing at all" if inner is False else "is not a schema"
            raise BadInput(where, problem)
        _check_keywords(where, inner)
        if "$ref" in inner:
            pending.append((f"{where}.$ref", _target(f"{where}.$ref", inner, schema)))
        if "oneOf" in inner:
            _check_exclusive(f"{where}.oneOf", inner["oneOf"], schema)
        pending.extend(_inner(where, inner))


def _check_size(path: str, schema: Any) -> int:
    """Return the bytes of *schema* as JSON."""
    if _is_deeper(schema, MAX_LEVELS):
        raise BadInput(path, f"is nested more deeply than {MAX_LEVELS} levels of JSON")
    try:
        num_bytes = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:  # an UnicodeEncodeError is one
        raise BadInput(path, "holds NaN, infinity or a lone surrogate") from None
    if num_bytes > MAX_BYTES:
        problem = f"is {num_bytes:,} bytes of JSON; at most {MAX_BYTES:,} are taken"
        raise BadInput(path, problem)
    return num_bytes


def _is_deeper(value: Any, levels: int) -> bool:
    """Tell whether *value* has more levels; without recursion, since it is untrusted."""
    level = [value]
    while level and levels:
        level = [inner for outer in level for inner in _inside(outer)]
        levels -= 1
    return bool(level)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


# One schema


def _check_keywords(where: str, schema: Schema) -> None:
    for keyword in sorted(IGNORED & schema.keys()):
        if schema[keyword] is not False:  # `uniqueItems: false` asks for nothing
            raise BadInput(f"{where}.{keyword}", "is not obeyed by the engine, so it is not taken")
    types = _types(where, schema)
    if settling := next((keyword for keyword in SETTLING if keyword in schema), None):
        _check_alone(where, schema, settling, types)
        return
    if not types:
        types = _implied(where, schema)
    for type_ in types:
        _check_type(where, schema, type_)


def _types(where: str, schema: Schema) -> tuple[str, ...]:
    named = schema.get("type", [])
    types = tuple(named) if isinstance(named, list) else (named,)
    if not all(isinstance(kind, str) and kind in BOUNDS for kind in types):
        raise BadInput(f"{where}.type", f"is none of {', '.join(sorted(BOUNDS))}")
    if "type" in schema and not types:
        raise BadInput(f"{where}.type", "is empty")
    return types


def _check_alone(where: str, schema: Schema, settling: str, types: tuple[str, ...]) -> None:
    """Check the keyword *settling*, and that no keyword beside it constrains anything."""
    for keyword in schema:
        is_passed_over = keyword in BINDING or keyword in SETTLING
        if keyword != settling and is_passed_over:
            problem = f"stands beside {settling}, where the engine does not obey it"
            raise BadInput(f"{where}.{keyword}", problem)
    inner, path = schema[settling], f"{where}.{settling}"
    if settling in ("const", "enum"):
        values = [inner] if settling == "const" else inner
        if not isinstance(values, list) or not values:
            raise BadInput(path, "is not a list of values")
        if types and not all(any(_is_of(value, kind) for kind in types) for value in values):
            raise BadInput(path, f"holds a value that is not of the type {' or '.join(types)}")
    elif types:
        problem = f"stands beside {settling}, where the engine does not obey it"
        raise BadInput(f"{where}.type", problem)
    elif settling != "$ref" and (not isinstance(inner, list) or not inner):
        raise BadInput(path, "is not a list of schemas")
    elif settling == "allOf" and len(inner) > 1:
        raise BadInput(path, "of several schemas is not obeyed by the engine; merge them into one")


def _implied(where: str, schema: Schema) -> tuple[str, ...]:
    """Return the types that the compiler assumes for a schema without a type."""
    if {"properties", "additionalProperties", "unevaluatedProperties"} & schema.keys():
        return ("object",)
    if {"items", "prefixItems", "unevaluatedItems"} & schema.keys():
        return ("array",)
    for keyword in sorted(BINDING & schema.keys()):
        raise BadInput(
            f"{where}.{keyword}", "needs a type beside it, without which nothing obeys it"
        )
    return ()


def _check_type(where: str, schema: Schema, type_: str) -> None:
    for keyword in COUNTS:
        if keyword in schema and keyword in BOUNDS[type_]:
            _check_count(f"{where}.{keyword}", schema[keyword])
    if type_ in ("integer", "number"):
        _check_number(where, schema, is_whole=type_ == "integer")
    elif type_ == "string":
        _check_string(where, schema)
    elif type_ == "array":
        _check_array(where, schema)
    elif type_ == "object":
        _check_object(where, schema)


def _check_count(path: str, count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
        raise BadInput(path, f"is not an integer within 0 to {MAX_COUNT:,}")


def _check_number(where: str, schema: Schema, *, is_whole: bool) -> None:
    for keyword in BY_TYPE["number"]:
        if keyword not in schema:
            continue
        value = schema[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"{where}.{keyword}", "is not a number")
        if is_whole and value != int(value):
            raise BadInput(f"{where}.{keyword}", "is not whole, as the integers that it bounds")
        if abs(value) > MAX_WHOLE:
            raise BadInput(f"{where}.{keyword}", f"is not within {-MAX_WHOLE} to {MAX_WHOLE}")


def _check_string(where: str, schema: Schema) -> None:
    if "pattern" in schema:
        check_pattern(f"{where}.pattern", schema["pattern"])
    if "format" in schema and schema["format"] not in FORMATS:
        problem = f"is none that the engine obeys: {', '.join(sorted(FORMATS))}"
        raise BadInput(f"{where}.format", problem)
    present = [keyword for keyword in ("pattern", "format") if keyword in schema]
    for other in (*present[1:], "minLength", "maxLength"):
        if present and other in schema:
            raise BadInput(
                f"{where}.{other}", f"stands beside {present[0]}; the engine obeys only one"
            )


def _check_array(where: str, schema: Schema) -> None:
    if isinstance(schema.get("items"), list):
        raise BadInput(f"{where}.items", "is a list; since 2020 that is prefixItems")
    if not isinstance(schema.get("prefixItems", []), list):
        raise BadInput(f"{where}.prefixItems", "is not a list of schemas")


def _check_object(where: str, schema: Schema) -> None:
    for keyword in ("properties", "patternProperties"):
        if not isinstance(schema.get(keyword, {}), dict):
            raise BadInput(f"{where}.{keyword}", "is not an object of schemas")
    names = schema.get("properties", {})
    required = schema.get("required", [])
    if not isinstance(required, list):
        raise BadInput(f"{where}.required", "is not a list of names")
    for i, name in enumerate(required):
        if not isinstance(name, str) or name not in names:
            problem = "is not among the properties, so the engine would not ask for it"
            raise BadInput(f"{where}.required[{i}]", problem)
    num_optional = len(names.keys() - set(required))
    if num_optional > MAX_OPTIONAL:
        problem = f"has {num_optional:,} optional ones; at most {MAX_OPTIONAL} are taken"
        raise BadInput(f"{where}.properties", problem)
    _check_open_names(where, schema)


def _check_open_names(where: str, schema: Schema) -> None:
    """Check rules for names that the schema does not list; the compiler obeys only one rule."""
    patterns = schema.get("patternProperties", {})
    for i, pattern in enumerate(patterns):
        check_pattern(f"{where}.patternProperties[{i}]", pattern)
    if len(patterns) > 1:
        raise BadInput(f"{where}.patternProperties", "has several patterns; one is obeyed")
    rules = [keyword for keyword in ("patternProperties", "propertyNames") if keyword in schema]
    for other in (*rules[1:], "properties", "unevaluatedProperties"):
        if rules and other in schema:
            raise BadInput(
                f"{where}.{other}", f"stands beside {rules[0]}; the engine obeys only one"
            )
    is_open = rules or any(
        schema.get(keyword, False) is not False
        for keyword in ("additionalProperties", "unevaluatedProperties")
    )
    if is_open and schema.get("minProperties", 0) > 1:
        problem = "of names that are not listed is not obeyed: one said twice counts twice"
        raise BadInput(f"{where}.minProperties", problem)


def _inner(where: str, schema: Schema) -> Iterator[tuple[str, Any]]:
    """Yield the schemas inside of *schema*, each with its path."""
    for keyword in ("items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"):
        if schema.get(keyword, False) is not False:
            yield f"{where}.{keyword}", schema[keyword]
    if "propertyNames" in schema:
        yield f"{where}.propertyNames", _of_names(f"{where}.propertyNames", schema)
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for i, inner in enumerate(schema.get(keyword, ())):
            yield f"{where}.{keyword}[{i}]", inner
    for keyword in ("properties", "patternProperties", "$defs", "definitions"):
        inside = schema.get(keyword, {})
        if isinstance(inside, dict):
            for i, inner in enumerate(inside.values()):
                yield f"{where}.{keyword}[{i}]", inner


def _of_names(path: str, schema: Schema) -> Schema:
    """Return the schema of an object's names, typed as strings, since JSON has no other names."""
    names: object = schema["propertyNames"]
    values = _values(names) or ()
    if (
        not isinstance(names, dict)
        or names.get("type", "string") != "string"
        or {"$ref", "anyOf", "oneOf", "allOf"} & names.keys()
        or not all(value.startswith('"') for value in values)
    ):
        raise BadInput(path, "is not a plain schema of strings")
    return {"type": "string"} | names


# References


def _target(path: str, schema: Any, root: Any) -> Any:
    """Return the schema at the end of a chain of references."""
    for _ in range(MAX_HOPS):
        if not isinstance(schema, dict) or "$ref" not in schema:
            return schema
        schema = _followed(path, schema["$ref"], root)
    raise BadInput(path, "leads only to other references")


def _followed(path: str, reference: Any, root: Any) -> Any:
    if reference == "#":
        return root
    if not isinstance(reference, str) or not reference.startswith("#/") or "~" in reference:
        raise BadInput(path, "is no reference to a place in the same schema, as '#/$defs/name'")
    found = root
    for step in reference[2:].split("/"):
        if not isinstance(found, dict) or step not in found:
            raise BadInput(path, "leads to nothing in this schema")
        found = found[step]
    return found


# Schemas of which exactly one may fit


def _check_exclusive(path: str, options: list[Any], root: Any) -> None:
    if len(options) > MAX_EXCLUSIVE:
        raise BadInput(path, f"has {len(options):,} schemas; at most {MAX_EXCLUSIVE} are taken")
    whole = [_target(path, option, root) for option in options]
    if not all(_are_apart(one, other, root) for one, other in combinations(whole, 2)):
        problem = "has schemas that could fit at once, where the engine obeys only anyOf"
        raise BadInput(path, problem)


def _are_apart(one: Any, other: Any, root: Any) -> bool:
    """Tell whether no value can fit both, by types, listed values, or the tag in a property."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    kinds, others = _kinds(one), _kinds(other)
    if kinds and others and not kinds & others:
        return True
    values, other_values = _values(one), _values(other)
    if values is not None and other_values is not None:
        return not values & other_values
    return any(_have_other_tags(one, other, name, root) for name in _always(one) & _always(other))


def _have_other_tags(one: Schema, other: Schema, name: str, root: Any) -> bool:
    tags = (_target("$ref", schema["properties"][name], root) for schema in (one, other))
    values, other_values = map(_values, tags)
    return values is not None and other_values is not None and not values & other_values


def _kinds(schema: Schema) -> set[str]:
    """Return the types that a value of *schema* may have; empty if that is not evident."""
    if (values := _values(schema)) is not None:
        return {_kind(json.loads(value)) for value in values}
    if any(keyword in schema for keyword in SETTLING):
        return set()
    named = schema.get("type", [])
    types = named if isinstance(named, list) else [named]
    return {"number" if kind == "integer" else str(kind) for kind in types}


def _values(schema: Any) -> set[str] | None:
    """Return the only values of *schema* as JSON; None if they are not listed."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return {json.dumps(schema["const"], sort_keys=True)}
    values = schema.get("enum")
    return (
        {json.dumps(value, sort_keys=True) for value in values}
        if isinstance(values, list)
        else None
    )


def _always(schema: Schema) -> set[str]:
    """Return the properties that every object of *schema* has."""
    names, required = schema.get("properties"), schema.get("required")
    if schema.get("type") != "object" or not isinstance(names, dict):
        return set()
    return {name for name in required if name in names} if isinstance(required, list) else set()


def _is_of(value: Any, type_: str) -> bool:
    if type_ == "integer":
        return _kind(value) == "number" and value == int(value)
    return _kind(value) == type_


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    by_class = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return by_class[type(value)]
