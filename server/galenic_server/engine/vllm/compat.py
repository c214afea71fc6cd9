"""
Names that releases of vLLM, from 0.26 on, keep in different places.
"""

from collections.abc import AsyncGenerator

from vllm import exceptions

try:
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse
except ImportError:  # before 0.29
    from vllm.entrypoints.openai.engine.protocol import ErrorResponse
try:
    from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive
except ImportError:  # before 0.30 nothing is sent while a stream is idle

    def with_sse_keep_alive(generator: AsyncGenerator[str], interval: float) -> AsyncGenerator[str]:
        return generator


RequestRefused: type[Exception] = getattr(exceptions, "VLLMClientError", ValueError)
"""The error for faulty requests; 0.26 raises `ValueError` instead."""

__all__ = ["ErrorResponse", "RequestRefused", "with_sse_keep_alive"]
