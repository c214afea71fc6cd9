"""
Bodies of OpenAI's Responses, without stored state: each request has its whole conversation.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import check_characters, check_text
from galenic_server.engine.contract import Api
from galenic_server.schemas.json_schema import check_schemas
from galenic_server.schemas.openai import (
    DEFAULTS_OF_SAMPLING,
    Arguments,
    Count,
    Effort,
    Lenient,
    OpenAIBody,
    ToolName,
    check_arguments,
)
from galenic_server.schemas.tasks import Flag, at_most


class InputText(Lenient):
    type: Literal["input_text", "output_text"]
    text: str


class InputRefusal(Lenient):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Part = Annotated[InputText | InputRefusal, Discriminator("type")]
Parts = Annotated[list[Part], Field(fail_fast=True), at_most(1000)]


def text_of(content: str | list[InputText | InputRefusal]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


class InputMessage(Lenient):
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: str | Parts

    @property
    def words(self) -> str | list[InputText | InputRefusal]:
        return self.content

    def check(self, path: str) -> None:
        check_characters(f"{path}.content", text_of(self.content))

    def fields(self) -> dict[str, Any]:
        return {"type": self.type, "role": self.role, "content": text_of(self.content)}


class FunctionCall(Lenient):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(max_length=200)]
    name: ToolName
    arguments: Arguments = "{}"

    @property
    def words(self) -> str:
        return self.arguments

    def check(self, path: str) -> None:
        check_arguments(f"{path}.arguments", self.arguments)

    def fields(self) -> dict[str, Any]:
        return self.model_dump()


class FunctionOutput(Lenient):
    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(max_length=200)]
    output: str | Parts = ""

    @property
    def words(self) -> str | list[InputText | InputRefusal]:
        return self.output

    def check(self, path: str) -> None:
        check_characters(f"{path}.output", text_of(self.output))

    def fields(self) -> dict[str, Any]:
        return {"type": self.type, "call_id": self.call_id, "output": text_of(self.output)}


class ReasoningItem(Lenient):
    """An earlier answer's reasoning, which agents send back; it is not read."""

    type: Literal["reasoning"]


def _kind_of(item: Any) -> str:
    if isinstance(item, Lenient):
        return str(getattr(item, "type", ""))
    return str(item.get("type") or "message") if isinstance(item, dict) else ""


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_item",
        custom_error_message="is of an unknown type",
    ),
]


class TextFormat(Lenient):
    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] = "answer"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: Flag | None = None


class TextConfig(Lenient):
    format: TextFormat | None = None

    def check(self) -> None:
        if self.format is None:
            return
        if (self.format.type == "json_schema") != (self.format.schema_ is not None):
            raise BadInput("text.format.schema", f"does not go with type {self.format.type!r}")
        if self.format.schema_ is not None:
            check_schemas({"text.format.schema": self.format.schema_})


class FunctionTool(Lenient):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class NamedTool(Lenient):
    type: Literal["function"]
    name: ToolName


class Reasoning(Lenient):
    effort: Effort | None = None


class ResponsesBody(OpenAIBody):
    """A request of OpenAI's Responses. Nothing is stored, so it cannot refer to earlier ones."""

    api: ClassVar = Api.RESPONSES
    text_field: ClassVar = "input"

    input: str | Annotated[list[Item], Field(min_length=1), at_most(1000)]
    instructions: str | None = None
    max_output_tokens: Annotated[Count, Field(ge=1)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Flag | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = None

    def check(self) -> None:
        if isinstance(self.input, str):
            check_text("input", self.input)
        else:
            for i, item in self._items:
                item.check(f"input[{i}]")
            if not self._items:
                raise BadInput("input", "has nothing to answer")
        check_characters("instructions", self.instructions or "")
        if self.text:
            self.text.check()
        names = [tool.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.name not in names:
            raise BadInput("tool_choice.name", "is none of the tools")
        check_schemas(
            {
                f"tools[{i}].parameters": tool.parameters
                for i, tool in enumerate(self.tools or ())
                if tool.parameters is not None
            }
        )

    @property
    def num_characters(self) -> int:
        if isinstance(self.input, str):
            return len(self.input)
        return sum(len(text_of(item.words)) for _, item in self._items)

    @property
    def _items(self) -> list[tuple[int, InputMessage | FunctionCall | FunctionOutput]]:
        """The items that are not passed over, with their places."""
        items = () if isinstance(self.input, str) else self.input
        return [(i, item) for i, item in enumerate(items) if not isinstance(item, ReasoningItem)]

    def fields(self) -> dict[str, Any]:
        asked = DEFAULTS_OF_SAMPLING | {"store": False} | super().fields()
        if not isinstance(self.input, str):
            asked["input"] = [item.fields() for _, item in self._items]
        for tool in asked.get("tools", ()):
            tool["strict"] = True  # arguments keep their schema, whatever is asked
        return asked
