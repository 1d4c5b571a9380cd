# Front, intervals, marks and labels: blocks 1 (front), 2 (labels) and 3.. (families) of the .dat. The last step of
# kl_vs_bytes.gp and score_vs_bytes.gp.
# Intervals are vectors with flat heads: the SVG of yerrorbars leaves a white gap around each mark.
# Crowded figures draw what is on the front last and thick, the rest thin and without intervals.
faint(i) = crowded == 1 && leads[i] == 0
paint(i) = color(family[i]) + (faint(i) ? 0x58000000 : 0)
plot dat index 1 using 1:2 with lines lw 2.2 lc rgb 0xc4c4c4 title "Pareto front", \
     dat index 2 using 3:4:($5-$3):($6-$4) with vectors nohead lw 0.8 lc rgb grey notitle, \
     for [i = 1:families] dat index 2+i using 5:(joined[i] ? $6 : NaN) every ::1 \
         with lines lw (crowded == 1 && leads[i] == 1 ? 2.4 : 1.2) lc rgb paint(i) notitle, \
     for [i = 1:families] dat index 2+i using (faint(i) ? NaN : $5):7:(0):($8-$7) every ::1 \
         with vectors heads size screen 0.0035,90 lw 1.2 lc rgb paint(i) notitle, \
     for [i = 1:families] dat index 2+i using 5:6 every ::1 \
         with points pt mark(family[i]) ps mark_size(faint(i) ? 0.8 : 1.15) lc rgb paint(i) title name[i], \
     for [i = 1:crowded] dat index 2 using ($9 == 1 ? $1 : NaN):2:8:(text_color($7)) with labels right font ",9" tc rgb variable noenhanced notitle, \
     for [i = 1:(beside > 0)] dat index 2 using ($9 == 1 ? NaN : $1):2:8:(text_color($7)) with labels font ",9" tc rgb variable noenhanced notitle
unset output
