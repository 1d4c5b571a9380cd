#!/usr/bin/env bash
# Pictures: drawn from a results directory, again by hand from the exported data, and never half-written. The numbers are made up.
. "$(dirname "$0")/../support/e2e.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$work" || exit 1
"$helpers/made_sweep" made || exit 1
names="kl_vs_bytes-lm kl_vs_bytes-passkey_length=a_b score_vs_bytes-passkey_length=a_b decode_speed kept_heads memory"

expect "export" 0 "" "$kvlab" export made
expect "plot" 0 "" "$kvlab" plot made
is_png() { [ "$(head -c 8 "$1" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] && tail -c 8 "$1" | grep -q IEND; }
for n in $names; do
    is_png "made/plots/$n.png" && ok "$n.png is a picture" || not_ok "$n.png is a picture" "$(ls made/plots)"
    grep -q '</svg>' "made/plots/$n.svg" && ok "$n.svg is a picture" || not_ok "$n.svg is a picture"
    script=$root/plots/${n%%-*}.gp
    rm -f again.png
    said=$(gnuplot -e "dat='made/export/$n.dat'; out='again.png'" "$script" 2>&1)
    if [ -z "$said" ] && cmp -s again.png "made/plots/$n.png"; then ok "$n by hand: the same picture, no warnings"; else not_ok "$n by hand" "$said"; fi
done
grep -q 'snapkv' made/plots/kl_vs_bytes-lm.svg && grep -q 'noise floor' made/plots/kl_vs_bytes-lm.svg && ok "names and noise floor are in the picture" || not_ok "names and noise floor are in the picture"

"$helpers/made_sweep" many crowded || exit 1
expect "plot of many policies" 0 "" "$kvlab" plot many
for n in kl_vs_bytes-lm score_vs_bytes-passkey_length=a_b; do
    said=$(gnuplot -e "dat='many/export/$n.dat'; out='again.png'" "$root/plots/${n%%-*}.gp" 2>&1)
    [ -z "$said" ] && [ "$(grep -o 'policy_[0-9][0-9]' "many/plots/$n.svg" | sort -u | wc -l)" -eq 20 ] && ok "$n names every policy" || not_ok "$n names every policy" "$said"
done
rm -f again.png
said=$(gnuplot -c "$root/plots/memory.gp" made/export/memory.dat again.png 2>&1)
is_png again.png && [ -z "$said" ] && ok "arguments by -c" || not_ok "arguments by -c" "$said"

"$kvlab" show made >table.txt
grep -q 'speed/0000.*speed/0003' table.txt && grep -qE '^k8v8 .* [0-9.]+ ×[0-9.]+ ' table.txt && ok "the table has a column per timed record, with the ratio to full" || not_ok "the table has a column per timed record, with the ratio to full" "$(head -n 4 table.txt)"

expect "report" 0 "" "$kvlab" report made
n_pictures=$(grep -o 'src="data:image/svg+xml;base64' made/report.html | wc -l)
[ "$n_pictures" -eq 6 ] && ok "the report carries its pictures" || not_ok "the report carries its pictures" "$n_pictures"
! grep -qE '(src|href)="(https?:|/)|<script' made/report.html && ok "the report needs nothing else" || not_ok "the report needs nothing else"

mkdir bin
rm -rf made/plots
expect "without gnuplot" 3 "gnuplot is not installed: apt-get install gnuplot-nox" env PATH="$work/bin" "$kvlab" plot made
[ -z "$(ls made/plots 2>/dev/null)" ] && ok "without gnuplot nothing is left" || not_ok "without gnuplot nothing is left" "$(ls made/plots)"
printf '#!/bin/sh\nexit 0\n' >bin/gnuplot && chmod +x bin/gnuplot
expect "a gnuplot that writes nothing" 1 "incomplete picture" env PATH="$work/bin:$PATH" "$kvlab" plot made
[ -z "$(ls made/plots)" ] && ok "and nothing is left" || not_ok "and nothing is left" "$(ls made/plots)"

# A limit on the size of files stands for a full disk.
rm -f made/sweep.h5
expect "full disk, export" 1 "cannot write made/sweep.h5: File too large" bash -c "trap '' XFSZ; ulimit -f 64; exec '$kvlab' export made"
[ ! -e made/sweep.h5 ] && [ -z "$(find made -name '*.tmp.*')" ] && ok "no half-written sweep.h5" || not_ok "no half-written sweep.h5" "$(find made -newer bin)"
expect "full disk, plot" 1 "" bash -c "trap '' XFSZ; ulimit -f 8; exec '$kvlab' plot made"
[ -z "$(find made -name '*.tmp.*')" ] && ok "no half-written picture" || not_ok "no half-written picture" "$(find made -name '*.tmp.*')"
finish
