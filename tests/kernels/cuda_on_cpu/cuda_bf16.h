#pragma once
struct __nv_bfloat16 {
  float value;
  explicit __nv_bfloat16(float value) : value(value) {}
  explicit operator float() const { return value; }
};
