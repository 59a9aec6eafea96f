//! Factors rewritten in the order a micro-kernel reads them. Leaves arithmetic to `micro`.

use super::View;
use super::micro::Micro;

/// Length of `b` packed.
pub(super) fn packed_len<K: Micro>(n: usize, k: usize) -> usize {
    n.div_ceil(K::NR) * K::NR * k
}

/// Writes panel `panel` of `b`: `[k][NR]`, columns past `n` zero.
pub(super) fn pack_b<K: Micro>(b: View<'_>, n: usize, k: usize, panel: usize, out: &mut [f32]) {
    let first = panel * K::NR;
    let width = K::NR.min(n - first);
    if b.column_stride == 1 {
        for (row, out) in out.chunks_exact_mut(K::NR).take(k).enumerate() {
            let from = row * b.row_stride + first;
            copy_padded(&b.data[from..from + width], out, K::NR);
        }
    } else {
        if width < K::NR {
            out.fill(0.0);
        }
        transpose(&b.data[first * b.column_stride..], b.column_stride, (width, k), out, K::NR);
    }
}

/// `out[k * width + row] = from[row * stride + k]` for `rows × depth` values, four by four.
fn transpose(from: &[f32], stride: usize, (rows, depth): (usize, usize), out: &mut [f32], width: usize) {
    assert!(
        rows == 0 || depth == 0 || (rows - 1) * stride + depth <= from.len(),
        "transpose reads past its input"
    );
    assert!(rows <= width && depth * width <= out.len(), "transpose writes past its output");
    let (whole_rows, whole_depth) = (rows / 4 * 4, depth / 4 * 4);
    for row in (0..whole_rows).step_by(4) {
        for k in (0..whole_depth).step_by(4) {
            // SAFETY: by the assertions both four-by-four blocks are in bounds.
            unsafe {
                transpose_block(
                    from.as_ptr().add(row * stride + k),
                    stride,
                    out.as_mut_ptr().add(k * width + row),
                    width,
                )
            };
        }
    }
    for row in 0..rows {
        let done = if row < whole_rows { whole_depth } else { 0 };
        for k in done..depth {
            out[k * width + row] = from[row * stride + k];
        }
    }
}

/// Transposes four rows of four.
///
/// # Safety
/// Rows are `stride` apart in `from` and `width` apart in `out`, all in bounds.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose_block(from: *const f32, stride: usize, out: *mut f32, width: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise; every x86-64 has these instructions.
    unsafe {
        let (a, b) = (_mm_loadu_ps(from), _mm_loadu_ps(from.add(stride)));
        let (c, d) = (_mm_loadu_ps(from.add(2 * stride)), _mm_loadu_ps(from.add(3 * stride)));
        let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(out, _mm_movelh_ps(ab_low, cd_low));
        _mm_storeu_ps(out.add(width), _mm_movehl_ps(cd_low, ab_low));
        _mm_storeu_ps(out.add(2 * width), _mm_movelh_ps(ab_high, cd_high));
        _mm_storeu_ps(out.add(3 * width), _mm_movehl_ps(cd_high, ab_high));
    }
}

/// Transposes four rows of four.
///
/// # Safety
/// Rows are `stride` apart in `from` and `width` apart in `out`, all in bounds.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn transpose_block(from: *const f32, stride: usize, out: *mut f32, width: usize) {
    for row in 0..4 {
        for k in 0..4 {
            // SAFETY: the caller's promise.
            unsafe { *out.add(k * width + row) = *from.add(row * stride + k) };
        }
    }
}

/// Copies a row of a panel of `width`, zeros after it. Whole rows, nearly all, have a length the compiler knows.
#[inline(always)]
fn copy_padded(from: &[f32], out: &mut [f32], width: usize) {
    if from.len() == width {
        out[..width].copy_from_slice(&from[..width]);
    } else {
        out[..from.len()].copy_from_slice(from);
        out[from.len()..].fill(0.0);
    }
}

/// Writes rows `rows` and columns `columns` of `a` as panels `[k][MR]`, rows past the end zero.
pub(super) fn pack_a<K: Micro>(
    a: View<'_>,
    rows: (usize, usize),
    columns: (usize, usize),
    out: &mut Vec<f32>,
) {
    let depth = columns.1 - columns.0;
    let panels = (rows.1 - rows.0).div_ceil(K::MR);
    out.resize(panels * K::MR * depth, 0.0);
    for (panel, out) in out.chunks_exact_mut(K::MR * depth).enumerate() {
        let first = rows.0 + panel * K::MR;
        let height = K::MR.min(rows.1 - first);
        if height < K::MR {
            out.fill(0.0);
        }
        if a.row_stride == 1 {
            for (k, out) in out.chunks_exact_mut(K::MR).enumerate() {
                let from = (columns.0 + k) * a.column_stride + first;
                copy_padded(&a.data[from..from + height], out, K::MR);
            }
        } else {
            let from = &a.data[first * a.row_stride + columns.0..];
            transpose(from, a.row_stride, (height, depth), out, K::MR);
        }
    }
}
