/* SPDX-License-Identifier: MIT
 *
 * The settings of lossd. Parsing, LOSSD_* variables and what is said of them come from one table.
 */
#ifndef LOSSD_FLAGS_H
#define LOSSD_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LISTEN_MAX = 8, LOOPS_MAX = 64, RESIDENT_MAX = 32 };

typedef struct flags {
    int listens;
    bool listen_given;              /* `listen` is not the default */
    const char *listen[LISTEN_MAX]; /* host:port, [host]:port, unix:/path */
    int residents;
    const char *resident[RESIDENT_MAX]; /* NAME=FILE */
    int64_t workers, loops;
    int64_t max_body, memory_budget, drain_max, inline_limit, region_budget; /* bytes */
    int64_t queue_limit, max_connections;
    int64_t header_timeout, body_timeout, request_timeout, idle_timeout; /* ms */
    int64_t drain_delay, drain_timeout;
    int64_t body_rate;                         /* bytes a second */
    const char *api_key_file, *api_key_exempt; /* "" where not given, like those below */
    const char *tls_cert, *tls_key, *tls_client_ca, *cors_origin;
    const char *client_shm; /* a prefix; "": not offered */
    const char *isa, *log_format, *log_level;
} flags;

/* Reads defaults, then the environment, then argv[first..argc-1]; the last one wins, and a --listen
 * replaces the default. Other words are moved to argv from `first` on and counted in *words (NULL:
 * none are allowed). On an invalid flag prints on stderr what is valid and returns false. `*help`
 * is set on --help. */
bool flags_parse(flags *f, int argc, char **argv, int first, int *words, bool *help);

/* A flag as documents show it. */
enum { FLAG_VARIABLE = 64 };
typedef struct flag_text {
    const char *name, *value; /* --name value */
    const char *fallback;     /* "": none */
    const char *words;        /* the allowed ones, with | between them; NULL: any */
    const char *help;
    char variable[FLAG_VARIABLE];
    bool is_path;
} flag_text;

/* Flag i; false beyond the last. */
bool flags_tell(int i, flag_text *to);

#endif
