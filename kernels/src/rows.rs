//! Views of matrices: strided rows, and the one way tasks write disjoint parts of a slice at once. Leaves what is
//! computed to the operations.
#![expect(unsafe_code, reason = "tasks on several threads write disjoint parts of one slice")]

use std::marker::PhantomData;
use std::ops::Range;

use crate::error::ensure;
use crate::{KernelError, Pool};

/// Strided rows of a larger matrix: row `i` is `data[i * stride + column..][..width]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The matrix.
    pub data: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// First column used.
    pub column: usize,
}

impl<'a> Rows<'a> {
    /// Rows back to back, `[_, width]`.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        Self { data, stride: width, column: 0 }
    }

    /// Row `i`, `width` values.
    pub(crate) fn row(&self, i: usize, width: usize) -> &'a [f32] {
        &self.data[i * self.stride + self.column..][..width]
    }

    pub(crate) fn check(&self, what: &str, num_rows: usize, width: usize) -> Result<(), KernelError> {
        check_rows(what, self.data.len(), self.stride, self.column, num_rows, width)
    }
}

/// As [`Rows`], to be written.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// The matrix.
    pub data: &'a mut [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// First column used.
    pub column: usize,
}

impl<'a> RowsMut<'a> {
    /// Rows back to back, `[_, width]`.
    pub fn new(data: &'a mut [f32], width: usize) -> Self {
        Self { data, stride: width, column: 0 }
    }

    pub(crate) fn check(&self, what: &str, num_rows: usize, width: usize) -> Result<(), KernelError> {
        check_rows(what, self.data.len(), self.stride, self.column, num_rows, width)
    }
}

fn check_rows(
    what: &str,
    len: usize,
    stride: usize,
    column: usize,
    num_rows: usize,
    width: usize,
) -> Result<(), KernelError> {
    ensure(num_rows <= 1 || column + width <= stride, || {
        format!(
            "rows of {what} overlap: column {column} and width {width} do not fit in a stride of {stride}"
        )
    })?;
    let needed = if num_rows == 0 { 0 } else { (num_rows - 1) * stride + column + width };
    ensure(needed <= len, || {
        format!("{what} holds {len} values but {num_rows} rows of {width} at stride {stride} need {needed}")
    })
}

/// A mutable slice whose disjoint parts several tasks may write at once.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` only hands out parts under the contract of `part`, so sharing it shares `&mut [T]` of disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where value `index` lies or would lie: not to be read.
    pub(crate) fn address(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
    }

    /// The part `range`, which must lie inside the slice (checked).
    ///
    /// # Safety
    /// No two parts that are alive at once may overlap.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint by contract")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside its slice");
        // SAFETY: inside the slice by the assertion; disjoint from other parts by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}

/// Runs `task(i, chunk i of data)` for all chunks of `len` values (the last may be shorter), on the pool if `parallel`.
pub(crate) fn for_each_chunk<T: Send>(
    pool: &Pool,
    parallel: bool,
    data: &mut [T],
    len: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    for_each_piece(pool, parallel, data, (len, len), |i, _, data| task(i, data));
}

/// Runs `task(i, k, piece k of chunk i of data)` for chunks of `len` values cut into pieces of `piece` values, of both of which
/// the last may be shorter.
pub(crate) fn for_each_piece<T: Send>(
    pool: &Pool,
    parallel: bool,
    data: &mut [T],
    (len, piece): (usize, usize),
    task: impl Fn(usize, usize, &mut [T]) + Sync,
) {
    let (len, piece) = (len.max(1), piece.max(1));
    let (total, num_pieces) = (data.len(), len.div_ceil(piece));
    let data = Shared::new(data);
    pool.run_if(parallel, total.div_ceil(len) * num_pieces, |i| {
        let (chunk, k) = (i / num_pieces, i % num_pieces);
        let end = total.min((chunk + 1) * len);
        let range = end.min(chunk * len + k * piece)..end.min(chunk * len + (k + 1) * piece);
        // SAFETY: pieces are disjoint, and each task has its own.
        task(chunk, k, unsafe { data.part(range) });
    });
}

/// Runs `task(first row, rows of a, rows of b)` for runs of rows of two matrices of the same height.
pub(crate) fn for_each_row_run<T: Send, U: Send>(
    pool: &Pool,
    parallel: bool,
    (a, a_width): (&mut [T], usize),
    (b, b_width): (&mut [U], usize),
    task: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    let run = rows_per_task(pool, parallel, a.len() / a_width);
    for_each_run(pool, run, (a, a_width), (b, b_width), task);
}

/// As [`for_each_row_run`], for runs of `run` rows; those of `b` may be empty.
pub(crate) fn for_each_run<T: Send, U: Send>(
    pool: &Pool,
    run: usize,
    (a, a_width): (&mut [T], usize),
    (b, b_width): (&mut [U], usize),
    task: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    let num_rows = a.len() / a_width;
    let (a, b) = (Shared::new(a), Shared::new(b));
    pool.run(num_rows.div_ceil(run), |i| {
        let rows = i * run..num_rows.min((i + 1) * run);
        // SAFETY: runs of rows are disjoint, and each task has its own.
        let (a, b) = unsafe {
            (
                a.part(rows.start * a_width..rows.end * a_width),
                b.part(rows.start * b_width..rows.end * b_width),
            )
        };
        task(rows.start, a, b);
    });
}

/// Runs `task(row, its values)` for strided rows of `width` values.
pub(crate) fn for_each_strided_row(
    pool: &Pool,
    parallel: bool,
    x: RowsMut<'_>,
    (num_rows, width): (usize, usize),
    task: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (stride, column) = (x.stride, x.column);
    let data = Shared::new(x.data);
    let run = rows_per_task(pool, parallel, num_rows);
    pool.run_if(parallel, num_rows.div_ceil(run), |i| {
        for row in i * run..num_rows.min((i + 1) * run) {
            let at = row * stride + column;
            // SAFETY: rows do not overlap (checked where `x` came from), and each is one task's.
            task(row, unsafe { data.part(at..at + width) });
        }
    });
}

/// Rows of a task: some eight tasks a thread.
fn rows_per_task(pool: &Pool, parallel: bool, num_rows: usize) -> usize {
    if parallel { num_rows.div_ceil(8 * pool.num_threads()).max(1) } else { num_rows.max(1) }
}
