#!/bin/sh
# Installs what is missing: `install_deps.sh run` for building and the demo, `test` for the tests as well, `model` for fetching the
# model only. Silent and quick when everything is there. Packages come from apt-get on Debian and its relatives; elsewhere the list
# is printed. Asks the machine for the thing itself, so software installed in another way counts too.
set -u

# kind:thing:Debian package
run_needs='
cmd:gcc:gcc
header:stdio.h:libc6-dev
cmd:make:make
cmd:ar:binutils
cmd:pkg-config:pkg-config
pc:hdf5:libhdf5-dev
pc:yaml-0.1:libyaml-dev
pc:libpcre2-8:libpcre2-dev
pc:jansson:libjansson-dev
pc:libxxhash:libxxhash-dev
pc:libcrypto:libssl-dev
pc:zlib:zlib1g-dev
cmd:gnuplot:gnuplot-nox
file:/usr/share/debian-reference/debian-reference.en.txt.gz:debian-reference-en'
model_needs='
cmd:python3:python3
py:pip:python3-pip
cmd:sha256sum:coreutils'
test_needs='
cmd:g++:g++
pc:cmocka:libcmocka-dev
pc:openblas:libopenblas-dev
cmd:git:git
py:numpy:python3-numpy
py:h5py:python3-h5py
py:xarray:python3-xarray
py:h5netcdf:python3-h5netcdf'

case ${1:-test} in
model) needs=$model_needs why="fetch the model" ;;
run) needs="$run_needs $model_needs" why="build and run kvlab" ;;
test) needs="$run_needs $model_needs $test_needs" why="build and test kvlab" ;;
*) echo "usage: install_deps.sh [run|test|model]" >&2; exit 2 ;;
esac

have() {
    case $1 in
    cmd) command -v "$2" >/dev/null 2>&1 ;;
    header) command -v gcc >/dev/null 2>&1 && echo "#include <$2>" | gcc -E -x c - >/dev/null 2>&1 ;;
    pc) command -v pkg-config >/dev/null 2>&1 && pkg-config --exists "$2" ;;
    py) # Debian's packages belong to Debian's python3; another one may come first in PATH
        for python in python3 /usr/bin/python3; do
            command -v $python >/dev/null 2>&1 &&
                $python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$2') is None)" && return 0
        done
        return 1 ;;
    file) [ -e "$2" ] ;;
    esac
}

# One name per line; those found are left out.
find_missing() {
    for need in $needs; do
        kind=${need%%:*} rest=${need#*:}
        have "$kind" "${rest%:*}" || echo "${rest##*:}"
    done
}

missing=$(find_missing | tr '\n' ' ')
missing=${missing% }
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    # The text is a Debian package; elsewhere kvlab runs without it, and tasks that need it say so.
    needed=$(printf '%s' " $missing " | sed 's/ debian-reference-en / /; s/^ *//; s/ *$//')
    [ -n "$needed" ] || exit 0
    cat >&2 <<END
To $why, please install what provides these Debian packages, then try again:
  $needed
(Fedora: gcc make pkgconf hdf5-devel libyaml-devel pcre2-devel jansson-devel xxhash-devel openssl-devel zlib-devel libcmocka-devel
openblas-devel gnuplot python3-pip python3-h5py python3-xarray; on other systems the names are similar.)
END
    exit 3
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "To $why, packages are missing. As root, please run: apt-get install $missing" >&2
        exit 3
    fi
    as_root=sudo
fi
echo "Installing with ${as_root:+sudo }apt-get, to $why: $missing" >&2

log=$(mktemp) || exit 3
trap 'rm -f "$log"' EXIT
apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1
}
if ! { apt update && apt install --no-install-recommends $missing; }; then
    tail -n 20 "$log" >&2
    echo "apt-get failed (above); the packages needed are: $missing" >&2
    exit 3
fi
still=$(find_missing | tr '\n' ' ')
if [ -n "$still" ]; then
    echo "installed, yet still not found: $still" >&2
    exit 3
fi
