#!/usr/bin/env bash
# Stages from shared objects: the ones of docs/plugin give the numbers of the built-in stages they copy; whatever is wrong with one costs its
# units, with a sentence, and the sweep goes on.
. "$(dirname "$0")/../support/e2e.sh"
source=$(cd "$(dirname "$0")/../.." && pwd)
cc=${CC:-cc}
if ! command -v "${cc%% *}" >/dev/null; then
    echo "ok plug-ins # SKIP no C compiler: ${cc%% *}"
    exit 0
fi
cd "$work" || exit 1
"${MAKE:-make}" -s -C "$source/docs/plugin" OUT="$work" CC="$cc" >make.log 2>&1 && ok "the example builds with its own Makefile" ||
    not_ok "the example builds with its own Makefile" "$(tail -n 3 make.log)"

# Bad ones, from one source each: FAULT is the body of `run` of a score.
bad() { # name, body of run, more fields
    printf '#include "kvlab_plugin.h"\n#include <stdlib.h>\n#include <string.h>\nstatic int run(void *s, const kvlab_decision *d, char *why) { (void)s, (void)d, (void)why; %s }\nKVLAB_STAGE(%s) = {.abi = KVLAB_PLUGIN_ABI%s, .bytes = sizeof(kvlab_stage), .run = run%s};\n' \
        "$2" "${symbol:-kvlab_score}" "${abi:-}" "${3:-}" >"$1.c"
    $cc -std=gnu11 -O1 -w -fPIC -shared -I"$source/src/policy" -o "$1.so" "$1.c" || not_ok "compiling $1"
}
fill='for (int k = 0; k < d->n_heads; k++) for (int i = 0; i < d->heads[k].n; i++)'
bad crash "$fill d->heads[k].score[i] = *(volatile float *)(8 * d->n_heads);"
bad aborts 'abort();'
bad nan "$fill d->heads[k].score[i] = i == 5 ? 0.0f / 0.0f : 1; return 0;"
bad lazy 'return 0;'
bad refuses 'strcpy(why, "no opinion on this prompt"); return 1;'
abi=+1 bad newer 'return 0;'
symbol=other bad nosymbol 'return 0;'
printf 'not a shared object\n' >text.so
printf '#include "kvlab_plugin.h"\nstatic int run(void *s, const kvlab_decision *d, char *why) { return 0; }\nstatic int open_it(const kvlab_model *m, const kvlab_option *o, int n, kvlab_needs *needs, void **s, char *why) { needs->n_signals = 1; needs->signals[0].kind = KVLAB_WINDOW_MASS; needs->signals[0].rows = 65; needs->signals[0].power = 1; return 0; }\nKVLAB_STAGE(kvlab_score) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .open = open_it, .run = run};\n' >signal.c
$cc -std=gnu11 -w -fPIC -shared -I"$source/src/policy" -o signal.so signal.c
symbol=kvlab_quota bad greedy 'for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = d->kept + (k == 0); return 0;'
symbol=kvlab_quota bad negative 'for (int k = 0; k < d->n_heads; k++) d->heads[k].quota = -2; return 0;'
symbol=kvlab_select bad keepsall "$fill d->heads[k].target[i] = 0; return 0;"
symbol=kvlab_select bad nosuch "$fill d->heads[k].target[i] = 7; return 0;"
symbol=kvlab_select bad unkind "$fill d->heads[k].target[i] = KVLAB_DROP; return 0;"
symbol=kvlab_tier bad far "$fill if (d->heads[k].target[i] == 0) d->heads[k].target[i] = 3; return 0;"
symbol=kvlab_decide bad hoarder 'return 0;'
symbol=kvlab_decide bad lifter "$fill { if (d->heads[k].tier_now) d->heads[k].target[i] = 0; else d->heads[k].target[i] = d->heads[k].flags[i] ? 0 : 1; } return 0;"
symbol=kvlab_tier bad undead "$fill d->heads[k].target[i] = 1; return 0;"

cat >head.yaml <<'Y'
name: plugins
model: {path: tiny.gguf}
data: {text: text.txt}
engine: {threads: 1}
noise_floor: {records: 0}
tasks: [{preset: lm, context: 160, tokens: 24, records: 2, skip: 50, stride: 200}]
Y

# ---- the same numbers as the built-in stages ----
two='protect: {recent: 16}, tiers: [f16, k8v4], trigger: {prefill: true, slack: 8}'
{
    cat head.yaml
    cat <<Y
sweep:
  grid:
    policy:
      - {budget: 0.25, score: recency, protect: {sink: 4}}
      - {budget: 0.25, score: {plugin: {path: ./stages.so}}, protect: {sink: 4}}
      - {budget: 0.25, score: {window: {rows: 8, pool: none}}}
      - {budget: 0.25, score: {plugin: {path: value_aware.so, options: {rows: 8, alpha: 0}}}}
      - {budget: 0.25, score: {window: {rows: 8, pool: none}}, quota: {plugin: {path: stages.so}}, select: {plugin: {path: stages.so}}}
      - {budget: 0.3, score: random, quota: {plugin: {path: stages.so, over: sequence}}, protect: {sink: 2, recent: 3}}
      - {budget: 0.3, score: random, protect: {sink: 2, recent: 3}}
      - {budget: {bytes: 0.3}, score: random, $two, tier: {uniform: {format: k8v4}}}
      - {budget: {bytes: 0.3}, score: random, $two, tier: {plugin: {path: stages.so, live: true}}, quota: {plugin: {path: stages.so, live: true}}, select: {plugin: {path: stages.so, live: true}}}
      - {budget: 0.5, score: {plugin: {path: ./stages.so, live: true}}, protect: {sink: 4}, trigger: {prefill: true, slack: 1}}
      - {budget: 0.5, score: recency, protect: {sink: 4}, trigger: {prefill: true, slack: 1}}
      - {budget: {bytes: 0.3}, score: recency, protect: {sink: 4, recent: 16}, tiers: [f16, k8v4], trigger: {prefill: true, slack: 8}, tier: {uniform: {format: k8v4}}}
      - {budget: {bytes: 0.3}, protect: {sink: 4, recent: 16}, tiers: [f16, k8v4], trigger: {prefill: true, slack: 8}, decide: {plugin: {path: stages.so, live: true}}}
Y
} >same.yaml
expect "plug-ins of all four stages run" 0 "" "$kvlab" run same.yaml -o same -q
values() { # number of a point in same.yaml: what its units measured
    local id
    id=$("$kvlab" plan same.yaml -o same --json 2>/dev/null | sed -n 's/.*"id": "\([0-9a-f]*\)".*/\1/p' | sed -n "$1p")
    grep "\"point\":\"$id\"" same/journal/units.jsonl | grep '"status":"ok"' |
        sed -E 's/^[0-9a-f]{16} //; s/"(seconds|point|label|policy)":("[^"]*"|[^,}]*),?//g' | sort
}
equal() { # name, two points
    local a b
    a=$(values "$2") b=$(values "$3")
    if [ -n "$a" ] && [ "$a" = "$b" ] && [ "$(wc -l <<<"$a")" -eq 2 ]; then ok "$1"; else not_ok "$1" "$(cut -c1-200 <<<"$a")" "$(cut -c1-200 <<<"$b")"; fi
}
equal "score: recency of its own equals recency" 1 2
equal "score: value_aware with alpha 0 equals window" 3 4
equal "quota and select of its own equal fixed and top_k" 3 5
equal "quota over a sequence equals fixed" 7 6
equal "tier of its own under a byte budget, in decode too, equals uniform" 8 9
equal "score that lives in decode equals recency" 11 10
equal "decide of its own equals score, quota, select and tier" 12 13

# ---- what is wrong costs its units ----
point() { printf '      - {budget: 0.25, %s}\n' "$1"; }
{
    cat head.yaml
    printf 'sweep:\n  grid:\n    policy:\n'
    point 'score: recency'
    for name in crash aborts nan lazy refuses newer nosymbol text signal absent; do point "score: {plugin: {path: $name.so}}"; done
    point 'score: {plugin: {path: value_aware.so, options: {alhpa: 1}}}'
    point 'score: {plugin: {path: value_aware.so, options: {alpha: much}}}'
    for name in greedy negative; do point "score: random, quota: {plugin: {path: $name.so}}"; done
    for name in keepsall nosuch unkind; do point "score: random, protect: {sink: 2}, select: {plugin: {path: $name.so}}"; done
    for name in far undead; do point "score: random, tiers: [f16, k8v4], tier: {plugin: {path: $name.so}}"; done
    point 'decide: {plugin: {path: hoarder.so}}'
    printf '      - {tiers: [f16, k8v4], protect: {recent: 8}, trigger: {prefill: true, slack: 4}, decide: {plugin: {path: lifter.so, live: true}}}\n'
    point 'score: random'
} >bad.yaml
"$kvlab" run bad.yaml -o bad -q >out 2>err
status=$?
[ $status -eq 1 ] && ok "a sweep with broken plug-ins ends with status 1" || not_ok "a sweep with broken plug-ins ends with status 1" "$status" "$(tail -n 3 err)"
n=$(grep -c '"status":"ok"' bad/journal/units.jsonl)
[ "$n" -eq 4 ] && ok "the other points were computed" || not_ok "the other points were computed" "$n units are ok, not 4"
n=$(grep -cE '"status":"(failed|crashed)"' bad/journal/units.jsonl)
[ "$n" -eq 42 ] && ok "every unit of a broken plug-in has its record" || not_ok "every unit of a broken plug-in has its record" "$n, not 42"
says() { # name, text that a record of the journal must hold twice (once per unit)
    local n
    n=$(grep -E '"status":"(failed|crashed)"' bad/journal/units.jsonl | grep -c -e "$2")
    [ "$n" -eq 2 ] && ok "the journal says: $1" || not_ok "the journal says: $1" "$n records have: $2" "$(grep -o "$3[^}]*" bad/journal/units.jsonl | head -n 2 | cut -c1-300)"
}
says "a crash" 'died of signal 11 .*plug-in ./crash.so' crash
says "an abort" 'died of signal 6 .*plug-in ./aborts.so' aborts
says "a score that is NaN" 'plug-in ./nan.so: the score of position 5 in layer 0, head 0 is not a number' nan.so
says "a score that was not written" 'plug-in ./lazy.so: the score of position 0' lazy.so
says "the plug-in's own reason" 'plug-in ./refuses.so: no opinion on this prompt' refuses
says "another version" 'plug-in ./newer.so is built for version 2 of kvlab_plugin.h, this kvlab has version 1' newer
says "a missing symbol" 'plug-in ./nosymbol.so does not export kvlab_score' nosymbol
says "a file that is no shared object" 'plug-in ./text.so cannot be opened' text.so
says "a signal that cannot be" 'plug-in ./signal.so: signal 0 (kind 0) has a parameter out of range' signal.so
says "a missing file" 'absent.so' absent
says "an unknown option with a suggestion" 'has no option alhpa, did you mean alpha' alhpa
says "an option that is no number" 'did not open: alpha: \\"much\\" is no number' much
says "quotas beyond the budget" 'plug-in ./greedy.so: quotas of [0-9]* items together, the budget holds [0-9]*' greedy
says "a negative quota" 'plug-in ./negative.so: a quota of -2 for layer 0, head 0' negative
says "more items than the quota" 'plug-in ./keepsall.so: 160 items stay in layer 0, head 0, whose quota is 40' keepsall
says "a target that is none" 'plug-in ./nosuch.so: target 7 for position 0' nosuch
says "a protected item dropped" 'plug-in ./unkind.so: the protected position 0' unkind
says "a tier that is not there" 'plug-in ./far.so: tier 3 for position' far.so
says "a dropped item kept" 'plug-in ./undead.so: position [0-9]* in layer 0, head 0 is dropped by select and kept here' undead
says "a decision beyond the budget" 'plug-in ./hoarder.so: [0-9]* items stay, the budget holds' hoarder
says "a move upwards" 'plug-in ./lifter.so: position [0-9]* in layer 0, head 0 would move from k8v4 to f16: moves only lower precision' lifter
expect "a missing file is told before the run" 0 'absent.so cannot be read' "$kvlab" plan bad.yaml -o bad

# ---- identity ----
one() { { cat head.yaml; printf 'policy: {budget: 0.25, score: {plugin: {path: changing.so}}}\n'; } >one.yaml; }
one
id() { "$kvlab" plan one.yaml --json -o fresh 2>/dev/null | sed -n 's/.*"sweep_id": "\([0-9a-f]*\)".*/\1/p'; }
cp stages.so changing.so
before=$(id)
again=$(id)
cp value_aware.so changing.so
after=$(id)
[ -n "$before" ] && [ "$before" = "$again" ] && [ "$before" != "$after" ] && ok "another file of the same name is another point" ||
    not_ok "another file of the same name is another point" "$before $again $after"
expect "a run with the one file" 0 "" "$kvlab" run one.yaml -o changed -q
cp stages.so changing.so
expect "results of another file are not mixed in" 2 "another sweep" "$kvlab" run one.yaml -o changed -q

# ---- configuration ----
refuse() { # name, text, policy
    { cat head.yaml; printf 'policy: %s\n' "$3"; } >refused.yaml
    expect "$1" 2 "$2" "$kvlab" plan refused.yaml
}
refuse "a plug-in without a path" 'refused.yaml:7:.*needs a path' '{budget: 0.5, score: {plugin: {}}}'
refuse "an unknown key of a plug-in" 'did you mean .symbol' '{budget: 0.5, score: {plugin: {path: a.so, symbl: x}}}'
refuse "over of something else" 'layer or sequence' '{budget: 0.5, score: random, quota: {plugin: {path: a.so, over: head}}}'
refuse "a quota plug-in without a budget" 'needs a budget' '{score: random, quota: {plugin: {path: a.so}}, select: top_k}'
refuse "a score of the prompt with a decode trigger" 'nothing to decide' '{budget: 0.5, score: {plugin: {path: a.so}}, trigger: {prefill: true, slack: 4}}'
"$kvlab" score --model tiny.gguf --file text.txt --context 64 --tokens 8 --policy random --set 'policy.score={plugin: {path: ./stages.so}}' >out 2>err && grep -q nll out &&
    ok "kvlab score runs one" || not_ok "kvlab score runs one" "$(tail -n 3 err)"
expect "kvlab score refuses one that is not there" 1 "absent.so" "$kvlab" score --model tiny.gguf --file text.txt --context 64 --tokens 8 --policy random --set 'policy.score={plugin: {path: absent.so}}'
finish
