"""
The process in which `trial.py` tries grammars: it forks for each, and reports how the child ended.

Run as ``python -m galenic_server.engine.vllm.trial_process``. A frame is four bytes of length and
that many bytes. The first holds the vocabulary, each later one ``{"kind", "text"}``; each is
answered by one byte. The process imports neither vLLM nor our code, so it is small, and has one
thread, so it may fork. The compiler's output is discarded, since it would quote the grammar.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import xgrammar
from numpy.typing import NDArray

CPU_SECONDS = 3
TOKENS_A_SECOND = 16_000  # a larger vocabulary is given more time: the compiler goes through it
WALL_SECONDS = 30
MORE_MEMORY_BYTES = 1 << 30
PARSE_CPU_SECONDS = 0.4  # vLLM parses once more, on the server's event loop
MASK_CPU_SECONDS = 0.2  # and masks at each token, where all other requests wait for it
NUM_STEPS = 16

TAKEN, REFUSED, TOO_MUCH, LATE = b"t", b"r", b"m", b"l"
EXITS = {0: TAKEN, 3: REFUSED, -signal.SIGALRM: LATE}  # any other: a limit, or a crash


def main() -> None:
    vocabulary = xgrammar.TokenizerInfo.deserialize_json(_frame().decode())
    _say(TAKEN)
    while frame := _frame():
        _say(_tried(vocabulary, json.loads(frame)))


def _frame() -> bytes:
    size = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(int.from_bytes(size, "big")) if size else b""


def _say(verdict: bytes) -> None:
    sys.stdout.buffer.write(verdict)
    sys.stdout.buffer.flush()


def _tried(vocabulary: xgrammar.TokenizerInfo, asked: dict[str, str]) -> bytes:
    if not (child := os.fork()):
        _bound(max(CPU_SECONDS, vocabulary.vocab_size // TOKENS_A_SECOND))
        try:
            os._exit(0 if _is_quick(vocabulary, **asked) else 4)
        except Exception:  # noqa: BLE001 whatever the compiler raises, it refused the grammar
            os._exit(3)
    _, status = os.waitpid(child, 0)
    return EXITS.get(os.waitstatus_to_exitcode(status), TOO_MUCH)


def _bound(cpu_seconds: int) -> None:
    """Limit this process's time and memory; it is killed beyond that."""
    signal.alarm(WALL_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    most = MORE_MEMORY_BYTES + _data_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _data_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


def _is_quick(vocabulary: xgrammar.TokenizerInfo, kind: str, text: str) -> bool:
    """Compile the grammar as the engine will, and generate a few random tokens under it."""
    began = time.process_time()
    _parse(kind, text)
    if time.process_time() - began > PARSE_CPU_SECONDS:
        return False
    compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1)
    compiled = _compile(compiler, kind, text)
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, vocabulary.vocab_size)
    drawn = random.Random(0)
    for _ in range(NUM_STEPS):
        began = time.process_time()
        matcher.fill_next_token_bitmask(mask)
        if time.process_time() - began > MASK_CPU_SECONDS:
            return False
        allowed = _tokens(mask.numpy(), vocabulary.vocab_size)
        if not len(allowed) or not matcher.accept_token(int(drawn.choice(allowed))):
            break
        if matcher.is_terminated():
            break
    return True


def _tokens(mask: NDArray[np.int32], vocab_size: int) -> NDArray[np.int64]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return np.flatnonzero(bits[:vocab_size])


def _parse(kind: str, text: str) -> None:
    if kind == "JSON":
        xgrammar.Grammar.from_json_schema(text)
    elif kind == "GRAMMAR":
        xgrammar.Grammar.from_ebnf(text)
    elif kind == "STRUCTURAL_TAG":
        xgrammar.Grammar.from_structural_tag(text)


def _compile(compiler: xgrammar.GrammarCompiler, kind: str, text: str) -> xgrammar.CompiledGrammar:
    compact: dict[str, Any] = {"any_whitespace": False, "separators": (",", ":")}
    if kind == "JSON":
        return compiler.compile_json_schema(text, **compact)
    if kind == "JSON_OBJECT":
        return compiler.compile_json_schema('{"type": "object"}', **compact)
    if kind == "GRAMMAR":
        return compiler.compile_grammar(text)
    if kind == "STRUCTURAL_TAG":
        return compiler.compile_structural_tag(text)
    raise ValueError(f"grammars of kind {kind} are not asked for")


if __name__ == "__main__":
    main()
