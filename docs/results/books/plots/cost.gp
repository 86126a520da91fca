# Draws cost.png and cost.svg from cost.tsv
width = 1050
height = 1295
load 'style.gp'
set output 'cost.'.suffix
data = 'cost.tsv'
set multiplot
set lmargin at screen 0.2
set rmargin at screen 0.95
panels = 2
panel = 420 / (1.0 * height)
step = 460 / (1.0 * height)
top = 1 - 45 / (1.0 * height)
axis = 'tokens decoded'
key_lines = 7
set autoscale xfix
set tmargin at screen top - 0 * step
set bmargin at screen top - 0 * step - panel
set format x ''
unset key
set ylabel 'decoding step (ms)' offset 1,0
unset logscale y
set yrange [0:*]
plot data index 0 using 1:2 with lines lc rgb '#000000' dt 2 lw 1.5 title 'dense', \
     data index 1 using 1:2 with lines lc rgb '#009e73' dt 3 lw 1.2 title 'h2o as nats-8', \
     data index 2 using 1:2 with lines lc rgb '#e69f00' dt 3 lw 1.2 title 'streaming as nats-8', \
     data index 3 using 1:2 with lines lc rgb '#cc79a7' dt 3 lw 1.2 title 'tova as nats-8', \
     data index 4 using 1:2 with lines lc rgb '#8c8c8c' dt 3 lw 1.2 title 'random as nats-8', \
     data index 5 using 1:2 with lines lc rgb '#0072b2' dt 3 lw 1.2 title 'window as nats-8', \
     data index 6 using 1:2 with lines lc rgb '#7b3fa0' dt 3 lw 1.2 title 'cam as nats-8', \
     data index 7 using 1:2 with lines lc rgb '#e69f00' dt 3 lw 1.2 title 'streaming-reassign-0 as nats-8', \
     data index 8 using 1:2 with lines lc rgb '#d55e00' dt 1 lw 2 title 'nats-8', \
     data index 9 using 1:2 with lines lc rgb '#8b5a2b' dt 3 lw 1.2 title 'duo as nats-8 on nats-8', \
     data index 10 using 1:2 with lines lc rgb '#0072b2' dt 1 lw 1.4 title 'window-38 (co-trained)', \
     data index 11 using 1:2 with lines lc rgb '#d55e00' dt 2 lw 2 title 'nats-2', \
     data index 12 using 1:2 with lines lc rgb '#d55e00' dt 4 lw 2 title 'nats-2-w8', \
     data index 13 using 1:2 with lines lc rgb '#d55e00' dt 5 lw 2 title 'nats-0.2'
set tmargin at screen top - 1 * step
set bmargin at screen top - 1 * step - panel
set format x '%g'
set xlabel axis
set key at screen 0.55,0.02 center bottom vertical maxrows key_lines
set ylabel 'cache of a sequence (MiB)' offset 1,0
set logscale y
set yrange [*:*]
plot data index 14 using 1:2 with lines lc rgb '#000000' dt 2 lw 1.5 title 'dense', \
     data index 15 using 1:2 with lines lc rgb '#009e73' dt 3 lw 1.2 title 'h2o as nats-8', \
     data index 16 using 1:2 with lines lc rgb '#e69f00' dt 3 lw 1.2 title 'streaming as nats-8', \
     data index 17 using 1:2 with lines lc rgb '#cc79a7' dt 3 lw 1.2 title 'tova as nats-8', \
     data index 18 using 1:2 with lines lc rgb '#8c8c8c' dt 3 lw 1.2 title 'random as nats-8', \
     data index 19 using 1:2 with lines lc rgb '#0072b2' dt 3 lw 1.2 title 'window as nats-8', \
     data index 20 using 1:2 with lines lc rgb '#7b3fa0' dt 3 lw 1.2 title 'cam as nats-8', \
     data index 21 using 1:2 with lines lc rgb '#e69f00' dt 3 lw 1.2 title 'streaming-reassign-0 as nats-8', \
     data index 22 using 1:2 with lines lc rgb '#d55e00' dt 1 lw 2 title 'nats-8', \
     data index 23 using 1:2 with lines lc rgb '#8b5a2b' dt 3 lw 1.2 title 'duo as nats-8 on nats-8', \
     data index 24 using 1:2 with lines lc rgb '#0072b2' dt 1 lw 1.4 title 'window-38 (co-trained)', \
     data index 25 using 1:2 with lines lc rgb '#d55e00' dt 2 lw 2 title 'nats-2', \
     data index 26 using 1:2 with lines lc rgb '#d55e00' dt 4 lw 2 title 'nats-2-w8', \
     data index 27 using 1:2 with lines lc rgb '#d55e00' dt 5 lw 2 title 'nats-0.2'
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'cost.gp'
  undefine suffix
}
