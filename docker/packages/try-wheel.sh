#!/usr/bin/env bash
# Install the wheel into an empty environment, without a network, and use it as its README does: in process, from PyTorch
# if that is there, and as a service. NumPy is the system's.
# Usage: docker/packages/try-wheel.sh [build/packages/losskit-*.whl [PYTHON]]
set -euo pipefail
root=$(realpath "$(dirname "$0")/../..")
[ $# -gt 0 ] || set -- "$root"/build/packages/losskit-*_"$(uname -m)".whl
wheel=$(realpath "$1")
python=${2:-/usr/bin/python3}
readme=$root/api/python/losskit/README.md
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"
"$python" -m venv --system-site-packages venv
venv/bin/pip install --quiet --no-index "$wheel"
# Of the system's own packages it may have something to say, too.
if venv/bin/pip check | grep -i losskit; then exit 1; fi

# The README's examples, each with what it prints below it.
venv/bin/python - "$readme" <<'PYTHON'
import contextlib, importlib.util, io, pathlib, re, sys
text, names = pathlib.Path(sys.argv[1]).read_text(), {}
for example, _, printed in re.findall(r"```python\n(.*?)```\n(\n```text\n(.*?)```\n)?", text, re.DOTALL):
    if "torch" in example and importlib.util.find_spec("torch") is None:
        continue
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(example, names)
    assert not printed or out.getvalue() == printed, f"{out.getvalue()}, not {printed}"
import losskit
print("losskit", losskit.__version__, losskit.__file__)
PYTHON

[ "$(venv/bin/lossd version)" = "$(venv/bin/python -m losskit version)" ]
venv/bin/python -m losskit serve --listen "unix:$work/s" 2> log &
pid=$!
for _ in $(seq 100); do
    ! venv/bin/lossd health --url "unix:$work/s" 2> /dev/null || break
    sleep 0.1
done
venv/bin/python - "unix:$work/s" <<'PYTHON'
import sys, losskit, lossd
call = [[0.2, 0.4, 0.4]], [2]
served, local = (one.cross_entropy(*call) for one in (lossd.Client(sys.argv[1]), losskit.local))
assert {k: v.tobytes() for k, v in served.items()} == {k: v.tobytes() for k, v in local.items()}
PYTHON
kill "$pid"
wait "$pid"
pid=
echo "$(basename "$wheel"): used, with $("$python" --version)"
