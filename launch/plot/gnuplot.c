#include "launch/plot/gnuplot.h"

#include <fcntl.h>  // O_WRONLY
#include <signal.h> // kill
#include <spawn.h>
#include <stddef.h>
#include <sys/wait.h>
#include <time.h> // nanosleep

extern char **environ;

int launch_gnuplot_start(const char *folder, const char *script, pid_t *process) {
  char *const arguments[] = {"gnuplot", (char *)script, NULL};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder); // so that no name needs quoting
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  int failed = posix_spawnp(process, "gnuplot", &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  return failed;
}

bool launch_gnuplot_finish(pid_t process) {
  enum { WAIT_MS = 20000, NAP_MS = 20 };
  const struct timespec nap = {.tv_nsec = NAP_MS * 1000000L};
  int status = 0;
  for (int waited = 0; waitpid(process, &status, WNOHANG) == 0; waited += NAP_MS) {
    if (waited >= WAIT_MS) {
      kill(process, SIGKILL);
      waitpid(process, &status, 0);
      break;
    }
    nanosleep(&nap, NULL);
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
