"""What a request can fail with."""

from __future__ import annotations

import json


class LossdError(Exception):
    """lossd refused a request, or losskit a call. `code` is a stable word, `detail` a sentence that says what would be
    right; `input` and `index` name the place where one is concerned. A call in process has no `request_id`."""

    def __init__(self, status: int, problem: dict[str, object], request_id: str) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail", ""))
        self.input: object = problem.get("input")
        self.index: object = problem.get("index")
        self.request_id = request_id
        request = f", request {request_id}" if request_id else ""
        super().__init__(f"{self.detail} ({status} {self.code}{request})")


class Overloaded(LossdError):
    """503, and all retries too: try later."""


class DeadlineExceeded(LossdError):
    """504 or 408: the time for the request was over. What was not done then is not done."""


def error_from(status: int, body: bytes, request_id: str) -> LossdError:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):  # not lossd's own: somebody between said it
        problem = {"detail": body[:200].decode("utf-8", "replace")}
    return error_of(status, problem, request_id)


def error_of(status: int, problem: dict[str, object], request_id: str = "") -> LossdError:
    kind = {503: Overloaded, 504: DeadlineExceeded, 408: DeadlineExceeded}.get(status, LossdError)
    return kind(status, problem, request_id)
