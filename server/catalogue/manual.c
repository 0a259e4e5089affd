/* SPDX-License-Identifier: MIT */
#include "catalogue/manual.h"

#include "catalogue/greeting.h"
#include "flags.h"

#include <losskit.h>

#include <stdio.h>
#include <string.h>

typedef struct command {
    const char *words, *help;
    const char *completions; /* of its arguments; "" where there are none */
    bool takes_loss;         /* as the first of them */
} command;

static const command commands[] = {
    {"[serve] [flags]", "serve (the default)", "$flags", false},
    {"eval LOSS [FILE] [NAME=VALUE]... [--lines]",
     "print the reply to the JSON, safetensors or .npz in FILE or, by -, in standard input; "
     "NAME=FILE.npy is an input, NAME=VALUE an option; --lines: each line is a JSON request, and "
     "answered by a line",
     "--lines $(compgen -f -- \"$word\") $flags", true},
    {"describe [LOSS] [--json | --markdown | --example]", "what the losses take and give",
     "--json --markdown --example", true},
    {"openapi", "the OpenAPI document", "", false},
    {"health [--url URL]", "exit 0 if a running lossd is ready, 1 if not", "--url", false},
    {"manual", "the manual page, for man -l -", "", false},
    {"completion", "what bash sources to complete all this", "", false},
    {"version", "the version", "", false},
};
enum { COMMANDS = sizeof commands / sizeof *commands, HELP_COLUMN = 50 };

/* The word that a command begins with. */
static int name_of(const command *c, const char **name)
{
    *name = c->words + (c->words[0] == '[');
    return (int)strcspn(*name, " ]");
}

void manual_help(buffer *to)
{
    flag_text flag;
    char left[40];
    for (int i = 0; i < COMMANDS; i++)
        buffer_printf(to, "%s lossd %-*s %s\n", i ? "      " : "Usage:", HELP_COLUMN,
                      commands[i].words, commands[i].help);
    buffer_text(
        to,
        "\nFlags, each also a variable: --some-flag is LOSSD_SOME_FLAG, and the flag wins.\n\n");
    for (int i = 0; flags_tell(i, &flag); i++) {
        snprintf(left, sizeof left, "--%s %s", flag.name,
                 flag.fallback[0] != '\0' ? flag.fallback : flag.value);
        buffer_printf(to, "  %-26s %s\n", left, flag.help);
    }
}

/* Text in a manual page: a hyphen is that of a command line, and no line begins a request. */
static void roff(const char *text, int length, buffer *to)
{
    for (int i = 0; i < length; i++)
        if (text[i] == '-')
            buffer_text(to, "\\-");
        else if (text[i] == '\\')
            buffer_text(to, "\\e");
        else
            buffer_printf(to, "%s%c", i == 0 && strchr(".'", text[i]) ? "\\&" : "", text[i]);
}

static void paragraph(const char *begin, const char *words, const char *help, buffer *to)
{
    buffer_text(to, begin);
    roff(words, (int)strlen(words), to);
    buffer_text(to, "\n");
    roff(help, (int)strlen(help), to);
    buffer_text(to, "\n");
}

void manual_page(buffer *to)
{
    flag_text flag;
    buffer_printf(to,
                  ".TH LOSSD 1 \"\" \"lossd %s\" \"User Commands\"\n"
                  ".SH NAME\nlossd \\- loss functions of Transformer models, over HTTP\n"
                  ".SH SYNOPSIS\n.nf\n",
                  lk_version());
    for (int i = 0; i < COMMANDS; i++) {
        buffer_text(to, "\\fBlossd\\fR ");
        roff(commands[i].words, (int)strlen(commands[i].words), to);
        buffer_text(to, "\n");
    }
    buffer_text(to, ".fi\n.SH DESCRIPTION\n"
                    "lossd evaluates losses and their gradients for clients in any language: JSON, "
                    "safetensors or\nthe Open Inference Protocol, over TCP or Unix sockets. "
                    "GET /docs is a page that describes every\nloss, with requests to try.\n"
                    ".SH COMMANDS\n");
    for (int i = 0; i < COMMANDS; i++) {
        const char *name;
        const int length = name_of(&commands[i], &name);
        char word[16];
        snprintf(word, sizeof word, "%.*s", length, name);
        paragraph(".TP\n.B ", word, commands[i].help, to);
    }
    buffer_text(to,
                ".SH OPTIONS\nEach is also a variable of the environment, and the flag wins.\n");
    for (int i = 0; flags_tell(i, &flag); i++) {
        buffer_text(to, ".TP\n\\fB\\-\\-");
        roff(flag.name, (int)strlen(flag.name), to);
        buffer_printf(to, "\\fR \\fI%s\\fR\n", flag.value);
        roff(flag.help, (int)strlen(flag.help), to);
        buffer_text(to, ".\n");
        if (flag.fallback[0] != '\0') {
            buffer_text(to, "Default: ");
            roff(flag.fallback, (int)strlen(flag.fallback), to);
            buffer_text(to, ".\n");
        }
        buffer_printf(to, "Variable: %s.\n", flag.variable);
    }
    buffer_text(
        to,
        ".SH SIGNALS\n"
        ".TP\n.B SIGTERM, SIGINT\nGo on for \\-\\-drain\\-delay (SIGTERM), answer what was "
        "admitted "
        "within \\-\\-drain\\-timeout, and exit.\n"
        ".TP\n.B SIGHUP\nRead keys and certificates again.\n"
        ".SH EXIT STATUS\n0; 1 where something failed; 2 where a command or flag is not valid.\n"
        ".SH FILES\n.TP\n.I /etc/default/lossd\nVariables of the service that systemd runs.\n"
        ".SH EXAMPLES\n.nf\n");
    const lk_description *first = lk_loss_describe(greeting_loss());
    buffer_printf(to, "lossd describe %s\necho '", first->name);
    roff(first->example, (int)strlen(first->example), to);
    buffer_printf(to, "' | lossd eval %s \\-\nlossd \\-\\-listen 127.0.0.1:8080\n.fi\n",
                  first->name);
    buffer_text(to, ".SH SEE ALSO\n.BR curl (1),\n.BR systemd.socket (5)\n");
}

/* The flags, with `between` between them: all, or those whose values are files. */
static void names(bool paths_only, const char *between, buffer *to)
{
    flag_text flag;
    const char *before = "";
    for (int i = 0; flags_tell(i, &flag); i++) {
        if (paths_only && !flag.is_path)
            continue;
        buffer_printf(to, "%s--%s", before, flag.name);
        before = between;
    }
}

/* What follows a flag: files, the words that are allowed, or nothing that could be completed. */
static void complete_values(buffer *to)
{
    flag_text flag;
    buffer_text(to, "    case ${COMP_WORDS[COMP_CWORD - 1]} in\n    ");
    names(true, " | ", to);
    buffer_text(to, ") COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n");
    for (int i = 0; flags_tell(i, &flag); i++) {
        if (!flag.words)
            continue;
        buffer_printf(to, "    --%s) words='", flag.name);
        for (const char *p = flag.words; *p != '\0'; p++)
            buffer_append(to, *p == '|' ? " " : p, 1);
        buffer_text(to, "' ;;\n");
    }
    buffer_text(to, "    ");
    names(false, " | ", to);
    buffer_text(to, ") return ;;\n");
}

static void complete_commands(buffer *to)
{
    const char *name;
    buffer_text(to, "        case $COMP_CWORD:${COMP_WORDS[1]} in\n"
                    "        1:-* | *:-*) words=\"$flags --help\" ;;\n"
                    "        1:*) words='");
    for (int i = 0; i < COMMANDS; i++) {
        const int length = name_of(&commands[i], &name);
        buffer_printf(to, "%s%.*s", i ? " " : "", length, name);
    }
    buffer_text(to, "' ;;\n");
    for (int i = 0; i < COMMANDS; i++) {
        const command *c = &commands[i];
        const int length = name_of(c, &name);
        if (c->takes_loss)
            buffer_printf(to, "        2:%.*s) words=$losses ;;\n", length, name);
        if (c->completions[0] != '\0')
            buffer_printf(to, "        *:%.*s) words=\"%s\" ;;\n", length, name, c->completions);
    }
    buffer_text(to, "        esac ;;\n");
}

void manual_completion(buffer *to)
{
    buffer_text(to, "# Completion of lossd for bash, as `lossd completion` prints it.\n"
                    "_lossd() {\n"
                    "    local word=${COMP_WORDS[COMP_CWORD]} words=\n"
                    "    local losses='");
    for (int i = 0; i < lk_loss_count(); i++)
        buffer_printf(to, "%s%s", i ? " " : "", lk_loss_describe(lk_loss_at(i))->name);
    buffer_text(to, "'\n    local flags='");
    names(false, " ", to);
    buffer_text(to, "'\n");
    complete_values(to);
    buffer_text(to, "    *)\n");
    complete_commands(to);
    buffer_text(to, "    esac\n"
                    "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
                    "}\n"
                    "complete -F _lossd lossd\n");
}
