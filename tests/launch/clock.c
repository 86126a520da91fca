// A clock that somebody sets all the time: every tenth look at the time of day is a year off, ahead or
// behind. To be preloaded; monotonic clocks are left alone, as a real system does.
#include <dlfcn.h> // dlsym
#include <stdatomic.h>
#include <sys/time.h>
#include <time.h>

static time_t offset(void) {
  static atomic_int looks;
  int look = atomic_fetch_add(&looks, 1);
  return look % 10 == 3 ? 365 * 86400 : look % 10 == 8 ? -365 * 86400 : 0;
}

static int true_time(clockid_t clock, struct timespec *now) {
  int (*original)(clockid_t, struct timespec *) =
      (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  return original(clock, now);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = true_time(clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
    now->tv_sec += offset();
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec t;
  int result = true_time(CLOCK_REALTIME, &t);
  *now = (struct timeval){.tv_sec = t.tv_sec + offset(), .tv_usec = t.tv_nsec / 1000};
  return result;
}

time_t time(time_t *out) {
  struct timespec t;
  true_time(CLOCK_REALTIME, &t);
  time_t now = t.tv_sec + offset();
  if (out != NULL)
    *out = now;
  return now;
}
