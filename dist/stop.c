#include "dist/stop.h"

#include <errno.h>  // errno
#include <signal.h> // sigaction
#include <string.h> // strerror
#include <unistd.h> // write

static volatile sig_atomic_t asked = 0;
static volatile sig_atomic_t interrupts = 0;

// mpirun sends SIGTERM about a second before SIGKILL, and with -q it does not say why: one line from each
// rank that is left is all that tells a user that another one died.
static const char TERMINATED[] =
    "natsformer: SIGTERM: stopping at the next step (mpirun sends it when another rank has ended)\n";

// Only async-signal-safe calls: write, signal and raise.
static void on_signal(int number) {
  if (number == SIGTERM && !asked) {
    int kept = errno;
    ssize_t written = write(STDERR_FILENO, TERMINATED, sizeof TERMINATED - 1);
    (void)written;
    errno = kept;
  }
  asked = 1;
  if (number == SIGINT && ++interrupts > 1) {
    signal(SIGINT, SIG_DFL);
    raise(SIGINT); // delivered when this handler returns
  }
}

nn_status dist_stop_install(void) {
  static const int signals[] = {SIGUSR1, SIGTERM, SIGINT};
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (sigaction(signals[i], &action, NULL) != 0)
      return NN_FAIL(NN_ERR_INTERNAL, "no handler for signal %d: %s", signals[i], strerror(errno));
  return NN_OK;
}

bool dist_stop_asked(void) {
  return asked != 0;
}

nn_status dist_stop_agreed(dist_group *world, bool *stop) {
  int32_t any = dist_stop_asked() ? 1 : 0;
  *stop = false;
  NN_TRY(dist_allreduce(world, &any, 1, DIST_I32, DIST_MAX));
  *stop = any != 0;
  return NN_OK;
}
