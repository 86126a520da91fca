# Draws needle.png and needle.svg from needle.tsv
width = 1270
height = 2670
load 'style.gp'
set output 'needle.'.suffix
data = 'needle.tsv'
set cbrange [0:1]
set cblabel 'accuracy' offset -1,0 font face20
shade(v) = v
unset key
unset grid
set border 15
set tics out scale 0.4 font face16
set xtics offset 0,0.3
set style fill solid noborder
set multiplot
set colorbox user origin screen 0.8504, screen 0.0412 size screen 0.0236, screen 0.9326
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.9738
set bmargin at screen 0.8727
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'dense' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 0 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 0 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.9738
set bmargin at screen 0.8727
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'streaming 3%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 1 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 1 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.9738
set bmargin at screen 0.8727
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'streaming 12.5%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 2 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 2 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.8352
set bmargin at screen 0.7341
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'streaming 25%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 3 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 3 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.8352
set bmargin at screen 0.7341
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'streaming as nats' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 4 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 4 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.8352
set bmargin at screen 0.7341
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'h2o 3%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 5 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 5 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.6966
set bmargin at screen 0.5955
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'h2o 12.5%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 6 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 6 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.6966
set bmargin at screen 0.5955
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'h2o 25%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 7 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 7 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.6966
set bmargin at screen 0.5955
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'h2o as nats' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 8 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 8 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.5581
set bmargin at screen 0.4569
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'tova 3%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 9 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 9 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.5581
set bmargin at screen 0.4569
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'tova 12.5%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 10 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 10 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.5581
set bmargin at screen 0.4569
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'tova 25%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 11 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 11 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.4195
set bmargin at screen 0.3184
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'tova as nats' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 12 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 12 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.4195
set bmargin at screen 0.3184
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'random 3%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 13 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 13 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.4195
set bmargin at screen 0.3184
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'random 12.5%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 14 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 14 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.2809
set bmargin at screen 0.1798
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'random 25%' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 15 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 15 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.2809
set bmargin at screen 0.1798
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'random as nats' offset 0,-0.6 font face18
set xlabel '' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 16 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 16 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.5984
set rmargin at screen 0.8110
set tmargin at screen 0.2809
set bmargin at screen 0.1798
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'snapkv 12.5%' offset 0,-0.6 font face18
set xlabel 'length (tokens)' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 17 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 17 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('5%%' 0, '27.5%%' 1, '50%%' 2, '72.5%%' 3, '95%%' 4)
set lmargin at screen 0.1102
set rmargin at screen 0.3228
set tmargin at screen 0.1423
set bmargin at screen 0.0412
set format y '%g'
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'nats' offset 0,-0.6 font face18
set xlabel 'length (tokens)' offset 0,0.6 font face20
set ylabel 'depth' font face20
plot data index 18 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 18 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
set xtics ('1k' 0, '2k' 1, '4k' 2, '8k' 3, '16k' 4)
set ytics ('' 0, '' 1, '' 2, '' 3, '' 4)
set lmargin at screen 0.3543
set rmargin at screen 0.5669
set tmargin at screen 0.1423
set bmargin at screen 0.0412
set format y ''
set xrange [-0.5:4.5]
set yrange [4.5:-0.5]
set title 'snapkv 3%' offset 0,-0.6 font face18
set xlabel 'length (tokens)' offset 0,0.6 font face20
set ylabel '' font face20
plot data index 19 using 1:2:(0.505):(0.505):3 with boxxyerror fc palette, \
     data index 19 using 1:2:(sprintf('%.2f', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) with labels font face14 tc rgb variable
unset colorbox
unset multiplot
unset output
if (suffix eq 'png') {
  suffix = 'svg'
  load 'needle.gp'
  undefine suffix
}
