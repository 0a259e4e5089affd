#!/usr/bin/env python3
"""Open /docs in Chromium and check the page that it makes of the descriptions.

There must be a section for each loss with all that it takes and gives, no error, and no reply but those
of lossd: the page works without the internet. With a key asked for, it must say so.
"""

from __future__ import annotations

import argparse
import html.parser
import json
import subprocess
import sys
import tempfile

from server import Lossd, receive, request


class Page(html.parser.HTMLParser):
    """The words of each section, by its id, and what stands in #said."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.said = ""
        self.here: str | None = None
        self.saying = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "section":
            self.here = given["id"] or ""
            self.sections[self.here] = ""
        self.saying = given.get("id") == "said"

    def handle_endtag(self, tag: str) -> None:
        self.saying = False
        if tag == "section":
            self.here = None

    def handle_data(self, data: str) -> None:
        if self.saying:
            self.said += data
        if self.here is not None:
            self.sections[self.here] += f"{data}\n"


def look(chromium: str, url: str) -> Page:
    with tempfile.TemporaryDirectory() as folder:
        seen = subprocess.run(
            [chromium, "--headless", "--no-sandbox", f"--user-data-dir={folder}", "--virtual-time-budget=10000",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--dump-dom", f"{url}/docs"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    return Page(seen.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lossd", default="build/lossd")
    parser.add_argument("--chromium", default="chromium")
    arguments = parser.parse_args()
    wrong = []
    with Lossd(arguments.lossd) as lossd:
        with lossd.connect() as s:
            s.sendall(request("GET", "/v1/losses", {}, b""))
            losses = json.loads(receive(s).body)["losses"]
        page = look(arguments.chromium, lossd.url)
        for loss in losses:
            words = set(page.sections.get(loss["name"], "").split("\n"))
            members = [thing["name"] for kind in ("inputs", "options", "outputs") for thing in loss[kind]]
            wrong += [f"{loss['name']}: no {word}" for word in [loss["formula"], *members] if word not in words]
        if "GET /metrics" not in page.sections.get("other-routes", ""):
            wrong.append("the other routes are not there")
        if page.said:
            wrong.append(f"it says: {page.said}")
        asked = {line.split("path=")[1].split()[0] for line in lossd.log if "path=" in line}
        if not {"/docs", "/v1/losses", "/openapi.json"} <= asked:
            wrong.append(f"it asked for {sorted(asked)}")
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write("0123456789abcdef0123456789abcdef\n")
        keys.flush()
        with Lossd(arguments.lossd, "--api-key-file", keys.name) as lossd:
            page = look(arguments.chromium, lossd.url)
            if "needs a key" not in page.said or page.sections:
                wrong.append(f"with a key asked for it says: {page.said}")
    print("\n".join(wrong[:20]) if wrong else f"/docs: {len(losses)} losses as described")
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
