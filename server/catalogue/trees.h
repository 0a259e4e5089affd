/* SPDX-License-Identifier: MIT
 *
 * The memory of jansson's trees. A document that is made as a tree has hundreds of allocations, and
 * jansson leaves out what it got no memory for: so there is one for all of them, before the first.
 */
#ifndef LOSSD_TREES_H
#define LOSSD_TREES_H

#include <stdbool.h>

/* Once, before jansson is used. */
void trees_setup(void);

/* Until trees_end this thread's trees are made in one piece of memory, which no tree may outlive.
 * False if there is none. trees_end is false if they did not fit, so that something is left out. */
bool trees_begin(void);
bool trees_end(void);

/* Did a tree of this thread want memory in vain since the last time that this was asked? jansson
 * often says that the text is wrong, then. */
bool trees_starved(void);

#endif
