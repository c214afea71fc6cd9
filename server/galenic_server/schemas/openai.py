"""
Bodies of OpenAI's API: the fields that are accepted with their bounds, ignored, or refused.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, model_validator

from galenic_adapters.errors import BadInput, Unsupported
from galenic_adapters.tasks.base import check_characters, check_text
from galenic_server.engine.contract import Api
from galenic_server.schemas.json_schema import check_schemas
from galenic_server.schemas.tasks import Body, Flag, Real, at_most

MAX_ANSWERS = 16
MAX_TOKENS = 10**6
MAX_PROMPT_IDS = 1 << 17
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's and vLLM's

REFUSED = frozenset(
    [
        "add_generation_prompt",
        "add_special_tokens",
        "background",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "conversation",
        "documents",
        "ec_transfer_params",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "kv_transfer_params",
        "logits_processors",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "previous_input_messages",
        "previous_response_id",
        "priority",
        "prompt_embeds",
        "prompt_logprobs",
        "prompt_token_ids",
        "request_id",
        "return_prompt_text",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "session_id",
        "structured_outputs",
        "tenant",
        "truncate_prompt_tokens",
        "use_beam_search",
        "vllm_xargs",
        "watermarking",
    ]
)
"""Refused fields: vLLM's, and stored conversations. They could bypass adapter, cache or tenant."""

HARMLESS: dict[str, Any] = {
    "add_generation_prompt": True,
    "background": False,
    "chat_template_kwargs": {},
    "continue_final_message": False,
    "return_prompt_text": False,
    "return_token_ids": False,
    "return_tokens_as_token_ids": False,
    "use_beam_search": False,
}
"""Defaults of refused fields: clients that write all fields out may send them."""

OTHERS = frozenset(
    [
        "audio",
        "best_of",
        "function_call",
        "functions",
        "include",
        "instructions",
        "logprobs",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "max_tool_calls",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream_options",
        "suffix",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
        "verbosity",
        "web_search_options",
    ]
)
"""OpenAI's field names. A body may not have them all; ignored ones may be named in a reply."""

Count = Annotated[int, Field(ge=0, le=MAX_TOKENS, strict=True)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[Real, Field(ge=-2, le=2)]
Bias = Annotated[Real, Field(ge=-100, le=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, max_length=4096)]
Prompt = Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_PROMPT_IDS)]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _an_object(sent: Any) -> Any:
    """Read no text at all as a call without arguments."""
    return "{}" if isinstance(sent, str) and not sent.strip() else sent


Arguments = Annotated[str, BeforeValidator(_an_object)]
"""The arguments of a call, as the JSON of an object."""


def check_arguments(path: str, arguments: str) -> None:
    """Raise `BadInput` where *arguments* are no JSON object."""
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise BadInput(path, "is not a JSON object")


def without_nulls(sent: Any) -> Any:
    """Return *sent* without the fields that are null: each is then what it is by default."""
    if not isinstance(sent, dict):
        return sent
    return {name: value for name, value in sent.items() if value is not None}


class Lenient(Body):
    """Validates an inner object; its unknown fields are ignored, as by OpenAI's servers."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _take_nulls(cls, sent: Any) -> Any:
        return without_nulls(sent)


class TextPart(Lenient):
    type: Literal["text"]
    text: str


class RefusalPart(Lenient):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Part = Annotated[TextPart | RefusalPart, Discriminator("type")]
Parts = Annotated[list[Part], Field(fail_fast=True), at_most(1000)]


class CalledFunction(Lenient):
    name: ToolName
    arguments: Arguments = "{}"


class ToolCall(Lenient):
    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Lenient):
    """One message; also one that says nothing, as clients send them."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    refusal: str | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), at_most(128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None

    @property
    def text(self) -> str:
        content = self.content or self.refusal or ""
        return content if isinstance(content, str) else "\n".join(part.text for part in content)

    def check(self, path: str) -> None:
        """Raise `BadInput` if the turn's text is no Unicode text, or its tool calls are no JSON."""
        check_characters(f"{path}.content", self.text)
        for i, call in enumerate(self.tool_calls or ()):
            check_arguments(f"{path}.tool_calls[{i}].function.arguments", call.function.arguments)

    def fields(self) -> dict[str, Any]:
        """Return the turn for vLLM: its text in one piece, or its calls alone."""
        asked = self.model_dump(exclude_none=True, exclude={"content", "refusal"})
        return asked if self.tool_calls and not self.text else asked | {"content": self.text}


class StreamOptions(Lenient):
    include_usage: Flag = False


class SchemaFormat(Lenient):
    name: Annotated[str, Field(max_length=64)] = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: Flag | None = None


class ResponseFormat(Lenient):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    def check(self, path: str) -> None:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise BadInput(f"{path}.json_schema", f"does not go with type {self.type!r}")
        if self.json_schema:
            check_schemas({f"{path}.json_schema.schema": self.json_schema.schema_})


class Function(Lenient):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class Tool(Lenient):
    type: Literal["function"]
    function: Function


class NamedFunction(Lenient):
    name: ToolName


class ToolChoice(Lenient):
    type: Literal["function"] = "function"
    function: NamedFunction


class OpenAIBody(Body):
    """
    The fields of every kind of request.

    model: an adapter (``name``, ``name@version`` or an alias) or the backbone's own name.
    temperature: 0 unless given, so the same note gets the same answer.
    """

    model_config = ConfigDict(extra="allow")
    api: ClassVar[Api]
    text_field: ClassVar[str]

    model: Annotated[str, Field(min_length=1, max_length=200)]
    temperature: Annotated[Real, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Real, Field(gt=0, le=1)] | None = None
    stream: Flag | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: Annotated[dict[str, str], at_most(16)] | None = None

    @model_validator(mode="before")
    @classmethod
    def refuse_by_name(cls, sent: Any) -> Any:
        data = without_nulls(sent)
        named = data.keys() if isinstance(data, dict) else ()
        for field in sorted(REFUSED.intersection(named) - cls.model_fields.keys()):
            if field not in HARMLESS or data[field] != HARMLESS[field]:
                raise Unsupported(field, "is not taken from a caller")
        return data

    def check(self) -> None:
        """Raise `BadInput` for faults that involve several fields."""

    @property
    def num_characters(self) -> int:
        """Count the characters of the longest text."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Return the fields for vLLM; unset ones get our defaults, not the backbone's."""
        given = self.model_dump(
            exclude_none=True, by_alias=True, include=set(type(self).model_fields) - UNUSED
        )
        return DEFAULTS | given

    @property
    def ignored(self) -> str:
        """
        List ignored fields for a header: OpenAI's by name, and the number of others.

        Proxies log headers, and a name that a caller made up may be a patient's.
        """
        unknown = (self.model_extra or {}).keys() - HARMLESS
        names = sorted(OTHERS.intersection(unknown))
        others = len(unknown) - len(names)
        return ", ".join([*names, *([f"{others} more"] if others else [])])


UNUSED = frozenset(["model", "user", "metadata"])
DEFAULTS = {"temperature": 0.0, "top_p": 1.0}
DEFAULTS_OF_SAMPLING = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class SampledBody(OpenAIBody):
    """Adds the fields that control sampling: OpenAI's, then vLLM's."""

    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS, strict=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], at_most(1024)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    repetition_penalty: Annotated[Real, Field(gt=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS, strict=True)] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    min_tokens: Count | None = None
    stop_token_ids: TokenIds | None = None
    allowed_token_ids: Annotated[TokenIds, Field(min_length=1)] | None = None
    bad_words: Annotated[list[StopString], Field(max_length=256)] | None = None
    ignore_eos: Flag | None = None
    skip_special_tokens: Flag | None = None
    include_stop_str_in_output: Flag | None = None

    def check(self) -> None:
        if self.response_format:
            self.response_format.check("response_format")
        if (self.n or 1) > 1 and not self.temperature:
            raise BadInput("n", f"is {self.n} at temperature 0, where all answers are the same")
        most = self.max_wanted
        if self.min_tokens and most is not None and self.min_tokens > most:
            raise BadInput("min_tokens", f"is {self.min_tokens}, and at most {most} are wanted")
        for key, bias in (self.logit_bias or {}).items():
            if bias and not (key.isascii() and key.isdigit() and len(key) < 10):
                raise BadInput("logit_bias", "has a key that is no token id")

    @property
    def max_wanted(self) -> int | None:
        return self.max_tokens

    def fields(self) -> dict[str, Any]:
        asked = DEFAULTS_OF_SAMPLING | super().fields()
        if self.logit_bias:  # a bias of 0 changes nothing, so its key need not be valid
            asked["logit_bias"] = {key: bias for key, bias in self.logit_bias.items() if bias}
        if not self.stream:
            asked.pop("stream_options", None)
        return asked


class ChatBody(SampledBody):
    """A request of OpenAI's chat. top_logprobs: how many alternatives *logprobs* include."""

    api: ClassVar = Api.CHAT
    text_field: ClassVar = "messages"

    messages: Annotated[list[ChatMessage], Field(min_length=1), at_most(1000)]
    max_completion_tokens: Count | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: Flag | None = None

    def check(self) -> None:
        super().check()
        for i, turn in enumerate(self.messages):
            turn.check(f"messages[{i}]")
        if self.top_logprobs and not self.logprobs:
            raise BadInput("top_logprobs", "needs logprobs to be true")
        old = self.model_extra or {}
        if "functions" in old and old.get("function_call") != "none":
            raise Unsupported("functions", "is the old form of tools, which are taken")
        self._check_tools()

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if self.tool_choice not in (None, "none") and not names:
            raise BadInput("tool_choice", "needs tools")
        if isinstance(self.tool_choice, ToolChoice) and self.tool_choice.function.name not in names:
            raise BadInput("tool_choice.function.name", "is none of the tools")
        check_schemas(
            {
                f"tools[{i}].function.parameters": tool.function.parameters
                for i, tool in enumerate(self.tools or ())
                if tool.function.parameters is not None
            }
        )

    @property
    def max_wanted(self) -> int | None:
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    def fields(self) -> dict[str, Any]:
        asked = super().fields()
        asked.pop("max_completion_tokens", None)
        for tool in asked.get("tools", ()):
            tool["function"]["strict"] = True  # arguments keep their schema, whatever is asked
        if not self.tools:  # an empty list is as none at all, which vLLM does not know
            asked.pop("tools", None)
        asked["messages"] = [turn.fields() for turn in self.messages]
        if self.max_wanted is not None:
            asked["max_tokens"] = self.max_wanted
        return asked

    @property
    def num_characters(self) -> int:
        return sum(len(turn.text) for turn in self.messages)

    @property
    def spoken(self) -> list[ChatMessage]:
        """Return the messages without empty instructions, which many clients send."""
        return [turn for turn in self.messages if turn.text or turn.role == "user"]

    @property
    def is_plain(self) -> bool:
        """Tell whether it is a single user turn without tools or a response format."""
        form = self.response_format
        return (
            [turn.role for turn in self.spoken] == ["user"]
            and self.n in (None, 1)
            and not self.tools
            and (form is None or form.type == "text")
        )


class CompletionBody(SampledBody):
    """A request of OpenAI's completions, which continue *prompt* without a chat template."""

    api: ClassVar = Api.COMPLETIONS
    text_field: ClassVar = "prompt"

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=256)]
        | Annotated[Prompt, Field(min_length=1)]
        | Annotated[list[Prompt], Field(fail_fast=True, min_length=1, max_length=256)]
    )
    echo: Flag | None = None
    logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None

    def check(self) -> None:
        super().check()
        for i, text in enumerate(self._texts()):
            check_text(f"prompt[{i}]" if isinstance(self.prompt, list) else "prompt", text)

    @property
    def max_wanted(self) -> int:
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_characters(self) -> int:
        return max(map(len, self._texts()), default=0)

    def _texts(self) -> Iterator[str]:
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return (prompt for prompt in prompts if isinstance(prompt, str))
