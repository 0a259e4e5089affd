/* SPDX-License-Identifier: MIT
 *
 * What libmicrohttpd reads from its connections passes through framing.h first.
 *
 * libmicrohttpd has no hook for that. It calls recv(), or gnutls_record_recv() with TLS, and this
 * program defines both functions itself: the dynamic linker, like a static one, gives a function of
 * the program to the libraries that call it in place of one of another library. intake.c defines
 * recv() and tls.c gnutls_record_recv(). For all other descriptors and sessions both do what the
 * functions that they stand for do. A static libgnutls defines a function of that name too, and
 * needs -Wl,--allow-multiple-definition.
 *
 * If a library is linked in such a way that it still calls the others, requests arrive that framing
 * has not seen; receive.c then refuses them. A connection belongs to the thread that opened it: for
 * all other threads its descriptor is none.
 */
#ifndef LOSSD_INTAKE_H
#define LOSSD_INTAKE_H

#include "http/framing.h"

#include <stdbool.h>
#include <sys/types.h>

/* A connection begins: what is read from it passes through `f` until intake_close. `tls`: this is
 * not what recv() returns, but what TLS makes of it. False without memory. */
bool intake_open(int fd, framing *f, bool tls);
void intake_close(int fd);

/* The last connection of this thread is closed: free their table. */
void intake_end(void);

/* Reads at most `size` bytes, like recv(): 0 at the end, negative if there is nothing or an error.
 */
typedef ssize_t intake_source(void *from, void *to, size_t size);

/* Read from a source, for the connection if it is one. */
ssize_t intake_read(int fd, void *to, size_t size, intake_source *source, void *from);

#endif
