// The border to JavaScript: exceptions of plain C++ become JavaScript errors here and nowhere else.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <new>

#include "failure.h"

namespace romulus {

inline Napi::Error JavaScriptError(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.what());
  error.Set("code", Napi::String::New(env, failure.code()));
  error.Set("remedy", Napi::String::New(env, failure.remedy()));
  if (failure.error_number() != 0) {
    error.Set("errno", Napi::Number::New(env, failure.error_number()));
  }
  return error;
}

// Runs `body` and translates what it throws. Call it around everything a JavaScript caller enters;
// it must be in the thread of `env`.
template <typename Body>
auto AtBorder(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Failure& failure) {
    throw JavaScriptError(env, failure);
  } catch (const std::bad_alloc&) {
    throw JavaScriptError(env, Failure("ERR_LIMIT_MEMORY", "the native part is out of memory",
                                       "Free memory on this host or lower the VM's memory."));
  } catch (const std::exception& error) {
    throw JavaScriptError(env, Failure("ERR_INTERNAL_NATIVE", error.what(),
                                       "This is a defect in Romulus: please report it."));
  }
}

// A JavaScript number that must be a whole number in [0, 2^53).
inline uint64_t WholeNumber(const Napi::Value& value, const char* name) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0) || number > 9007199254740991.0 || std::floor(number) != number) {
    throw Failure("ERR_USAGE_NUMBER", std::string(name) + " is not a whole number",
                  "Pass a whole number that is not negative.");
  }
  return static_cast<uint64_t>(number);
}

}  // namespace romulus
