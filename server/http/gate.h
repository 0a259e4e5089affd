/* SPDX-License-Identifier: MIT
 *
 * What passes between libmicrohttpd and its connections: what it reads goes through framing.h
 * first, or at once to where the body is kept, and what it writes may be dropped, where a reply was
 * written beside it, or held for a moment.
 *
 * libmicrohttpd has no hooks for that. It calls recv(), send() and sendmsg(), or with TLS
 * gnutls_record_recv() and gnutls_record_send(), and this program defines these functions itself:
 * the dynamic linker, like a static one, gives a function of the program to the libraries that call
 * it in place of one of another library. gate.c defines the first three and tls.c the others. For
 * all other descriptors and sessions they do what the functions that they stand for do. A static
 * libgnutls defines functions of these names too, and needs -Wl,--allow-multiple-definition.
 *
 * If a library is linked in such a way that it still calls the others, requests arrive that framing
 * has not seen, which receive.c then refuses; and gate_unmute tells that nothing was dropped. A
 * connection belongs to the thread that opened it: for all other threads its descriptor is none.
 */
#ifndef LOSSD_GATE_H
#define LOSSD_GATE_H

#include "cursor.h"
#include "http/framing.h"

#include <stdbool.h>
#include <sys/types.h>

/* A connection begins: what is read from it passes through `f` until gate_close. `tls`: this is
 * not what recv() returns, but what TLS makes of it. False without memory. */
bool gate_open(int fd, framing *f, bool tls);

/* It ends, and what has come and was not read is dropped. True: the client may still be sending. */
bool gate_close(int fd);

/* What is read from the connection from now on is the rest of a body, of framing_left bytes, which
 * goes to `to`, not to libmicrohttpd: that only counts so many bytes, and passes on as many of its
 * own that mean nothing. Thus a large body is copied once, by the kernel, in larger parts than
 * libmicrohttpd has memory for. NULL: it goes to libmicrohttpd again. */
void gate_place(int fd, char *to);

/* Is something of what was sent not with the client's kernel yet? Over TCP alone: Unix sockets,
 * which keep what was sent, do not know both numbers. */
bool gate_unsent(int fd);

/* The reply to a request was sent, or is not to be sent. Until then the end of what the client
 * sends is kept from libmicrohttpd. */
void gate_answered(int fd);

/* Drop what libmicrohttpd writes to the connection until gate_unmute, which is false if nothing
 * was dropped although it should have been. */
void gate_mute(int fd);
bool gate_unmute(int fd);

/* Is this to be dropped? For those who stand for a function that writes. */
bool gate_drops(int fd);

/* The next reply that libmicrohttpd writes to the connection, with a body of `size` bytes, may be
 * held until gate_flush, if it is short, the connection stays, and its socket surely takes it.
 * libmicrohttpd takes it as sent. To send wakes up a client that sleeps, which takes longer than to
 * compute a short reply: several of them that are sent one right after the other wake it up once,
 * and find it awake then.
 * `lines`, each with its CR LF, come at the end of its head: libmicrohttpd, which copies a header
 * three times, does not get them. At most GATE_LINES bytes. False: it has to be given them. */
enum { GATE_LINES = 512 };
bool gate_hold(int fd, size_t size, span lines);

/* Send what this thread holds. To be called after each run of libmicrohttpd: outside of one nothing
 * is held. So it is before anything that takes long, and before anything more is read from or
 * written to such a connection. */
void gate_flush(void);

/* The last connection of this thread is closed: free their table. */
void gate_end(void);

/* Reads at most `size` bytes, like recv(): 0 at the end, negative if there is nothing or an error.
 */
typedef ssize_t gate_source(void *from, void *to, size_t size);

/* Read from a source, for the connection if it is one. */
ssize_t gate_read(int fd, void *to, size_t size, gate_source *source, void *from);

#endif
