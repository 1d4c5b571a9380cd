# KL of every point of a search over the alternatives it is made of; bars: the median, filled marks: the best of all.
#   gnuplot -e "dat='export/axes.dat'; out='axes.png'" plots/axes.gp
if (!exists("dat")) dat = ARG1
if (!exists("out")) out = ARG2
settings = "title subtitle columns ymin ymax"
folder = system("dirname '".ARG0."'")
load folder."/style.gp"

w = 180 + 78 * (columns + 0)
w = w < 900 ? 900 : w
eval canvas(w, 560)
set lmargin at screen 85.0 / w
set rmargin at screen 1 - 30.0 / w
set tmargin at screen 0.85
set bmargin at screen 0.13
unset key
set logscale y
set yrange [ymin+0:ymax+0]
set xrange [-0.7:columns-0.3]
set ylabel "KL from the full cache (nats)" offset 0.5,0
unset xtics
set ytics ()
do for [e = -7:2] { do for [m in "1 2 5"] {
    v = m * 10.0**e
    if (v >= ymin && v <= ymax) { set ytics add (sprintf("%g", v) v) }
} }
unset grid
set grid ytics lc rgb 0xe6e6e6 lw 0.8 lt 1
plot dat index 1 using ($1-0.3):5:(0.6):(0) with vectors nohead lw 2.4 lc rgb 0xc4c4c4, \
     dat index 2 using 1:2 with points pt 6 ps mark_size(0.8) lc rgb color(1), \
     dat index 2 using 1:($3 > 0 ? $2 : NaN) with points pt 7 ps mark_size(1.3) lc rgb color(2), \
     dat index 1 using 1:(ymin+0):2 with labels offset 0,-0.9 font ",10" noenhanced, \
     dat index 1 using 1:(ymin+0):6 with labels left offset -2.2,-2.2 font "DejaVu Sans Bold,10" noenhanced
unset output
