//! Tensor operations: one safe function per op. Leaves models and scheduling to `engine`.
