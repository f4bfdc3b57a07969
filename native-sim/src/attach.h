// Obtains a userfaultfd of another, running process: there is no system call for that, so the
// process itself is made to create one. One of its threads is stopped with ptrace for 0.1-0.3 ms,
// runs userfaultfd() from its own vDSO, the descriptor is fetched with pidfd_getfd, and the thread
// closes its copy and goes on exactly where it was. No byte of its memory is changed, nothing is
// left behind, and since ours is the only descriptor, the kernel ends all tracking when we die.
//
// Needs ptrace rights over the process (root, or the same user where yama allows it).
#pragma once

#include <sys/types.h>

#include "fd.h"

namespace romulus {

// Throws Failure (ERR_HOST_ATTACH_*), and then the process is as it was. Blocks for at most a few
// seconds. May be called from any thread; the tracing itself is done by a short-lived child that
// shares our memory and descriptors, because a trace stop of one of Node's own children must not
// be seen by Node's SIGCHLD handling, which would take it for the child's end.
Fd InjectUserfaultfd(pid_t pid);

}  // namespace romulus
