# Draws heads.png and heads.svg from heads.tsv
width = 1080
height = 510
load 'style.gp'
set output 'heads.'.suffix
data = 'heads.tsv'
low = 0.0341
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
set colorbox user origin screen 0.8241, screen 0.2157 size screen 0.0278, screen 0.6471
set xtics 1
set ytics 1
set lmargin at screen 0.1296
set rmargin at screen 0.4352
set tmargin at screen 0.8627
set bmargin at screen 0.2157
set format y '%g'
set xrange [-0.5:7.5]
set yrange [-0.5:7.5]
set title 'nats-2' offset 0,-0.6 font face18
set xlabel 'kv head' offset 0,0.6 font face20
set ylabel 'layer' font face20
plot data index 0 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
set xtics 1
set ytics 1
set lmargin at screen 0.4722
set rmargin at screen 0.7778
set tmargin at screen 0.8627
set bmargin at screen 0.2157
set format y ''
set xrange [-0.5:7.5]
set yrange [-0.5:7.5]
set title 'nats-0.2' offset 0,-0.6 font face18
set xlabel 'kv head' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 1 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette
unset colorbox
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'heads.gp'
  undefine suffix
}
