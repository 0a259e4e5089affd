#!/usr/bin/env bash
# Build the Debian packages from what git has in this folder, with docker/debian as debian/: the source package, and
# liblosskit0, liblosskit-dev and lossd from it, into build/packages. What lintian says of them is printed.
# Usage: docker/packages/deb.sh [ARGUMENT OF dpkg-buildpackage]...
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^#define LK_VERSION "\(.*\)"/\1/p' include/losskit.h)
maintainer=$(sed -n 's/^Maintainer: //p' docker/debian/control)
packages=$PWD/build/packages
work=$packages/work
tree=$work/losskit-$version
rm -rf "$work"
mkdir -p "$tree"
when=$(git log -1 --format=%ct)
git ls-files -z -- ':!docker/debian' | tar --null --files-from=- -c | tar -x -C "$tree"
tar -C "$work" --sort=name --mtime="@$when" --owner=0 --group=0 -cJf "$work/losskit_$version.orig.tar.xz" \
    "losskit-$version"
cp -R docker/debian "$tree/debian"
printf 'losskit (%s-1) unstable; urgency=medium\n\n  * See /usr/share/doc/lossd/changelog.gz.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date -u -R -d "@$when")" >"$tree/debian/changelog"

# Its own make decides on jobs; no packages with debugging symbols, and the tests are `make test`'s.
cd "$tree"
if ! env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS DEB_BUILD_OPTIONS="nocheck noddebs parallel=$(nproc)" \
    dpkg-buildpackage --no-sign --build-profiles=nocheck "$@" >"$work/log" 2>&1; then
    tail -50 "$work/log" >&2
    exit 1
fi
cd "$work"
mv ./*.deb ./*.dsc ./*.tar.xz ./*.changes ./*.buildinfo "$packages"
cd "$packages"
rm -rf "$work"
# There is no address yet for all who have a part in it, and no bug of Debian that asks for it.
lintian --fail-on=error,warning --suppress-tags=bogus-mail-host,bogus-mail-host-in-debian-changelog \
    --suppress-tags=initial-upload-closes-no-bugs losskit_"$version"-1_*.changes
ls -l ./*_"$version"-1*.deb
