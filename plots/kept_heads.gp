# Share of the prompt's items that each layer and KV head keeps, a panel per policy.
#   gnuplot -e "dat='export/kept_heads.dat'; out='kept_heads.png'" plots/kept_heads.gp
if (!exists("dat")) dat = ARG1
if (!exists("out")) out = ARG2
settings = "title subtitle panels layers heads most"
folder = system("dirname '".ARG0."'")
load folder."/style.gp"

# Narrow panels (few heads) stand in one row of up to six, wide ones in rows of three.
per_row = heads > 12 ? 3 : 6
columns = panels < per_row ? panels + 0 : per_row
rows = int(ceil(panels / (1.0 * per_row)))
cell_h = layers * (layers > 40 ? 6.0 : layers > 16 ? 9.0 : 16.0)
cell_w = heads > 12 ? 300.0 : heads > 6 ? 150.0 : 112.0
gap_x = 44.0
gap_y = 66.0
w = 70 + columns * (cell_w + gap_x) + 80
w = w < 760 ? 760 : w
h = 74 + rows * (cell_h + gap_y) + 20
eval canvas(w, h)
array mean[panels+1]
array name[panels+1]
array rest[panels+1]
do for [k = 1:panels] {
    stats dat index 1 every ::k-1::k-1 using (mean[k] = $1, name[k] = strcol(2), rest[k] = strcol(3), 0) nooutput
}
# Viridis: even steps of lightness, also in grey print.
set palette defined (0 '#440154', 1 '#482878', 2 '#3e4989', 3 '#31688e', 4 '#26828e', \
    5 '#1f9e89', 6 '#35b779', 7 '#6ece58', 8 '#b5de2b', 9 '#fde725')
set cbrange [0:most+0]
unset grid
unset key
set border 15 lw 0.8 lc rgb dark
set tics out scale 0.4
set xrange [-0.5:heads-0.5]
set yrange [layers-0.5:-0.5]
set xtics 0, (heads > 12 ? 8 : heads > 6 ? 2 : 1), heads-1 font ",8" offset 0,0.3
set ytics 0, (layers > 16 ? 5 : 2), layers-1 font ",8" offset 0.4,0
set colorbox user origin screen 1 - 62.0 / w, screen 1 - (110.0 + cell_h) / h size screen 12.0 / w, screen cell_h / h
set cbtics 0, (most > 0.5 ? 0.2 : 0.1), 1 font ",8" scale 0.3 offset -0.5,0
set format cb "%.1f"

set multiplot
do for [k = 1:panels] {
    row = (k - 1) / columns
    col = (k - 1) % columns
    x = 62 + col * (cell_w + gap_x)
    y = 110 + row * (cell_h + gap_y)
    set lmargin at screen x / w
    set rmargin at screen (x + cell_w) / w
    set tmargin at screen 1 - y / h
    set bmargin at screen 1 - (y + cell_h) / h
    set label 1 name[k] at graph 0.5, screen 1 - (y - 22) / h center font ",9" noenhanced
    share = sprintf("%s%s%.1f %%", rest[k], strlen(rest[k]) ? ": " : "", 100 * mean[k])
    set label 2 share at graph 0.5, screen 1 - (y - 8) / h center font ",8" tc rgb 0x666666 noenhanced
    set xlabel (row == rows - 1 ? "KV head" : "") font ",9" offset 0,0.8
    set ylabel (col == 0 ? "layer" : "") font ",9" offset 2.2,0
    if (k > 1) { unset colorbox; unset label 101; unset label 102 }
    plot dat index 1+k using 2:1:3 with image pixels
}
unset multiplot
unset output
