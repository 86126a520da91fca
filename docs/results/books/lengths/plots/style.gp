# What all plots of this folder have in common. `gnuplot NAME.gp` draws NAME.png, then NAME.svg.
reset
if (!exists('width')) { width = 1050 }
if (!exists('height')) { height = 800 }
if (!exists('suffix')) { suffix = 'png' }
# the terminals differ in what a point of type and a size of 1 are
face(size) = sprintf('sans,%g', suffix eq 'svg' ? size * 1.2 : size)
face14 = face(14); face16 = face(16); face17 = face(17)
face18 = face(18); face20 = face(20); face22 = face(22)
if (suffix eq 'svg') {
  set terminal svg noenhanced size width,height font face22 linewidth 2 background 'white'
  set pointsize 0.8
  set key spacing 0.95
  set xlabel offset 0,0.5
} else {
  if (strstrt(GPVAL_TERMINALS, 'pngcairo') > 0) {
    set terminal pngcairo noenhanced size width,height font face22 linewidth 2
  } else {
    set terminal png noenhanced size width,height font face22 linewidth 2
  }
  set pointsize 1.6
  set key spacing 1.1
}
set datafile separator '\t'
set datafile missing 'nan'
set border 3 lc rgb '#404040'
set tics nomirror out
set grid lc rgb '#d8d8d8' lw 0.5 dt 1
set key Left reverse samplen 3.5 font face17
# viridis: as light as the number is large, in grey too
set palette defined (0 '#440154', 1 '#472d7b', 2 '#3b528b', 3 '#2c728e', 4 '#21918c', 5 '#28ae80', \
                     6 '#5ec962', 7 '#addc30', 8 '#fde725')
