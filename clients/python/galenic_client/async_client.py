"""
The client for asyncio, with the methods of the synchronous one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from galenic_client import calls
from galenic_client.async_administration import AsyncAdministration
from galenic_client.calls import Call
from galenic_client.errors import ServerError, Unreachable, raise_for
from galenic_client.transport import Retries, http_options, unreachable
from galenic_client.types import (
    ChatReply,
    Message,
    Model,
    NerAnswer,
    NliAnswer,
    NliDocument,
    QaAnswer,
    QaDocument,
    ReAnswer,
    ReDocument,
    Reply,
    SummarizeAnswer,
    TextDocument,
)

T = TypeVar("T")


class AsyncClient(AsyncAdministration):
    """
    Calls Galenic over HTTP, for asyncio. Calls raise the errors of `galenic_client.errors`.

    *retries* applies to repeatable calls, and to responses that say that nothing was done.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **http_options(url, api_key, timeout))
        self._retries = Retries(retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def ner(
        self,
        documents: Sequence[str | TextDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[NerAnswer]:
        """Find the entities in each text."""
        return await self._send(calls.ner(documents, adapter, max_tokens))

    async def re(
        self,
        documents: Sequence[str | ReDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[ReAnswer]:
        """Label how head and tail relate; without them, list every relation in the text."""
        return await self._send(calls.re(documents, adapter, max_tokens))

    async def qa(
        self,
        documents: Sequence[QaDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[QaAnswer]:
        """Answer each question with the letter of an option if there are options, else briefly."""
        return await self._send(calls.qa(documents, adapter, max_tokens))

    async def nli(
        self,
        documents: Sequence[NliDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[NliAnswer]:
        """Label how each hypothesis relates to its premise."""
        return await self._send(calls.nli(documents, adapter, max_tokens))

    async def summarize(
        self,
        documents: Sequence[str | TextDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[SummarizeAnswer]:
        """Summarize each text."""
        return await self._send(calls.summarize(documents, adapter, max_tokens))

    async def chat(self, model: str, messages: Sequence[Message], **options: Any) -> ChatReply:
        """Chat with *model*; *options* are the OpenAI API's (max_tokens, response_format ...)."""
        return await self._send(calls.chat(model, messages, options))

    async def stream(
        self, model: str, messages: Sequence[Message], **options: Any
    ) -> AsyncIterator[str]:
        """Yield the reply's text as it arrives. The request is never retried."""
        call = calls.chat(model, messages, options | {"stream": True})
        try:
            async with self._http.stream(call.method, call.path, json=call.json) as response:
                if not response.is_success:
                    await response.aread()
                raise_for(response)
                async for line in response.aiter_lines():
                    if text := calls.text_of(line):
                        yield text
        except httpx.TransportError as error:
            raise unreachable(error, self._http.base_url) from error

    async def models(self) -> Sequence[Model]:
        """List every model that this key may name."""
        return await self._send(calls.models())

    async def is_ready(self) -> bool:
        """Tell whether a request sent now would be answered."""
        try:
            await self._once(calls.ready())
        except (Unreachable, ServerError):
            return False
        return True

    async def _send(self, call: Call[T]) -> T:
        failed = 0
        while True:
            try:
                return await self._once(call)
            except (ServerError, Unreachable) as error:
                pause = self._retries.pause_seconds(failed, call, error)
                if pause is None:
                    raise
            failed += 1
            await asyncio.sleep(pause)

    async def _once(self, call: Call[T]) -> T:
        try:
            response = await self._http.send(call.request(self._http))
        except httpx.TransportError as error:
            raise unreachable(error, self._http.base_url) from error
        raise_for(response)
        return call.read(response)
