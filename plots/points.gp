# Front, intervals, marks and labels: blocks 1 (front), 2 (labels) and 3.. (families) of the .dat. The last step of
# kl_vs_bytes.gp and score_vs_bytes.gp.
# Intervals pass behind their marks without a gap (SVG would leave one).
set pointintervalbox 0
plot dat index 1 using 1:2 with lines lw 2.2 lc rgb 0xc4c4c4 title "Pareto front", \
     dat index 2 using 3:4:($5-$3):($6-$4) with vectors nohead lw 0.8 lc rgb grey notitle, \
     for [i = 1:families] dat index 2+i using 5:(joined[i] ? $6 : NaN) every ::1 \
         with lines lw 1.2 lc rgb color(family[i]) notitle, \
     for [i = 1:families] dat index 2+i using 5:6:7:8 every ::1 \
         with yerrorbars ps 0 lw 1.2 lc rgb color(family[i]) notitle, \
     for [i = 1:families] dat index 2+i using 5:6 every ::1 \
         with points pt mark(family[i]) ps mark_size(1.15) lc rgb color(family[i]) title name[i], \
     dat index 2 using 1:2:8:(text_color($7)) with labels font ",9" tc rgb variable noenhanced notitle
unset output
