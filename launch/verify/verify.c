// natsformer verify: the attention operators of a device against recorded float64 cases.
#include <jansson.h> // --json
#include <math.h>    // isfinite
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "launch/command.h"
#include "launch/config/options.h"
#include "launch/records/output_file.h"
#include "launch/verify/case.h"

static const char *const NAMES[LAUNCH_VERIFY_TENSORS] = {"o",      "lse",          "dq",   "dk",         "dv",
                                                         "dtypes", "dtypes_clip1", "live", "kv_fraction"};

// Without --tolerance. bf16 keeps 8 significant bits: the inputs are rounded before the device sees them,
// which alone moves results by up to 1e-2 of their largest entry.
static const double TOLERANCE[] = {[NN_F32] = 1e-4, [NN_BF16] = 2e-2};

typedef struct {
  const char *path, *device, *precision;
  double tolerance; // -1 until the compute type is known
  bool json;
} options;

// The mask is made of whole numbers: no rounding excuses a wrong one.
static double tolerance_of(const options *o, int tensor) {
  const bool mask = tensor == LAUNCH_VERIFY_LIVE || tensor == LAUNCH_VERIFY_KV_FRACTION;
  return mask ? fmin(o->tolerance, TOLERANCE[NN_F32]) : o->tolerance;
}

typedef struct {
  int checked, failed;
  char worst[128]; // case and tensor
  double error;    // of the worst
} summary;

static void report(const data_case *one, const double *errors, const options *o, summary *s, json_t *cases) {
  json_t *row = json_object();
  for (int i = 0; i < LAUNCH_VERIFY_TENSORS; i++) {
    const bool passed = errors[i] <= tolerance_of(o, i);
    s->checked++;
    s->failed += !passed;
    if (errors[i] >= s->error) {
      s->error = errors[i];
      snprintf(s->worst, sizeof s->worst, "case '%s', %s", one->name, NAMES[i]);
    }
    if (!o->json)
      printf("%-24s %-13s %10.2e  %s\n", one->name, NAMES[i], errors[i], passed ? "ok" : "WRONG");
    json_object_set_new(row, NAMES[i], isfinite(errors[i]) ? json_real(errors[i]) : json_null());
  }
  json_object_set_new(cases, one->name, row);
}

static nn_status finish(const options *o, const summary *s, json_t *cases) {
  if (o->json) {
    json_t *all =
        json_pack("{s:O, s:f, s:b}", "cases", cases, "tolerance", o->tolerance, "passed", s->failed == 0);
    NN_TRY(launch_print_json(all));
  } else if (s->failed == 0) {
    printf("all %d tensors agree within %g; largest error %.2e in %s\n", s->checked, o->tolerance, s->error,
           s->worst);
  }
  if (s->failed > 0)
    return NN_FAIL(NN_ERR_NUMERIC, "%s: %d of %d tensors are off by more than %g, most of all %s: %.2e",
                   o->path, s->failed, s->checked, o->tolerance, s->worst, s->error);
  return NN_OK;
}

static nn_status verify(options *o) {
  nn_device *device = NULL;
  data_cases *cases = NULL;
  summary s = {0};
  json_t *rows = json_object();
  nn_status status;
  NN_GOTO(status, done, data_cases_open(o->path, &cases));
  NN_GOTO(status, done, nn_device_open(o->device, o->precision, 0, &device));
  if (o->tolerance < 0)
    o->tolerance = TOLERANCE[nn_device_compute_type(device)];
  if (!o->json)
    printf("%-24s %-13s %10s  (%s)\n", "case", "tensor", "error", nn_device_describe(device));
  for (int32_t i = 0; i < data_cases_count(cases); i++) {
    data_case one;
    double errors[LAUNCH_VERIFY_TENSORS];
    status = data_cases_read(cases, i, &one);
    if (status == NN_OK)
      status = launch_verify_case(device, o->path, &one, errors);
    if (status == NN_OK)
      report(&one, errors, o, &s, rows);
    data_case_free(&one);
    if (status != NN_OK)
      goto done;
  }
  status = finish(o, &s, rows);
done:
  json_decref(rows);
  nn_device_close(device);
  data_cases_close(cases);
  return status;
}

static nn_status run(dist_group *world, int argc, char **argv) {
  options o = {.device = "auto", .precision = "auto", .tolerance = -1};
  const launch_option known[] = {
      {.name = "--device", .type = LAUNCH_OPTION_TEXT, .value = &o.device},
      {.name = "--precision", .type = LAUNCH_OPTION_TEXT, .value = &o.precision},
      {.name = "--tolerance", .type = LAUNCH_OPTION_REAL, .value = &o.tolerance, .min = 0, .max = 1},
      {.name = "--json", .type = LAUNCH_OPTION_FLAG, .value = &o.json},
  };
  launch_list files = {.items = calloc((size_t)argc, sizeof *files.items)};
  if (files.items == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "verify: no memory");
  nn_status status = launch_options_read("verify", known, sizeof known / sizeof *known, argc, argv, &files);
  if (status == NN_OK && files.count != 1)
    status = NN_FAIL(NN_ERR_USAGE, "verify: expected one file of cases, found %d", (int)files.count);
  if (status == NN_OK)
    o.path = files.items[0];
  free(files.items);
  NN_TRY(status);
  // One device is checked: the other ranks only hear how it went.
  return dist_agree(world, dist_rank(world) == 0 ? verify(&o) : NN_OK);
}

const launch_command launch_verify = {
    .name = "verify",
    .run = run,
    .summary = "check the attention of this machine against recorded cases",
    .usage =
        "usage: natsformer verify CASES.h5 [--device cpu|cuda|auto] [--precision float32|bf16|auto]\n"
        "                                  [--tolerance X] [--json]\n"
        "\n"
        "  Runs masked attention, its gradient and the gradient of the token types on every case of the\n"
        "  file (docs/formats.md) and compares with the float64 results recorded there. The error of a\n"
        "  tensor is its largest difference over its largest entry. Exit code 1 when one is larger than\n"
        "  --tolerance: 1e-4 by default in float32, 2e-2 in bf16, where the inputs are rounded first. The\n"
        "  mask (live, kv_fraction) has to be right in both.\n",
};
