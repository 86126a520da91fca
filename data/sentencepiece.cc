#include "data/sentencepiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizer_table.h"

struct data_sp {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

// Runs `work`, which returns a status, and turns what it throws into one.
template <typename Work> nn_status guarded(Work work) {
  try {
    return work();
  } catch (const std::bad_alloc &) {
    return NN_FAIL(NN_ERR_MEMORY, "SentencePiece ran out of memory");
  } catch (const std::exception &error) {
    return NN_FAIL(NN_ERR_INTERNAL, "SentencePiece failed: %s", error.what());
  }
}

// Hands the stretches to the trainer. What `next` fails with is kept for the caller.
class Stretches final : public sentencepiece::SentenceIterator {
public:
  Stretches(data_sp_next next, void *context) : next_(next), context_(context) { Next(); }

  bool done() const override { return text_.empty(); }
  void Next() override {
    const char *text = nullptr;
    size_t bytes = 0;
    status_ = next_(context_, &text, &bytes);
    text_.assign(text != nullptr && status_ == NN_OK ? text : "", status_ == NN_OK ? bytes : 0);
  }
  const std::string &value() const override { return text_; }
  sentencepiece::util::Status status() const override { return {}; }
  nn_status failure() const { return status_; }

private:
  data_sp_next next_;
  void *context_;
  std::string text_;
  nn_status status_ = NN_OK;
};

} // namespace

nn_status data_sp_load(const void *model, size_t bytes, data_sp **out) {
  return guarded([&]() -> nn_status {
    data_sp *sp = new data_sp;
    const auto status =
        sp->processor.LoadFromSerializedProto(absl::string_view(static_cast<const char *>(model), bytes));
    if (!status.ok()) {
      delete sp;
      return NN_FAIL(NN_ERR_INPUT, "is no SentencePiece model: %s", status.ToString().c_str());
    }
    *out = sp;
    return NN_OK;
  });
}

void data_sp_free(data_sp *sp) {
  delete sp;
}

int32_t data_sp_vocab(const data_sp *sp) {
  return sp->processor.GetPieceSize();
}

int32_t data_sp_end_of_text(const data_sp *sp) {
  return sp->processor.eos_id();
}

data_sp_type data_sp_piece(const data_sp *sp, int32_t token, const char **text, size_t *bytes) {
  const std::string &piece = sp->processor.IdToPiece(token);
  *text = piece.data();
  *bytes = piece.size();
  if (sp->processor.IsByte(token))
    return DATA_SP_BYTE;
  const bool other =
      sp->processor.IsControl(token) || sp->processor.IsUnknown(token) || sp->processor.IsUnused(token);
  return other ? DATA_SP_OTHER : DATA_SP_TEXT;
}

nn_status data_sp_encode(const data_sp *sp, const char *text, size_t bytes, data_tokens *tokens) {
  return guarded([&]() -> nn_status {
    std::vector<int> ids;
    const auto status = sp->processor.Encode(absl::string_view(text, bytes), &ids);
    if (!status.ok())
      return NN_FAIL(NN_ERR_INTERNAL, "SentencePiece cannot encode: %s", status.ToString().c_str());
    NN_TRY(data_tokens_reserve(tokens, static_cast<int64_t>(ids.size())));
    for (const int id : ids)
      tokens->items[tokens->count++] = id;
    return NN_OK;
  });
}

nn_status data_sp_train(const char *type, int32_t vocab, double coverage, const char *end_of_text,
                        data_sp_next next, void *context, void **model, size_t *bytes) {
  // What the text says is what the model says: no normalisation, no space added or removed, bytes for what
  // has no piece. A newline is a piece of its own, so lines can be encoded one by one.
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", type},
      {"vocab_size", std::to_string(vocab)},
      {"character_coverage", std::to_string(coverage)},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"byte_fallback", "true"},
      {"user_defined_symbols", "\n"},
      {"allow_whitespace_only_pieces", "true"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"eos_piece", end_of_text},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      {"num_threads", "1"}, // more threads give another vocabulary
      {"minloglevel", "2"},
  };
  return guarded([&]() -> nn_status {
    Stretches stretches(next, context);
    NN_TRY(stretches.failure());
    std::string serialized;
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &stretches, &serialized);
    NN_TRY(stretches.failure());
    if (!status.ok())
      return NN_FAIL(NN_ERR_INPUT, "SentencePiece cannot train: %s", status.ToString().c_str());
    *model = std::malloc(serialized.size() + 1);
    if (*model == nullptr)
      return NN_FAIL(NN_ERR_MEMORY, "no memory for a model of %zu bytes", serialized.size());
    std::memcpy(*model, serialized.data(), serialized.size());
    *bytes = serialized.size();
    return NN_OK;
  });
}
