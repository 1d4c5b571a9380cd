# KL divergence from the full cache against true bytes of cache per token, both logarithmic.
#   gnuplot -e "dat='export/kl_vs_bytes-lm.dat'; out='kl_vs_bytes-lm.png'" plots/kl_vs_bytes.gp
if (!exists("dat")) dat = ARG1
if (!exists("out")) out = ARG2
settings = "title subtitle ylabel xmin xmax ymin ymax zero noise full_bytes families crowded band beside"
folder = system("dirname '".ARG0."'")
load folder."/style.gp"
load folder."/against_bytes.gp"

set logscale y
set yrange [ymin+0:ymax+0]
set ytics ()
do for [e = -16:3] {
    decade = 10.0**e
    if (decade > ymin && decade < ymax && decade > 1.7 * zero) { set ytics add (sprintf("10^{%d}", e) decade) }
}
set grid ytics
# A KL of 0 has no place on a logarithmic axis: such points lie on a line of their own at the bottom.
if (zero > 0) {
    set ytics add ("0" zero+0)
    set arrow from graph 0, first zero to graph 1, first zero nohead lw 0.8 dt 3 lc rgb grey back
}
if (noise > 0) {
    set object rectangle from graph 0, first ymin to graph 1, first noise fc rgb 0xf3f3f3 fs solid noborder behind
    set label "noise floor" at graph 0.008, first noise left offset 0,-0.6 font ",9" tc rgb grey noenhanced
}
load folder."/points.gp"
