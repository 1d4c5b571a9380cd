#!/usr/bin/env bash
# score and generate: the numbers that must hold on any model, and that they agree with the task `lm`.
. "$(dirname "$0")/../support/e2e.sh"
cd "$work" || exit 1
score() { "$kvlab" score --model tiny.gguf --file text.txt --json "$@" 2>err.txt; }
get() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2], {"d": d, "len": len, "sum": sum, "all": all, "min": min, "abs": abs, "max": max, "zip": zip, "load": lambda f: json.load(open(f))}))' "$1" "$2"; }
holds() { # name, file, python expression over d
    local v
    v=$(get "$2" "$3" 2>&1)
    if [ "$v" = True ]; then ok "$1"; else not_ok "$1" "$3 gives $v" "$(head -c 400 "$2")" "$(cat err.txt)"; fi
}

score --skip 5 --context 200 --tokens 33 --policy full >full.json
holds "one entry per scored token" full.json 'len(d["nll"]) == len(d["kl"]) == len(d["top1"]) == 33'
holds "full against itself: no divergence" full.json 'all(k == 0 for k in d["kl"]) and all(d["top1"]) and d["nll"] == d["nll_full"]'
holds "full holds exactly the f16 bytes" full.json 'd["bytes"]["payload"] == d["bytes"]["full_f16"] == 200 * 2 * 2 * 32 * 4 and d["bytes"]["metadata"] == d["bytes"]["columns"] == 0'
holds "live is the sum of its parts" full.json 'd["bytes"]["live"] == sum(d["bytes"][k] for k in ["payload", "metadata", "columns", "tables"])'
holds "the ratio is live over full" full.json 'abs(d["bytes"]["ratio"] - d["bytes"]["live"] / d["bytes"]["full_f16"]) < 1e-12'

score --skip 5 --context 200 --tokens 33 --policy snapkv --set policy.budget=0.25 >snap.json
holds "a quarter of the tokens, a quarter of the payload" snap.json 'd["bytes"]["payload"] == d["bytes"]["full_f16"] // 4'
holds "KL is never negative and not all zero" snap.json 'min(d["kl"]) >= 0 and max(d["kl"]) > 0'
score --skip 5 --context 200 --tokens 33 --policy snapkv --set policy.budget=1.0 >all.json
holds "everything kept equals full" all.json 'max(d["kl"]) == 0 and all(d["top1"])'
score --skip 5 --context 200 --tokens 33 --policy k8v4 --math exact >k8v4.json
holds "eight bits for keys, four for values" k8v4.json 'd["bytes"]["payload"] == 200 * 2 * 2 * (32 + 16)'
score --skip 5 --context 200 --tokens 33 --policy full_f32 --math exact >f32.json
holds "exact math compares with an f32 cache" f32.json 'all(k == 0 for k in d["kl"]) and d["bytes"]["payload"] == 2 * d["bytes"]["full_f16"]'

score --skip 5 --context 200 --tokens 33 --policy k8v4 >dense.json
score --skip 5 --context 200 --tokens 33 --policy leankv --set policy.decide.leankv.alpha_h=0 --set policy.decide.leankv.alpha_l=0 >zero.json
score --skip 5 --context 200 --tokens 33 --policy leankv --set policy.protect.recent=300 >window.json
score --skip 5 --context 200 --tokens 33 --policy leankv --set policy.protect.recent=8 >lean.json
holds "LeanKV at alpha 0 gives the bits of a dense K8V4 cache" zero.json 'd["nll"] == load("dense.json")["nll"]'
holds "and so does a window as long as all" window.json 'd["nll"] == load("dense.json")["nll"]'
holds "otherwise it does not" lean.json 'd["nll"] != load("dense.json")["nll"] and d["bytes"]["payload"] < load("dense.json")["bytes"]["payload"]'

printf 'score: {window: {rows: 8}}\nselect: top_k\nquota: {fixed: {}}\nbudget: 0.25\ntiers: [f16]\n' >mine.yaml
score --skip 5 --context 200 --tokens 8 --policy mine.yaml >mine.json
holds "a policy from a file" mine.json 'd["bytes"]["payload"] == d["bytes"]["full_f16"] // 4'

python3 - <<'P' >ids.json
import json
print(json.dumps([(i * 7919 + 13) % 509 + 3 for i in range(300)]))
P
"$kvlab" score --model tiny.gguf --ids ids.json --context 250 --tokens 49 --policy k4v2 --json >ids.out 2>err.txt
holds "token ids instead of text, to the last one" ids.out 'len(d["nll"]) == 49'
expect "one token more than there is" 2 "has 300 tokens" "$kvlab" score --model tiny.gguf --ids ids.json --context 250 --tokens 50
"$kvlab" score --model tiny.gguf --ids ids.json --context 250 --tokens 20 --policy k4v2 --json >short.out 2>err.txt
python3 -c 'import json; a, b = json.load(open("ids.out")), json.load(open("short.out")); import sys; sys.exit(a["nll"][:20] != b["nll"] or a["kl"][:20] != b["kl"])' &&
    ok "the first tokens do not depend on how many follow" || not_ok "the first tokens do not depend on how many follow"

cat >lm.yaml <<'Y'
name: lm
model: {path: tiny.gguf}
data: {text: text.txt}
tasks: [{task: lm, context: 128, tokens: 16, skip: 40, records: 1}]
noise_floor: {records: 0}
policy: {preset: snapkv, budget: 0.25}
Y
"$kvlab" run lm.yaml -o lm -q >/dev/null 2>err.txt
score --skip 40 --context 128 --tokens 16 --policy snapkv --set policy.budget=0.25 >lm.json
sed -E 's/^[0-9a-f]{16} //' lm/journal/units.jsonl | grep '"kind":"unit"' >unit.json
python3 - <<'P' && ok "score and the task lm give the same numbers" || not_ok "score and the task lm give the same numbers" "$(cut -c1-300 unit.json)"
import json, struct, sys
u, s = json.load(open("unit.json")), json.load(open("lm.json"))
f32 = lambda x: struct.unpack("f", struct.pack("f", x))[0]
same = [f32(x) for x in s["kl"]] == [f32(x) for x in u["series"]["kl"]] and [f32(x) for x in s["nll"]] == [f32(x) for x in u["series"]["nll"]]
sys.exit(not (same and s["top1"] == u["series"]["top1"] and s["bytes"]["live"] == u["at_prompt"]["live"]))
P

generate() { "$kvlab" generate --model tiny.gguf --prompt "the cache holds" -n 12 -q "$@" 2>err.txt; }
[ -n "$(generate)" ] && [ "$(generate)" = "$(generate --temperature 0)" ] && ok "greedy text is the same twice" || not_ok "greedy text is the same twice"
[ "$(generate --temperature 2 --seed 5)" = "$(generate --temperature 2 --seed 5)" ] && ok "sampled text repeats with its seed" || not_ok "sampled text repeats with its seed"
[ "$(generate --temperature 2 --seed 5)" != "$(generate --temperature 2 --seed 6)" ] && ok "and changes with it" || not_ok "and changes with it"
[ "$(generate --template chatml)" = "$("$kvlab" generate --model tiny.gguf --chat --prompt "the cache holds" -n 12 -q --template chatml)" ] &&
    [ "$(generate --template own)" = "$(generate --chat)" ] && [ "$(generate --template gemma)" != "$(generate --template chatml)" ] &&
    ok "--template names the chat template" || not_ok "--template names the chat template"
[ "$(printf 'the cache holds' | "$kvlab" generate --model tiny.gguf --prompt - -n 12 -q)" = "$(generate)" ] && ok "the prompt from standard input" || not_ok "the prompt from standard input"
finish
