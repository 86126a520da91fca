# Draws loss.png and loss.svg from loss.tsv
width = 1050
height = 945
load 'style.gp'
set output 'loss.'.suffix
data = 'loss.tsv'
set multiplot
set lmargin at screen 0.2
set rmargin at screen 0.95
panels = 1
panel = 560 / (1.0 * height)
step = 600 / (1.0 * height)
top = 1 - 45 / (1.0 * height)
axis = 'KV fraction (live pairs over causal pairs)'
key_lines = 6
set tmargin at screen top - 0 * step
set bmargin at screen top - 0 * step - panel
set format x '%g'
set xlabel axis
set key at screen 0.55,0.02 center bottom vertical maxrows key_lines
set ylabel 'loss (nats per token)'
set logscale x
set xrange [0.0277238:1.1]
set bars 0.6
set xtics (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
set label 'bars: 95% of the paired difference' at graph 0,1.035 left font face17
plot data index 0 using 1:2:3 with yerrorlines lc rgb '#009e73' dt 3 lw 1.2 pt 6 title 'h2o', \
     data index 1 using 1:2:3 with yerrorlines lc rgb '#e69f00' dt 3 lw 1.2 pt 8 title 'streaming', \
     data index 2 using 1:2:3 with yerrorlines lc rgb '#cc79a7' dt 3 lw 1.2 pt 10 title 'tova', \
     data index 3 using 1:2:3 with yerrorlines lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random', \
     data index 4 using 1:2:3 with yerrorlines lc rgb '#0072b2' dt 3 lw 1.2 pt 4 title 'window', \
     data index 5 using 1:2:3 with yerrorlines lc rgb '#7b3fa0' dt 3 lw 1.2 pt 14 title 'cam', \
     data index 6 using 1:2:3 with yerrorlines lc rgb '#e69f00' dt 3 lw 1.2 pt 9 title 'streaming-reassign-0', \
     data index 7 using 1:2:3 with yerrorlines lc rgb '#8b5a2b' dt 3 lw 1.2 pt 2 title 'duo on nats-8', \
     data index 8 using 1:2:3 with yerrorlines lc rgb '#0072b2' dt 1 lw 1.4 pt 5 title 'window (co-trained)', \
     data index 9 using 1:2:3 with yerrorlines lc rgb '#d55e00' dt 1 lw 2 pt 7 title 'NAtS (learned)', \
     4.09211 with lines lc rgb '#000000' dt 2 lw 1.5 title 'dense'
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'loss.gp'
  undefine suffix
}
