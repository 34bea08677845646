// Row-wise float32 operations between products: norms, rotary positions, activations, and what
// becomes of a product's results. Each is the sequence of single operations that the reference
// backend does in NumPy; plain loops, which compilers turn into vectors but may not contract.
// Included by each unit of kernels inside its anonymous namespace.

inline float root_mean_square(const float* x, int64_t length, float eps) {
  const float squares = canonical_row_sum<true>(x, length);
  return __builtin_sqrtf(squares / static_cast<float>(length) + eps);
}

void norm(const NormTask& task) {
  for (int64_t row = 0; row < task.rows; ++row) {
    const float* x = task.x + row * task.x_stride;
    float* out = task.out + row * task.out_stride;
    if (task.subtracts_mean) {
      const float mean = canonical_row_sum<false>(x, task.length) / static_cast<float>(task.length);
      for (int64_t i = 0; i < task.length; ++i) out[i] = x[i] - mean;
      x = out;
    }
    const float root = root_mean_square(x, task.length, task.eps);
    for (int64_t i = 0; i < task.length; ++i) out[i] = x[i] / root * task.weight[i];
    if (task.bias == nullptr) continue;
    for (int64_t i = 0; i < task.length; ++i) out[i] += task.bias[i];
  }
}

void rotate(const RotateTask& task) {
  const int64_t half = task.num_pairs;
  for (int64_t head = 0; head < task.num_heads; ++head) {
    float* __restrict first = task.x + head * task.head_dim;
    float* __restrict second = first + half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * task.cosines[i] - b * task.sines[i];
      second[i] = b * task.cosines[i] + a * task.sines[i];
    }
  }
}

void add(const float* a, const float* b, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
}

void scale(const float* x, float factor, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] * factor;
}

template <Activation kActivation>
inline Vector activated(Vector x) {
  if constexpr (kActivation == Activation::kSilu) {
    return Floats::multiply(x, sigmoid_of(x));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    const Vector cube = Floats::multiply(Floats::multiply(x, x), x);
    const Vector inner =
        Floats::multiply(Floats::set(0.7978845608028654f),
                         Floats::add(x, Floats::multiply(Floats::set(0.044715f), cube)));
    return Floats::multiply(Floats::multiply(Floats::set(0.5f), x),
                            Floats::add(Floats::set(1.0f), tanh_of(inner)));
  } else {
    const Vector zero = Floats::set(0.0f);
    // A NaN is neither above zero nor equal to itself: it stays.
    const Vector not_positive = Floats::select(Floats::equal(x, x), zero, x);
    return Floats::select(Floats::less(zero, x), x, not_positive);
  }
}

// out = function(x), or function(x) * factor where there is one.
template <Activation kActivation>
inline void activate_as(const float* x, const float* factor, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += Floats::kLanes) {
    const int64_t left = count - i;
    if (left >= Floats::kLanes) {
      Vector y = activated<kActivation>(Floats::load(x + i));
      if (factor != nullptr) y = Floats::multiply(y, Floats::load(factor + i));
      Floats::store(out + i, y);
    } else {
      Vector y = activated<kActivation>(Floats::load_first(x + i, left));
      if (factor != nullptr) y = Floats::multiply(y, Floats::load_first(factor + i, left));
      Floats::store_first(out + i, y, left);
    }
  }
}

void activate(Activation activation, const float* x, const float* factor, float* out,
              int64_t count) {
  switch (activation) {
    case Activation::kSilu:
      return activate_as<Activation::kSilu>(x, factor, out, count);
    case Activation::kGeluTanh:
      return activate_as<Activation::kGeluTanh>(x, factor, out, count);
    case Activation::kRelu:
      return activate_as<Activation::kRelu>(x, factor, out, count);
  }
}
