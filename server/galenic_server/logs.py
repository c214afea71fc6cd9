"""
One JSON line for each thing that happened, with the request's id and never a text.
"""

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


def where(error: BaseException) -> dict[str, Any]:
    """An unexpected error's type and place; its message may hold what the caller sent."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "at": places}
