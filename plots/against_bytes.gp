# Frame of the figures whose x axis is bytes per token; loaded by kl_vs_bytes.gp and score_vs_bytes.gp.
# The plot's area is 720 x 462 pixels, 955 x 616 if crowded: the program placed the labels for that size.
# First line of each family's block. (Once axes have ranges, `stats` would mind them.)
array name[families+1]
array family[families+1]
array joined[families+1]
array leads[families+1]
do for [i = 1:families] {
    stats dat index 2+i every ::0::0 using (name[i] = strcol(1), family[i] = int($2), joined[i] = int($3), leads[i] = int($4), 0) nooutput
}
# Many families have no key: their names stand in the band left of the points.
crowded = int(crowded)
beside = int(beside)
eval canvas(1060, crowded ? 800 : 600)
set lmargin at screen 85.0/1060
set rmargin at screen (crowded ? 1040.0 : 805.0) / 1060
set bmargin at screen (crowded ? 0.075 : 0.095)
set tmargin at screen (crowded ? 0.845 : 0.865)

set xlabel "cache per token at the end of the prompt (KiB, live)" noenhanced
set ylabel ylabel noenhanced offset 0.5,0
set logscale x
set xrange [xmin+0:xmax+0]
set xtics () nomirror
steps = 1.0 * xmax / xmin > 20 ? "1 2 5" : "1 1.5 2 3 4 5 6 8"
do for [e = -4:8] { do for [m in steps] {
    kib = m * 10.0**e
    if (kib * 1024 >= band && kib * 1024 <= xmax) { set xtics add (sprintf("%g", kib) kib * 1024) }
}}
# The upper axis: the same as shares of an f16 cache that keeps everything.
set border 7
set logscale x2
set x2range [1.0 * xmin / full_bytes : 1.0 * xmax / full_bytes]
set x2tics () nomirror font ",9" tc rgb 0x666666 offset 0,-0.4
do for [percent in (crowded ? "100 50 25 20 12.5 8 5 3 1.5" : "100 50 25 12.5 6.25 3 1.5 0.75")] {
    if (percent / 100.0 >= 1.0 * band / full_bytes) { set x2tics add (percent." %%" percent / 100.0) }
}
set label 103 "of f16" at graph (crowded ? 0.985 : 1.015), graph 1.035 left font ",9" tc rgb 0x666666
set key font ",10" at screen 820.0/1060, screen 0.84 left top reverse Left samplen 1.6 spacing 1.25 noenhanced width 0
if (crowded) { unset key }
