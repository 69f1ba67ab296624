#pragma once
struct __half {
  float value;
  explicit __half(float value) : value(value) {}
  explicit operator float() const { return value; }
};
