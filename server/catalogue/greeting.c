/* SPDX-License-Identifier: MIT */
#include "catalogue/greeting.h"

#include "catalogue/describe.h"

#include <stdint.h>
#include <string.h>

const lk_loss *greeting_loss(void)
{
    const lk_loss *shortest = lk_loss_at(0);
    size_t least = SIZE_MAX;
    for (int i = 0; i < lk_loss_count(); i++) {
        const char *example = lk_loss_describe(lk_loss_at(i))->example;
        if (strstr(example, "\"logits\"") && strlen(example) < least) {
            least = strlen(example);
            shortest = lk_loss_at(i);
        }
    }
    return shortest;
}

/* A word of the shell, which reads nothing into it. */
static void quoted(const char *word, buffer *to)
{
    buffer_text(to, "'");
    for (; *word != '\0'; word++)
        if (*word == '\'')
            buffer_text(to, "'\\''");
        else
            buffer_append(to, word, 1);
    buffer_text(to, "'");
}

/* Where this machine reaches a socket that listens on all of its addresses. */
static void reachable(const char *url, buffer *to)
{
    static const char *const any[] = {"://0.0.0.0:", "://[::]:"};
    static const char *const local[] = {"://127.0.0.1:", "://[::1]:"};
    const char *rest = strstr(url, "://");
    for (int i = 0; i < 2; i++)
        if (strncmp(rest, any[i], strlen(any[i])) == 0) {
            buffer_printf(to, "%.*s%s%s", (int)(rest - url), url, local[i], rest + strlen(any[i]));
            return;
        }
    buffer_text(to, url);
}

static void base(const char *url, buffer *to)
{
    if (strncmp(url, "unix:", 5) == 0)
        buffer_text(to, "http://localhost");
    else
        reachable(url, to);
}

void greeting_write(const flags *f, const char *url, buffer *to)
{
    const bool local = strncmp(url, "unix:", 5) == 0;
    const lk_loss *loss = greeting_loss();
    const lk_description *is = lk_loss_describe(loss);
    buffer_text(to, "\nA first request, from another terminal:\n\n  curl");
    if (local) {
        buffer_text(to, " --unix-socket ");
        quoted(url + 5, to);
    }
    /* Whatever name the certificate is for, and whoever signed it. */
    if (strncmp(url, "https:", 6) == 0)
        buffer_printf(to, " --insecure%s",
                      f->tls_client_ca[0] != '\0' ? " --cert YOURS.pem --key YOURS.key" : "");
    if (f->api_key_file[0] != '\0') {
        buffer_text(to, " -H \"Authorization: Bearer $(awk 'NF && $1 !~ /^#/ {print $NF; exit}' ");
        quoted(f->api_key_file, to);
        buffer_text(to, ")\"");
    }
    buffer_text(to, " -d ");
    quoted(is->example, to);
    buffer_text(to, " ");
    base(url, to);
    buffer_printf(to, "/v1/%s/%s\n\n", describe_kind(loss), is->name);
    if (!local) {
        buffer_text(to, "All losses, with requests to try, in a browser: ");
        base(url, to);
        buffer_text(to, "/docs\n\n");
    }
}
