"""
What travels over the OpenAI chat API: the request's body, and the reply whole or in chunks.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from galenic_adapters.errors import BadInput, Unsupported
from galenic_adapters.tasks.base import JsonSchema, Message, check_text
from galenic_server.engine.base import Sampling
from galenic_server.schemas import Body

MAX_SCHEMA_BYTES = 64 << 10
DEFAULT_MAX_TOKENS = 1024

REFUSED = frozenset(
    [
        "add_generation_prompt",
        "add_special_tokens",
        "bad_words",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "echo",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "logits_processors",
        "mm_processor_kwargs",
        "priority",
        "prompt_embeds",
        "prompt_logprobs",
        "prompt_token_ids",
        "request_id",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "structured_outputs",
        "truncate_prompt_tokens",
        "vllm_xargs",
    ]
)
"""Fields of vLLM's that would reach past the adapter, the cache or the tenant."""

NOT_YET = frozenset(
    [
        "audio",
        "best_of",
        "function_call",
        "functions",
        "logit_bias",
        "min_p",
        "min_tokens",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "reasoning_effort",
        "repetition_penalty",
        "service_tier",
        "store",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "verbosity",
        "web_search_options",
    ]
)
"""Fields that other servers know and this one does not have."""


class TextPart(Body):
    type: Literal["text"]
    text: str


class Turn(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    def message(self, path: str) -> Message:
        content = self.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        if self.role != "assistant":
            check_text(f"{path}.content", text)
        elif "\0" in text:
            raise BadInput(f"{path}.content", "holds a NUL character")
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(Body):
    include_usage: bool = False


class SchemaFormat(Body):
    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    def constraint(self) -> JsonSchema | None:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise BadInput("response_format.json_schema", f"does not go with type {self.type!r}")
        if self.type == "text":
            return None
        schema = json.dumps(self.json_schema.schema_ if self.json_schema else {"type": "object"})
        if len(schema) > MAX_SCHEMA_BYTES:
            problem = f"is {len(schema):,} bytes of JSON; at most {MAX_SCHEMA_BYTES:,} are taken"
            raise BadInput("response_format.json_schema.schema", problem)
        return JsonSchema(schema)


StopString = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatBody(Body):
    """
    model: an adapter (``name``, ``name@version`` or an alias) or the backbone's own name.
    temperature: 0 unless given, so the same note gets the same answer.
    """

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, le=10**6, strict=True)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**6, strict=True)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    response_format: ResponseFormat | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    @model_validator(mode="before")
    @classmethod
    def refuse_by_name(cls, data: Any) -> Any:
        named = data.keys() if isinstance(data, dict) else ()
        for field in sorted(REFUSED.intersection(named)):
            raise Unsupported(field, "is not taken from a caller")
        for field in sorted(NOT_YET.intersection(named)):
            raise Unsupported(field, "is not supported")
        return data

    def turns(self) -> tuple[Message, ...]:
        return tuple(turn.message(f"messages[{i}]") for i, turn in enumerate(self.messages))

    def constraint(self) -> JsonSchema | None:
        return self.response_format.constraint() if self.response_format else None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, max_tokens: int) -> Sampling:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

    @property
    def wants_stream_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
