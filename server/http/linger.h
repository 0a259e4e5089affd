/* SPDX-License-Identifier: MIT
 *
 * The end of a connection whose client may still be sending. If it were closed at once, what comes
 * then would reset it, and the client could lose replies that it has not read yet.
 */
#ifndef LOSSD_LINGER_H
#define LOSSD_LINGER_H

#include <uv.h>

enum { LINGER_TURN = 64 * 1024 }; /* how many bytes are dropped at a time */

/* Drop what still comes on the connection until the client closes it, for two seconds at most. `fd`
 * is about to be closed by its owner, who sends nothing more. Without memory, and beyond a number
 * of connections for each loop, nothing is done. */
void linger_begin(uv_loop_t *loop, int fd);

#endif
