/* SPDX-License-Identifier: MIT */
#include "http/tls.h"

#include "http/gate.h"
#include "tell/log.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char tls_priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE";

/* One version of the files. Reference-counted: it lives while it is current or a connection uses
 * it. */
struct tls {
    int users;
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t certificate, key; /* NUL-terminated text */
};

static const flags *flag;
static _Thread_local tls *now; /* each thread that runs a loop has its own copy */

static void release(tls *t)
{
    if (!t || --t->users > 0)
        return;
    if (t->credentials)
        gnutls_certificate_free_credentials(t->credentials);
    gnutls_free(t->certificate.data);
    if (t->key.data)
        gnutls_memset(t->key.data, 0, t->key.size);
    gnutls_free(t->key.data);
    free(t);
}

static bool says(char *said, size_t size, const char *name, const char *path, int code)
{
    snprintf(said, size, "cannot use %s %s: %s", name, path, gnutls_strerror(code));
    return false;
}

static bool load(tls *t, char *said, size_t size)
{
    int code = gnutls_certificate_allocate_credentials(&t->credentials);
    if (code >= 0)
        code = gnutls_load_file(flag->tls_cert, &t->certificate);
    if (code < 0)
        return says(said, size, "--tls-cert", flag->tls_cert, code);
    code = gnutls_load_file(flag->tls_key, &t->key);
    if (code < 0)
        return says(said, size, "--tls-key", flag->tls_key, code);
    code = gnutls_certificate_set_x509_key_mem(t->credentials, &t->certificate, &t->key,
                                               GNUTLS_X509_FMT_PEM);
    if (code < 0)
        return says(said, size, "--tls-cert and --tls-key", flag->tls_cert, code);
    if (flag->tls_client_ca[0] == '\0')
        return true;
    code = gnutls_certificate_set_x509_trust_file(t->credentials, flag->tls_client_ca,
                                                  GNUTLS_X509_FMT_PEM);
    if (code == 0)
        code = GNUTLS_E_NO_CERTIFICATE_FOUND;
    return code > 0 || says(said, size, "--tls-client-ca", flag->tls_client_ca, code);
}

static tls *read_files(char *said, size_t size)
{
    tls *t = calloc(1, sizeof *t);
    if (!t) {
        snprintf(said, size, "no memory for a certificate");
        return NULL;
    }
    t->users = 1;
    if (load(t, said, size))
        return t;
    release(t);
    return NULL;
}

bool tls_setup(const flags *f)
{
    char said[512];
    const bool cert = f->tls_cert[0] != '\0', key = f->tls_key[0] != '\0';
    flag = f;
    if (cert != key || (f->tls_client_ca[0] != '\0' && !cert)) {
        fprintf(stderr, "lossd: %s\n",
                cert  ? "--tls-cert needs --tls-key"
                : key ? "--tls-key needs --tls-cert"
                      : "--tls-client-ca needs --tls-cert");
        return false;
    }
    if (!cert)
        return true;
    now = read_files(said, sizeof said);
    if (!now)
        fprintf(stderr, "lossd: %s\n", said);
    return now != NULL;
}

void tls_end(void)
{
    release(now);
    now = NULL;
}

void tls_reload(bool tell)
{
    char said[512];
    if (!now)
        return;
    tls *fresh = read_files(said, sizeof said);
    if (fresh) {
        release(now);
        now = fresh;
    }
    if (tell && fresh)
        log_line(LOG_INFO, "certificate reloaded", NULL);
    else if (tell)
        log_line(LOG_ERROR, "certificate not reloaded", "why", said, NULL);
}

bool tls_wanted(void)
{
    return now != NULL;
}

const char *tls_certificate(void)
{
    return (const char *)now->certificate.data;
}

const char *tls_key(void)
{
    return (const char *)now->key.data;
}

tls *tls_attach(void *session)
{
    static const gnutls_datum_t protocol = {(unsigned char *)"http/1.1", 8};
    static gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                            .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT};
    gnutls_session_t s = session;
    if (!now || !s)
        return NULL;
    gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, now->credentials);
    gnutls_alpn_set_protocols(s, &protocol, 1, 0);
    if (flag->tls_client_ca[0] != '\0') {
        /* A wrong certificate, or none, ends the handshake. */
        gnutls_certificate_server_set_request(s, GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_cert2(s, &purpose, 1, 0);
    }
    now->users++;
    return now;
}

void tls_detach(tls *used)
{
    release(used);
}

ssize_t tls_send(void *session, const char *data, size_t size)
{
    const ssize_t sent = gnutls_record_send(session, data, size);
    if (sent >= 0)
        return sent;
    errno = sent == GNUTLS_E_AGAIN ? EAGAIN : sent == GNUTLS_E_INTERRUPTED ? EINTR : EPIPE;
    return -1;
}

static ssize_t read_record(void *from, void *to, size_t size)
{
    /* What gnutls_record_recv() does, and a number that nobody needs. */
    unsigned char number[8];
    return gnutls_record_recv_seq(from, to, size, number);
}

/* libmicrohttpd calls these two; see gate.h. */
ssize_t gnutls_record_recv(gnutls_session_t session, void *data, size_t data_size)
{
    return gate_read(gnutls_transport_get_int(session), data, data_size, read_record, session);
}

ssize_t gnutls_record_send(gnutls_session_t session, const void *data, size_t data_size)
{
    return gate_drops(gnutls_transport_get_int(session))
               ? (ssize_t)data_size
               : gnutls_record_send2(session, data, data_size, 0, 0);
}
