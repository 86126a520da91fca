// The kinds of tokenizers whose library was left out of this build: they say so.
#include "data/tokenizer_table.h"

#define ABSENT(table, kind_, prefix_, files_, library, option)                                               \
  static nn_status table##_open(data_tokenizer *tokenizer, char *files) {                                    \
    (void)tokenizer, (void)files;                                                                            \
    return NN_FAIL(NN_ERR_UNSUPPORTED, "the " kind_ " tokenizer needs " library                              \
                                       ", which was left out of this build (" option "=OFF)");               \
  }                                                                                                          \
  static nn_status table##_restore(data_tokenizer *tokenizer, const void *blob, size_t bytes) {              \
    (void)blob, (void)bytes;                                                                                 \
    return table##_open(tokenizer, NULL);                                                                    \
  }                                                                                                          \
  const data_tokenizer_table table = {                                                                       \
      .kind = kind_, .prefix = prefix_, .files = files_, .open = table##_open, .restore = table##_restore}

#ifndef DATA_WITH_PCRE2
ABSENT(data_tokenizer_gpt2, "gpt2", "gpt2", "VOCAB.json,MERGES.txt", "PCRE2", "NATSFORMER_PCRE2");
#endif
#ifndef DATA_WITH_SENTENCEPIECE
ABSENT(data_tokenizer_sentencepiece, "sentencepiece", "sp", "MODEL", "SentencePiece",
       "NATSFORMER_SENTENCEPIECE");
#endif
