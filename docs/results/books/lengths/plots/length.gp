# Draws length.png and length.svg from length.tsv
width = 1050
height = 1145
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
key_lines = 2
set logscale x 2
set tmargin at screen top - 0 * step
set bmargin at screen top - 0 * step - panel
set format x ''
unset key
set ylabel 'decoding step (ms)' offset 1,0
unset logscale y
set yrange [0:*]
plot data index 0 using 1:2 with linespoints lc rgb '#000000' dt 2 lw 1.5 pt 5 title 'dense', \
     data index 1 using 1:2 with linespoints lc rgb '#d55e00' dt 1 lw 2 pt 7 title 'nats-8', \
     data index 2 using 1:2 with linespoints lc rgb '#0072b2' dt 1 lw 1.4 pt 5 title 'window-38 (co-trained)', \
     data index 3 using 1:2 with linespoints lc rgb '#d55e00' dt 2 lw 2 pt 7 title 'nats-0.2'
set tmargin at screen top - 1 * step
set bmargin at screen top - 1 * step - panel
set format x '%g'
set xlabel axis
set key at screen 0.55,0.02 center bottom vertical maxrows key_lines
set ylabel 'cache of a sequence (MiB)' offset 1,0
set logscale y
set yrange [*:*]
plot data index 4 using 1:2 with linespoints lc rgb '#000000' dt 2 lw 1.5 pt 5 title 'dense', \
     data index 5 using 1:2 with linespoints lc rgb '#d55e00' dt 1 lw 2 pt 7 title 'nats-8', \
     data index 6 using 1:2 with linespoints lc rgb '#0072b2' dt 1 lw 1.4 pt 5 title 'window-38 (co-trained)', \
     data index 7 using 1:2 with linespoints lc rgb '#d55e00' dt 2 lw 2 pt 7 title 'nats-0.2'
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'length.gp'
  undefine suffix
}
