# Draws heads.png and heads.svg from heads.tsv
width = 1270
height = 1560
load 'style.gp'
set output 'heads.'.suffix
data = 'heads.tsv'
low = 0.019
set logscale cb
set cbrange [low:1]
set format cb '%g'
set cblabel 'KV fraction' offset -1,0 font face20
shade(v) = v > low ? log(v / low) / log(1 / low) : 0
set xtics 1
set ytics 1
unset key
unset grid
set border 15
set tics out scale 0.4 font face16
set xtics offset 0,0.3
set style fill solid noborder
set multiplot
set colorbox user origin screen 0.8504, screen 0.0705 size screen 0.0236, screen 0.8846
set xtics 2
set ytics 2
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.9551
set bmargin at screen 0.7821
set format y '%g'
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'layer' font face20
plot data index 0 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.9551
set bmargin at screen 0.7821
set format y ''
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'duo 12.5% on nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 1 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.9551
set bmargin at screen 0.7821
set format y ''
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'duo 6% on nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 2 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.7179
set bmargin at screen 0.5449
set format y '%g'
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'duo 25% on nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'layer' font face20
plot data index 3 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.7179
set bmargin at screen 0.5449
set format y ''
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'duo 3% on nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 4 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.7179
set bmargin at screen 0.5449
set format y ''
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'duo 50% on nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 5 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.4808
set bmargin at screen 0.3077
set format y '%g'
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'duo as nats-8 on nats-8' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'layer' font face20
plot data index 6 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.4808
set bmargin at screen 0.3077
set format y ''
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'nats-2' offset 0,-0.6 font face18
set xlabel 'kv head' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 7 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.4808
set bmargin at screen 0.3077
set format y ''
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'nats-2-w8' offset 0,-0.6 font face18
set xlabel 'kv head' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 8 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 2
set ytics 2
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.2436
set bmargin at screen 0.0705
set format y '%g'
set xrange [-0.5:11.5]
set yrange [-0.5:11.5]
set title 'nats-0.2' offset 0,-0.6 font face18
set xlabel 'kv head' offset 0,0.6 font face20
set ylabel 'layer' font face20
plot data index 9 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'heads.gp'
  undefine suffix
}
