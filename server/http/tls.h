/* SPDX-License-Identifier: MIT
 *
 * TLS by GnuTLS for TCP addresses: the server's certificate and key, and the CA of client
 * certificates. Each thread that runs a loop has its own copy of them.
 */
#ifndef LOSSD_TLS_H
#define LOSSD_TLS_H

#include "flags.h"

#include <stdbool.h>
#include <sys/types.h>

typedef struct tls tls;

/* Read --tls-cert, --tls-key and --tls-client-ca, in each thread. True also if none is set; false
 * with a line on stderr. tls_end frees the thread's copy, when its connections are closed. */
bool tls_setup(const flags *f);
void tls_end(void);

/* Read them again, in each thread, for new connections; if the new ones are invalid, the old ones
 * stay in use. `tell`: the log says so. */
void tls_reload(bool tell);

/* Is a certificate set? */
bool tls_wanted(void);

/* The certificate that libmicrohttpd requires at its start; connections do not use it. */
const char *tls_certificate(void);
const char *tls_key(void);
extern const char tls_priorities[];

/* Give a session (gnutls_session_t) the current certificate. The result must be passed to
 * tls_detach when the connection ends; NULL without TLS. */
tls *tls_attach(void *session);
void tls_detach(tls *used);

/* What send() does, to a session; after EAGAIN it must be called with the same bytes again. */
ssize_t tls_send(void *session, const char *data, size_t size);

#endif
