#!/usr/bin/env python3
"""Write the wheel losskit: the packages lossd and losskit of api/python, and within losskit what docker/packages/native.py gathered.
The same files give the same wheel, to the byte.

    docker/packages/wheel.py --cc gcc --native build/release/native --version 0.2.0 --into build/packages
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import pathlib
import re
import tomllib
import zipfile

from native import output, tool

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / "api" / "python"
MACHINES = {"Advanced Micro Devices X86-64": "x86_64", "AArch64": "aarch64"}  # as readelf has them

METADATA = """\
Metadata-Version: 2.1
Name: losskit
Version: {version}
Summary: Loss functions of Transformer models, with their gradients: in process, as a service, and its client
License: MIT; the libraries that come along have licences of their own
Requires-Python: {python}
{requires}
Description-Content-Type: text/markdown

{readme}"""

WHEEL = """\
Wheel-Version: 1.0
Generator: losskit
Root-Is-Purelib: false
Tag: {tag}
"""

ENTRY_POINTS = """\
[console_scripts]
lossd = losskit.__main__:main
"""


def platform_of(cc: str, files: list[pathlib.Path]) -> str:
    """The machine, and the glibc with the newest symbol that one of them uses."""
    readelf = tool(cc, "readelf")
    machine = re.search(r"Machine: +(.*)", output(readelf, "-h", files[0]))[1]
    symbols = re.findall(r"\bGLIBC_(\d+)\.(\d+)", output(readelf, "-VW", *files))
    major, minor = max((int(major), int(minor)) for major, minor in symbols)
    return f"manylinux_{major}_{minor}_{MACHINES[machine]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cc", default="gcc")
    parser.add_argument("--native", type=pathlib.Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--into", type=pathlib.Path, required=True)
    a = parser.parse_args()
    native = [file for file in a.native.iterdir() if file.is_file()]
    tag = f"py3-none-{platform_of(a.cc, native)}"
    info = f"losskit-{a.version}.dist-info"
    project = tomllib.loads((PYTHON / "pyproject.toml").read_text())["project"]
    files = {f"losskit/native/{file.name}": file.read_bytes() for file in native}
    for package in ("lossd", "losskit"):
        for file in (PYTHON / package).iterdir():
            if file.suffix in (".py", ".typed"):
                files[f"{package}/{file.name}"] = file.read_bytes()
    for file in (ROOT / "LICENSE", *(a.native / "licenses").iterdir()):
        files[f"{info}/licenses/{file.name}"] = file.read_bytes()
    metadata = METADATA.format(
        version=a.version,
        python=project["requires-python"],
        requires="\n".join(f"Requires-Dist: {one}" for one in project["dependencies"]),
        readme=(PYTHON / "losskit" / "README.md").read_text(),
    )
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = WHEEL.format(tag=tag).encode()
    files[f"{info}/entry_points.txt"] = ENTRY_POINTS.encode()
    record = f"{info}/RECORD"
    lines = []
    for name, content in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    files[record] = "".join([*lines, f"{record},,\n"]).encode()

    a.into.mkdir(parents=True, exist_ok=True)
    path = a.into / f"losskit-{a.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, content in sorted(files.items(), key=lambda item: (item[0].startswith(info), item[0])):
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED  # 3: Unix, which has modes
            entry.external_attr = (0o100755 if name == "losskit/native/lossd" else 0o100644) << 16
            wheel.writestr(entry, content)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
