#!/usr/bin/env python3
"""Put beside a lossd that is linked for it what the packages for pip and npm bring along: liblosskit, the shared libraries
that both need but glibc, and the licences of all that comes from elsewhere.

    docker/packages/native.py --cc gcc --static libz.a FOLDER/lossd build/release/liblosskit.so.0

Libraries and tools are those that the compiler finds: for a cross compiler those of its machine.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shutil
import subprocess

GLIBC = re.compile(r"(ld-linux.*|lib(c|m|dl|rt|pthread|resolv))\.so\.\d+")


def output(*command: str | pathlib.Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tool(cc: str, name: str) -> str:
    return output(*cc.split(), f"-print-prog-name={name}").strip()


def needed(cc: str, file: pathlib.Path) -> list[str]:
    names = re.findall(r"\(NEEDED\).*\[(.*)\]", output(tool(cc, "readelf"), "-dW", file))
    return [name for name in names if not GLIBC.fullmatch(name)]


def find(cc: str, library: str) -> pathlib.Path:
    path = pathlib.Path(output(*cc.split(), f"-print-file-name={library}").strip())
    if not path.is_absolute():
        raise SystemExit(f"docker/packages/native.py: {cc} finds no {library}")
    return path.resolve()


def licence_of(library: pathlib.Path) -> pathlib.Path:
    """Debian keeps one for each package."""
    package = output("dpkg", "-S", library).partition(":")[0]
    return pathlib.Path("/usr/share/doc", package, "copyright")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cc", default="gcc")
    parser.add_argument("--static", action="append", default=[], help="a library that lossd has within")
    parser.add_argument("lossd", type=pathlib.Path)
    parser.add_argument("liblosskit", type=pathlib.Path)
    a = parser.parse_args()
    folder, own = a.lossd.parent, [a.lossd.name, a.liblosskit.name]
    licences = folder / "licenses"
    shutil.rmtree(licences, ignore_errors=True)
    licences.mkdir()
    shutil.copy(a.liblosskit, folder)
    output(tool(a.cc, "strip"), *(folder / name for name in own))
    files = list(own)
    for file in files:  # which grows
        if file not in own:
            shutil.copy(find(a.cc, file), folder / file)
        files += [name for name in needed(a.cc, folder / file) if name not in files]
    for library in [*a.static, *(file for file in files if file not in own)]:
        shutil.copy(licence_of(find(a.cc, library)), licences / library.partition(".")[0])


if __name__ == "__main__":
    main()
