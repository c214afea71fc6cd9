"""
Bodies of OpenAI's Responses, without stored state: each request has its whole conversation.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import check_text
from galenic_server.engine.contract import Api
from galenic_server.schemas.json_schema import check_schemas
from galenic_server.schemas.openai import (
    DEFAULTS_OF_SAMPLING,
    Count,
    Lenient,
    OpenAIBody,
    ToolName,
)
from galenic_server.schemas.tasks import Flag


class InputText(Lenient):
    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(Lenient):
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: str | Annotated[list[InputText], Field(min_length=1)]

    @property
    def text(self) -> str:
        content = self.content
        return content if isinstance(content, str) else "\n".join(part.text for part in content)


class FunctionCall(Lenient):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(max_length=200)]
    name: ToolName
    arguments: str


class FunctionOutput(Lenient):
    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(max_length=200)]
    output: str


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
    effort: Literal["minimal", "low", "medium", "high"] | None = None


class ResponsesBody(OpenAIBody):
    """A request of OpenAI's Responses. Nothing is stored, so it cannot refer to earlier ones."""

    api: ClassVar = Api.RESPONSES
    text_field: ClassVar = "input"

    input: (
        str
        | Annotated[
            list[InputMessage | FunctionCall | FunctionOutput], Field(min_length=1, max_length=1000)
        ]
    )
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
            for i, item in enumerate(self.input):
                if isinstance(item, InputMessage):
                    check_text(f"input[{i}].content", item.text)
        if self.instructions is not None:
            check_text("instructions", self.instructions)
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

    def fields(self) -> dict[str, Any]:
        asked = DEFAULTS_OF_SAMPLING | {"store": False} | super().fields()
        for tool in asked.get("tools", ()):
            tool["strict"] = True  # arguments keep their schema, whatever is asked
        return asked
