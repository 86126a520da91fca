// natsformer bench
#include "launch/bench/bench.h"

#include <string.h>

#include "launch/command.h"

static const launch_bench_row *const benches[] = {&launch_bench_train, &launch_bench_attention,
                                                  &launch_bench_decode};

static nn_status run(dist_group *world, int argc, char **argv) {
  for (size_t i = 0; i < sizeof benches / sizeof *benches && argc >= 2; i++)
    if (strcmp(argv[1], benches[i]->name) == 0)
      return benches[i]->run(world, argc - 1, argv + 1);
  return NN_FAIL(NN_ERR_USAGE, "bench: expected a measurement (train, attention, decode), found '%s'",
                 argc < 2 ? "" : argv[1]);
}

const launch_command launch_bench = {
    .name = "bench",
    .run = run,
    .summary = "measure this machine",
    .usage =
        "usage: natsformer bench train [CONFIG.yaml] [key.path=value ...] [--types T] [--steps N]\n"
        "                              [--tflops X] [--gb-per-s X] [--json]\n"
        "\n"
        "  train   time of a training step on random tokens, with a table of\n"
        "            dense     dense attention\n"
        "            random    learned types, spread evenly over global, local and window\n"
        "            sparse    learned types, few of them global (KV fraction below 0.2)\n"
        "            learned   learned types as they start with nats.scorer_bias\n"
        "          --types T   only one of these; default dense, random and sparse\n"
        "          --steps N   timed steps of each, after 3 that are not; default 10\n"
        "          --tflops X, --gb-per-s X\n"
        "                      what a device reaches in products and copies; default: measured\n"
        "          --json      print one JSON object on standard output\n"
        "          Without CONFIG: width 256, 6 layers, 4 heads, 512 tokens, batch 4, vocabulary 4096.\n"
        "\n"
        "usage: natsformer bench attention [--device D] [--precision P] [--batch B] [--heads H]\n"
        "                                  [--kv-heads H] [--length T] [--head-size D] [--globals X]\n"
        "                                  [--locals X] [--window W] [--rounds N] [--seed N]\n"
        "                                  [--tflops X] [--gb-per-s X] [--json]\n"
        "\n"
        "  attention  forward, backward with and without the gradient of types, and dense, on random types:\n"
        "          default 2 x 12 heads of 64, 16384 tokens, 5% global, 15% local, the others window 256\n"
        "          --rounds N  times whose median is shown; default 10\n"
        "\n"
        "usage: natsformer bench decode [key.path=value ...] [--context N] [--batch B] [--steps N]\n"
        "                               [--page-tokens N] [--cache dense|nats] [--json]\n"
        "\n"
        "  decode  time of a decoding step with the dense cache and with the evicting one, on random "
        "weights\n"
        "          and types; nats.scorer_bias (default -1.1) says how rare global tokens are\n"
        "          --context N      tokens of the prompt; default 4096\n"
        "          --batch B        sequences; default 1\n"
        "          --steps N        timed steps, after 5 that are not; default 50\n"
        "          --page-tokens N  tokens of a page of the cache; default 16\n"
        "          --cache NAME     only this one of the two\n"
        "          --json           print one JSON object on standard output\n",
};
