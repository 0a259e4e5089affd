/* SPDX-License-Identifier: MIT
 *
 * What a service manager and its services say to each other: sockets that were opened before the
 * start (sd_listen_fds(3)), and how far the service is (sd_notify(3)). Both are a few lines of a
 * stable protocol of environment variables; without them nothing happens.
 */
#ifndef LOSSD_SYSTEMD_H
#define LOSSD_SYSTEMD_H

/* Listening sockets that were handed over: how many, and the descriptor of the first of them; the
 * others follow it. */
int systemd_sockets(int *first);

/* "READY=1" and so on. */
void systemd_notify(const char *state);

#endif
