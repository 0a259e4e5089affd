#!/usr/bin/env python3
"""Every metric and label that the dashboard, the alert rules and the guides ask for is one that a running lossd has.

docker/check_metrics.py [--lossd build/lossd]
"""

import argparse
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
GOOD = b'{"inputs":{"logits":[[0.2,0.4,0.4]],"targets":[2]}}'
FROM_PROMETHEUS = {"up": {"job", "instance"}}


def queries() -> list[str]:
    dashboard = json.loads((HERE / "grafana/dashboards/lossd.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = (HERE / "prometheus/rules.yml").read_text()
    found += re.findall(r"expr: (?:>-\s+)?(.+)", rules)
    for guide in (HERE.parent / "api/guides").glob("*.md"):
        for block in re.findall(r"^```promql\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL):
            found += block.splitlines()
    return found


def scrape(lossd: str) -> dict[str, set[str]]:
    """The names and labels in /metrics after one evaluation that succeeds and one that does not."""
    command = [lossd, "--listen", "127.0.0.1:0", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = re.search(r"http://[\d.:]+", server.stderr.readline())[0]
            for body in (GOOD, b"{"):
                try:
                    urllib.request.urlopen(f"{url}/v1/losses/cross_entropy", body, timeout=5).read()
                except urllib.error.HTTPError as error:
                    assert error.code == 400
            text = urllib.request.urlopen(f"{url}/metrics", timeout=5).read().decode()
        finally:
            server.terminate()
    metrics: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        metrics.setdefault(name, {"job", "instance"}).update(re.findall(r'(\w+)="', labels))
    return metrics


def unknown(query: str, metrics: dict[str, set[str]]) -> list[str]:
    names = re.findall(r"\b(?:lossd_\w+|up)\b", query)
    wrong = [f"no metric {name}" for name in names if name not in metrics]
    labels = re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"', query)
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        labels += re.split(r",\s*", group)
    for name in set(names) & set(metrics):
        wrong += [f"{name} has no label {label}" for label in labels if label not in metrics[name]]
    return wrong if names else ["asks for no metric"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lossd", default="build/lossd")
    metrics = scrape(parser.parse_args().lossd) | FROM_PROMETHEUS
    asked = queries()
    wrong = [f"{query}: {what}" for query in asked for what in unknown(query, metrics)]
    print("\n".join(wrong) or f"{len(asked)} queries, {len(metrics)} metrics: all there")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
