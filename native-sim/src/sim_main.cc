// romulus-sim: the process of one simulated machine. The main thread serves the sockets, a second
// thread is the vCPU.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

#include "failure.h"
#include "sim_options.h"
#include "sim_server.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

int Run(const romulus::sim::Options& options) {
  // An engine of the same user may attach even where yama allows only descendants to be traced.
  // Kernels without yama refuse, and need it not.
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
  signal(SIGPIPE, SIG_IGN);
  // Before any thread is made, so that all inherit it and only the signalfd sees them.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, nullptr);

  romulus::sim::Machine machine(options.machine);
  romulus::sim::Server server(machine, options.socket_path, options.parent != 0);
  server.Listen();
  if (options.incoming) machine.AwaitState();
  machine.Start();
  if (!options.incoming && !options.paused) machine.Continue();
  // The one line on stdout: whoever started us may connect now.
  printf("{\"event\":\"listening\",\"pid\":%d}\n", static_cast<int>(getpid()));
  fflush(stdout);
  server.Run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  romulus::sim::Options options;
  const std::string wrong = romulus::sim::ParseOptions(argc, argv, options);
  if (!wrong.empty()) {
    fprintf(stderr, "romulus-sim: %s\n", wrong.c_str());
    return kExitUsage;
  }
  if (options.help) {
    fputs(romulus::sim::kUsage, stdout);
    return 0;
  }
  if (options.parent != 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    // It may have died before the line above; then nobody will tell us.
    if (getppid() != options.parent) {
      fprintf(stderr, "romulus-sim: process %d is not the starter or has ended\n", options.parent);
      return kExitFailed;
    }
  }
  try {
    return Run(options);
  } catch (const romulus::Failure& failure) {
    fprintf(stderr, "romulus-sim: %s: %s. %s\n", failure.code().c_str(), failure.what(),
            failure.remedy().c_str());
    return failure.code().rfind("ERR_USAGE", 0) == 0 ? kExitUsage : kExitFailed;
  } catch (const std::exception& error) {
    fprintf(stderr, "romulus-sim: %s\n", error.what());
    return kExitFailed;
  }
}
