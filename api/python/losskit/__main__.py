"""The lossd that came with this package: `python3 -m losskit serve --listen 127.0.0.1:8080`, and the script `lossd`."""

import os
import pathlib
import sys


def main() -> None:
    lossd = pathlib.Path(__file__).parent / "native" / "lossd"
    if not lossd.exists():
        sys.exit("losskit: there is no lossd in this package; it is in the wheel, and `make install` installs one")
    os.execv(lossd, ["lossd", *sys.argv[1:]])


if __name__ == "__main__":
    main()
