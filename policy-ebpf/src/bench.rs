//! Programs that drive benchmarks; only in an object built with `bench`.
