/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* sysconf's _SC_NPROCESSORS_ONLN */
#include "flags.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum kind { LISTEN, RESIDENT, COUNT, SIZE, DURATION, WORD, PATH } kind;

typedef struct setting {
    const char *name;
    kind kind;
    size_t offset;
    const char *fallback;
    int64_t min, max;  /* range of COUNT, SIZE (bytes) and DURATION (ms) */
    const char *words; /* WORD: the allowed ones; NULL: checked where it is used */
    const char *help;
} setting;

#define AT(member) offsetof(flags, member)
static const int64_t DAY = 86400000, TIB = (int64_t)1 << 40;

static const setting table[] = {
    {"listen", LISTEN, 0, "127.0.0.1:8080", 0, 0, NULL,
     "where to listen: host:port, [ipv6]:port or unix:/path; repeatable; port 0 picks a free one"},
    {"workers", COUNT, AT(workers), "0", 0, 512, NULL,
     "threads that compute; 0: one for each core"},
    {"loops", COUNT, AT(loops), "0", 0, LOOPS_MAX, NULL,
     "threads that receive and send; 0: one up to 4 cores, then one for each 4"},
    {"max-body", SIZE, AT(max_body), "64MiB", 1024, TIB, NULL, "largest request body"},
    {"memory-budget", SIZE, AT(memory_budget), "1GiB", 1024, TIB, NULL,
     "memory for all bodies, tensors and replies together"},
    {"queue-limit", COUNT, AT(queue_limit), "1024", 1, 1000000, NULL,
     "evaluations admitted at the same time"},
    {"inline-limit", SIZE, AT(inline_limit), "64KiB", 0, TIB, NULL,
     "the event loop itself evaluates bodies up to this size if that takes microseconds; 0: none"},
    {"max-connections", COUNT, AT(max_connections), "1024", 1, 1000000, NULL,
     "open connections for each --listen; each of --loops has its share"},
    {"request-timeout", DURATION, AT(request_timeout), "30s", 1, DAY, NULL,
     "an evaluation that is not done by then is answered 504; X-Request-Timeout may ask for less"},
    {"header-timeout", DURATION, AT(header_timeout), "10s", 10, DAY, NULL,
     "a request's head must be there by then"},
    {"body-timeout", DURATION, AT(body_timeout), "30s", 10, DAY, NULL,
     "so must its body, and the reply be taken; each --body-rate bytes of them give a second more"},
    {"body-rate", SIZE, AT(body_rate), "64KiB", 1, TIB, NULL,
     "bytes a second that a client must manage beyond --body-timeout"},
    {"idle-timeout", DURATION, AT(idle_timeout), "60s", 1000, DAY, NULL,
     "connections that have answered a request and see no other for so long are closed"},
    {"drain-max", SIZE, AT(drain_max), "2GiB", 0, TIB, NULL,
     "how much of a refused body is read and dropped, so that its sender sees the reply"},
    {"drain-delay", DURATION, AT(drain_delay), "0s", 0, DAY, NULL,
     "after SIGTERM, go on serving for so long while /readyz says 503"},
    {"drain-timeout", DURATION, AT(drain_timeout), "30s", 0, DAY, NULL,
     "after that, wait at most so long for admitted requests"},
    {"api-key-file", PATH, AT(api_key_file), "", 0, 0, NULL,
     "keys that clients must show one of (Authorization: Bearer KEY): lines of KEY or NAME KEY; "
     "SIGHUP reads it again"},
    {"api-key-exempt", WORD, AT(api_key_exempt), "health", 0, 0, "none|health|health,metrics",
     "what needs no key: none, health or health,metrics"},
    {"tls-cert", PATH, AT(tls_cert), "", 0, 0, NULL,
     "certificate chain in PEM: TCP addresses then speak TLS; SIGHUP reads it again"},
    {"tls-key", PATH, AT(tls_key), "", 0, 0, NULL, "its private key in PEM"},
    {"tls-client-ca", PATH, AT(tls_client_ca), "", 0, 0, NULL,
     "certificates in PEM; clients must show one that is signed by them"},
    {"cors-origin", WORD, AT(cors_origin), "", 0, 0, NULL,
     "web pages of these origins may use the service: * or a list with commas; otherwise none may"},
    {"region", RESIDENT, 0, "", 0, 0, NULL,
     "NAME=FILE: the tensors of a safetensors file, which requests name as NAME/TENSOR; "
     "repeatable"},
    {"region-budget", SIZE, AT(region_budget), "4GiB", 0, TIB, NULL,
     "memory for all regions together: of clients, resident and of Triton's clients"},
    {"client-shm", WORD, AT(client_shm), "", 0, 0, NULL,
     "offer Triton's system shared memory, for objects of this user whose names begin so; only "
     "where all addresses are loopback or Unix sockets"},
    {"isa", WORD, AT(isa), "auto", 0, 0, NULL, "instruction set of the kernels: auto, scalar, ..."},
    {"log-format", WORD, AT(log_format), "text", 0, 0, "text|json", "text (logfmt) or json"},
    {"log-level", WORD, AT(log_level), "info", 0, 0, "error|warn|info|debug",
     "error, warn, info (one line a request) or debug"},
};
enum { FLAGS = sizeof table / sizeof *table };

/* Parse a number with an optional unit. False if it is invalid or too large. */
static bool parse_number(const setting *f, const char *text, int64_t *value)
{
    static const struct {
        const char *unit;
        kind kind;
        int64_t factor;
    } units[] = {
        {"", COUNT, 1},         {"", SIZE, 1},          {"B", SIZE, 1},
        {"KiB", SIZE, 1 << 10}, {"MiB", SIZE, 1 << 20}, {"GiB", SIZE, 1 << 30},
        {"ms", DURATION, 1},    {"s", DURATION, 1000},  {"m", DURATION, 60000},
    };
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    long long number = strtoll(text, &end, 10);
    if (errno != 0)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (units[i].kind == f->kind && strcmp(units[i].unit, end) == 0)
            return !__builtin_mul_overflow((int64_t)number, units[i].factor, value) &&
                   *value >= f->min && *value <= f->max;
    return false;
}

static bool has_word(const char *words, const char *text)
{
    size_t length = strlen(text);
    for (const char *w = words; *w != '\0';) {
        size_t n = strcspn(w, "|");
        if (n == length && memcmp(w, text, n) == 0)
            return true;
        w += n + (w[n] == '|');
    }
    return false;
}

static const char *must_be(const setting *f)
{
    switch (f->kind) {
    case COUNT:
        return "a whole number";
    case SIZE:
        return "a size such as 512KiB, 64MiB or 2GiB,";
    case DURATION:
        return "a duration such as 500ms, 30s or 5m,";
    case WORD:
        return f->words ? f->words : "a word";
    case RESIDENT:
        return "NAME=FILE";
    default:
        return "host:port, [ipv6]:port or unix:/path";
    }
}

static bool is_address(const char *text)
{
    if (strncmp(text, "unix:", 5) == 0)
        return text[5] == '/' && strlen(text + 5) < 108;
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || !isdigit((unsigned char)colon[1]) || strlen(colon + 1) > 5 ||
        colon[1 + strspn(colon + 1, "0123456789")] != '\0')
        return false;
    return atoi(colon + 1) <= 65535 && (text[0] == '[') == (colon[-1] == ']');
}

static bool apply(flags *f, const setting *flag, const char *text, const char *label,
                  bool *listening)
{
    char *place = (char *)f + flag->offset;
    bool ok;
    if (flag->kind == LISTEN) {
        ok = is_address(text);
        if (ok && !*listening)
            f->listens = 0;
        *listening = true;
        if (ok && f->listens == LISTEN_MAX) {
            fprintf(stderr, "lossd: at most %d --listen\n", LISTEN_MAX);
            return false;
        }
        if (ok)
            f->listen[f->listens++] = text;
    } else if (flag->kind == RESIDENT) {
        ok = text[strcspn(text, "=")] == '=' || *text == '\0';
        if (ok && *text != '\0' && f->residents == RESIDENT_MAX) {
            fprintf(stderr, "lossd: at most %d --region\n", RESIDENT_MAX);
            return false;
        }
        if (ok && *text != '\0')
            f->resident[f->residents++] = text;
    } else if (flag->kind == WORD || flag->kind == PATH) {
        ok = !flag->words || has_word(flag->words, text);
        memcpy(place, &text, sizeof text);
    } else {
        int64_t value = 0;
        ok = parse_number(flag, text, &value);
        memcpy(place, &value, sizeof value);
    }
    if (ok)
        return true;
    fprintf(stderr, "lossd: %s is \"%s\"; it must be %s", label, text, must_be(flag));
    if (flag->kind == COUNT || flag->kind == SIZE || flag->kind == DURATION)
        fprintf(stderr, " from %lld to %lld%s", (long long)flag->min, (long long)flag->max,
                flag->kind == DURATION ? " ms"
                : flag->kind == SIZE   ? " bytes"
                                       : "");
    fputs("\n", stderr);
    return false;
}

static const setting *find(const char *name, size_t length)
{
    for (int i = 0; i < FLAGS; i++)
        if (strlen(table[i].name) == length && memcmp(table[i].name, name, length) == 0)
            return &table[i];
    return NULL;
}

static void variable(const char *name, char to[FLAG_VARIABLE])
{
    size_t n = 6;
    memcpy(to, "LOSSD_", 6);
    for (; *name != '\0' && n < FLAG_VARIABLE - 1; name++)
        to[n++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    to[n] = '\0';
}

/* Defaults and environment. What is repeatable is separated by spaces in its variable. */
static bool parse_surroundings(flags *f)
{
    char name[FLAG_VARIABLE];
    bool listening = false;
    for (int i = 0; i < FLAGS; i++) {
        if (!apply(f, &table[i], table[i].fallback, "", &listening))
            return false;
        variable(table[i].name, name);
        char *text = getenv(name), *rest = NULL;
        listening = false;
        if (!text)
            continue;
        if (table[i].kind != LISTEN && table[i].kind != RESIDENT) {
            if (!apply(f, &table[i], text, name, &listening))
                return false;
            continue;
        }
        for (text = strtok_r(text, " ", &rest); text; text = strtok_r(NULL, " ", &rest))
            if (!apply(f, &table[i], text, name, &listening))
                return false;
    }
    return true;
}

bool flags_parse(flags *f, int argc, char **argv, int first, int *words, bool *help)
{
    bool listening = false;
    int kept = 0;
    char label[64];
    *f = (flags){0};
    *help = false;
    if (!parse_surroundings(f))
        return false;
    f->listen_given = getenv("LOSSD_LISTEN") != NULL;
    for (int i = first; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            *help = true;
            return true;
        }
        if (words && (word[0] != '-' || word[1] == '\0')) {
            argv[first + kept++] = argv[i];
            continue;
        }
        const bool dashes = word[0] == '-' && word[1] == '-';
        const char *name = dashes ? word + 2 : word, *equals = strchr(name, '=');
        size_t length = equals ? (size_t)(equals - name) : strlen(name);
        const setting *flag = dashes ? find(name, length) : NULL;
        if (!flag) {
            fprintf(stderr, "lossd: there is no flag \"%s\"; lossd --help lists them\n", word);
            return false;
        }
        const char *text = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!text) {
            fprintf(stderr, "lossd: --%s needs a value: %s\n", flag->name, flag->help);
            return false;
        }
        snprintf(label, sizeof label, "--%s", flag->name);
        if (!apply(f, flag, text, label, &listening))
            return false;
    }
    f->listen_given = f->listen_given || listening;
    if (words)
        *words = kept;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    cores = cores < 1 ? 1 : cores > 512 ? 512 : cores;
    if (f->workers == 0)
        f->workers = cores;
    if (f->loops == 0)
        f->loops = cores < 8 ? 1 : cores < 4 * LOOPS_MAX ? cores / 4 : LOOPS_MAX;
    return true;
}

static const char *value_of(const setting *flag)
{
    switch (flag->kind) {
    case LISTEN:
        return "ADDRESS";
    case COUNT:
        return "NUMBER";
    case SIZE:
        return "SIZE";
    case DURATION:
        return "TIME";
    case PATH:
        return "FILE";
    case RESIDENT:
        return "NAME=FILE";
    default:
        return flag->words ? flag->words : "WORD";
    }
}

bool flags_tell(int i, flag_text *to)
{
    if (i < 0 || i >= FLAGS)
        return false;
    *to = (flag_text){.name = table[i].name,
                      .value = value_of(&table[i]),
                      .fallback = table[i].fallback,
                      .words = table[i].words,
                      .help = table[i].help,
                      .is_path = table[i].kind == PATH};
    variable(table[i].name, to->variable);
    return true;
}
