# What the bytes of each point's cache are: payload, metadata, columns, tables, slack; beside a full f16 cache.
#   gnuplot -e "dat='export/memory.dat'; out='memory.png'" plots/memory.gp
if (!exists("dat")) dat = ARG1
if (!exists("out")) out = ARG2
settings = "title subtitle rows full most widest"
folder = system("dirname '".ARG0."'")
load folder."/style.gp"

bar = 24.0
h = 74 + 40 + rows * bar + 64
left = 48 + widest
w = left + 760.0
set lmargin at screen left / w
set rmargin at screen 1 - 36 / w
set tmargin at screen 1 - 108.0 / h
set bmargin at screen 56.0 / h
eval canvas(w, h)
set border 1
set xrange [0:most/1024.0*1.12]
set yrange [rows-0.4:-0.6]
set xtics nomirror
set ytics scale 0 noenhanced
set grid noytics xtics
set xlabel "bytes per prompt token (KiB)"
set key font ",10" at screen left / w, screen 1 - 76.0 / h left top horizontal Left reverse samplen 1 maxrows 1 width -1
set style fill solid 0.95 noborder
set arrow from full/1024.0, graph 0 to full/1024.0, graph 1 nohead lw 1.3 dt 2 lc rgb dark front
set label "f16, everything kept" at full/1024.0, graph 1 offset 0,0.6 center font ",9" tc rgb dark
half = 0.36
parts = "payload metadata columns tables slack"
array paint[5] = [0x0072B2, 0xE69F00, 0x009E73, 0xD55E00, 0xD0D0D0]
# Part k of a bar lies between the sums of the columns before it and with it, in KiB.
upto(k) = (sum [c = 2:k+1] column(c)) / 1024
plot for [k = 1:5] dat index 1 \
         using (upto(k)):1:(k == 1 ? 0 : upto(k - 1)):(upto(k)):($1 - half):($1 + half):ytic(8) \
         with boxxyerror lc rgb paint[k] title word(parts, k).(k == 5 ? " (not live)" : ""), \
     dat index 1 using (upto(5)):1:(sprintf("%.1f %%", 100 * $7)) \
         with labels left offset 0.6,0 font ",9" tc rgb 0x555555 noenhanced notitle
unset output
