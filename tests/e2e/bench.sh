#!/usr/bin/env bash
# bench: every section measures something, rows say what they are, and mistakes are named.
. "$(dirname "$0")/../support/e2e.sh"
cd "$work" || exit 1
holds() { # name, python expression over d
    local v
    v=$(python3 -c 'import json,sys; d=json.load(open("bench.json")); r=d["rows"]; print(eval(sys.argv[1], {"d": d, "r": r, "all": all, "any": any, "set": set, "len": len}))' "$2" 2>&1)
    if [ "$v" = True ]; then ok "$1"; else not_ok "$1" "$2 gives $v" "$(head -c 400 bench.json)" "$(cat err.txt)"; fi
}
"$kvlab" bench --model tiny.gguf --json --repeats 2 --depths 64,200 --formats f16,k4v2 -t 2 >bench.json 2>err.txt
holds "every section has rows" 'set(x["section"] for x in r) == {"machine", "attention", "linear", "prefill", "decode", "batch", "pool", "compact", "memory"}'
holds "the shortest is not above the median, and rates are positive" 'all(x.get("min", 0) <= x.get("median", 0) and x["rate"] > 0 for x in r)'
holds "every path of this CPU is timed" 'len(set(x["isa"] for x in r if x["section"] == "attention")) == len(d["machine"]["isa"])'
holds "every weight type is timed" 'set(x["what"].split()[0] for x in r if x["section"] == "linear" and " x " in x["what"]) == set("Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K F16 BF16 F32".split())'
holds "one thread and two" 'set(x["threads"] for x in r if x["section"] == "attention") == {1, 2}'
holds "formats and lengths as asked for" 'all(any(x["what"].startswith(f) and "%d items" % n in x["what"] for x in r) for f in ("f16", "k4v2") for n in (64, 200))'
holds "load average and repeats are noted" 'd["load_before"] >= 0 and d["repeats"] == 2'
expect "the table names its sections" 0 "pool .*compaction" "$kvlab" bench pool --model tiny.gguf --repeats 1
"$kvlab" bench policies --model tiny.gguf --json --repeats 2 --depths 200 -t 1 --only knorm_kvpress --only 'h2o*' >bench.json 2>err.txt
holds "policies: a ratio to full for each preset that was asked for" 'set(x["what"].split(",")[0] for x in r if x["section"] == "policies") == {"h2o", "h2o_kvpress", "h2o_prefill", "knorm_kvpress"}'
holds "and each with its interval" 'all(x["rate_unit"].startswith("% more than full [") and 0 < x["min"] <= x["median"] for x in r if x["section"] == "policies")'
"$kvlab" bench policies --model tiny.gguf --json --repeats 1 --depths 200 -t 1 --only kvcrush_vllm_pr >bench.json 2>err.txt
holds "KVCrush's own part stands beside its base" '[x["what"].split(",")[0] for x in r if x["section"] == "policies"] == ["kvcrush_vllm_pr", "kvcrush_vllm_pr: selection", "kvcrush_vllm_pr: signatures to picks"]'
holds "and is smaller than all of the selection" '(lambda p: 0 < p[1]["min"] < 1 and p[2]["min"] < p[1]["min"])([x for x in r if x["section"] == "policies"])'
"$kvlab" bench policies --model tiny.gguf --json --repeats 1 --depths 100 -t 1 >bench.json 2>err.txt
holds "without --only: all presets that evict" 'len(set(x["what"].split(",")[0] for x in r if x["section"] == "policies")) > 30'
expect "one that this model cannot have is named" 0 "leaves kvlab_best out: .*profile" cat err.txt
expect "and refused when it was asked for" 2 "profile" "$kvlab" bench policies --model tiny.gguf --only kvlab_best
"$helpers/tiny_model" shape.gguf 1 3 n_embd=96 n_head=9 n_kv=3 head_dim=64 n_ff=96 context=8192
"$kvlab" bench memory --model shape.gguf --json --depths 512,4096 >bench.json 2>err.txt
holds "memory: slack and tables of two tiers on shared pages at 512 and 4096 tokens are below 20 and 5 % of live bytes" 'sorted(0 < x["rate"] < {"512": 20, "4096": 5}[x["what"].split()[-2]] for x in r if x["what"].startswith("k8v4 k4v2,")) == [True, True]'
expect "threads do not spin between regions for milliseconds" 0 "GOMP_SPINCOUNT = '4000'" env -u GOMP_SPINCOUNT -u OMP_WAIT_POLICY OMP_DISPLAY_ENV=VERBOSE "$kvlab" --version
expect "unless the environment says so" 0 "^1 GOMP_SPINCOUNT = '7'" sh -c 'GOMP_SPINCOUNT=7 OMP_DISPLAY_ENV=VERBOSE "$0" --version 2>&1 | grep -o "GOMP_SPINCOUNT = .*" | uniq -c | sed "s/^ *//"' "$kvlab"
expect "no preset of that name" 2 "matches no policy preset" "$kvlab" bench policies --model tiny.gguf --only nothing
expect "unknown section" 2 "there is no section .polo." "$kvlab" bench polo --model tiny.gguf
expect "lengths that are no numbers" 2 "depths takes" "$kvlab" bench prefill --model tiny.gguf --depths 1k
expect "lengths beyond the context" 2 "context of the model" "$kvlab" bench prefill --model tiny.gguf --depths 99999999
expect "attention over pages takes more than the context" 0 "k4v2 .*9000 items" "$kvlab" bench attention --model tiny.gguf --depths 9000 --formats k4v2 --repeats 1
expect "a cache that leaves no room for steps" 2 "leaves no room" "$kvlab" bench decode --model tiny.gguf --depths 2048
expect "unknown format" 2 "k9v9" "$kvlab" bench attention --model tiny.gguf --formats k9v9
finish
