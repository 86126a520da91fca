# Draws length.png and length.svg from length.tsv
width = 1050
height = 1295
load 'style.gp'
set output 'length.'.suffix
data = 'length.tsv'
set multiplot
set lmargin at screen 0.2
set rmargin at screen 0.95
panels = 2
panel = 420 / (1.0 * height)
step = 460 / (1.0 * height)
top = 1 - 45 / (1.0 * height)
axis = 'length (tokens)'
key_lines = 7
set logscale x 2
set tmargin at screen top - 0 * step
set bmargin at screen top - 0 * step - panel
set format x ''
unset key
set ylabel 'decoding step (ms)' offset 1,0
unset logscale y
set yrange [0:*]
plot data index 0 using 1:2 with linespoints lc rgb '#000000' dt 2 lw 1.5 pt 5 title 'dense', \
     data index 1 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 8 title 'streaming 6%', \
     data index 2 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 9 title 'streaming 12.5%', \
     data index 3 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 8 title 'streaming 25%', \
     data index 4 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 9 title 'streaming as nats', \
     data index 5 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 6 title 'h2o 6%', \
     data index 6 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 7 title 'h2o 12.5%', \
     data index 7 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 6 title 'h2o 25%', \
     data index 8 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 7 title 'h2o as nats', \
     data index 9 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 10 title 'tova 6%', \
     data index 10 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 11 title 'tova 12.5%', \
     data index 11 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 10 title 'tova 25%', \
     data index 12 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 11 title 'tova as nats', \
     data index 13 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random 6%', \
     data index 14 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random 12.5%', \
     data index 15 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random 25%', \
     data index 16 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random as nats', \
     data index 17 using 1:2 with linespoints lc rgb '#56b4e9' dt 3 lw 1.2 pt 13 title 'snapkv 12.5%', \
     data index 18 using 1:2 with linespoints lc rgb '#56b4e9' dt 3 lw 1.2 pt 12 title 'snapkv 25%', \
     data index 19 using 1:2 with linespoints lc rgb '#d55e00' dt 1 lw 2 pt 7 title 'nats'
set tmargin at screen top - 1 * step
set bmargin at screen top - 1 * step - panel
set format x '%g'
set xlabel axis
set key at screen 0.55,0.02 center bottom vertical maxrows key_lines
set ylabel 'cache of a sequence (MiB)' offset 1,0
set logscale y
set yrange [*:*]
plot data index 20 using 1:2 with linespoints lc rgb '#000000' dt 2 lw 1.5 pt 5 title 'dense', \
     data index 21 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 8 title 'streaming 6%', \
     data index 22 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 9 title 'streaming 12.5%', \
     data index 23 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 8 title 'streaming 25%', \
     data index 24 using 1:2 with linespoints lc rgb '#e69f00' dt 3 lw 1.2 pt 9 title 'streaming as nats', \
     data index 25 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 6 title 'h2o 6%', \
     data index 26 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 7 title 'h2o 12.5%', \
     data index 27 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 6 title 'h2o 25%', \
     data index 28 using 1:2 with linespoints lc rgb '#009e73' dt 3 lw 1.2 pt 7 title 'h2o as nats', \
     data index 29 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 10 title 'tova 6%', \
     data index 30 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 11 title 'tova 12.5%', \
     data index 31 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 10 title 'tova 25%', \
     data index 32 using 1:2 with linespoints lc rgb '#cc79a7' dt 3 lw 1.2 pt 11 title 'tova as nats', \
     data index 33 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random 6%', \
     data index 34 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random 12.5%', \
     data index 35 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random 25%', \
     data index 36 using 1:2 with linespoints lc rgb '#8c8c8c' dt 3 lw 1.2 pt 1 title 'random as nats', \
     data index 37 using 1:2 with linespoints lc rgb '#56b4e9' dt 3 lw 1.2 pt 13 title 'snapkv 12.5%', \
     data index 38 using 1:2 with linespoints lc rgb '#56b4e9' dt 3 lw 1.2 pt 12 title 'snapkv 25%', \
     data index 39 using 1:2 with linespoints lc rgb '#d55e00' dt 1 lw 2 pt 7 title 'nats'
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'length.gp'
  undefine suffix
}
