// Messages to standard error. One line each, prefixed with the rank when there is more than one.
#pragma once

// Who speaks: called once after the group is known. Before that, rank 0 of 1.
void nn_log_identify(int rank, int size);

// Progress lines on a terminal are redrawn in place; a message first ends the line that is being drawn.
void nn_log_line_open(void); // the cursor stands at the end of an unfinished progress line
void nn_log_line_closed(void);

void nn_info(const char *format, ...) __attribute__((format(printf, 1, 2)));  // rank 0 only
void nn_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));  // "warning: ...", every rank
void nn_error(const char *format, ...) __attribute__((format(printf, 1, 2))); // "error: ...", every rank

// Reports the recorded failure of this thread (nn_error_text) as one error line.
void nn_error_report(void);
