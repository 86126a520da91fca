// SentencePiece (Kudo and Richardson, 2018) from a model file, without loss: a model that would change the
// text is refused.
//
// Text is cut into words that no piece crosses: before a space behind something else, and around newlines
// where they are a piece of their own. Words repeat, so most of them come out of a cache. U+2581, which
// stands for a space inside SentencePiece, is written as its three bytes.
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "data/files.h"
#include "data/sentencepiece.h"
#include "data/tokenizer_table.h"
#include "data/utf8.h"
#include "data/word_cache.h"

static const char space_mark[] = "\xE2\x96\x81"; // U+2581
enum { MARK = sizeof space_mark - 1, BYTES = 256, WORD_MOST = 16 << 10 };

typedef struct {
  data_sp *sp;
  data_word_cache *cache;
  int32_t byte_tokens[BYTES];
  bool cut_at_space, cut_at_newline; // no piece crosses such a place
} sentencepiece;

// ---- pieces

// "<0x41>" is the byte 0x41.
static int byte_of(const char *text, size_t bytes) {
  char digits[3] = {0};
  if (bytes != 6)
    return -1;
  memcpy(digits, text + 3, 2);
  char *end = NULL;
  long value = strtol(digits, &end, 16);
  return *end == '\0' ? (int)value : -1;
}

// The text of a piece with its spaces back; returns its length. out: as long as the piece.
static size_t plain_text(const char *piece, size_t bytes, char *out) {
  size_t made = 0;
  for (size_t i = 0; i < bytes;)
    if (bytes - i >= MARK && memcmp(piece + i, space_mark, MARK) == 0) {
      out[made++] = ' ';
      i += MARK;
    } else {
      out[made++] = piece[i++];
    }
  return made;
}

// A piece that crosses a place where words are cut says that there must be no cut.
static void note_crossings(sentencepiece *own, const char *text, size_t bytes) {
  for (size_t i = 1; i < bytes; i++) {
    if (text[i] == ' ' && text[i - 1] != ' ')
      own->cut_at_space = false;
    if (text[i] == '\n' || text[i - 1] == '\n')
      own->cut_at_newline = false;
  }
}

static void add_piece(data_tokenizer *tokenizer, int32_t token) {
  sentencepiece *own = tokenizer->own;
  const char *text = NULL;
  size_t bytes = 0;
  data_sp_type type = data_sp_piece(own->sp, token, &text, &bytes);
  char *out = tokenizer->piece_text + tokenizer->piece_starts[token];
  size_t made = 0;
  if (type == DATA_SP_TEXT) {
    made = plain_text(text, bytes, out);
    note_crossings(own, out, made);
  } else if (type == DATA_SP_BYTE) {
    int byte = byte_of(text, bytes);
    if (byte >= 0) {
      own->byte_tokens[byte] = token;
      out[made++] = (char)byte;
    }
  }
  tokenizer->piece_starts[token + 1] = tokenizer->piece_starts[token] + made;
}

static nn_status read_pieces(data_tokenizer *tokenizer, const char *name) {
  sentencepiece *own = tokenizer->own;
  size_t total = 0;
  tokenizer->vocab = data_sp_vocab(own->sp);
  tokenizer->end_of_text = data_sp_end_of_text(own->sp);
  if (tokenizer->end_of_text < 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: has no end-of-sentence symbol, which ends documents", name);
  for (int32_t token = 0; token < tokenizer->vocab; token++) {
    const char *text = NULL;
    size_t bytes = 0;
    data_sp_piece(own->sp, token, &text, &bytes);
    total += bytes;
  }
  NN_TRY(data_tokenizer_start_pieces(tokenizer, total));
  memset(own->byte_tokens, -1, sizeof own->byte_tokens);
  own->cut_at_space = own->cut_at_newline = true;
  for (int32_t token = 0; token < tokenizer->vocab; token++)
    add_piece(tokenizer, token);
  for (int byte = 0; byte < BYTES; byte++)
    if (own->byte_tokens[byte] < 0)
      return NN_FAIL(NN_ERR_INPUT,
                     "%s: has no byte fallback (no piece <0x%02X>), so it loses what it does not "
                     "know; `natsformer data train-tokenizer` makes one that does not",
                     name, byte);
  return NN_OK;
}

// ---- hash: of what defines the mapping; a model also holds the paths that it was trained from

typedef struct {
  const unsigned char *at, *end;
} protobuf;

static uint64_t varint(protobuf *from) {
  uint64_t value = 0;
  for (int shift = 0; from->at < from->end && shift < 64; shift += 7) {
    unsigned char byte = *from->at++;
    value |= (uint64_t)(byte & 0x7F) << shift;
    if (byte < 0x80)
      break;
  }
  return value;
}

// The next field: its number, and its bytes (of a number: those of the varint). False at the end.
static bool field(protobuf *from, uint64_t *number, protobuf *value) {
  enum { VARINT, FIXED64, BYTES_FIELD, FIXED32 = 5 };
  if (from->at >= from->end)
    return false;
  uint64_t tag = varint(from), length = 0;
  *number = tag >> 3;
  value->at = from->at;
  if ((tag & 7) == VARINT) {
    varint(from);
    value->end = from->at;
    return true;
  }
  length = (tag & 7) == FIXED64 ? 8 : (tag & 7) == FIXED32 ? 4 : varint(from);
  value->at = from->at;
  if ((uint64_t)(from->end - from->at) < length)
    length = (uint64_t)(from->end - from->at);
  value->end = from->at += length;
  return true;
}

static void hash_field(XXH3_state_t *hash, uint64_t number, protobuf value) {
  uint64_t head[2] = {number, (uint64_t)(value.end - value.at)};
  XXH3_64bits_update(hash, head, sizeof head);
  XXH3_64bits_update(hash, value.at, (size_t)head[1]);
}

// Fields of sentencepiece_model.proto.
static nn_status hash_model(const void *model, size_t bytes, uint64_t *out) {
  enum { PIECES = 1, TRAINER = 2, NORMALIZER = 3, TRAINER_MODEL_TYPE = 3 };
  XXH3_state_t *hash = XXH3_createState();
  protobuf all = {.at = model, .end = (const unsigned char *)model + bytes}, value, setting;
  uint64_t number = 0, key = 0;
  if (hash == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory to hash a tokenizer");
  XXH3_64bits_reset(hash);
  while (field(&all, &number, &value)) {
    if (number == PIECES || number == NORMALIZER)
      hash_field(hash, number, value);
    while (number == TRAINER && field(&value, &key, &setting))
      if (key == TRAINER_MODEL_TYPE)
        hash_field(hash, number, setting);
  }
  *out = XXH3_64bits_digest(hash);
  XXH3_freeState(hash);
  return NN_OK;
}

// ---- encoding

// The tokens from `first` on spell exactly this text.
static bool spells(const data_tokenizer *tokenizer, const data_tokens *tokens, int64_t first,
                   const char *text, size_t bytes) {
  for (int64_t i = first; i < tokens->count; i++) {
    size_t length = 0;
    const char *piece = data_tokenizer_piece(tokenizer, tokens->items[i], &length);
    if (length > bytes || memcmp(piece, text, length) != 0)
      return false;
    text += length;
    bytes -= length;
  }
  return bytes == 0;
}

static nn_status encode_word(data_tokenizer *tokenizer, const char *word, size_t bytes, data_tokens *tokens) {
  sentencepiece *own = tokenizer->own;
  int64_t first = tokens->count;
  nn_status status = NN_OK;
  if (data_word_cache_find(own->cache, word, bytes, tokens, &status))
    return status;
  NN_TRY(data_sp_encode(own->sp, word, bytes, tokens));
  if (!spells(tokenizer, tokens, first, word, bytes))
    return NN_FAIL(NN_ERR_INPUT,
                   "this SentencePiece model changes the text '%.*s' (it normalises, adds or drops "
                   "spaces); `natsformer data train-tokenizer` makes one that does not",
                   (int)(bytes < 60 ? bytes : 60), word);
  data_word_cache_keep(own->cache, word, bytes, tokens->items + first, tokens->count - first);
  return NN_OK;
}

static bool is_cut(const sentencepiece *own, const char *text, size_t at) {
  if (own->cut_at_newline && (text[at] == '\n' || text[at - 1] == '\n'))
    return true;
  return own->cut_at_space && text[at] == ' ' && text[at - 1] != ' ';
}

static size_t word_length(const sentencepiece *own, const char *text, size_t bytes) {
  for (size_t at = 1; at < bytes; at++) {
    if (is_cut(own, text, at))
      return at;
    if (at == WORD_MOST)
      return data_utf8_whole(text, at);
  }
  return bytes;
}

static nn_status encode_marks(const sentencepiece *own, data_tokens *tokens) {
  NN_TRY(data_tokens_reserve(tokens, MARK));
  for (int i = 0; i < MARK; i++)
    tokens->items[tokens->count++] = own->byte_tokens[(unsigned char)space_mark[i]];
  return NN_OK;
}

static nn_status encode(data_tokenizer *tokenizer, const char *text, size_t bytes, data_tokens *tokens) {
  const sentencepiece *own = tokenizer->own;
  NN_TRY(data_tokens_reserve(tokens, 1));
  while (bytes > 0) {
    const char *mark = memmem(text, bytes, space_mark, MARK);
    size_t plain = mark != NULL ? (size_t)(mark - text) : bytes;
    for (size_t at = 0, length = 0; at < plain; at += length) {
      length = word_length(own, text + at, plain - at);
      NN_TRY(encode_word(tokenizer, text + at, length, tokens));
    }
    if (mark != NULL)
      NN_TRY(encode_marks(own, tokens));
    plain += mark != NULL ? MARK : 0;
    text += plain;
    bytes -= plain;
  }
  return NN_OK;
}

static size_t cut(const data_tokenizer *tokenizer, const char *text, size_t bytes) {
  const sentencepiece *own = tokenizer->own;
  for (size_t at = bytes; at-- > 1;)
    if (is_cut(own, text, at))
      return at;
  return 0;
}

// ---- opening

static nn_status fill(data_tokenizer *tokenizer, const char *name, const void *model, size_t bytes) {
  static const char probe[] =
      "  a  b \n\n c\t\r\n.  \xEF\xAC\x81 \xC3\xA9 e\xCC\x81 \xE3\x80\x80 \xE2\x96\x81_ ";
  sentencepiece *own = calloc(1, sizeof *own);
  if (own == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", name);
  tokenizer->own = own; // freed with the tokenizer
  if (data_sp_load(model, bytes, &own->sp) != NN_OK) {
    char reason[200];
    strncpy(reason, nn_error_text(), sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    nn_error_clear();
    return NN_FAIL(NN_ERR_INPUT, "%s: %s", name, reason);
  }
  NN_TRY(read_pieces(tokenizer, name));
  NN_TRY(hash_model(model, bytes, &tokenizer->hash));
  NN_TRY(data_word_cache_create(&own->cache));
  data_tokens tokens = {0};
  nn_status status = encode(tokenizer, probe, sizeof probe - 1, &tokens);
  free(tokens.items);
  return status;
}

static nn_status open_file(data_tokenizer *tokenizer, char *path) {
  char *model = NULL;
  size_t bytes = 0;
  nn_status status = NN_OK;
  NN_TRY(data_file_read(path, &model, &bytes));
  NN_GOTO(status, done, fill(tokenizer, path, model, bytes));
  NN_GOTO(status, done, data_tokenizer_keep_blob(tokenizer, model, bytes));
done:
  free(model);
  return status;
}

static nn_status restore(data_tokenizer *tokenizer, const void *blob, size_t bytes) {
  NN_TRY(fill(tokenizer, "the stored SentencePiece model", blob, bytes));
  return data_tokenizer_keep_blob(tokenizer, blob, bytes);
}

static void free_sentencepiece(void *pointer) {
  sentencepiece *own = pointer;
  data_word_cache_free(own->cache);
  data_sp_free(own->sp);
  free(own);
}

const data_tokenizer_table data_tokenizer_sentencepiece = {
    .kind = "sentencepiece",
    .prefix = "sp",
    .files = "MODEL",
    .open = open_file,
    .restore = restore,
    .encode = encode,
    .cut = cut,
    .free = free_sentencepiece,
};
