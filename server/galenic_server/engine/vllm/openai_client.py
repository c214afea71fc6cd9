"""
Presents our engine to vLLM's OpenAI handlers: they pass a rendered text and a `Call`, and get
vLLM's outputs. The adapter's prompt is added on the way in and removed on the way out.
"""

import copy
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.v1.engine.async_llm import AsyncLLM

from galenic_adapters.errors import BadInput, GalenicError
from galenic_server.engine.checks import Bounds
from galenic_server.engine.contract import Call, Work
from galenic_server.engine.vllm.openai_renderer import PromptedRenderer
from galenic_server.engine.vllm.sampling import logprobs_of, structured

NO_BOUND = 2**31 - 1
DEFAULT_ANSWER_TOKENS = 1024

Run = Callable[..., AsyncGenerator[RequestOutput]]
"""The type of `VllmEngine.run`."""


class PromptingClient:
    """
    Implements the part of ``EngineClient`` that vLLM's handlers use.

    The handlers see an unbounded context: they do not know the adapter's share of it, so our engine
    checks every text itself.
    """

    def __init__(self, llm: AsyncLLM, run: Run, bounds: Bounds) -> None:
        self._llm = llm
        self._run = run
        self._bounds = bounds
        self.vllm_config = llm.vllm_config
        self.renderer = PromptedRenderer(
            llm.vllm_config, cached_tokenizer_from_config(llm.model_config)
        )
        self.input_processor = llm.input_processor
        self.model_config = copy.copy(llm.model_config)
        self.model_config.max_model_len = NO_BOUND

    @property
    def errored(self) -> bool:
        return self._llm.errored

    @property
    def dead_error(self) -> BaseException:
        return self._llm.dead_error

    def check_admission(self, n: int = 1) -> None:
        self._llm.check_admission(n)

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: Call,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> AsyncGenerator[RequestOutput]:
        call, ids = lora_request, prompt["prompt_token_ids"]
        call.num_prompt_tokens += len(ids)
        try:
            is_open = _is_open(sampling_params, len(ids))
            _fill_in(sampling_params, call, is_open=is_open)
            self._bounds.check_text(ids, call.text_field)
            if sampling_params.prompt_logprobs is not None:
                self._bounds.check_logprobs(len(ids), call.text_field)
            if not is_open:
                num_answer = sampling_params.max_tokens
                self._bounds.check_length(0, len(ids), num_answer, call.text_field)
            outputs = self._run(
                request_id,
                _work(call, ids, sampling_params),
                sampling_params,
                field=call.text_field,
                may_shorten=is_open,
                reasoning_ended=True if call.is_task else reasoning_ended,
                reasoning_parser_kwargs=reasoning_parser_kwargs,
            )
            async with aclosing(outputs):
                async for output in outputs:
                    _note(output, call)
                    yield output
        except GalenicError as failure:
            call.failure = _by_openais_name(failure, call)
            raise call.failure from None


def _is_open(params: SamplingParams, num_ids: int) -> bool:
    """Tell whether the caller left the length of the answer open."""
    return params.max_tokens is None or params.max_tokens >= NO_BOUND - num_ids


def _fill_in(params: SamplingParams, call: Call, *, is_open: bool) -> None:
    """Set what the caller left open, and what a task needs."""
    if is_open:
        params.max_tokens = DEFAULT_ANSWER_TOKENS
    if call.constraint is not None:
        params.structured_outputs = structured(call.constraint)
    if call.with_logprobs and params.logprobs is None:
        params.logprobs = 0


def _work(call: Call, ids: Sequence[int], params: SamplingParams) -> Work:
    num_answers = params.n or 1
    max_tokens = num_answers * (params.max_tokens or 0)
    return Work(call.tenant, call.adapter, ids, max_tokens, repr(params), num_answers)


def _by_openais_name(failure: GalenicError, call: Call) -> GalenicError:
    if not isinstance(failure, BadInput) or failure.field != "constraint":
        return failure
    if call.body.get("tools"):
        return BadInput("tools", failure.problem)
    is_responses = call.text_field == "input"
    return BadInput("text.format" if is_responses else "response_format", failure.problem)


def _note(output: RequestOutput, call: Call) -> None:
    """Record an output in *call*; of a silent call, the one generated token is hidden."""
    for answer in output.outputs:
        if call.is_silent:
            answer.text, answer.token_ids, answer.finish_reason = "", [], "length"
            answer.logprobs = [] if answer.logprobs is not None else None
        call.text += answer.text
        call.num_tokens += len(answer.token_ids)
        call.finish = answer.finish_reason or call.finish
        if call.with_logprobs:
            call.logprobs += logprobs_of(answer)
    call.num_cached_tokens = max(call.num_cached_tokens, output.num_cached_tokens or 0)
