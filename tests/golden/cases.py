"""Draws api/cases.jsonl from the goldens: a few small cases of every operator that every client of lossd must
get right. One JSON object a line: name, loss, options (as text), inputs, the outputs to ask for with the
values to expect, and `tolerance`: |got - expected| <= tolerance * max(1, |expected|)."""

import json
import pathlib
import sys

TOLERANCES = {"f64": 1e-9, "f32": 2e-5}
CASES = 4  # of each operator, evenly spread over its file
ELEMENTS = 64  # at most, over all tensors of a case


def numbers(case: dict) -> list:
    return [x for part in ("inputs", "outputs") for t in case[part].values() for x in t["data"]]


def plain(case: dict) -> bool:
    """Small, finite, and in element types that JSON can carry."""
    types = {t["dtype"] for t in case["inputs"].values()}
    data = numbers(case)
    return not types & {"f16", "bf16"} and len(data) <= ELEMENTS and not any(isinstance(x, str) for x in data)


def drawn(case: dict, dtype: str) -> dict:
    inputs = {
        name: {**t, "dtype": dtype if t["dtype"] == "float" else t["dtype"]} for name, t in case["inputs"].items()
    }
    return {
        "name": f"{case['loss']}/{case['case']}/{dtype}",
        "loss": case["loss"],
        "options": case["options"],
        "inputs": inputs,
        "outputs": case["outputs"],
        "tolerance": TOLERANCES["f32" if any(t["dtype"] == "f32" for t in inputs.values()) else "f64"],
    }


def main() -> None:
    edges = pathlib.Path(__file__).with_name("edges.jsonl")
    for path in sorted(set(edges.parent.glob("*.jsonl")) - {edges}):
        cases = [case for case in map(json.loads, path.read_text().splitlines()) if plain(case)]
        step = max(1, len(cases) // CASES)
        for case in cases[::step][:CASES]:
            both = any(t["dtype"] == "float" for t in case["inputs"].values())
            for dtype in ("f64", "f32") if both else ("f64",):
                json.dump(drawn(case, dtype), sys.stdout, separators=(",", ":"))
                print()


main()
