"""
One JSON line for each thing that happened, with the request's id and never a text.
"""

import asyncio
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

import structlog


def configure(level: str, out: TextIO = sys.stderr) -> None:
    """Write our lines to *out*, those at *level* or above."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
    )
    # The access log would hold paths as they were sent; ours holds the route's pattern.
    logging.getLogger("uvicorn.access").disabled = True


def adopt(out: TextIO = sys.stderr) -> None:
    """Write warnings of every other library to *out* too, as `Discreet` has them."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(Discreet())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class Discreet(logging.Formatter):
    """
    Other libraries' lines in our form: what they say, and of its values the numbers only.

    An exception is told by type and place, as `where` does.
    """

    def format(self, record: logging.LogRecord) -> str:
        told = {"event": _with_numbers(record), "logger": record.name}
        if record.exc_info and record.exc_info[1]:
            told |= where(record.exc_info[1])
        level, moment = record.levelname.lower(), self.formatTime(record)
        return json.dumps(told | {"level": level, "timestamp": moment})


def _with_numbers(record: logging.LogRecord) -> str:
    template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    values = record.args if isinstance(record.args, tuple) else ()
    try:
        return template % tuple(v if isinstance(v, int | float) else "…" for v in values)
    except (TypeError, ValueError):  # a value that had to be of another kind
        return template


def tell_of_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """A task that fails unseen is told by type and place too; asyncio would quote its error."""

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        told = where(error) if isinstance(error, BaseException) else {}
        structlog.get_logger(__name__).error("task failed", **told)

    loop.set_exception_handler(failed)


def where(error: BaseException) -> dict[str, Any]:
    """An unexpected error's type and place; its message may hold what the caller sent."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "at": places}
