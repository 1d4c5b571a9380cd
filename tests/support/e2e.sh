# Shared by the end-to-end scripts: sourced with the program and the helpers' folder as arguments. Not a test itself.
kvlab=$1 helpers=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/kvlab-e2e-XXXXXX")
trap 'rm -rf "$work"' EXIT
n_bad=0

ok() { echo "ok $1"; }
not_ok() {
    echo "not ok $1"
    shift
    printf '# %s\n' "$@"
    n_bad=$((n_bad + 1))
}
# expect NAME WANTED_STATUS TEXT COMMAND...: exit status, TEXT (a basic regular expression) in what it says, and one error line.
expect() {
    local name=$1 wanted=$2 text=$3 status
    shift 3
    "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ $status -ne "$wanted" ]; then
        not_ok "$name" "exit status $status, not $wanted" "$(tail -n 5 "$work/err")"
    elif [ -n "$text" ] && ! grep -q -e "$text" "$work/out" "$work/err"; then
        not_ok "$name" "does not say: $text" "$(tail -n 5 "$work/err")"
    elif [ "$wanted" -ne 0 ] && [ "$wanted" -lt 64 ] && [ "$(grep -c '^error: ' "$work/err")" -ne "${errors:-1}" ]; then
        not_ok "$name" "$(grep -c '^error: ' "$work/err") error lines" "$(tail -n 8 "$work/err")"
    else
        ok "$name"
    fi
}
finish() { [ $n_bad -eq 0 ]; }

"$helpers/tiny_model" "$work/tiny.gguf" 1 || exit 1
# Some 60,000 words without the need of any document.
awk 'BEGIN { srand(7); split("the cache holds keys and values of every token that was read so far while a policy decides which of them may stay", w, " ");
     for (i = 0; i < 60000; i++) printf "%s%s", w[1 + int(rand() * 22)], (i % 17 == 16 ? ".\n" : " ") }' >"$work/text.txt"
# What a journal says, without what may differ between two runs: checksums, seconds, headers, order.
numbers() { grep -hv '"kind":"sweep"' "$1"/journal/*.jsonl | sed -E 's/^[0-9a-f]{16} //; s/"seconds":[^,}]*,?//' | grep '"status":"ok"' | sort -u; }
