#!/usr/bin/env bash
# calibrate: the curve, what meets the goal, the preset it writes and what that preset gives.
. "$(dirname "$0")/../support/e2e.sh"
golden=$(cd "$(dirname "$0")/../golden" && pwd)
cd "$work" || exit 1
calibrate() { "$kvlab" calibrate --model tiny.gguf --text text.txt --context 160 --tokens 12 --no-progress "$@" 2>err.txt; }
holds() { # name, python expression over d
    local v
    v=$(python3 -c 'import json; d = json.load(open("out.json")); P = [p for p in d["points"] if "refused" not in p]; best = d["points"][d["best"]]; print(bool('"$2"'))' 2>&1)
    if [ "$v" = True ]; then ok "$1"; else not_ok "$1" "$2 gives $v" "$(head -c 600 out.json)" "$(cat err.txt)"; fi
}
vary=(--vary decide.leankv.alpha_h=0.5,1,2 --vary policy.decide.leankv.alpha_l=0,0.5,3)

calibrate --policy leankv --set policy.protect.recent=16 --goal bytes=0.44 "${vary[@]}" --json -w mine.yaml >out.json || not_ok "a byte target" "$(cat err.txt)"
holds "the grid comes first, then at least one bisection" 'len(d["points"]) > 9 and [list(p["values"].values()) for p in d["points"][:4]] == [[0.5, 0], [0.5, 0.5], [0.5, 3], [1, 0]]'
holds "alpha_l above alpha_h is refused and said so" 'any("alpha_l" in p.get("refused", "") for p in d["points"])'
holds "best is the smallest KL within the target" 'best["meets"] and best["bytes"] <= 0.44 and all(best["kl"]["mean"] <= p["kl"]["mean"] for p in P if p["bytes"] <= 0.44)'
holds "the paper counts less than what lives" 'all(p["data_bits"] < p["bytes"] for p in P)'
holds "the windows give an interval" 'all(p["kl"]["n"] == 2 and p["kl"]["lo"] <= p["kl"]["mean"] <= p["kl"]["hi"] for p in P)'
cp out.json first.json
calibrate --policy leankv --set policy.protect.recent=16 --goal bytes=0.44 "${vary[@]}" --json >out.json
cmp -s first.json out.json && ok "the same command gives the same numbers" || not_ok "the same command gives the same numbers"

grep -q '^#.* bytes .* kl ' mine.yaml && grep -q '^origin: ' mine.yaml && ok "the preset carries its curve" || not_ok "the preset carries its curve" "$(cat mine.yaml)"
cat >lm.yaml <<'Y'
name: lm
model: {path: tiny.gguf}
data: {text: text.txt}
tasks: [{task: lm, context: 160, tokens: 12, skip: 0, records: 2}]
noise_floor: {records: 0}
Y
python3 - <<'P' >>lm.yaml
text = open("mine.yaml").read()
print(text[text.index("policy:"):])
P
"$kvlab" run lm.yaml -o lm -q >/dev/null 2>err.txt
python3 - <<'P' && ok "a run under the preset gives the KL of its point" || not_ok "a run under the preset gives the KL of its point" "$(cat err.txt)"
import csv, json, sys
d = json.load(open("first.json"))
kl = [float(r["mean"]) for r in csv.DictReader(open("lm/export/summary.csv")) if r["metric"] == "kl" and r["mean"] and float(r["mean"]) > 0]
sys.exit(not any(abs(x - d["points"][d["best"]]["kl"]["mean"]) < 1e-12 for x in kl))
P

calibrate --policy snapkv --set policy.score.window.rows=8 --goal kl=2 --vary budget=0.2,0.6 --rounds 2 --json >out.json
holds "any number by its path; a loss limit takes the fewest bytes" 'best["meets"] and all(best["bytes"] <= p["bytes"] for p in P if p["kl"]["mean"] <= 2)'
calibrate --policy snapkv --goal dnll=100 --vary score.window.rows=8,16 --rounds 2 --json >out.json
holds "whole numbers stay whole" 'all(p["values"]["score.window.rows"] == int(p["values"]["score.window.rows"]) for p in P)'
calibrate --policy leankv --set policy.protect.recent=16 --goal kl=100 --vary decide.leankv.alpha_l=0,1 --rounds 0 | grep -q "end of its values" && ok "a best value at the end of its range is named" || not_ok "a best value at the end of its range is named"

expect "no goal" 2 "needs --goal" "$kvlab" calibrate --model tiny.gguf --policy leankv
expect "no policy" 2 "needs --policy" "$kvlab" calibrate --model tiny.gguf --goal kl=1
expect "a goal that is none" 2 "kl=NATS" "$kvlab" calibrate --model tiny.gguf --policy leankv --goal fast=1
expect "bytes beyond the full cache" 2 "at most 1" "$kvlab" calibrate --model tiny.gguf --policy leankv --goal bytes=2
expect "a policy that nothing is known about" 2 "like --vary" "$kvlab" calibrate --model tiny.gguf --text text.txt --policy snapkv --goal kl=1
expect "values that are no numbers" 2 "does not begin with a number" "$kvlab" calibrate --model tiny.gguf --policy leankv --goal kl=1 --vary a=1,x
expect "a path that the policy does not have" 2 "alpha_x" "$kvlab" calibrate --model tiny.gguf --text text.txt --context 64 --tokens 4 --policy leankv --goal kl=1 --vary decide.leankv.alpha_x=1 --no-progress
expect "a goal that nothing meets" 1 "none of 2 points" "$kvlab" calibrate --model tiny.gguf --text text.txt --context 64 --tokens 4 --policy leankv --goal bytes=0.01 --vary decide.leankv.alpha_l=0,0.1 --no-progress
"$kvlab" calibrate --heads text.txt --model tiny.gguf --context 160 --records 2 --no-progress --set policy.score.probe.sinks=2 --write heads.profile -q >/dev/null 2>err.txt
grep -q '^origin 1 texts, 2 windows each, 160 tokens, .*2 sinks' heads.profile && grep -q '^layers 2$' heads.profile && ok "a head profile by KVzip's score, with what --set says" ||
    not_ok "a head profile by KVzip's score, with what --set says" "$(head -n 5 heads.profile)" "$(cat err.txt)"
expect "which quota profile takes" 0 "" "$kvlab" generate --model tiny.gguf --policy kvzip_kvpress --set policy.quota.profile.file=./heads.profile --prompt "the cache holds keys" -n 4 -q
"$kvlab" calibrate --heads --loss --math exact text.txt --model tiny.gguf --context 160 --records 1 --no-progress --join heads.profile --write "joined \"2.profile" -q >/dev/null 2>err.txt
grep -q '^origin a quarter of (1 texts, 1 windows each, 160 tokens, loss of outputs, ranked by score mean_rank' "joined \"2.profile" && [ ! -e "joined \"2.profile".layer ] && ok "a profile by what outputs lose, joined with the first" ||
    not_ok "a profile by what outputs lose, joined with the first" "$(head -n 5 "joined \"2.profile")" "$(cat err.txt)"
for layers in global all; do # seven layers, one of them global
    "$kvlab" calibrate --heads --loss --math exact text.txt --model "$golden/arch/gemma3.gguf" --context 60 --records 1 --no-progress --write sliding.profile -q \
        --set policy.layers=$layers --set policy.protect.sink=1 --set policy.protect.recent=2 >/dev/null 2>err.txt
    wanted=$([ $layers = all ] && echo 7 || echo 1)
    grep -q "^layers $wanted\$" sliding.profile && ok "losses under layers: $layers" || not_ok "losses under layers: $layers" "$(head -n 5 sliding.profile)" "$(cat err.txt)"
    expect "a run under layers: $layers takes their profile" 0 "" "$kvlab" generate --model "$golden/arch/gemma3.gguf" --policy kvzip_kvpress --set policy.layers=$layers \
        --set policy.quota.profile.file=./sliding.profile --prompt "the cache holds keys" -n 4 -q
done
expect "a profile of all layers where policies see the global one" 2 "layers: all" "$kvlab" generate --model "$golden/arch/gemma3.gguf" --policy kvzip_kvpress \
    --set policy.quota.profile.file=./sliding.profile --prompt "the cache holds keys" -n 4
expect "losses need exact math" 2 "--math exact" "$kvlab" calibrate --heads --loss text.txt --model tiny.gguf --context 160 --records 1 --no-progress --write no.profile
expect "--join is about profiles" 2 "--join needs --heads" "$kvlab" calibrate --text text.txt --model tiny.gguf --policy snapkv --goal kl=1 --vary budget=0.5 --join heads.profile
expect "a policy that ranks layer by layer gives none" 2 "ranks all layers together" "$kvlab" calibrate --heads text.txt --model tiny.gguf --context 160 --records 1 --no-progress --policy snapkv --write no.profile
finish
