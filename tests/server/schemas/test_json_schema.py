"""JSON schemas of callers, before any compiler sees them."""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xgrammar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from galenic_adapters.errors import BadInput
from galenic_server.schemas.json_schema import check_schema, check_schemas

INTEGER, STRING = {"type": "integer"}, {"type": "string"}


def refusal_of(schema: Any) -> BadInput:
    with pytest.raises(BadInput) as refused:
        check_schema("schema", schema)
    return refused.value


def an_object(name: str, schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name], **more}


class TestASchema:
    @pytest.mark.parametrize(
        "schema",
        [
            {},
            True,
            an_object("a", {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}),
            {"type": ["string", "null"], "minLength": 2},
            {"type": "string", "enum": ["a", "b"], "title": "T", "default": "a"},
            {"type": ["string", "null"], "enum": ["a", None]},
            {"type": "array", "items": INTEGER, "minItems": 1, "uniqueItems": False},
            {"type": "array", "prefixItems": [INTEGER, STRING], "items": False},
            {"type": "number", "minimum": 0.5, "exclusiveMaximum": 7},
            {"type": "object", "additionalProperties": INTEGER, "minProperties": 1},
            {"type": "object", "propertyNames": {"pattern": "^[a-z]{1,9}$"}},
            {"type": "object", "patternProperties": {"^x[0-9]$": INTEGER}},
            {"type": "string", "format": "date"},
            {"$ref": "#/$defs/a", "description": "d", "$defs": {"a": INTEGER}},
            {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": INTEGER}},
            an_object("next", {"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
            {"oneOf": [STRING, INTEGER, {"type": "null"}]},
            {"oneOf": [{"const": 1}, {"enum": [2, 3]}]},
        ],
    )
    def test_of_ordinary_kind_is_taken(self, schema: Any):
        """
        Schemas that pydantic, zod and people write are taken.
        """
        check_schema("schema", schema)

    def test_of_tagged_cases_is_taken(self):
        """
        It is a discriminated union as pydantic writes it: the tags tell the cases apart.
        """
        cases = {
            name: an_object("kind", {"type": "string", "const": name}) for name in ("cat", "dog")
        }
        refs = [{"$ref": f"#/$defs/{name}"} for name in cases]
        check_schema("schema", {"oneOf": refs, "discriminator": {}, "$defs": cases})

    @pytest.mark.parametrize(
        ("keyword", "schema"),
        [
            ("not", {"type": "string", "not": {"const": "a"}}),
            ("uniqueItems", {"type": "array", "uniqueItems": True}),
            ("contains", {"type": "array", "contains": INTEGER}),
            ("minContains", {"type": "array", "minContains": 1}),
            ("if", {"type": "string", "if": {}, "then": {}}),
            ("dependentRequired", {"type": "object", "dependentRequired": {}}),
            ("dependentSchemas", {"type": "object", "dependentSchemas": {}}),
            ("multipleOf", {"type": "integer", "multipleOf": 3}),
            ("multipleOf", {"type": "number", "multipleOf": 0.5}),
            ("pattern", {"type": "string", "pattern": "^(?!20)[0-9]$"}),
            ("maxLength", {"type": "string", "pattern": "^a$", "maxLength": 1}),
            ("maxLength", {"type": "string", "format": "date", "maxLength": 1}),
            ("format", {"type": "string", "format": "date", "pattern": "a"}),
            ("format", {"type": "string", "format": "phone"}),
            ("minimum", {"$ref": "#/$defs/a", "minimum": 5, "$defs": {"a": INTEGER}}),
            ("minimum", {"anyOf": [INTEGER, STRING], "minimum": 5}),
            ("type", {"type": "string", "anyOf": [INTEGER, STRING]}),
            ("properties", {"properties": {}, "anyOf": [STRING]}),
            ("maximum", {"allOf": [INTEGER], "maximum": 6}),
            ("allOf", {"allOf": [STRING, {"minLength": 3}]}),
            ("enum", {"type": "string", "enum": ["a", 1]}),
            ("const", {"type": "integer", "const": "a"}),
            ("enum", {"const": 1, "enum": [1, 2]}),
            ("minLength", {"minLength": 4}),
            ("required", {"required": ["a"]}),
            ("required[0]", {"type": "object", "required": ["a"]}),
            ("required[1]", an_object("a", INTEGER) | {"required": ["a", "b"]}),
            ("properties", {"type": "object", "propertyNames": {}, "properties": {"a": {}}}),
            ("properties", {"type": "object", "patternProperties": {"a": {}}, "properties": {}}),
            ("patternProperties", {"type": "object", "patternProperties": {"a": {}, "b": {}}}),
            ("propertyNames", {"type": "object", "propertyNames": {"type": ["integer", "null"]}}),
            ("propertyNames", {"type": "object", "propertyNames": {"enum": ["a", 1]}}),
            ("propertyNames", {"type": "object", "propertyNames": {"anyOf": [STRING]}}),
            ("minProperties", {"type": "object", "additionalProperties": {}, "minProperties": 2}),
            ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            ("oneOf", {"oneOf": [{"const": 1}, {"type": "integer"}]}),
            ("oneOf", {"oneOf": [an_object("a", STRING), an_object("b", STRING)]}),
            ("items", {"type": "array", "items": [STRING]}),
            ("exclusiveMinimum", {"type": "number", "exclusiveMinimum": True}),
            ("minimum", {"type": "integer", "minimum": 1.5}),
            ("type", {"type": "nothing"}),
            ("type", {"type": []}),
        ],
    )
    def test_that_the_engine_would_not_obey_is_refused_by_keyword(
        self, keyword: str, schema: dict[str, Any]
    ):
        """
        Wherever it stands, and never dropped.
        """
        inside = {"type": "array", "items": an_object("Wilhelmina", schema)}
        if "$ref" not in schema:
            assert f"schema.items.properties[0].{keyword}" == refusal_of(inside).field
        assert f"schema.{keyword}" == refusal_of(schema).field
        assert "Wilhelmina" not in str(refusal_of(schema))

    @pytest.mark.parametrize(
        "schema", [3, None, [], "a", {"properties": []}, {"properties": {"a": 1}}, {"anyOf": {}}]
    )
    def test_that_is_none_is_refused(self, schema: Any):
        """
        It is refused before the compiler does so, which would quote it.
        """
        refusal_of(schema)

    @pytest.mark.parametrize(
        "reference",
        ["Wilhelmina", "http://x/y", "#a", "#/$defs/b", "#/$defs/a~1b", "#//a", "#/anyOf/0", 3],
    )
    def test_refers_to_places_in_itself_only(self, reference: Any):
        """
        The compiler would take anything for such a reference, and quote it in the log.
        """
        found = refusal_of({"anyOf": [{"$ref": reference}], "$defs": {"a": INTEGER}})

        assert "schema.anyOf[0].$ref" == found.field
        assert "Wilhelmina" not in str(found)

    def test_that_is_only_a_reference_to_itself_is_refused(self):
        """
        No token would be allowed by it.
        """
        assert "schema.$ref" == refusal_of({"$ref": "#"}).field

    def test_is_checked_where_only_a_reference_leads(self):
        """
        What no keyword holds may hold anything.
        """
        hidden = {"$ref": "#/x/y", "x": {"y": {"type": "string", "pattern": "a**"}}}

        assert "schema.$ref.pattern" == refusal_of(hidden).field

    def test_of_many_optional_properties_is_refused_with_both_numbers(self):
        """
        65 are too many, required ones are free.
        """
        names = [f"p{i}" for i in range(65)]
        schema = {"type": "object", "properties": dict.fromkeys(names, INTEGER)}

        assert "65 optional ones; at most 64" in refusal_of(schema).problem
        check_schema("schema", schema | {"required": names[:1]})

    @pytest.mark.parametrize("keyword", ["propertyNames", "patternProperties"])
    def test_is_checked_for_patterns_of_names_too(self, keyword: str):
        """
        The same compiler takes them.
        """
        pattern = "^(a|b){1,5000}$"
        inner = {"pattern": pattern} if keyword == "propertyNames" else {pattern: INTEGER}
        found = refusal_of({"type": "object", keyword: inner})

        assert found.field.startswith(f"schema.{keyword}")
        assert "more than 128" in found.problem

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud83d"])
    def test_of_what_is_no_json_is_refused(self, value: Any):
        """
        Python's reader takes NaN and half a character for JSON.
        """
        assert "schema" == refusal_of({"const": value}).field

    @pytest.mark.parametrize("levels", [64, 100_000])
    def test_that_is_deep_is_refused(self, levels: int):
        """
        The check does not recurse, which would end there too.
        """
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(levels):
            schema = {"type": "object", "properties": {"a": schema}}

        assert "more deeply than 128" in refusal_of(schema).problem

    def test_that_is_one_of_many_counts_with_them(self):
        """
        Each tool may be large, all together not.
        """
        large = {"type": "string", "description": "a" * 60_000}
        with pytest.raises(BadInput) as refused:
            check_schemas({f"tools[{i}]": large for i in range(5)})

        assert "tools[4]" == refused.value.field


TOKENS = [bytes([byte]) for byte in range(256)] + [b"<end>"]
END = 256
PLAIN = [*range(32, 127), END]
CLOSING = [END, *b'"]}']


def walks(schema: Any, num: int) -> Iterator[bytes]:
    """Some whole answers that the compiled *schema* lets through, drawn at random."""
    info = xgrammar.TokenizerInfo(TOKENS, vocab_size=len(TOKENS), stop_token_ids=[END])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    compiled = compiler.compile_json_schema(
        json.dumps(schema), any_whitespace=False, separators=(",", ":")
    )
    for seed in range(num):
        if (answer := _walk(compiled, random.Random(seed))) is not None:
            yield answer


def _walk(compiled: xgrammar.CompiledGrammar, drawn: random.Random) -> bytes | None:
    matcher, said = xgrammar.GrammarMatcher(compiled), bytearray()
    mask = xgrammar.allocate_token_bitmask(1, len(TOKENS))
    while len(said) < 300:
        matcher.fill_next_token_bitmask(mask)
        bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
        allowed = [token for token in PLAIN if bits[token]] or np.flatnonzero(bits).tolist()
        is_closing = len(said) > 60 or drawn.random() < 0.2
        closing = [token for token in CLOSING if token in allowed] if is_closing else []
        token = drawn.choice(closing or allowed)
        if token == END:
            return bytes(said)
        assert matcher.accept_token(token)
        said.append(token)
    return None


WORDS = st.sampled_from(["a", "b", "c"])
KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(
        ["string", "integer", "number", "boolean", "object", "array", ["integer", "null"]]
    ),
    **dict.fromkeys(
        ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"],
        st.integers(0, 4),
    ),
    **dict.fromkeys(
        ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], st.integers(-20, 20)
    ),
    "pattern": st.sampled_from(
        ["^[ab]{2}$", "a|b", r"^\w\d?$", "^(?!a)b$", "(a)\\1", "[^a]", r"^\S\s.$", '"', r"\\"]
    ),
    "format": st.sampled_from(["date", "phone", "ipv4"]),
    "required": st.lists(WORDS, unique=True, max_size=2),
    "uniqueItems": st.booleans(),
    "multipleOf": st.just(3),
    "const": st.sampled_from([1, "a", None]),
    "enum": st.lists(st.sampled_from([1, "a", None, 2.5]), min_size=1, max_size=3),
}
NESTED = {
    "properties": lambda inner: st.dictionaries(WORDS, inner, max_size=3),
    "patternProperties": lambda inner: st.dictionaries(st.just("^x[0-9]$"), inner, max_size=1),
    **dict.fromkeys(["items", "additionalProperties", "propertyNames", "not"], lambda inner: inner),
    **dict.fromkeys(
        ["anyOf", "oneOf", "allOf", "prefixItems"],
        lambda inner: st.lists(inner, min_size=1, max_size=2),
    ),
}


def _with(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A schema of a few keywords that suit or do not suit one another."""
    known = KEYWORDS | {name: make(inner) for name, make in NESTED.items()}
    names = st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)
    return names.flatmap(
        lambda chosen: (
            st.fixed_dictionaries({name: known[name] for name in ["type", *chosen]})
            | st.fixed_dictionaries({name: known[name] for name in chosen})
        )
    )


SCHEMAS = st.recursive(_with(st.just({"type": "integer"})), _with, max_leaves=6)


class TestAnySchema:
    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(SCHEMAS)
    def test_is_refused_or_obeyed(self, schema: Any):
        """
        What the compiler lets through of a schema that is taken is valid by another's reading.
        """
        try:
            check_schema("schema", schema)
            answers = list(walks(schema, num=4))
        except (BadInput, RuntimeError):  # the compiler's own refusal
            return
        valid = Draft202012Validator(schema)
        assert [] == [one for one in answers if not valid.is_valid(json.loads(one))]
