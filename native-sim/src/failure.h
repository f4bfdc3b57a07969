// How native code reports trouble: one exception type with a stable code and a remedy, turned into
// a JavaScript Error with the same properties at the border (src/native/native-error.ts makes a
// RomulusError of it). Plain C++ below the border throws Failure and knows nothing of N-API.
#pragma once

#include <cerrno>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

namespace romulus {

class Failure : public std::exception {
 public:
  Failure(std::string code, std::string message, std::string remedy)
      : code_(std::move(code)), message_(std::move(message)), remedy_(std::move(remedy)) {}

  // A failed system call: the sentence is completed with what errno says.
  static Failure System(std::string code, const std::string& what, std::string remedy,
                        int error_number = errno) {
    Failure failure(std::move(code), what + ": " + std::strerror(error_number), std::move(remedy));
    failure.error_number_ = error_number;
    return failure;
  }

  const char* what() const noexcept override { return message_.c_str(); }
  const std::string& code() const { return code_; }
  const std::string& remedy() const { return remedy_; }
  // 0 when no system call was at fault.
  int error_number() const { return error_number_; }

 private:
  std::string code_;
  std::string message_;
  std::string remedy_;
  int error_number_ = 0;
};

}  // namespace romulus
