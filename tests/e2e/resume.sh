#!/usr/bin/env bash
# A sweep that is killed, interrupted or loses its worker ends, after resume, with the numbers of an undisturbed one.
. "$(dirname "$0")/../support/e2e.sh"
cd "$work" || exit 1
sweep() { PATH=/nowhere "$kvlab" "$@"; } # without gnuplot: thirty runs need no pictures
cat >s.yaml <<'Y'
name: crash
model: {path: tiny.gguf}
data: {text: text.txt}
engine: {threads: 1}
tasks:
  - {preset: lm, context: 160, tokens: 24, records: 12, skip: 50, stride: 200}
  - {preset: repeat_back, span: 32, filler: 64, records: 12, skip: 3000, stride: 200}
sweep:
  list:
    - {policy.preset: [full, k8v4, k4v2]}
    - {policy.preset: [streamingllm, snapkv, random], policy.budget: [0.5, 0.25]}
Y
expect "undisturbed run" 0 "" sweep run s.yaml -o whole -q
numbers whole >whole.txt
n_units=$(wc -l <whole.txt)
[ "$n_units" -eq 220 ] && ok "216 units and 4 of the noise floor" || not_ok "216 units and 4 of the noise floor" "$n_units"

same() { # name, directory
    numbers "$2" >again.txt
    if cmp -s whole.txt again.txt; then ok "$1"; else not_ok "$1" "$(diff whole.txt again.txt | head -n 3 | cut -c1-300)" "$(wc -l <again.txt) of $n_units records"; fi
}
start() { # directory: runs in the background, waits until $2 records are there; $pid is the parent's
    PATH=/nowhere "$kvlab" run s.yaml -o "$1" -q >/dev/null 2>"$1.err" & # no function here: $! is the program's own id
    pid=$!
    while [ "$(cat "$1/journal/units.jsonl" 2>/dev/null | wc -l)" -lt "$2" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
}

RANDOM=$$
left=10
while [ $left -gt 0 ]; do # ten moments, spread over the run
    at=$((1 + RANDOM % 200))
    rm -rf killed
    start killed $at
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    before=$(grep -c '"status":"ok"' killed/journal/units.jsonl)
    sweep resume killed -q >/dev/null 2>resume.err || not_ok "resume after kill -9 at $before" "$(tail -n 3 resume.err)"
    same "kill -9 after $before records, then resume" killed
    left=$((left - 1))
done
[ "$(grep -c '"status":"ok"' killed/journal/units.jsonl)" -eq "$n_units" ] && ok "nothing was computed twice" || not_ok "nothing was computed twice"

for s in INT:130 TERM:143 USR1:75; do
    rm -rf stopped
    start stopped 20
    kill -"${s%:*}" $pid
    wait $pid
    status=$?
    [ $status -eq "${s#*:}" ] && ok "SIG${s%:*} ends with status ${s#*:}" || not_ok "SIG${s%:*} ends with status ${s#*:}" "$status" "$(tail -n 3 stopped.err)"
    "$kvlab" validate stopped >/dev/null 2>&1 && ok "SIG${s%:*} leaves a whole journal" || not_ok "SIG${s%:*} leaves a whole journal"
    sweep resume stopped -q >/dev/null 2>&1
    same "SIG${s%:*}, then resume" stopped
done

for attempt in $(seq 40); do # a worker that dies between two units costs nothing: try until one was in hand
    rm -rf worker
    start worker $((1 + RANDOM % 150))
    child=$(grep -ls "^PPid:[[:space:]]*$pid\$" /proc/[0-9]*/status | head -n 1 | cut -d/ -f3) # no pgrep on a bare Debian
    [ -z "$child" ] || kill -SEGV "$child"
    wait $pid
    status=$?
    if grep -q '"status":"crashed"' worker/journal/units.jsonl; then break; fi
    [ $status -eq 0 ] || not_ok "a worker that dies between two units costs nothing" "$status"
done
[ $status -eq 1 ] && ok "a dead worker ends the sweep with status 1" || not_ok "a dead worker ends the sweep with status 1" "$status"
n=$(grep -c '"status":"crashed"' worker/journal/units.jsonl)
if [ "$n" -ge 1 ] && [ "$n" -le 10 ] && grep -q 'signal 11' worker/journal/units.jsonl; then ok "it costs the unit it was on, with the signal's name"; else not_ok "it costs the unit it was on, with the signal's name" "$n crashed"; fi
n=$(grep -c '"status":"ok"' worker/journal/units.jsonl)
[ "$n" -ge $((n_units - 10)) ] && ok "the rest of the sweep was computed" || not_ok "the rest of the sweep was computed" "$n"
"$kvlab" status worker >status.txt 2>&1
grep -q crashed status.txt && ok "status names the crashed unit" || not_ok "status names the crashed unit"
sweep resume worker -q >/dev/null 2>&1
same "a dead worker, then resume" worker

rm -rf held
start held 10
expect "a second run in the same directory is refused" 3 "another kvlab" "$kvlab" run s.yaml -o held -q
kill -INT $pid
wait $pid

sweep run s.yaml -o parts -q --only 'snapkv*' >/dev/null 2>&1
expect "a table of a part has the points that have begun, and says so" 0 "points have not begun and are left out" "$kvlab" show parts
sweep run s.yaml -o parts -q --limit 2 >/dev/null 2>&1
sweep run s.yaml -o parts -q >/dev/null 2>&1
same "a sweep in parts equals one run" parts
sweep run s.yaml -o two -q --threads 2 >/dev/null 2>&1
same "two threads equal one" two
finish
