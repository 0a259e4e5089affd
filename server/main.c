/* SPDX-License-Identifier: MIT
 *
 * lossd: the commands.
 */
#include "catalogue/describe.h"
#include "catalogue/manual.h"
#include "catalogue/openapi.h"
#include "eval.h"
#include "evaluate.h"
#include "flags.h"
#include "serve.h"
#include "tell/health.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAD_USAGE = 2, TEXT_MAX = 64 * 1024 * 1024 };

static int print(buffer *text)
{
    bool ok = !text->failed && fwrite(text->data, 1, text->size, stdout) == text->size &&
              fflush(stdout) == 0;
    buffer_free(text);
    if (!ok)
        fprintf(stderr, "lossd: cannot write the output\n");
    return ok ? 0 : 1;
}

static int print_document(void (*write)(buffer *to))
{
    buffer text = buffer_new(TEXT_MAX);
    write(&text);
    return print(&text);
}

static void openapi_all(buffer *to)
{
    openapi_write(NULL, to);
}

static int print_problem(const problem *p)
{
    fprintf(stderr, "lossd: %s: %s\n", p->code, p->detail);
    return 1;
}

static int describe(int argc, char **argv)
{
    const lk_loss *loss = NULL;
    problem p;
    bool json = false, markdown = false, example = false;
    buffer text = buffer_new(TEXT_MAX);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--markdown") == 0) {
            markdown = true;
        } else if (strcmp(argv[i], "--example") == 0) {
            example = true;
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "lossd: describe takes --json, --markdown or --example, not \"%s\"\n",
                    argv[i]);
            return BAD_USAGE;
        } else if (!(loss = evaluation_loss(argv[i], &p))) {
            return print_problem(&p);
        }
    }
    if (example && !loss) {
        fprintf(stderr, "lossd: describe --example needs the name of a loss\n");
        return BAD_USAGE;
    }
    if (example)
        buffer_printf(&text, "%s\n", lk_loss_describe(loss)->example);
    else if (markdown)
        describe_markdown(&text);
    else if (json)
        describe_json(loss, &text);
    else
        describe_text(loss, &text);
    return print(&text);
}

static int health(int argc, char **argv)
{
    const char *url = "http://127.0.0.1:8080";
    if (argc == 4 && strcmp(argv[2], "--url") == 0) {
        url = argv[3];
    } else if (argc != 2) {
        fprintf(stderr, "lossd: health takes --url http://host:port or --url unix:/path\n");
        return BAD_USAGE;
    }
    return health_check(url);
}

/* Take a word out of the command line. */
static bool take(const char *word, int *argc, char **argv)
{
    int kept = 0;
    for (int i = 0; i < *argc; i++)
        if (i == 0 || strcmp(argv[i], word) != 0)
            argv[kept++] = argv[i];
    const bool there = kept < *argc;
    *argc = kept;
    return there;
}

static int serve_or_evaluate(int argc, char **argv)
{
    const char *command = argc > 1 && argv[1][0] != '-' ? argv[1] : "serve";
    const bool evaluates = strcmp(command, "eval") == 0;
    const bool lines = evaluates && take("--lines", &argc, argv);
    bool help;
    int first = argc > 1 && argv[1][0] != '-' ? 2 : 1, words = 0;
    static flags f; /* static, because access control uses them as long as the service runs */
    if (!evaluates && strcmp(command, "serve") != 0) {
        fprintf(stderr, "lossd: there is no command \"%s\"; lossd --help lists them\n", command);
        return BAD_USAGE;
    }
    if (!flags_parse(&f, argc, argv, first, evaluates ? &words : NULL, &help))
        return BAD_USAGE;
    if (help)
        return print_document(manual_help);
    if (!lk_isa_use(f.isa)) {
        fprintf(stderr, "lossd: --isa is \"%s\"; this processor runs auto", f.isa);
        for (int i = 0; i < lk_isa_count(); i++)
            if (lk_isa_runs(i))
                fprintf(stderr, ", %s", lk_isa_name(i));
        fputs("\n", stderr);
        return BAD_USAGE;
    }
    if (!evaluates)
        return serve(&f);
    return eval(&f, argv + first, words, lines);
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "serve";
    if (strcmp(command, "version") == 0 || strcmp(command, "--version") == 0) {
        printf("lossd %s\n", lk_version());
        return fflush(stdout) == 0 ? 0 : 1;
    }
    if (strcmp(command, "openapi") == 0)
        return print_document(openapi_all);
    if (strcmp(command, "manual") == 0)
        return print_document(manual_page);
    if (strcmp(command, "completion") == 0)
        return print_document(manual_completion);
    if (strcmp(command, "describe") == 0)
        return describe(argc, argv);
    if (strcmp(command, "health") == 0)
        return health(argc, argv);
    return serve_or_evaluate(argc, argv);
}
