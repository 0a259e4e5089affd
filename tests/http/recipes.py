#!/usr/bin/env python3
"""Send each request of api/recipes.md, a block marked http, to a lossd of its own, and compare the reply with the block
below it, marked json: numbers to six digits. With --refresh the replies are written instead."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import sys

from server import Lossd, receive, request

PAGE = pathlib.Path(__file__).parents[2] / "api" / "recipes.md"
RECIPE = re.compile(r"(?<=```http\nPOST )(\S+)\n\n(.*?)\n```\n\n```json\n(.*?)(?=\n```)", re.S)


def same(a, b) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--refresh", action="store_true")
    arguments = parser.parse_args()
    passed = failed = 0
    with Lossd(arguments.lossd) as lossd:

        def ask(found: re.Match) -> str:
            nonlocal passed, failed
            path, body, expected = found.groups()
            with lossd.connect() as s:
                s.sendall(request("POST", path, {}, body.encode()))
                reply = receive(s)
            got = reply.body.decode().strip()
            if reply.status == 200 and (arguments.refresh or same(json.loads(got), json.loads(expected))):
                passed += 1
            else:
                failed += 1
                print(f"{path} {body}\n{reply.status} {got}\nnot {expected}")
            return found.group().removesuffix(expected) + (got if arguments.refresh else expected)

        text = RECIPE.sub(ask, PAGE.read_text())
        if arguments.refresh:
            PAGE.write_text(text)
    print(f"{passed} recipes passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
