//! What a product reads: matrices inside slices, and packed weights. Leaves the order micro-kernels want to `pack`.

use std::ops::Range;

use crate::PackedLinear;

/// A matrix inside a slice, by rows or by columns: element `(i, j)` is `data[i * row_stride + j * column_stride]`, and one
/// of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows are `stride` apart.
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, column_stride: 1 }
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    /// Whether an `m × n` matrix lies inside the data.
    pub(super) fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.row_stride + (n - 1) * self.column_stride < self.data.len()
    }
}

/// The right factor of a product.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// A matrix in memory.
    Dense(View<'a>),
    /// Packed weights, widened panel by panel: no copy of them all is ever made.
    Packed(PackedFactor<'a>),
}

/// Outputs of packed weights as a factor: `W`, or `Wᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct PackedFactor<'a> {
    pub(super) weights: &'a PackedLinear,
    pub(super) first: usize,
    pub(super) is_transposed: bool,
    pub(super) precision: Precision,
}

/// How products with packed weights are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// In f32.
    #[default]
    Single,
    /// Factors rounded to fp16, and sums of 64 products in fp16, added in f32. The error, about 1e-3 of the result's size, is
    /// below what rounding the left factor to bfloat16 makes. Where the machine has no fp16 arithmetic, as
    /// [`Precision::Single`].
    Half,
}

impl Precision {
    /// Whether this machine computes with it.
    pub fn is_supported(self) -> bool {
        self == Self::Single || super::half::is_supported()
    }
}

impl<'a> Factor<'a> {
    /// `W`, `[out_features, in_features]`, from output `first` on, a multiple of 16.
    pub fn packed(weights: &'a PackedLinear, first: usize, precision: Precision) -> Self {
        Self::Packed(PackedFactor { weights, first, is_transposed: false, precision })
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        match self {
            Self::Dense(view) => Self::Dense(view.t()),
            Self::Packed(packed) => {
                Self::Packed(PackedFactor { is_transposed: !packed.is_transposed, ..packed })
            }
        }
    }

    /// Whether it is at least `k × n`.
    pub(super) fn holds(&self, k: usize, n: usize) -> bool {
        match self {
            Self::Dense(view) => view.holds(k, n),
            Self::Packed(PackedFactor { weights, first, is_transposed, .. }) => {
                let (outputs, inputs) = if *is_transposed { (n, k) } else { (k, n) };
                first + outputs <= weights.out_features() && inputs <= weights.in_features()
            }
        }
    }
}

impl<'a> From<View<'a>> for Factor<'a> {
    fn from(view: View<'a>) -> Self {
        Self::Dense(view)
    }
}

/// `alpha · a · b` with `a: [m, k]` and `b: [k, columns]`, a part of a sum of products.
#[derive(Clone, Debug)]
pub struct Term<'a> {
    /// Columns of the result it adds to.
    pub columns: Range<usize>,
    /// Length of each sum.
    pub k: usize,
    /// Left factor.
    pub a: View<'a>,
    /// Right factor.
    pub b: Factor<'a>,
    /// Scale.
    pub alpha: f32,
}
