# What the figures share; every script loads this file first. Reads the settings of `dat` (its first block) into the
# names listed in `settings`, defines colours and marks of families, and canvas(W, H), to be passed to eval: the
# terminal by the suffix of `out`, fonts, frame, heading.
set encoding utf8

do for [name in settings] {
    value = ""
    stats dat index 0 using (strcol(1) eq name ? (value = strcol(2), 0) : 0) nooutput
    eval name." = value"
}

# Okabe and Ito's colours, without the yellow that white paper swallows; family 0 is `full`.
array ink[9] = [0x000000, 0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9, 0x7A4B00, 0x7F7F7F]
# The same for text, the light ones darkened.
array words[9] = [0x000000, 0x0072B2, 0xB34E00, 0x007A59, 0xA3517C, 0xA87000, 0x2F7FAE, 0x7A4B00, 0x666666]
array shape[7] = [5, 7, 9, 13, 11, 15, 5]
color(k) = ink[int(k) == 0 ? 1 : 2 + (int(k) - 1) % 8]
text_color(k) = words[int(k) == 0 ? 1 : 2 + (int(k) - 1) % 8]
mark(k) = shape[int(k) == 0 ? 1 : 2 + (int(k) - 1) % 6]
grey = 0x8c8c8c
dark = 0x333333

suffix = strlen(out) > 4 ? out[strlen(out)-3:] : ""
# Marks of one size are larger in SVG.
mark_size(s) = suffix eq ".svg" ? 0.75 * s : s
canvas(w, h) = (suffix eq ".svg" \
    ? sprintf("set terminal svg size %d,%d font 'DejaVu Sans,11' fontscale 1.28", w, h) \
    : sprintf("set terminal pngcairo size %d,%d font 'DejaVu Sans,11'", w, h)) \
    ." background rgb 'white' enhanced dashlength 1.0; set output out;" \
    .sprintf("set label 101 title at screen %g, screen %g left", 28.0 / w, 1 - 26.0 / h) \
    ." font 'DejaVu Sans Bold,13' noenhanced front;" \
    .sprintf("set label 102 subtitle at screen %g, screen %g left", 28.0 / w, 1 - 49.0 / h) \
    ." font 'DejaVu Sans,10' tc rgb 0x666666 noenhanced front;"

set border 3 lw 1 lc rgb dark
set tics nomirror scale 0.6 tc rgb dark
set grid lc rgb 0xe6e6e6 lw 0.8 lt 1
