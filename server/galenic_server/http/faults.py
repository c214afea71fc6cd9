"""
Translates errors to HTTP by one table, with OpenAI's error body for all of them.

No message holds what the caller sent: only field names, numbers and names of adapters.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
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

MOST_FAULTS = 20
"""Faults of one request that are described."""


class Unauthorized(Exception):
    """Says that there is no key, or an unknown one."""


class Forbidden(Exception):
    """Says that the key is valid, but not allowed to do this."""


class TooLarge(Exception):
    """Says that the request has more bytes than the server accepts."""


class WrongMedia(Exception):
    """Says that the route does not read the body's content-type."""


class TooSlow(Exception):
    """Says that the client sent its body too slowly."""


class ClientLeft(Exception):
    """Says that the client disconnected before its answer."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
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


TABLE: dict[type[Exception], ErrorKind] = {
    # As OpenAI: clients that see this trim the text, or ask a model of longer context.
    errors.TooLong: ErrorKind(400, "context_length_exceeded"),
    errors.Unsupported: ErrorKind(400, "unsupported_field"),
    errors.BadInput: ErrorKind(422, "bad_input"),
    errors.BadFactor: ErrorKind(422, "bad_factor"),
    errors.RejectedUpload: ErrorKind(422, "rejected_upload"),
    errors.NotFound: ErrorKind(404, "not_found"),
    # Not 409: OpenAI's clients retry that one by themselves.
    errors.Conflict: ErrorKind(412, "conflict"),
    errors.Unconditional: ErrorKind(428, "precondition_required"),
    errors.QuotaExceeded: ErrorKind(507, "quota_exceeded", {"x-should-retry": "false"}),
    errors.WrongTask: ErrorKind(422, "wrong_task"),
    errors.LimitReached: ErrorKind(429, "rate_limit_exceeded"),
    errors.Quarantined: ErrorKind(503, "quarantined", {"retry-after": "3600"}),
    errors.NotServed: ErrorKind(501, "not_served", {"x-should-retry": "false"}),
    errors.TimedOut: ErrorKind(503, "timed_out", {"retry-after": "30"}),
    errors.Unavailable: ErrorKind(503, "unavailable", {"retry-after": "5"}),
    Unauthorized: ErrorKind(401, "invalid_api_key", {"www-authenticate": "Bearer"}),
    Forbidden: ErrorKind(403, "forbidden"),
    TooLarge: ErrorKind(413, "body_too_large", {"connection": "close"}),
    # 408 would be retried by OpenAI's clients, as slowly as before.
    TooSlow: ErrorKind(400, "body_too_slow", {"connection": "close"}),
    WrongMedia: ErrorKind(415, "wrong_media_type"),
    ClientLeft: ErrorKind(499, "client_left"),
    ClientDisconnect: ErrorKind(499, "client_left"),
}


class Problem(BaseModel):
    """Describes an error. param: the field at fault.   code: the kind of error, for programs."""

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
"""The error responses of every route, for the OpenAPI document."""


def body(message: str, kind: ErrorKind, param: str | None = None, **more: Any) -> dict[str, Any]:
    """Make OpenAI's error object."""
    error = {"message": message, "type": kind.type, "param": param, "code": kind.code}
    return {"error": error | more}


def body_of(error: Exception) -> dict[str, Any]:
    """Make the error object of an error in the table; any other is an internal error."""
    kind = _kind(error)
    if kind is None:
        return body(
            "internal error; the log has it under this request's id", ErrorKind(500, "internal")
        )
    more = {}
    if isinstance(error, errors.RejectedUpload):
        more = {"faults": [{"path": f.path, "problem": f.problem} for f in error.faults]}
    return body(_printable(str(error)), kind, getattr(error, "field", None), **more)


def reply(error: Exception) -> JSONResponse:
    """Make the response to an error in the table; a 500 for any other."""
    kind = _kind(error) or ErrorKind(500, "internal")
    return JSONResponse(body_of(error), kind.status, dict(kind.headers or {}) | _headers(error))


def _headers(error: Exception) -> dict[str, str]:
    """Return the headers that say when, or whether, to retry."""
    headers = {}
    if isinstance(error, errors.LimitReached):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if not getattr(error, "should_retry", True):
        headers["x-should-retry"] = "false"
    return headers


def _kind(error: Exception) -> ErrorKind | None:
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), None)


def _printable(text: str) -> str:
    # A field's name may hold a lone surrogate, which UTF-8 cannot encode.
    return text.encode("utf-8", "backslashreplace").decode()


def install(app: FastAPI) -> None:
    """Let *app* answer every error by the table."""
    for cls in TABLE:
        app.add_exception_handler(cls, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _known(request: Request, error: Exception) -> JSONResponse:
    return reply(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse(_invalid_body(request, error), 422)


def _invalid_body(request: Request, error: RequestValidationError) -> dict[str, Any]:
    names = _names_of(request.app)
    faults = [_fault(problem, error.body, names) for problem in error.errors()[:MOST_FAULTS]]
    message = "; ".join(f"{fault['path']}: {fault['problem']}" for fault in faults)
    param = faults[0]["path"] if faults else None
    return body(message, ErrorKind(422, "invalid_field"), param, faults=faults)


def invalid(path: Sequence[str | int], sent: Any, faults: Sequence[Any]) -> RequestValidationError:
    """Make the error for *faults* that pydantic found in what was *sent* at *path*."""
    for step in reversed(path[1:]):
        sent = {step: sent}
    return RequestValidationError(
        [fault | {"loc": (*path, *fault["loc"])} for fault in faults], body=sent
    )


def joined(errors: Sequence[Exception]) -> Exception:
    """Return one error for a request of which every document failed: the first, or all of it."""
    found = [error for error in errors if isinstance(error, RequestValidationError)]
    if len(found) < len(errors) or len(found) == 1:
        return errors[0]
    documents = {i: sent for error in found for i, sent in error.body["documents"].items()}
    faults = [fault for error in found for fault in error.errors()]
    return RequestValidationError(faults[:MOST_FAULTS], body={"documents": documents})


def problem(request: Request, error: Exception) -> dict[str, Any]:
    """Describe the error of one document, as that of a whole request is described."""
    if isinstance(error, RequestValidationError):
        found = _invalid_body(request, error)
    else:
        found = body_of(error)
    return {name: found["error"][name] for name in ("message", "code", "param")}


def _fault(error: Mapping[str, Any], sent: Any, names: Set[str]) -> dict[str, str]:
    """Describe a pydantic error without the value, which pydantic's own messages may quote."""
    path = _path(_steps(error, sent), names)
    problem = PROBLEMS.get(error["type"]) or _limits(error) or "is not valid"
    return {"path": path, "problem": problem}


def _names_of(app: FastAPI) -> frozenset[str]:
    """Return every name in the API's schema, collected once."""
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
    "union_tag_not_found": "has no type",
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

LIMITS = (
    *("ge", "gt", "le", "lt", "min_length", "max_length"),
    *("expected", "expected_tags", "pattern"),
)


def _limits(error: Mapping[str, Any]) -> str | None:
    """Describe the schema's limits on the value; nothing here comes from the caller."""
    context = error.get("ctx") or {}
    limits = [f"{name.replace('_', ' ')} {context[name]}" for name in LIMITS if name in context]
    return f"must be: {', '.join(limits)}" if limits else None


def _steps(error: Mapping[str, Any], sent: Any) -> Iterator[str | int]:
    """Yield the error's path in what was *sent*, without pydantic's names of union branches."""
    source, *steps = error["loc"]
    if source != "body":
        yield from steps
        return
    for i, step in enumerate(steps):
        if _holds(sent, step):
            sent = sent[step]
            yield step
        elif error["type"] == "missing" and i == len(steps) - 1:
            yield step


def _holds(sent: Any, step: str | int) -> bool:
    if isinstance(sent, list):
        return isinstance(step, int) and step < len(sent)
    return isinstance(sent, dict) and step in sent


def _path(steps: Iterable[str | int], names: Set[str]) -> str:
    """Format a path; a name that is not in the API's schema may be private, so it becomes ``?``."""
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
    kind = ErrorKind(error.status_code, "http_error")
    message = known.get(error.status_code, "refused")
    if error.status_code == 404 and b"%2f" in request.scope.get("raw_path", b"").lower():
        message += f"; a name in the path is made of {NAME_RULE}"
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    return JSONResponse(body(message, kind), error.status_code, headers)


def _allowed(request: Request) -> str:
    """List all methods of the path: each is a route, but Starlette knows only the one it tried."""
    routes = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))
