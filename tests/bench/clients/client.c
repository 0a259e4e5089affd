/* SPDX-License-Identifier: MIT
 *
 * C's client: evaluates once for every line that it reads, and answers with the ms it took.
 */
#define LOSSD_IMPLEMENTATION
#include "lossd.h"

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    const int64_t rows = argc > 3 ? atol(argv[2]) : 0, classes = argc > 3 ? atol(argv[3]) : 0;
    float *logits = malloc((size_t)(rows * classes) * sizeof *logits);
    int64_t *targets = malloc((size_t)rows * sizeof *targets);
    lossd_client *client = argc > 1 ? lossd_open(argv[1], NULL) : NULL;
    char line[8];
    lossd_result got;
    lossd_error error;

    if (!client || !logits || !targets)
        return 2;
    for (int64_t i = 0; i < rows * classes; i++)
        logits[i] = (float)rand() / (float)RAND_MAX * 4 - 2;
    for (int64_t i = 0; i < rows; i++)
        targets[i] = i * 7919 % classes;
    const lossd_tensor inputs[] = {{"logits", LOSSD_F32, 2, {rows, classes}, logits},
                                   {"targets", LOSSD_I64, 1, {rows}, targets},
                                   {0}};
    while (fgets(line, sizeof line, stdin)) {
        const double begun = now_ms();
        if (!lossd_evaluate(client, "cross_entropy", inputs, NULL, NULL, &got, &error)) {
            fprintf(stderr, "%s\n", error.detail);
            return 1;
        }
        lossd_result_free(&got);
        printf("%f\n", now_ms() - begun);
        fflush(stdout);
    }
    lossd_close(client);
    free(logits);
    free(targets);
    return 0;
}
