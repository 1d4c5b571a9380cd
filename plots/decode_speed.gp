# Decode tokens/s (left) and GB/s read from the cache (right) against context, a line per policy.
#   gnuplot -e "dat='export/decode_speed.dat'; out='decode_speed.png'" plots/decode_speed.gp
if (!exists("dat")) dat = ARG1
if (!exists("out")) out = ARG2
settings = "title subtitle xmin xmax ymax1 ymax2 lines"
folder = system("dirname '".ARG0."'")
load folder."/style.gp"

# Each panel is 462 pixels high: the program moved the names apart for that height.
eval canvas(1300, 600)
array name[lines+1]
array family[lines+1]
do for [i = 1:lines] {
    stats dat index 2+i every ::0::0 using (name[i] = strcol(1), family[i] = int($2), 0) nooutput
}
single = xmin == xmax
set xlabel "context (tokens)"
set format y "%g"
if (!single) { set logscale x 2 }
set xrange [(single ? xmin - 1 : xmin / 1.1) : (single ? xmax + 1 : xmax * 1.1)]
set xtics ()
do for [e = 5:20] { if (2**e >= xmin / 1.01 && 2**e <= xmax * 1.01) { set xtics add (sprintf("%d", 2**e) 2**e) } }
if (single) { set xtics add (sprintf("%d", xmin + 0) xmin + 0) }
set tmargin at screen 0.865
set bmargin at screen 0.095
unset key

set multiplot
do for [panel = 1:2] {
    set lmargin at screen (panel == 1 ? 0.062 : 0.562)
    set rmargin at screen (panel == 1 ? 0.352 : 0.852)
    set ylabel (panel == 1 ? "decode speed (tokens/s)" : "read from the cache (GB/s)") offset 0.3,0
    top = panel == 1 ? ymax1 + 0 : ymax2 + 0
    set yrange [0:top]
    if (panel == 2) { unset label 101; unset label 102 }
    names = panel
    right = single ? xmax + 1 : xmax * 1.1
    plot for [i = 1:lines] dat index 2+i using 1:(column(1 + panel)) every ::1 \
             with linespoints lw 1.4 pt mark(family[i]) ps mark_size(0.9) lc rgb color(family[i]), \
         dat index names \
             using (right):1:5:(text_color($4)) with labels left offset 0.9,0 font ",9" tc rgb variable noenhanced, \
         dat index names using 3:2:(right-$3):($1-$2):(color($4)) with vectors nohead lw 0.5 lc rgb variable
}
unset multiplot
unset output
