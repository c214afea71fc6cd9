"""
The synchronous client.
"""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from galenic_client import calls
from galenic_client.administration import Administration
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


class Client(Administration):
    """
    Calls Galenic over HTTP. Calls raise the errors of `galenic_client.errors`.

    *retries* applies to repeatable calls, and to responses that say that nothing was done.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **http_options(url, api_key, timeout))
        self._retries = Retries(retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ner(
        self,
        documents: Sequence[str | TextDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[NerAnswer]:
        """Find the entities in each text."""
        return self._send(calls.ner(documents, adapter, max_tokens))

    def re(
        self,
        documents: Sequence[str | ReDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[ReAnswer]:
        """Label how head and tail relate; without them, list every relation in the text."""
        return self._send(calls.re(documents, adapter, max_tokens))

    def qa(
        self,
        documents: Sequence[QaDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[QaAnswer]:
        """Answer each question with the letter of an option if there are options, else briefly."""
        return self._send(calls.qa(documents, adapter, max_tokens))

    def nli(
        self,
        documents: Sequence[NliDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[NliAnswer]:
        """Label how each hypothesis relates to its premise."""
        return self._send(calls.nli(documents, adapter, max_tokens))

    def summarize(
        self,
        documents: Sequence[str | TextDocument],
        *,
        adapter: str | None = None,
        max_tokens: int | None = None,
    ) -> Reply[SummarizeAnswer]:
        """Summarize each text."""
        return self._send(calls.summarize(documents, adapter, max_tokens))

    def chat(self, model: str, messages: Sequence[Message], **options: Any) -> ChatReply:
        """Chat with *model*; *options* are the OpenAI API's (max_tokens, response_format ...)."""
        return self._send(calls.chat(model, messages, options))

    def stream(self, model: str, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """Yield the reply's text as it arrives. The request is never retried."""
        call = calls.chat(model, messages, options | {"stream": True})
        try:
            with self._http.stream(call.method, call.path, json=call.json) as response:
                if not response.is_success:
                    response.read()
                raise_for(response)
                for line in response.iter_lines():
                    if text := calls.text_of(line):
                        yield text
        except httpx.TransportError as error:
            raise unreachable(error, self._http.base_url) from error

    def models(self) -> Sequence[Model]:
        """List every model that this key may name."""
        return self._send(calls.models())

    def is_ready(self) -> bool:
        """Tell whether a request sent now would be answered."""
        try:
            self._once(calls.ready())
        except (Unreachable, ServerError):
            return False
        return True

    def _send(self, call: Call[T]) -> T:
        failed = 0
        while True:
            try:
                return self._once(call)
            except (ServerError, Unreachable) as error:
                pause = self._retries.pause_seconds(failed, call, error)
                if pause is None:
                    raise
            failed += 1
            time.sleep(pause)

    def _once(self, call: Call[T]) -> T:
        try:
            response = self._http.send(call.request(self._http))
        except httpx.TransportError as error:
            raise unreachable(error, self._http.base_url) from error
        raise_for(response)
        return call.read(response)
