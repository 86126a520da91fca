// GPT-2's byte-level byte-pair encoding (Radford et al., "Language models are unsupervised multitask
// learners", 2019), from its two files: vocab.json (piece to token) and merges.txt (pairs by rank). Text is
// cut into words by GPT-2's pattern; the bytes of a word are merged.
//
// In both files a byte is spelt as a printable character: those that are printable as themselves, the others,
// in order, as U+0100 and up.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "data/bpe.h"
#include "data/files.h"
#include "data/tokenizer_table.h"
#include "data/word_cache.h"

// Unicode's White_Space: PCRE2's own \s differs from it (U+180E).
#define SPACE                                                                                                \
  "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
static const char pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE
                              "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+";
static const char end_of_text[] = "<|endoftext|>";
static const char blob_head[] = "natsformer gpt2 %zu\n"; // then vocab.json, of so many bytes, and merges.txt

enum { BYTES = 256, CHARACTERS = 0x180, MERGE_LINE = 4096 };

typedef struct {
  int32_t byte_tokens[BYTES];
  data_bpe *bpe;
  data_word_cache *cache;
  pcre2_code *words;
  pcre2_match_data *match;
  int32_t *symbols; // of the word under way
  size_t room;
} gpt2;

// What is needed while the files are read.
typedef struct {
  data_tokenizer *tokenizer;
  const char *name;            // of the file, for messages
  int16_t byte_of[CHARACTERS]; // the byte that a character spells; -1: none
  int32_t *slots;              // [slot_count] tokens by their bytes, open addressing; -1: free
  size_t slot_count;
} reader;

static void spell_bytes(reader *read) {
  int next = 0x100;
  for (int c = 0; c < CHARACTERS; c++)
    read->byte_of[c] = -1;
  for (int byte = 0; byte < BYTES; byte++) {
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    read->byte_of[printable ? byte : next++] = (int16_t)byte;
  }
}

// The bytes that the text of a piece spells; false where a character spells none. out: as long as the text.
static bool spelt(const reader *read, const char *text, size_t count, char *out, size_t *bytes) {
  size_t made = 0;
  for (size_t i = 0; i < count; i++) {
    unsigned first = (unsigned char)text[i], point = first;
    if (first >= 0xC0 && first < 0xE0 && i + 1 < count)
      point = (first & 0x1F) << 6 | ((unsigned char)text[++i] & 0x3F);
    else if (first >= 0x80)
      return false;
    if (point >= CHARACTERS || read->byte_of[point] < 0)
      return false;
    out[made++] = (char)read->byte_of[point];
  }
  *bytes = made;
  return true;
}

// ---- tokens by their bytes

static int32_t *slot_of(const reader *read, const char *bytes, size_t count) {
  for (size_t i = XXH3_64bits(bytes, count);; i++) {
    int32_t *slot = &read->slots[i & (read->slot_count - 1)];
    size_t length = 0;
    const char *piece = *slot >= 0 ? data_tokenizer_piece(read->tokenizer, *slot, &length) : NULL;
    if (piece == NULL || (length == count && memcmp(piece, bytes, count) == 0))
      return slot;
  }
}

static nn_status index_pieces(reader *read) {
  read->slot_count = 64;
  while (read->slot_count < 2 * (size_t)read->tokenizer->vocab)
    read->slot_count *= 2;
  read->slots = malloc(read->slot_count * sizeof *read->slots);
  if (read->slots == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its pieces", read->name);
  memset(read->slots, -1, read->slot_count * sizeof *read->slots);
  for (int32_t token = 0; token < read->tokenizer->vocab; token++) {
    size_t count = 0;
    const char *bytes = data_tokenizer_piece(read->tokenizer, token, &count);
    if (token == read->tokenizer->end_of_text)
      continue;
    int32_t *slot = slot_of(read, bytes, count);
    if (*slot >= 0)
      return NN_FAIL(NN_ERR_INPUT, "%s: tokens %d and %d stand for the same bytes", read->name, *slot, token);
    *slot = token;
  }
  return NN_OK;
}

// ---- vocab.json

// Puts the names of the tokens in their order: names[token].
static nn_status order_names(const reader *read, json_t *object, const char **names, size_t count) {
  const char *name = NULL;
  json_t *value = NULL;
  json_object_foreach(object, name, value) {
    json_int_t token = json_is_integer(value) ? json_integer_value(value) : -1;
    if (token < 0 || (size_t)token >= count || names[token] != NULL)
      return NN_FAIL(NN_ERR_INPUT, "%s: '%.40s': expected a number of its own below %zu", read->name, name,
                     count);
    names[token] = name;
  }
  return NN_OK;
}

static nn_status add_pieces(reader *read, const char **names) {
  data_tokenizer *tokenizer = read->tokenizer;
  size_t total = 0;
  for (int32_t token = 0; token < tokenizer->vocab; token++)
    total += strlen(names[token]);
  NN_TRY(data_tokenizer_start_pieces(tokenizer, total));
  for (int32_t token = 0; token < tokenizer->vocab; token++) {
    size_t length = strlen(names[token]), bytes = 0;
    char *out = tokenizer->piece_text + tokenizer->piece_starts[token];
    if (strcmp(names[token], end_of_text) == 0)
      tokenizer->end_of_text = token;
    else if (length == 0 || !spelt(read, names[token], length, out, &bytes))
      return NN_FAIL(NN_ERR_INPUT, "%s: '%.40s' has a character that spells no byte", read->name,
                     names[token]);
    tokenizer->piece_starts[token + 1] = tokenizer->piece_starts[token] + bytes;
  }
  if (tokenizer->end_of_text < 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: has no token '%s'", read->name, end_of_text);
  return NN_OK;
}

static nn_status read_vocab(reader *read, const char *text, size_t bytes) {
  json_error_t error;
  nn_status status = NN_OK;
  json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
  size_t count = json_object_size(object);
  const char **names = calloc(count + 1, sizeof *names);
  if (names == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %zu tokens", read->name, count));
  if (object == NULL)
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_INPUT, "%s: line %d: is no JSON: %s", read->name, error.line, error.text));
  if (count == 0 || count > INT32_MAX)
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_INPUT, "%s: expected one JSON object from pieces to tokens", read->name));
  NN_GOTO(status, done, order_names(read, object, names, count));
  read->tokenizer->vocab = (int32_t)count;
  NN_GOTO(status, done, add_pieces(read, names));
  NN_GOTO(status, done, index_pieces(read));
done:
  free(names);
  json_decref(object);
  return status;
}

static nn_status find_bytes(const reader *read, gpt2 *own) {
  for (int byte = 0; byte < BYTES; byte++) {
    char text = (char)byte;
    own->byte_tokens[byte] = *slot_of(read, &text, 1);
    if (own->byte_tokens[byte] < 0)
      return NN_FAIL(NN_ERR_INPUT, "%s: has no token for the byte %d", read->name, byte);
  }
  return NN_OK;
}

// ---- merges.txt

static nn_status add_merge(const reader *read, gpt2 *own, const char *line, size_t length, long number,
                           XXH3_state_t *hash) {
  char bytes[MERGE_LINE];
  size_t left = 0, right = 0;
  const char *space = memchr(line, ' ', length);
  size_t first = space != NULL ? (size_t)(space - line) : 0, second = space ? length - first - 1 : 0;
  if (first == 0 || second == 0 || length >= sizeof bytes || !spelt(read, line, first, bytes, &left) ||
      !spelt(read, space + 1, second, bytes + left, &right))
    return NN_FAIL(NN_ERR_INPUT, "%s: line %ld: expected two pieces with a space between", read->name,
                   number);
  int32_t pair[3] = {*slot_of(read, bytes, left), *slot_of(read, bytes + left, right),
                     *slot_of(read, bytes, left + right)};
  if (pair[0] < 0 || pair[1] < 0 || pair[2] < 0)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: line %ld: '%.*s': the pieces and what they make must all be in the "
                   "vocabulary",
                   read->name, number, (int)(length < 80 ? length : 80), line);
  data_bpe_add(own->bpe, pair[0], pair[1], pair[2]);
  XXH3_64bits_update(hash, pair, sizeof pair);
  return NN_OK;
}

static nn_status read_merges(const reader *read, gpt2 *own, const char *text, size_t bytes,
                             XXH3_state_t *hash) {
  const char *end = text + bytes;
  int64_t lines = 0;
  for (size_t i = 0; i < bytes; i++)
    lines += text[i] == '\n';
  NN_TRY(data_bpe_create(lines + 1, &own->bpe));
  for (long number = 1; text < end; number++) {
    const char *newline = memchr(text, '\n', (size_t)(end - text)), *stop = newline ? newline : end;
    size_t length = (size_t)(stop - text);
    length -= length > 0 && text[length - 1] == '\r';
    bool version = number == 1 && length >= 8 && memcmp(text, "#version", 8) == 0;
    if (length > 0 && !version)
      NN_TRY(add_merge(read, own, text, length, number, hash));
    text = newline != NULL ? newline + 1 : end;
  }
  return NN_OK;
}

// ---- opening

static nn_status compile_pattern(gpt2 *own) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  own->words =
      pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
  if (own->words == NULL)
    return NN_FAIL(NN_ERR_INTERNAL, "PCRE2 refuses the pattern at %zu: error %d", offset, error);
  (void)pcre2_jit_compile(own->words, PCRE2_JIT_COMPLETE); // without it, matching is slower but the same
  own->match = pcre2_match_data_create_from_pattern(own->words, NULL);
  return own->match != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory to match words");
}

static void free_gpt2(void *pointer) {
  gpt2 *own = pointer;
  pcre2_match_data_free(own->match);
  pcre2_code_free(own->words);
  data_word_cache_free(own->cache);
  data_bpe_free(own->bpe);
  free(own->symbols);
  free(own);
}

// The hash is over pieces and merges, not over how the files spell them.
static void hash_pieces(const data_tokenizer *tokenizer, XXH3_state_t *hash) {
  for (int32_t token = 0; token < tokenizer->vocab; token++) {
    size_t count = 0;
    const char *piece = data_tokenizer_piece(tokenizer, token, &count);
    uint64_t length = count;
    XXH3_64bits_update(hash, &length, sizeof length);
    XXH3_64bits_update(hash, piece, count);
  }
}

static nn_status fill(data_tokenizer *tokenizer, const char *vocab_name, const char *vocab,
                      size_t vocab_bytes, const char *merges_name, const char *merges, size_t merges_bytes) {
  nn_status status = NN_OK;
  reader read = {.tokenizer = tokenizer, .name = vocab_name};
  XXH3_state_t *hash = XXH3_createState();
  gpt2 *own = calloc(1, sizeof *own);
  tokenizer->own = own; // freed with the tokenizer
  if (own == NULL || hash == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", vocab_name));
  XXH3_64bits_reset(hash);
  spell_bytes(&read);
  NN_GOTO(status, done, read_vocab(&read, vocab, vocab_bytes));
  NN_GOTO(status, done, find_bytes(&read, own));
  hash_pieces(tokenizer, hash);
  read.name = merges_name;
  NN_GOTO(status, done, read_merges(&read, own, merges, merges_bytes, hash));
  tokenizer->hash = XXH3_64bits_digest(hash);
  NN_GOTO(status, done, data_word_cache_create(&own->cache));
  NN_GOTO(status, done, compile_pattern(own));
done:
  XXH3_freeState(hash);
  free(read.slots);
  return status;
}

static nn_status open_files(data_tokenizer *tokenizer, char *files) {
  nn_status status = NN_OK;
  char *vocab = NULL, *merges = NULL, *blob = NULL, *comma = strchr(files, ',');
  size_t vocab_bytes = 0, merges_bytes = 0;
  if (comma == NULL || comma == files || comma[1] == '\0')
    return NN_FAIL(NN_ERR_USAGE, "tokenizer 'gpt2:%s': expected gpt2:VOCAB.json,MERGES.txt", files);
  *comma = '\0';
  NN_GOTO(status, done, data_file_read(files, &vocab, &vocab_bytes));
  NN_GOTO(status, done, data_file_read(comma + 1, &merges, &merges_bytes));
  NN_GOTO(status, done, fill(tokenizer, files, vocab, vocab_bytes, comma + 1, merges, merges_bytes));
  blob = malloc(64 + vocab_bytes + merges_bytes);
  if (blob == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory to keep it", files));
  size_t head = (size_t)snprintf(blob, 64, blob_head, vocab_bytes);
  memcpy(blob + head, vocab, vocab_bytes);
  memcpy(blob + head + vocab_bytes, merges, merges_bytes);
  NN_GOTO(status, done, data_tokenizer_keep_blob(tokenizer, blob, head + vocab_bytes + merges_bytes));
done:
  free(blob);
  free(merges);
  free(vocab);
  return status;
}

static nn_status restore(data_tokenizer *tokenizer, const void *blob, size_t bytes) {
  size_t vocab_bytes = 0;
  NN_TRY(data_tokenizer_keep_blob(tokenizer, blob, bytes)); // and a zero byte behind it, for sscanf
  const char *text = tokenizer->blob, *newline = memchr(text, '\n', bytes);
  if (newline == NULL || sscanf(text, "natsformer gpt2 %zu", &vocab_bytes) != 1 ||
      vocab_bytes > bytes - (size_t)(newline + 1 - text))
    return NN_FAIL(NN_ERR_INPUT, "the GPT-2 tokenizer that was stored is damaged");
  const char *vocab = newline + 1, *merges = vocab + vocab_bytes;
  return fill(tokenizer, "the stored vocab.json", vocab, vocab_bytes, "the stored merges.txt", merges,
              bytes - (size_t)(merges - text));
}

// ---- encoding

static nn_status encode_word(gpt2 *own, const char *word, size_t bytes, data_tokens *tokens) {
  nn_status status = NN_OK;
  if (data_word_cache_find(own->cache, word, bytes, tokens, &status))
    return status;
  if (bytes > own->room) {
    int32_t *grown = realloc(own->symbols, 2 * bytes * sizeof *grown);
    if (grown == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "no memory for a word of %zu bytes", bytes);
    own->symbols = grown;
    own->room = 2 * bytes;
  }
  for (size_t i = 0; i < bytes; i++)
    own->symbols[i] = own->byte_tokens[(unsigned char)word[i]];
  int64_t count = (int64_t)bytes;
  NN_TRY(data_bpe_apply(own->bpe, own->symbols, &count));
  data_word_cache_keep(own->cache, word, bytes, own->symbols, count);
  NN_TRY(data_tokens_reserve(tokens, count));
  memcpy(tokens->items + tokens->count, own->symbols, (size_t)count * sizeof *own->symbols);
  tokens->count += count;
  return NN_OK;
}

static nn_status encode(data_tokenizer *tokenizer, const char *text, size_t bytes, data_tokens *tokens) {
  gpt2 *own = tokenizer->own;
  NN_TRY(data_tokens_reserve(tokens, 1));
  for (size_t at = 0; at < bytes;) {
    int found = pcre2_match(own->words, (PCRE2_SPTR)text, bytes, at, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED,
                            own->match, NULL);
    size_t end = found > 0 ? pcre2_get_ovector_pointer(own->match)[1] : at;
    if (end <= at)
      return NN_FAIL(NN_ERR_INTERNAL, "PCRE2 finds no word at byte %zu: error %d", at, found);
    NN_TRY(encode_word(own, text + at, end - at, tokens));
    at = end;
  }
  return NN_OK;
}

// The character that ends before `end` is Unicode White_Space.
static bool space_before(const char *text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80)
    start--;
  const unsigned char *c = (const unsigned char *)text + start;
  size_t count = end - start;
  unsigned point = count == 1   ? c[0]
                   : count == 2 ? (c[0] & 0x1Fu) << 6 | (c[1] & 0x3Fu)
                   : count == 3 ? (c[0] & 0x0Fu) << 12 | (c[1] & 0x3Fu) << 6 | (c[2] & 0x3Fu)
                                : 0;
  return (point >= '\t' && point <= '\r') || point == ' ' || point == 0x85 || point == 0xA0 ||
         point == 0x1680 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
         point == 0x202F || point == 0x205F || point == 0x3000;
}

// No word has a space behind a character that is none: there the pattern always cuts.
static size_t cut(const data_tokenizer *tokenizer, const char *text, size_t bytes) {
  (void)tokenizer;
  for (size_t at = bytes; at-- > 1;)
    if ((text[at] == ' ' || text[at] == '\n') && !space_before(text, at))
      return at;
  return 0;
}

const data_tokenizer_table data_tokenizer_gpt2 = {
    .kind = "gpt2",
    .prefix = "gpt2",
    .files = "VOCAB.json,MERGES.txt",
    .open = open_files,
    .restore = restore,
    .encode = encode,
    .cut = cut,
    .free = free_gpt2,
};
