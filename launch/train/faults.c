#include "launch/train/faults.h"

#include <signal.h> // raise
#include <stdio.h>  // sscanf
#include <stdlib.h> // getenv
#include <string.h> // strncmp
#include <time.h>   // nanosleep

#include "dist/stop.h"
#include "nn/log.h"

// The item of the list that begins with `name`, which ends in a colon.
static launch_fault read_fault(const char *list, const char *name) {
  const size_t length = strlen(name);
  long long first = 0, last = 0;
  while (list != NULL && strncmp(list, name, length) != 0) {
    list = strchr(list, ',');
    list = list != NULL ? list + 1 : NULL;
  }
  int found = list != NULL ? sscanf(list + length, "%lld-%lld", &first, &last) : 0;
  return found < 1 ? (launch_fault){0} : (launch_fault){.first = first, .last = found == 2 ? last : first};
}

launch_faults launch_faults_read(const dist_group *world) {
  const char *list = getenv("NATSFORMER_FAULT");
  if (dist_rank(world) != dist_size(world) - 1)
    return (launch_faults){0};
  return (launch_faults){
      .gradient = read_fault(list, "gradient:"),
      .loss = read_fault(list, "loss:"),
      .slow = read_fault(list, "slow:"),
      .waits = read_fault(list, "waits:"),
      .waits_evaluation = read_fault(list, "waits-evaluation:"),
      .hangs = read_fault(list, "hangs:"),
      .dies = read_fault(list, "dies:"),
  };
}

static void sleep_ms(int64_t ms) {
  nanosleep(&(struct timespec){.tv_nsec = ms * 1000 * 1000}, NULL);
}

static void wait_for_stop(int64_t step) {
  nn_warn("step %lld: waiting to be asked to stop", (long long)step);
  while (!dist_stop_asked())
    sleep_ms(5);
}

void launch_faults_strike(const launch_faults *f, int64_t step) {
  if (launch_fault_due(&f->slow, step))
    sleep_ms(40);
  if (launch_fault_due(&f->waits, step))
    wait_for_stop(step);
  if (launch_fault_due(&f->hangs, step))
    raise(SIGSTOP);
  if (launch_fault_due(&f->dies, step))
    raise(SIGKILL);
}

void launch_faults_strike_evaluation(const launch_faults *f, int64_t step) {
  if (launch_fault_due(&f->waits_evaluation, step))
    wait_for_stop(step);
}
