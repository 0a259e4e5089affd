/* SPDX-License-Identifier: MIT
 *
 * TLS by GnuTLS, for the TCP addresses: certificate and key, and who must show one of theirs. Loop
 * thread only.
 */
#ifndef LOSSD_TLS_H
#define LOSSD_TLS_H

#include "flags.h"

#include <stdbool.h>

typedef struct tls tls;

/* Read --tls-cert, --tls-key and --tls-client-ca. True without them, too. False with a line on
 * stderr. */
bool tls_setup(const flags *f);

/* Read them again, for connections that are yet to come; the old ones stay if the new are no good.
 */
void tls_reload(void);

/* Is there a certificate? */
bool tls_wanted(void);

/* What libmicrohttpd asks for before it begins; connections do not use it. */
const char *tls_certificate(void);
const char *tls_key(void);
extern const char tls_priorities[];

/* Give a session, which is a gnutls_session_t, the certificate of now. What is returned must be
 * handed to tls_detach when the connection is over; NULL without TLS. */
tls *tls_attach(void *session);
void tls_detach(tls *used);

#endif
