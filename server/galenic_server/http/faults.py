"""
The one place where errors become HTTP: a table, and the OpenAI error body for all of them.

No message holds what the caller sent: only field names, numbers and names of adapters.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match

from galenic_adapters import errors
from galenic_adapters.refs import NAME_RULE


class Unauthorized(Exception):
    """No key, or none that is known here."""


class Forbidden(Exception):
    """The key is good, and not for this."""


class TooLarge(Exception):
    """The request has more bytes than the server takes."""


class WrongMedia(Exception):
    """The body's content-type is not one that the route reads."""


class TooSlow(Exception):
    """The client took too long to send what it had announced."""


class ClientLeft(Exception):
    """Nobody is there to hear the answer."""


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    code: str
    headers: Mapping[str, str] | None = None

    @property
    def type(self) -> str:
        if self.status >= 500:
            return "server_error"
        named = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        return named.get(self.status, "invalid_request_error")


TABLE: dict[type[Exception], Kind] = {
    # As OpenAI: clients that see this trim the text, or ask a model of longer context.
    errors.TooLong: Kind(400, "context_length_exceeded"),
    errors.Unsupported: Kind(400, "unsupported_field"),
    errors.BadInput: Kind(422, "bad_input"),
    errors.BadFactor: Kind(422, "bad_factor"),
    errors.RejectedUpload: Kind(422, "rejected_upload"),
    errors.NotFound: Kind(404, "not_found"),
    # Not 409: OpenAI's clients retry that one by themselves.
    errors.Conflict: Kind(412, "conflict"),
    errors.Unconditional: Kind(428, "precondition_required"),
    errors.QuotaExceeded: Kind(507, "quota_exceeded", {"x-should-retry": "false"}),
    errors.WrongTask: Kind(422, "wrong_task"),
    errors.LimitReached: Kind(429, "rate_limit_exceeded"),
    errors.Quarantined: Kind(503, "quarantined", {"retry-after": "3600"}),
    errors.NotServed: Kind(501, "not_served", {"x-should-retry": "false"}),
    errors.Unavailable: Kind(503, "unavailable", {"retry-after": "5"}),
    Unauthorized: Kind(401, "invalid_api_key", {"www-authenticate": "Bearer"}),
    Forbidden: Kind(403, "forbidden"),
    TooLarge: Kind(413, "body_too_large", {"connection": "close"}),
    # 408 would be retried by OpenAI's clients, as slowly as before.
    TooSlow: Kind(400, "body_too_slow", {"connection": "close"}),
    WrongMedia: Kind(415, "wrong_media_type"),
    ClientLeft: Kind(499, "client_left"),
    ClientDisconnect: Kind(499, "client_left"),
}


class Problem(BaseModel):
    """param: the field at fault.   code: the kind of error, for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    error: Problem


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody}
    for status in sorted({kind.status for kind in TABLE.values()} - {499} | {405, 500})
}
"""What any route may answer besides its reply, for the OpenAPI document."""


def body(message: str, kind: Kind, param: str | None = None, **more: Any) -> dict[str, Any]:
    """OpenAI's error object."""
    error = {"message": message, "type": kind.type, "param": param, "code": kind.code}
    return {"error": error | more}


def body_of(error: Exception) -> dict[str, Any]:
    """The error object of one of the table's errors; anything else is our own mistake."""
    kind = _kind(error)
    if kind is None:
        return body("internal error; the log has it under this request's id", Kind(500, "internal"))
    more = {}
    if isinstance(error, errors.RejectedUpload):
        more = {"faults": [{"path": f.path, "problem": f.problem} for f in error.faults]}
    return body(_printable(str(error)), kind, getattr(error, "field", None), **more)


def reply(error: Exception) -> JSONResponse:
    """The whole answer to one of the table's errors; a 500 for anything else."""
    kind = _kind(error) or Kind(500, "internal")
    return JSONResponse(body_of(error), kind.status, dict(kind.headers or {}) | _headers(error))


def _headers(error: Exception) -> dict[str, str]:
    """What an error says itself: when to come again, or not to."""
    told = {}
    if isinstance(error, errors.LimitReached):
        told["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if not getattr(error, "should_retry", True):
        told["x-should-retry"] = "false"
    return told


def _kind(error: Exception) -> Kind | None:
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), None)


def _printable(text: str) -> str:
    # A lone surrogate in a field's name could not be sent back as UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def install(app: FastAPI) -> None:
    """Make *app* answer every error by the table."""
    for cls in TABLE:
        app.add_exception_handler(cls, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _known(request: Request, error: Exception) -> JSONResponse:
    return reply(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    names = _names_of(request.app)
    faults = [_fault(one, error.body, names) for one in error.errors()[:20]]
    message = "; ".join(f"{fault['path']}: {fault['problem']}" for fault in faults)
    param = faults[0]["path"] if faults else None
    return JSONResponse(body(message, Kind(422, "invalid_field"), param, faults=faults), 422)


def _fault(one: Mapping[str, Any], sent: Any, names: Set[str]) -> dict[str, str]:
    """Where and what, without the value: pydantic's own messages may quote it."""
    path = _path(_steps(one, sent), names)
    problem = PROBLEMS.get(one["type"]) or _limits(one) or "is not valid"
    return {"path": path, "problem": problem}


def _names_of(app: FastAPI) -> frozenset[str]:
    """Every name that the API itself has, collected once."""
    if not hasattr(app.state, "names"):
        app.state.names = frozenset(_names_in(app.openapi()))
    names: frozenset[str] = app.state.names
    return names


def _names_in(document: Any) -> Iterator[str]:
    if isinstance(document, Mapping):
        yield from document.get("properties", ())
        if "in" in document and "name" in document:  # a parameter
            yield document["name"]
        document = document.values()
    elif not isinstance(document, list):
        return
    for part in document:
        yield from _names_in(part)


PROBLEMS = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "unknown_item": "is no message, function_call, function_call_output or reasoning",
    "json_invalid": "is not JSON",
    "string_type": "is not a string",
    "string_unicode": "is not Unicode text (a lone surrogate?)",
    "finite_number": "is not a finite number",
    "int_type": "is not an integer",
    "int_parsing": "is not an integer",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "bool_type": "is not true or false",
    "bool_parsing": "is not true or false",
    "list_type": "is not a list",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "model_attributes_type": "is not an object (is the content-type application/json?)",
}

LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length", "expected", "pattern")


def _limits(one: Mapping[str, Any]) -> str | None:
    """What the schema, not the caller, says of the value."""
    context = one.get("ctx") or {}
    told = [f"{name.replace('_', ' ')} {context[name]}" for name in LIMITS if name in context]
    return f"must be: {', '.join(told)}" if told else None


def _steps(one: Mapping[str, Any], sent: Any) -> Iterator[str | int]:
    """Where it is in what was *sent*, without pydantic's names for the branches of a union."""
    source, *steps = one["loc"]
    if source != "body":
        yield from steps
        return
    for i, step in enumerate(steps):
        if _holds(sent, step):
            sent = sent[step]
            yield step
        elif one["type"] == "missing" and i == len(steps) - 1:
            yield step


def _holds(sent: Any, step: str | int) -> bool:
    if isinstance(sent, list):
        return isinstance(step, int) and step < len(sent)
    return isinstance(sent, dict) and step in sent


def _path(steps: Iterable[str | int], names: Set[str]) -> str:
    """A name that is none of ours was sent, and may be anything: it is not repeated."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if step in names else ".?"
    return path.lstrip(".") or "body"


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    known = {404: "no such route", 405: "no such method on this route", 400: "body is not JSON"}
    kind = Kind(error.status_code, "http_error")
    message = known.get(error.status_code, "refused")
    if error.status_code == 404 and b"%2f" in request.scope.get("raw_path", b"").lower():
        message += f"; a name in the path is made of {NAME_RULE}"
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    return JSONResponse(body(message, kind), error.status_code, headers)


def _allowed(request: Request) -> str:
    """Every method of the path: each is a route of its own, and only one of them was asked."""
    routes = [one for one in request.app.routes if one.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for one in routes for method in one.methods or ()}))
