// The configuration: what people type, and what must be refused.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "launch/config/config.h"
#include "launch/config/table.h"
#include "nn/random.h"

static launch_config defaults(void) {
  launch_config config;
  launch_config_defaults(&config);
  return config;
}

// Parsing `yaml` must fail with a text that holds `expected`.
static void refuse(const char *yaml, const char *expected) {
  launch_config config = defaults();
  nn_error_clear();
  nn_status status = launch_config_parse(&config, yaml, "run.yaml");
  cr_expect_eq(status, NN_ERR_USAGE, "accepted: %s", yaml);
  cr_expect(strstr(nn_error_text(), expected) != NULL, "for %s\n  expected %s\n  found    %s", yaml, expected,
            nn_error_text());
  cr_expect(strchr(nn_error_text(), '\n') == NULL, "more than one line: %s", nn_error_text());
}

static void refuse_override(const char *assignment, const char *expected) {
  launch_config config = defaults();
  nn_error_clear();
  cr_expect_eq(launch_config_override(&config, assignment), NN_ERR_USAGE, "accepted: %s", assignment);
  cr_expect(strstr(nn_error_text(), expected) != NULL, "for %s\n  expected %s\n  found    %s", assignment,
            expected, nn_error_text());
}

// A default that its own converter refuses would start every run from zeroed fields.
Test(config, every_default_is_valid) {
  for (int i = 0; i < launch_key_count; i++) {
    launch_config config = {0};
    cr_expect_eq(launch_key_set(&launch_keys[i], &config, launch_keys[i].fallback, "default"), NN_OK, "%s",
                 nn_error_text());
    cr_expect_eq(launch_key_find(launch_keys[i].path), &launch_keys[i], "%s has two rows",
                 launch_keys[i].path);
  }
  launch_config config = defaults();
  cr_expect_eq(launch_config_check(&config, 1), NN_OK, "%s", nn_error_text());
}

// A key that exists in the struct and not in the table could never be set.
Test(config, every_byte_of_the_struct_has_a_key) {
  static unsigned char covered[sizeof(launch_config)];
  for (int i = 0; i < launch_key_count; i++)
    memset(covered + launch_keys[i].offset, 1, launch_keys[i].size);
  size_t gap = 0; // padding before a wider field is at most 7 bytes
  for (size_t i = 0; i < sizeof covered; i++) {
    gap = covered[i] ? 0 : gap + 1;
    cr_assert_lt(gap, 8, "no key covers byte %zu of launch_config", i);
  }
}

Test(config, file_and_overrides_set_values) {
  launch_config config = defaults();
  const char *yaml = "# a run\n"
                     "run: runs/a\n"
                     "seed: 7\n"
                     "model: {layers: 2, width: 64, heads: 4, bias: true, attention: window}\n"
                     "nats:\n"
                     "  # every key of this section is commented out\n"
                     "train:\n"
                     "  batch: 12\n"
                     "  steps: 3000000000\n"
                     "optimizer: {lr: 6e-4, lr_min: .5E-5}\n";
  cr_assert_eq(launch_config_parse(&config, yaml, "run.yaml"), NN_OK, "%s", nn_error_text());
  cr_assert_eq(launch_config_override(&config, "nats.lambda=0.125"), NN_OK, "%s", nn_error_text());
  cr_assert_eq(launch_config_override(&config, "run=runs/b=c"), NN_OK, "%s", nn_error_text());
  cr_expect_str_eq(config.run, "runs/b=c");
  cr_expect_eq(config.seed, 7);
  cr_expect_eq(config.model.layers, 2);
  cr_expect(config.model.bias);
  cr_expect_str_eq(config.model.attention, "window");
  cr_expect_eq(config.train.batch, 12);
  cr_expect_eq(config.train.steps, 3000000000);
  cr_expect_eq(config.train.length, 512); // the default stays
  cr_expect_float_eq(config.optimizer.lr, 6e-4, 1e-18);
  cr_expect_float_eq(config.optimizer.lr_min, 5e-6, 1e-18);
  cr_expect_float_eq(config.nats.lambda, 0.125, 0);
}

Test(config, an_empty_file_is_all_defaults) {
  const char *const empty[] = {"", "\n", "# nothing\n", "---\n", "---\n# nothing\n...\n", "{}", "~\n"};
  for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
    launch_config config = defaults(), expected = defaults();
    cr_expect_eq(launch_config_parse(&config, empty[i], "run.yaml"), NN_OK, "'%s': %s", empty[i],
                 nn_error_text());
    cr_expect_arr_eq((char *)&config, (char *)&expected, sizeof config);
  }
}

// Each of these has cost somebody a night: a value that is silently read as another one.
Test(config, values_are_converted_strictly) {
  refuse("train:\n  batch: 12.5\n", "run.yaml:2: train.batch: expected a whole number from 1");
  refuse("train: {batch: 1e3}", "found '1e3'");
  refuse("train: {batch: 0x10}", "found '0x10'");
  refuse("train: {batch: 012}", "found '012'");
  refuse("train: {batch: 1_000}", "found '1_000'");
  refuse("train: {batch: 12 34}", "found '12 34'");
  refuse("train: {batch: +3}", "found '+3'");
  refuse("train: {batch: 0}", "found '0'");
  refuse("train: {batch: -4}", "found '-4'");
  refuse("train: {batch: 99999999999999999999999}", "found '99999999999999999999999'");
  refuse("train: {batch: 4294967297}", "found '4294967297'"); // 1 in 32 bits
  refuse("train: {batch: \"12\"}", "found the text \"12\"");
  refuse("train: {batch: true}", "found 'true'");
  refuse("train: {batch: }", "found nothing");
  refuse("train: {batch: ~}", "found nothing");
  refuse("train: {batch: [12]}", "train.batch: expected one value, found a list");
  refuse("train: {batch: {a: 1}}", "train.batch: expected one value, found a section");
  refuse("train: {batch: !!int 12}", "without a tag");
  refuse("model: {bias: flase}", "model.bias: expected true or false, found 'flase'");
  refuse("model: {bias: yes}", "found 'yes'");
  refuse("model: {bias: True}", "found 'True'");
  refuse("model: {bias: 1}", "found '1'");
  refuse("optimizer: {lr: 1e999}", "found '1e999'");
  refuse("optimizer: {lr: 1e-999}", "found '1e-999'");
  refuse("optimizer: {lr: nan}", "found 'nan'");
  refuse("optimizer: {lr: .inf}", "found '.inf'");
  refuse("optimizer: {lr: 0x1p-3}", "found '0x1p-3'");
  refuse("optimizer:\n  lr: 0,1\n", "found '0,1'");
  refuse("optimizer: {lr: 1e}", "found '1e'");
  refuse("optimizer: {lr: .}", "found '.'");
  refuse("optimizer: {lr: 0}", "a number above 0 to 1000, found '0'");
  refuse("optimizer: {lr: -1}", "found '-1'");
  refuse("optimizer: {beta1: 1}", "found '1'");
  refuse("model: {norm: rms}", "model.norm: expected one of rmsnorm|layernorm, found 'rms'");
  refuse("model: {norm: rmsnorm|layernorm}", "found 'rmsnorm|layernorm'");
  refuse("run: \"a\\nb\"", "on one line");
  refuse("run: \"a\\0b\"", "NUL");
}

Test(config, overrides_are_converted_by_the_same_rules) {
  refuse_override("train.batch=12.5", "command line: train.batch: expected a whole number");
  refuse_override("train.batch= 12", "found ' 12'");
  refuse_override("train.batch=", "found ''");
  refuse_override("model.bias=flase", "expected true or false");
  refuse_override("model.norm=", "expected one of");
  refuse_override("train.batch", "expected key.path=value, found 'train.batch'");
  refuse_override("train.bach=3", "did you mean 'train.batch'?");
  refuse_override("=3", "unknown key ''");
  refuse_override("run=\xff\xfe", "UTF-8");
  refuse_override("run=\xc0\xaf", "UTF-8"); // an overlong slash
}

Test(config, structure_is_checked) {
  refuse("modell: {width: 64}", "unknown key 'modell'");
  refuse("model: {widht: 64}", "unknown key 'model.widht'; did you mean 'model.width'?");
  refuse("width: 64", "did you mean 'model.width'?");
  refuse("train: {lr: 0.1}", "did you mean 'optimizer.lr'?");
  refuse("model: {frobnicate: 1}", "--help-config");
  refuse("model: {width: 64, width: 128}", "model.width: given twice");
  refuse("model:\n  width: 64\nseed: 2\nmodel:\n  width: 96\n", "run.yaml:4: model: section given twice");
  refuse("model.width: 64", "section and key on lines of their own");
  refuse("model: 5", "model: expected a section of keys, found a value");
  refuse("model: [1, 2]", "model: expected a section of keys, found a list");
  refuse("seed: {a: 1}", "seed: expected one value, found a section");
  refuse("model: {model: {width: 64}}", "unknown key 'model.model'");
  refuse("- seed: 1\n", "expected keys and sections, found a list");
  refuse("hello", "expected keys and sections, found a value");
  refuse("seed: 1\n---\nseed: 2\n", "found a second one");
  refuse("seed: 1\n\tmodel: 2\n", "run.yaml:2: not valid YAML");
  refuse("model: {width: 64", "not valid YAML");
  refuse("seed: *other", "not valid YAML");
  refuse("? [a, b]\n: 1\n", "expected one value");
  refuse("<<: {seed: 1}", "unknown key '<<'");
}

// What a run stores must read back to what it ran with, whatever its folder is called.
Test(config, printed_configuration_reads_back) {
  const char *const names[] = {"runs/a",
                               "",
                               "null",
                               "~",
                               "a: b",
                               "# c",
                               "'quoted'",
                               "\"q\"",
                               "true",
                               " leading",
                               "trailing ",
                               "\\n",
                               "-",
                               "{a}",
                               "r\u00e9sum\u00e9",
                               "\u2028",
                               "\ufeffx",
                               "%TAG",
                               "emoji \U0001F600",
                               "a\xc2\x85"
                               "b"};
  nn_random_key key = nn_random_key_make(1, NN_RANDOM_TEST, 0, 0);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    launch_config config = defaults(), again = defaults();
    snprintf(config.run, sizeof config.run, "%s", names[i]);
    uint32_t bits[4];
    nn_random_u32x4(key, 0, i, bits);
    config.optimizer.lr = (double)nn_random_uniform(bits[0]) / 3; // needs all 17 digits
    config.nats.lambda = (double)nn_random_uniform(bits[1]) * 1e-7;
    config.seed = bits[2];
    config.model.bias = bits[3] & 1;
    char *text = launch_config_text(&config);
    cr_assert_not_null(text);
    cr_assert_eq(launch_config_parse(&again, text, "stored"), NN_OK, "%s\n%s", nn_error_text(), text);
    cr_expect_arr_eq((char *)&config, (char *)&again, sizeof config, "for the name '%s'", names[i]);
    free(text);
  }
}

// Keys that define a run are fixed; where it runs and how often it reports may change.
Test(config, fixed_text_names_what_must_not_change) {
  launch_config config = defaults();
  snprintf(config.run, sizeof config.run, "elsewhere");
  config.model.width = 128;
  char *text = launch_config_fixed_text(&config);
  cr_assert_not_null(text);
  cr_expect_not_null(strstr(text, "\nmodel.width: 128\n"));
  cr_expect_not_null(strstr(text, "\noptimizer.lr: 0.001\n"));
  cr_expect_null(strstr(text, "elsewhere"));
  cr_expect_null(strstr(text, "train.micro_batch"));
  cr_expect_null(strstr(text, "train.steps"));
  free(text);
}

static void impossible(const char *yaml, int32_t ranks, const char *expected) {
  launch_config config = defaults();
  nn_error_clear();
  cr_assert_eq(launch_config_parse(&config, yaml, "run.yaml"), NN_OK, "%s", nn_error_text());
  cr_expect_eq(launch_config_check(&config, ranks), NN_ERR_USAGE, "accepted: %s", yaml);
  cr_expect_not_null(strstr(nn_error_text(), expected), "for %s\n  expected %s\n  found    %s", yaml,
                     expected, nn_error_text());
}

Test(config, impossible_combinations_are_refused) {
  impossible("model: {width: 100, heads: 3}", 1,
             "model.width: expected a multiple of model.heads (3), found 100");
  impossible("model: {heads: 6, kv_heads: 4}", 1, "heads");
  impossible("model: {head_size: 7}", 1, "head_size");
  impossible("train: {batch: 2}", 3,
             "train.batch: expected at least one sequence for each of 3 ranks, found 2");
  impossible("nats: {type_grad_clip: 0.5}", 1, "clip");
  impossible("nats: {type_warmup: 0.7, lambda_ramp: 0.4}", 1, "nats.lambda_ramp");
  impossible("optimizer: {lr: 1e-4, lr_min: 1e-3}", 1, "optimizer.lr_min");
  impossible("train: {steps: 50}\noptimizer: {schedule: wsd, warmup: 10, decay: 41}", 1, "optimizer.decay");
}

Test(config, model_sizes_are_derived) {
  launch_config config = defaults();
  nats_model_config model;
  config.model.width = 256;
  config.model.heads = 4;
  cr_assert_eq(launch_config_model(&config, 257, &model), NN_OK, "%s", nn_error_text());
  cr_expect_eq(model.vocab, 320);
  cr_expect_eq(model.head_size, 64);
  cr_expect_eq(model.kv_heads, 4);
  cr_expect_eq(model.mlp_size, 704);                     // 8/3 * 256 = 682.7, up to a multiple of 64
  cr_expect_float_eq(model.init_std, 0.0342327f, 1e-6f); // sqrt(0.3 / 256)
  config.model.vocab = 256;
  cr_expect_eq(launch_config_model(&config, 257, &model), NN_ERR_USAGE);
  cr_expect_not_null(strstr(nn_error_text(), "model.vocab: expected at least 257"));
}
