# A score between 0 and 1 against true bytes of cache per token.
#   gnuplot -e "dat='export/score_vs_bytes-passkey.dat'; out='score_vs_bytes-passkey.png'" plots/score_vs_bytes.gp
if (!exists("dat")) dat = ARG1
if (!exists("out")) out = ARG2
settings = "title subtitle ylabel xmin xmax ymin ymax full_bytes families crowded band beside"
folder = system("dirname '".ARG0."'")
load folder."/style.gp"
load folder."/against_bytes.gp"

set yrange [ymin+0:ymax+0]
set format y "%.1f"
set ytics 0, 0.2, 1
set grid ytics
load folder."/points.gp"
