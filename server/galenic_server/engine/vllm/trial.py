"""
Tries each new grammar in another process, before the server or its engine compiles it.

The compiler's time and memory can grow without bound in ways that no rule foresees, and a grammar
can crash the process that parses it. In the trial, only a child with limits crashes.
"""

import asyncio
import hashlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

import xgrammar
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.request import get_structured_output_key

from galenic_adapters.errors import BadInput, Unavailable
from galenic_server.engine.vllm.trial_process import (
    LATE,
    REFUSED,
    TAKEN,
    TOO_MUCH,
    WALL_SECONDS,
)

START_SECONDS = 300
MAX_REMEMBERED = 4096
PROBLEMS = {
    REFUSED: "is not taken by the engine",
    TOO_MUCH: "takes the engine more time or memory than one request is given; make it simpler",
}


class Trials:
    """Remembers verdicts on grammars, and runs the process that tries new ones, tenants in turn."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self.verdicts: OrderedDict[bytes, bytes] = OrderedDict()
        self.turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._turn = asyncio.Lock()
        self.process: Process | None = None

    async def check(self, tenant: str, asked: StructuredOutputsParams | None) -> None:
        """Raise `BadInput` for a grammar that the engine refuses, or that is too much for it."""
        if asked is None:
            return
        kind, text = get_structured_output_key(asked)
        frame = json.dumps({"kind": kind.name, "text": text}).encode()
        digest = hashlib.sha256(frame).digest()
        verdict = self.verdicts.get(digest) or await self._verdict(tenant, digest, frame)
        if verdict != TAKEN:
            raise BadInput("constraint", PROBLEMS[verdict])

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def _verdict(self, tenant: str, digest: bytes, frame: bytes) -> bytes:
        """Try a grammar in the tenant's turn, which lasts until the end even if the caller left."""
        turn = self.turns.setdefault(tenant, asyncio.Lock())
        await turn.acquire()
        trial = asyncio.create_task(self._judge(digest, frame))
        trial.add_done_callback(lambda _: turn.release())
        return await asyncio.shield(trial)

    async def _judge(self, digest: bytes, frame: bytes) -> bytes:
        if digest not in self.verdicts:
            verdict = await self._tried(frame)
            if verdict == LATE:
                raise Unavailable("the server is too busy to try a new grammar")
            self.verdicts[digest] = verdict
            if len(self.verdicts) > MAX_REMEMBERED:
                self.verdicts.popitem(last=False)
        return self.verdicts[digest]

    async def _tried(self, frame: bytes) -> bytes:
        async with self._turn:
            for _ in range(2):
                process = await self._running()
                try:
                    return await _answer_to(process, frame, 2 * WALL_SECONDS)
                except TimeoutError:
                    await self.stop()
                    return LATE
                except (OSError, asyncio.IncompleteReadError):  # it died, and not of this grammar
                    await self.stop()
            raise Unavailable("no process to try grammars in")

    async def _running(self) -> Process:
        if self.process is None or self.process.returncode is not None:
            vocabulary = await asyncio.to_thread(self._vocabulary)
            arguments = ("-m", "galenic_server.engine.vllm.trial_process")
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
            )
            try:
                await _answer_to(self.process, vocabulary, START_SECONDS)
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                await self.stop()
                raise Unavailable("no process to try grammars in") from None
        return self.process

    def _vocabulary(self) -> bytes:
        vocabulary = xgrammar.TokenizerInfo.from_huggingface(
            self._tokenizer, vocab_size=self._vocab_size
        )
        return vocabulary.serialize_json().encode()


async def _answer_to(process: Process, frame: bytes, seconds: float) -> bytes:
    """Send *frame* to *process*, and return its answer of one byte."""
    assert process.stdin is not None and process.stdout is not None
    async with asyncio.timeout(seconds):
        process.stdin.write(len(frame).to_bytes(4, "big") + frame)
        await process.stdin.drain()
        return await process.stdout.readexactly(1)
