# Packages and build, once for all scripts. To be sourced:
#   natsformer_install program|tests          installs what is missing, with apt-get as root or through sudo
#   natsformer_build PRESET ON|OFF [TARGET...] configures (tests on or off) and builds into build/PRESET; where
#                                              natsformer_cuda is set, with that for NATSFORMER_CUDA
#   natsformer_cores                           prints how many cores this process may use
# shellcheck shell=bash

natsformer_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Names of Debian 12 and Ubuntu 24.04; cmake/Dependencies.cmake says which of them can be done without.
natsformer_packages=(gcc g++ cmake ninja-build pkg-config
  libopenmpi-dev openmpi-bin libhdf5-dev libopenblas-openmp-dev libyaml-dev libjansson-dev libxxhash-dev
  libzstd-dev libsentencepiece-dev libpcre2-dev gnuplot-nox)
natsformer_test_packages=(libcriterion-dev python3-h5py duktape slurmctld slurmd slurm-client)

natsformer_say() {
  echo "natsformer: $*" >&2
}

natsformer_fail() {
  natsformer_say "error: $*"
  exit 1
}

natsformer_has_package() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

natsformer_install() {
  local wanted=("${natsformer_packages[@]}") missing=() package as_root=() log
  [ "$1" != tests ] || wanted+=("${natsformer_test_packages[@]}")
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    natsformer_say "no apt-get on this machine: building with what is there (cmake names what is missing)"
    return
  fi
  for package in "${wanted[@]}"; do
    natsformer_has_package "$package" || missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0

  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null || { ! sudo -n true 2>/dev/null && [ ! -t 0 ]; }; then
      natsformer_fail "packages are missing and need root to install: apt-get install ${missing[*]}"
    fi
    as_root=(sudo)
  fi
  natsformer_say "installing ${missing[*]}"
  log=$(mktemp)
  if ! natsformer_apt "${missing[@]}" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    natsformer_fail "apt-get could not install the packages; its whole output is in $log"
  fi
  rm -f "$log"
}

# Uses as_root of its caller. Waits for another apt-get that holds the lock.
natsformer_apt() {
  local options=(-q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install --no-install-recommends "$@"
}

natsformer_build() {
  local preset=$1 tests=$2 folder="$natsformer_root/build/$1" options=() log log_line
  shift 2
  command -v cmake >/dev/null || natsformer_fail "cmake is missing"
  if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then # where NVIDIA's own packages put it
    PATH=$PATH:/usr/local/cuda/bin
  fi
  # The generator of a folder cannot be changed.
  if [ ! -f "$folder/CMakeCache.txt" ] && command -v ninja >/dev/null; then
    options+=(-G Ninja)
  fi
  if command -v ccache >/dev/null; then
    options+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
      -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  fi
  # Code for GPUs takes minutes to compile: a first build on a machine without one leaves it out.
  if [ -n "${natsformer_cuda:-}" ]; then
    options+=(-DNATSFORMER_CUDA="$natsformer_cuda")
  elif [ ! -f "$folder/CMakeCache.txt" ] && ! nvidia-smi -L >/dev/null 2>&1; then
    options+=(-DNATSFORMER_CUDA=OFF)
  fi
  natsformer_say "building ($preset)"
  log=$(mktemp)
  if ! (cd "$natsformer_root" && cmake --preset "$preset" -DNATSFORMER_TESTS="$tests" "${options[@]}" &&
    cmake --build --preset "$preset" -j "$(natsformer_cores)" ${1:+--target "$@"}) >"$log" 2>&1; then
    grep -E -A 8 'error|Error|FAILED' "$log" | head -n 60 >&2
    natsformer_fail "the build failed; its whole output is in $log"
  fi
  while read -r log_line; do
    natsformer_say "$preset: $log_line"
  done < <(sed -nE 's/^-- (CPU only|CUDA [0-9]|NCCL)/\1/p' "$log")
  rm -f "$log"
}

# Cores by affinity and by the container's CPU quota (cgroup v2), whichever is less; at least 1.
natsformer_cores() {
  local cores quota period
  cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [ "$quota" != max ]; then
    quota=$(((quota + period - 1) / period))
    [ "$quota" -ge "$cores" ] || cores=$quota
  fi
  echo "$cores"
}
