#!/usr/bin/env bash
# Every mistake ends in one clear sentence and the right exit status, and leaves nothing half-written.
. "$(dirname "$0")/../support/e2e.sh"
cd "$work" || exit 1
sweep() { printf 'name: t\nmodel: {path: tiny.gguf}\ndata: {text: text.txt}\ntasks: [{preset: lm, context: 64, tokens: 8, records: 2, skip: 0, stride: 100}]\n%s\n' "$1" >s.yaml; }

expect "no verb" 2 "no verb" "$kvlab"
expect "unknown verb with a suggestion" 2 "did you mean .kvlab run" "$kvlab" rum s.yaml
expect "unknown option with a suggestion" 2 "did you mean --limit" "$kvlab" run s.yaml --limits 3
expect "help goes to standard output" 0 "usage: kvlab run" "$kvlab" run --help
expect "version" 0 "kvlab [0-9]" "$kvlab" --version

expect "missing sweep file" 2 "absent.yaml" "$kvlab" run absent.yaml
sweep 'policy: {preset: full'
expect "YAML that does not parse names line and column" 2 "s.yaml:[0-9]*:[0-9]*" "$kvlab" run s.yaml
sweep 'polcy: {preset: full}'
expect "misspelt key names line, column and suggestion" 2 "s.yaml:5:1.*did you mean" "$kvlab" run s.yaml
sweep 'policy: {preset: snapkv, budget: {bytes: -1}}'
expect "impossible budget" 2 "s.yaml:5:" "$kvlab" run s.yaml
sweep 'policy: {preset: snapvk}'
expect "unknown preset with a suggestion" 2 "did you mean snapkv" "$kvlab" plan s.yaml
sweep 'engine: {backend: cuda}'
expect "cuda is refused in one sentence" 3 "cuda" "$kvlab" plan s.yaml
sweep 'engine: {context: 99999999}'
expect "context beyond the model's" 2 "context" "$kvlab" plan s.yaml
sweep 'engine: {context: 32}'
expect "records that do not fit the context" 2 "do not fit the context of 32" "$kvlab" run s.yaml
[ -e results/t/sweep.h5 ] && not_ok "no final files after a refused sweep" || ok "no final files after a refused sweep"
sweep ''
expect "--set of an unknown key" 2 "polici" "$kvlab" run s.yaml --set polici.budget=0.5
expect "a task's key that it does not know" 2 "unknown key .recrods.; did you mean" "$kvlab" run s.yaml --set tasks.0.recrods=3
expect "--only that matches nothing" 2 "matches none" "$kvlab" run s.yaml --only 'nothing*'
expect "second --only that matches nothing" 2 "--only nothing. matches none" "$kvlab" run s.yaml --only '*' --only 'nothing*'

sed 's/tiny.gguf/nowhere.gguf/' s.yaml >nomodel.yaml
expect "missing model file" 3 "nowhere.gguf" "$kvlab" run nomodel.yaml
sed 's/{path: tiny.gguf}/{preset: smollm2-135m}/' s.yaml >preset.yaml
expect "model preset that is not installed says what fetches it" 3 "make model" env XDG_CACHE_HOME="$work/empty" "$kvlab" run preset.yaml
sed 's/text.txt/no-text.txt/' s.yaml >notext.yaml
expect "missing text" 3 "no-text.txt" "$kvlab" run notext.yaml
for at in 0 4 8 16 24; do
    cp tiny.gguf bad.gguf
    printf '\377\377\377\377\377\377\377\377' | dd of=bad.gguf bs=1 seek=$at conv=notrunc status=none
    expect "corrupted GGUF header at byte $at" 1 "bad.gguf" "$kvlab" inspect bad.gguf
done
head -c 1000 tiny.gguf >short.gguf
expect "GGUF cut short" 1 "short.gguf" "$kvlab" inspect short.gguf
head -c 4096 /dev/urandom >noise.gguf
expect "a file that is no GGUF" 1 "noise.gguf" "$kvlab" score --model noise.gguf --file text.txt

expect "output below a file" 1 "text.txt" "$kvlab" run s.yaml -o text.txt/out
expect "output that cannot be made" 1 "cannot create directory" "$kvlab" run s.yaml -o /proc/kvlab-out
mkdir -p other/journal
expect "directory without a journal to resume" 2 "sweep.yaml" "$kvlab" resume other
expect "show of a directory without results" 1 "other" "$kvlab" show other
expect "status of a missing directory" 1 "nodir" "$kvlab" status nodir

# A limit on file sizes stands for a full disk: writes fail, and the journal keeps only whole lines.
errors=1 expect "disk full while running" 1 "cannot append to journal" bash -c "trap '' XFSZ; ulimit -f 24; exec '$kvlab' run s.yaml -o full --set policy.preset=full,k8v4,k4v2,snapkv,adakv,random --set 'tasks.0.records=40' -q"
if [ -e full/sweep.h5 ] || ls full/*.tmp.* >/dev/null 2>&1; then not_ok "nothing half-written after a full disk" "$(ls -a full)"; else ok "nothing half-written after a full disk"; fi
expect "the journal of a full disk is whole" 0 "ok" "$kvlab" validate full
expect "and resumes" 0 "" "$kvlab" resume full -q

expect "run" 0 "" "$kvlab" run s.yaml -q
expect "another sweep in the same directory is refused" 2 "another sweep" "$kvlab" run s.yaml -q --set policy.preset=k8v4
expect "--force starts anew" 0 "" "$kvlab" run s.yaml -q --set policy.preset=k8v4 --force
sed -i '2s/"item"/"itsm"/' results/t/journal/units.jsonl
expect "a changed journal line is named" 4 "units.jsonl:2" "$kvlab" validate results/t
expect "comparing an unknown point" 2 "no point is called nobody" "$kvlab" compare results/t nobody k8v4
expect "an unknown axis" 2 "no axis is called nothing; the sweep has" "$kvlab" contrast results/t nothing=k8v4

expect "score without input" 2 "one of --file" "$kvlab" score --model tiny.gguf
expect "score beyond the text" 2 "needs 1000137" "$kvlab" score --model tiny.gguf --file text.txt --skip 1000000 --context 8
expect "score beyond the context" 2 "context of 2048" "$kvlab" score --model tiny.gguf --file text.txt --context 3000
echo '{"ids": [1]}' >ids.json
expect "ids that are no list" 1 "JSON list" "$kvlab" score --model tiny.gguf --ids ids.json
echo '[1, 2, 512]' >ids.json
expect "ids outside the vocabulary" 1 "entry 2" "$kvlab" score --model tiny.gguf --ids ids.json --context 1 --tokens 1
expect "a chat template that does not exist" 2 "foo.*unknown.*chatml, llama2, llama3" "$kvlab" generate --model tiny.gguf --prompt x --template foo
expect "generate without a prompt" 2 "needs --prompt" "$kvlab" generate --model tiny.gguf
expect "unknown thing to list" 2 "did you mean .kvlab ls policies" "$kvlab" ls policie
expect "math that does not exist" 2 "fast or exact" "$kvlab" score --model tiny.gguf --file text.txt --math quick
expect "policy override that is unknown" 2 "bugdet" "$kvlab" score --model tiny.gguf --file text.txt --policy snapkv --set policy.bugdet=0.5
finish
