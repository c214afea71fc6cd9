"""What OpenAI's clients send in the wild, and what a body costs that is made to cost much."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from galenic_adapters.errors import BadInput, Unsupported
from galenic_server.schemas.openai import ChatBody, CompletionBody
from galenic_server.schemas.responses import ResponsesBody
from galenic_server.schemas.tasks import Batch, Broken, NerDocument, QaDocument

HI = {"role": "user", "content": "Hi."}
CALL = {"id": "c1", "type": "function", "function": {"name": "dose", "arguments": ""}}


def chat(*messages: Any, **more: Any) -> ChatBody:
    body = ChatBody.model_validate({"model": "m", "messages": [*messages]} | more)
    body.check()
    return body


def responses(given: Any, **more: Any) -> ResponsesBody:
    body = ResponsesBody.model_validate({"model": "m", "input": given} | more)
    body.check()
    return body


class TestANull:
    @pytest.mark.parametrize(
        "field", ["previous_response_id", "conversation", "background", "priority", "chat_template"]
    )
    def test_is_the_default(self, field: str):
        """
        Null is the default of fields that are refused with a value, and is not listed as ignored.
        """
        for body in (chat(HI, **{field: None}), responses("Hi.", **{field: None})):
            assert "" == body.ignored
            assert field not in body.fields()

    def test_is_the_default_inside_too(self):
        """
        It is the default in options, tools, calls and formats.
        """
        call = CALL | {"type": None, "function": {"name": "dose", "arguments": None}}
        turn = {"role": "assistant", "content": None, "name": None, "tool_calls": [call]}
        form = {"type": "json_schema", "json_schema": {"name": None, "schema": {}, "strict": None}}
        body = chat(HI, turn, stream_options={"include_usage": None}, response_format=form)

        assert "{}" == body.fields()["messages"][1]["tool_calls"][0]["function"]["arguments"]

    @pytest.mark.parametrize(
        "more", [{"add_generation_prompt": True}, {"background": False}, {"use_beam_search": False}]
    )
    def test_may_be_the_default_itself(self, more: dict[str, Any]):
        """
        A client that writes all its fields out asks for nothing by that.
        """
        assert "" == chat(HI, **more).ignored

    def test_is_not_any_other_value(self):
        """
        What reaches past adapter or tenant stays refused.
        """
        for more in ({"add_generation_prompt": False}, {"background": True}, {"priority": 0}):
            with pytest.raises(Unsupported):
                chat(HI, **more)


class TestAMessage:
    @pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
    @pytest.mark.parametrize("content", ["", [], None])
    def test_may_be_empty(self, role: str, content: Any):
        """
        Every role may be empty: clients send empty instructions, and turns that only call a tool.
        """
        said = chat({"role": role, "content": content}, HI).fields()["messages"]

        assert [{"role": role, "content": ""}, HI] == said

    def test_that_calls_may_have_no_content_and_no_arguments(self):
        """
        Rig and others send a tool's loop back like that.
        """
        turn = {"role": "assistant", "content": [], "tool_calls": [CALL]}
        (_, said, _) = chat(HI, turn, {"role": "tool", "content": "5"}).fields()["messages"]

        assert "{}" == said["tool_calls"][0]["function"]["arguments"]
        assert "content" not in said

    def test_may_be_a_refusal(self):
        """
        A refusal, in its own field or as a part, is the assistant's text.
        """
        part = {"type": "refusal", "refusal": "No."}
        turns = [{"role": "assistant", "refusal": "No."}, {"role": "assistant", "content": [part]}]

        assert ["No.", "No."] == [one["content"] for one in chat(*turns).fields()["messages"]]

    def test_leaves_a_tasks_question_one_where_its_instructions_are_empty(self):
        """
        Many clients always send a system message.
        """
        assert chat({"role": "system", "content": ""}, HI).is_plain
        assert not chat({"role": "system", "content": "Be brief."}, HI).is_plain

    @pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
    @pytest.mark.parametrize("text", ["a\0", "\ud83d"])
    def test_that_is_no_text_is_refused(self, role: str, text: str):
        """
        It is refused for every role.
        """
        with pytest.raises(BadInput, match=r"messages\[0\]"):
            chat({"role": role, "content": text})


class TestAnItemOfResponses:
    def test_is_passed_over_where_it_is_reasoning(self):
        """
        Agents send back what the model thought; the rest keeps its order.
        """
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
        body = responses([HI, thought, {"role": "assistant", "content": "Hello"}])

        assert ["Hi.", "Hello"] == [item["content"] for item in body.fields()["input"]]
        with pytest.raises(BadInput, match="has nothing to answer"):
            responses([thought])

    def test_may_hold_lists_and_empty_things(self):
        """
        Outputs in parts, calls without arguments, refusals, empty instructions.
        """
        items = [
            {"role": "system", "content": ""},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""},
            {
                "type": "function_call_output",
                "call_id": "a",
                "output": [
                    {"type": "input_text", "text": "5"},
                    {"type": "input_text", "text": "mg"},
                ],
            },
        ]
        system, refusal, call, output = responses(items).fields()["input"]

        assert ("", "No.") == (system["content"], refusal["content"])
        assert ("{}", "5\nmg") == (call["arguments"], output["output"])

    def test_of_an_unknown_type_is_one_fault(self):
        """
        It is not one for each type that it is not.
        """
        with pytest.raises(ValidationError) as refused:
            responses([{"type": "item_reference", "id": "x"}])

        assert 1 == sum("unknown_item" == one["type"] for one in refused.value.errors())

    @pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
    def test_has_the_same_efforts_as_a_chat(self, effort: str):
        """
        The same word means the same on both routes.
        """
        assert effort == chat(HI, reasoning_effort=effort).fields()["reasoning_effort"]
        assert {"effort": effort} == responses("Hi.", reasoning={"effort": effort}).fields()[
            "reasoning"
        ]


MANY = 300_000


def num_faults(form: type[BaseModel], sent: Any) -> int:
    """Count the faults of a body, or those of its documents, which are told one by one."""
    try:
        read = form.model_validate(sent)
    except ValidationError as refused:
        return refused.error_count()
    documents = getattr(read, "documents", ())
    return sum(one.error.error_count() for one in documents if isinstance(one, Broken))


class TestABodyMadeToCost:
    @pytest.mark.parametrize(
        ("form", "field", "value"),
        [
            (Batch[NerDocument], "documents", [{}] * MANY),
            (Batch[NerDocument], "documents", [{str(i): 1 for i in range(MANY)}]),
            (Batch[NerDocument], "documents", [{}] * 4096),
            (Batch[QaDocument], "documents", [{"options": {str(i): 1 for i in range(MANY)}}]),
            (CompletionBody, "prompt", [-1] * MANY),
            (CompletionBody, "prompt", [[-1] * 9] * MANY),
            (CompletionBody, "logit_bias", {str(i): "a" for i in range(MANY)}),
            (ChatBody, "messages", [{"role": "user", "content": [{}] * 1000}] * 1000),
            (ChatBody, "messages", [{"role": "user", "tool_calls": [{}] * 1000}] * 1000),
            (ChatBody, "tools", [{}] * MANY),
            (ChatBody, "metadata", {str(i): 1 for i in range(MANY)}),
            (ResponsesBody, "input", [{"role": "user", "content": [{}] * 1000}] * 1000),
        ],
    )
    def test_has_few_faults(self, form: type[BaseModel], field: str, value: Any):
        """
        Each fault takes time and memory, though only twenty are told: none is made of each item.
        """
        assert 0 < num_faults(form, {field: value}) < 10_000
