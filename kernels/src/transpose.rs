//! Rows to columns, four by four. Leaves what is turned, and in which pieces, to its users.
#![expect(unsafe_code, reason = "vector instructions on blocks that were checked as a whole")]

/// `out[k * width + row] = from[row * stride + k]` for `rows × depth` values, four by four.
pub(crate) fn transpose(
    from: &[f32],
    stride: usize,
    (rows, depth): (usize, usize),
    out: &mut [f32],
    width: usize,
) {
    assert!(
        rows == 0 || depth == 0 || (rows - 1) * stride + depth <= from.len(),
        "transpose reads past its input"
    );
    assert!(
        rows == 0 || depth == 0 || rows <= width && (depth - 1) * width + rows <= out.len(),
        "transpose writes past its output"
    );
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
