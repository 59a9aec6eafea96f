//! Activations of the CPU backend, recycled. Leaves what is computed with them to `cpu`.

use std::sync::{Arc, Mutex, PoisonError};

use rectify_kernels::{Rows, RowsMut};

/// Activations that are free to be used again. A step's tensors have the sizes of the step before, so after the first
/// step nothing is allocated.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<f32>>>>);

impl Buffers {
    /// `rows × width` values of any content.
    pub(super) fn take(&self, rows: usize, width: usize) -> CpuTensor {
        let len = rows * width;
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if data.len() < len {
            data.resize(len, 0.0);
        }
        CpuTensor { data, rows, width, buffers: self.clone() }
    }
}

/// Activations, `[rows, width]`.
#[derive(Debug)]
pub struct CpuTensor {
    /// At least `rows * width` values.
    data: Vec<f32>,
    pub(super) rows: usize,
    pub(super) width: usize,
    buffers: Buffers,
}

impl CpuTensor {
    /// The values, row by row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data[..self.rows * self.width]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.width]
    }

    pub(super) fn view(&self, column: usize) -> Rows<'_> {
        Rows { data: self.as_slice(), stride: self.width, column }
    }

    pub(super) fn view_mut(&mut self, column: usize) -> RowsMut<'_> {
        let stride = self.width;
        RowsMut { data: self.as_mut_slice(), stride, column }
    }
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.buffers.0.lock().unwrap_or_else(PoisonError::into_inner).push(data);
    }
}
