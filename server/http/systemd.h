/* SPDX-License-Identifier: MIT
 *
 * The protocol of systemd: socket activation (sd_listen_fds(3)) and state notifications
 * (sd_notify(3)). Both are a few lines on stable environment variables; without these, nothing
 * happens.
 */
#ifndef LOSSD_SYSTEMD_H
#define LOSSD_SYSTEMD_H

/* The number of listening sockets that were passed on, and the first descriptor; the others follow
 * it. */
int systemd_sockets(int *first);

/* Send a state: "READY=1" and so on. */
void systemd_notify(const char *state);

#endif
