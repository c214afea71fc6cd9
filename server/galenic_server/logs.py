"""
Logs one JSON line per event, with the request's id and never with text.
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
    # uvicorn's access log holds paths as they were sent; ours holds only the route's pattern.
    logging.getLogger("uvicorn.access").disabled = True


def adopt(out: TextIO = sys.stderr) -> None:
    """Write warnings of other libraries to *out* too, formatted by `Discreet`."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(Discreet())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class Discreet(logging.Formatter):
    """
    Formats other libraries' lines as ours, with only the numbers among a message's values.

    An exception is reduced to its type and place, as by `where`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {"event": _with_numbers(record), "logger": record.name}
        if record.exc_info and record.exc_info[1]:
            line |= where(record.exc_info[1])
        level, moment = record.levelname.lower(), self.formatTime(record)
        return json.dumps(line | {"level": level, "timestamp": moment})


def _with_numbers(record: logging.LogRecord) -> str:
    template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    values = record.args if isinstance(record.args, tuple) else ()
    try:
        return template % tuple(v if isinstance(v, int | float) else "…" for v in values)
    except (TypeError, ValueError):  # the template does not accept the placeholder
        return template


def tell_of_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Log background tasks that fail by type and place; asyncio would quote the error."""

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        facts = where(error) if isinstance(error, BaseException) else {}
        structlog.get_logger(__name__).error("task failed", **facts)

    loop.set_exception_handler(failed)


def where(error: BaseException) -> dict[str, Any]:
    """Return an error's type and place, without its message, which may hold what callers sent."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "at": places}
