#!/usr/bin/env python3
"""Send every request of api/examples to a lossd of its own, at the path of the description.

<loss>.json is generated from the description; further ones of a loss are <loss>.<what>.json. Each must be
answered with the outputs that the description calls default, and once more, by the same request with all of
its outputs named, with the same numbers. No loss may be without an example.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from server import Lossd, receive, request

EXAMPLES = pathlib.Path(__file__).parents[2] / "api" / "examples"


def ask(lossd: Lossd, method: str, path: str, body: bytes = b"") -> tuple[int, dict]:
    with lossd.connect() as s:
        s.sendall(request(method, path, {}, body))
        reply = receive(s)
    return reply.status, json.loads(reply.body)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    arguments = parser.parse_args()
    failed = 0
    with Lossd(arguments.lossd) as lossd:
        losses = ask(lossd, "GET", "/v1/losses")[1]["losses"]
        losses = {loss["name"]: loss for loss in losses}
        stems = {path.stem for path in EXAMPLES.glob("*.json")} | set(losses)
        strangers = {stem for stem in stems if stem.split(".")[0] not in losses}
        for stem in sorted(strangers):
            print(f"{stem}.json: there is no such loss")
        for stem in sorted(stems - strangers):
            loss = losses[stem.split(".")[0]]
            example = json.loads((EXAMPLES / f"{stem}.json").read_text())
            status, reply = ask(lossd, "POST", loss["path"], json.dumps(example).encode())
            outputs = reply.get("outputs", {})
            default = {o["name"] for o in loss["outputs"] if o["default"]} & {"loss"}
            named = dict(example, outputs=list(outputs))
            if status != 200 or not outputs or not default <= set(outputs):
                wrong = f"{status}: {json.dumps(reply)}"
            elif ask(lossd, "POST", loss["path"], json.dumps(named).encode()) != (200, reply):
                wrong = "another answer where its outputs are named"
            else:
                continue
            failed += 1
            print(f"{stem}.json: {wrong}")
    print(f"{len(stems - strangers) - failed} examples passed, {failed + len(strangers)} failed")
    return failed + len(strangers) > 0


if __name__ == "__main__":
    sys.exit(main())
