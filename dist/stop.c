#include "dist/stop.h"

#include <errno.h>  // errno
#include <signal.h> // sigaction
#include <string.h> // strerror
#include <time.h>   // clock_gettime
#include <unistd.h> // write

#include "dist/group_table.h" // dist_seconds

static volatile sig_atomic_t asked = 0;
static volatile sig_atomic_t interrupts = 0;
static struct timespec first_asked; // written once, before anybody reads it: with `asked` still 0
static double deadline = 0;         // of dist_seconds, 0: none

// mpirun sends SIGTERM about a second before SIGKILL, and with -q it does not say why: one line from each
// rank that is left is all that tells a user that another one died.
static const char TERMINATED[] =
    "natsformer: SIGTERM: stopping at the next step (mpirun sends it when another rank has ended)\n";
static const char AGAIN[] = "natsformer: asked to stop again: leaving at once, nothing more is saved\n";

static void say(const char *line, size_t length) {
  ssize_t written = write(STDERR_FILENO, line, length);
  (void)written;
}

static double seconds_since_first(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - first_asked.tv_sec) + 1e-9 * (double)(now.tv_nsec - first_asked.tv_nsec);
}

// Only async-signal-safe calls: write, clock_gettime, signal and raise.
static void on_signal(int number) {
  int kept = errno;
  bool first = !asked, pressed_twice = number == SIGINT && ++interrupts > 1;
  if (first) {
    clock_gettime(CLOCK_MONOTONIC, &first_asked);
    asked = 1;
    if (number == SIGTERM)
      say(TERMINATED, sizeof TERMINATED - 1);
  } else if (pressed_twice || seconds_since_first() >= DIST_STOP_ECHO) {
    say(AGAIN, sizeof AGAIN - 1);
    signal(number, SIG_DFL);
    raise(number); // delivered when this handler returns
  }
  errno = kept;
}

nn_status dist_stop_install(void) {
  static const int signals[] = {SIGUSR1, SIGTERM, SIGINT};
  const size_t count = sizeof signals / sizeof *signals;
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < count; i++)
    sigaddset(&action.sa_mask, signals[i]); // one at a time
  for (size_t i = 0; i < count; i++)
    if (sigaction(signals[i], &action, NULL) != 0)
      return NN_FAIL(NN_ERR_INTERNAL, "no handler for signal %d: %s", signals[i], strerror(errno));
  return NN_OK;
}

void dist_stop_after(double seconds) {
  deadline = dist_seconds() + seconds;
}

bool dist_stop_asked(void) {
  return asked != 0 || (deadline > 0 && dist_seconds() >= deadline);
}

nn_status dist_stop_agreed(dist_group *world, bool *stop) {
  int32_t any = dist_stop_asked() ? 1 : 0;
  *stop = false;
  NN_TRY(dist_allreduce(world, &any, 1, DIST_I32, DIST_MAX));
  *stop = any != 0;
  return NN_OK;
}
