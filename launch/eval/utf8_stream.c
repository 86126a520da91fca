#include "launch/eval/utf8_stream.h"

static void give_up(launch_utf8_stream *stream) {
  if (stream->count > 0)
    fputs("\xEF\xBF\xBD", stream->out);
  stream->count = 0;
  stream->state = (data_utf8){0};
}

static void put_byte(launch_utf8_stream *stream, char byte) {
  stream->held[stream->count] = byte;
  if (data_utf8_check(&stream->state, &byte, 1) == 0) {
    bool alone = stream->count == 0;
    stream->count += alone;
    give_up(stream);
    if (!alone)
      put_byte(stream, byte); // it may begin another character
    return;
  }
  stream->count++;
  if (!data_utf8_complete(&stream->state))
    return;
  fwrite(stream->held, 1, stream->count, stream->out);
  stream->count = 0;
}

void launch_utf8_put(launch_utf8_stream *stream, const char *bytes, size_t count) {
  for (size_t i = 0; i < count; i++)
    put_byte(stream, bytes[i]);
}

void launch_utf8_end(launch_utf8_stream *stream) {
  give_up(stream);
}
