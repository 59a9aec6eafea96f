//! Sums and factors of whole tensors, value by value. Leaves activations to `activation`.

use crate::error::check_len;
use crate::rows::for_each_chunk;
use crate::simd::{LANES, Op, Simd, dispatch, padded, tanh};
use crate::{KernelError, Pool};

/// Values of a task; below twice as many a second thread costs more than it brings.
const CHUNK: usize = 1 << 14;

/// `x += y`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn add(pool: &Pool, x: &mut [f32], y: &[f32]) -> Result<(), KernelError> {
    check_len("y", y.len(), x.len())?;
    let parallel = x.len() > 2 * CHUNK;
    for_each_chunk(pool, parallel, x, CHUNK, |i, x| {
        x.iter_mut().zip(&y[i * CHUNK..]).for_each(|(x, y)| *x += y);
    });
    Ok(())
}

/// `x *= factor`.
pub fn scale(pool: &Pool, x: &mut [f32], factor: f32) {
    let parallel = x.len() > 2 * CHUNK;
    for_each_chunk(pool, parallel, x, CHUNK, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

/// `x = cap · tanh(x / cap)`.
pub fn soft_cap(pool: &Pool, x: &mut [f32], cap: f32) {
    let parallel = x.len() > 2 * CHUNK;
    for_each_chunk(pool, parallel, x, CHUNK, |_, x| dispatch(pool.isa(), SoftCap { x, cap }));
}

struct SoftCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Op for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (inverse, cap) = (s.splat(self.cap.recip()), s.splat(self.cap));
        for x in self.x.chunks_mut(LANES) {
            let mut lanes = padded(x, 0.0);
            s.store(s.mul(tanh(s, s.mul(s.load(&lanes), inverse)), cap), &mut lanes);
            x.copy_from_slice(&lanes[..x.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn every_value_is_added_scaled_and_capped() {
        for isa in Isa::supported() {
            let pool = Pool::with_isa(2, isa).unwrap();
            for len in [1, 17, 50_000] {
                let start: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 80.0).collect();
                let mut x = start.clone();
                add(&pool, &mut x, &start).unwrap();
                scale(&pool, &mut x, 0.25);
                soft_cap(&pool, &mut x, 30.0);
                for (x, start) in x.iter().zip(&start) {
                    let wanted = 30.0 * (f64::from(*start) / 60.0).tanh();
                    assert!((f64::from(*x) - wanted).abs() < 2e-5, "{isa:?} {x} {wanted}");
                }
            }
        }
        assert!(add(&Pool::new(1).unwrap(), &mut [0.0; 2], &[0.0; 3]).is_err());
    }
}
