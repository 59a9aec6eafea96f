//! Numbers that carry their derivatives (forward-mode differentiation), so that a loss is written once, as in its paper,
//! and its gradient cannot disagree with it. Leaves sequences and tokens to `completions`.

use std::ops::{Add, Mul, Neg, Sub};

use super::{sigmoid, softplus};

/// A value and its derivatives to the `N` inputs of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dual<const N: usize> {
    pub(super) value: f64,
    pub(super) grad: [f64; N],
}

impl<const N: usize> Dual<N> {
    /// Input number `input`.
    pub(super) fn input(value: f64, input: usize) -> Self {
        let mut grad = [0.0; N];
        grad[input] = 1.0;
        Self { value, grad }
    }

    /// `f(self)`, from the function's value and slope here.
    fn chain(self, value: f64, slope: f64) -> Self {
        // A slope of zero says that an input does not matter, even where another factor overflowed.
        let scale = |grad: f64| if slope == 0.0 { 0.0 } else { slope * grad };
        Self { value, grad: self.grad.map(scale) }
    }

    /// By Leibniz' rule.
    fn product(self, other: Self) -> Self {
        let slope = |input: usize| self.grad[input] * other.value + self.value * other.grad[input];
        Self { value: self.value * other.value, grad: std::array::from_fn(slope) }
    }

    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        self.chain(value, value)
    }

    pub(super) fn square(self) -> Self {
        self.chain(self.value * self.value, 2.0 * self.value)
    }

    /// `max(0, x)`, with slope 0 at 0.
    pub(super) fn relu(self) -> Self {
        self.chain(self.value.max(0.0), f64::from(u8::from(self.value > 0.0)))
    }

    /// `min(x, limit)`, with slope 0 beyond.
    pub(super) fn at_most(self, limit: f64) -> Self {
        self.chain(self.value.min(limit), f64::from(u8::from(self.value <= limit)))
    }

    /// `σ(x)`.
    pub(super) fn sigmoid(self) -> Self {
        let value = sigmoid(self.value);
        self.chain(value, value * sigmoid(-self.value))
    }

    /// `ln σ(x)`.
    pub(super) fn log_sigmoid(self) -> Self {
        self.chain(-softplus(-self.value), sigmoid(-self.value))
    }

    /// `ln(1 − e^x)` for `x < 0`.
    pub(super) fn ln_1m_exp(self) -> Self {
        let one_minus = -self.value.exp_m1();
        self.chain(one_minus.ln(), -self.value.exp() / one_minus)
    }
}

impl<const N: usize> Add for Dual<N> {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let mut grad = self.grad;
        grad.iter_mut().zip(other.grad).for_each(|(a, b)| *a += b);
        Self { value: self.value + other.value, grad }
    }
}

impl<const N: usize> Mul for Dual<N> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        self.product(other)
    }
}

impl<const N: usize> Neg for Dual<N> {
    type Output = Self;
    fn neg(self) -> Self {
        self * -1.0
    }
}

impl<const N: usize> Sub for Dual<N> {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl<const N: usize> Add<f64> for Dual<N> {
    type Output = Self;
    fn add(self, other: f64) -> Self {
        Self { value: self.value + other, ..self }
    }
}

impl<const N: usize> Sub<f64> for Dual<N> {
    type Output = Self;
    fn sub(self, other: f64) -> Self {
        self + -other
    }
}

impl<const N: usize> Mul<f64> for Dual<N> {
    type Output = Self;
    fn mul(self, other: f64) -> Self {
        self.chain(self.value * other, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_the_slopes() {
        type Function = fn(Dual<2>, Dual<2>) -> Dual<2>;
        let functions: [(&str, Function); 9] = [
            ("exp", |x, y| (x * y).exp()),
            ("square", |x, y| (x - y).square()),
            ("relu", |x, y| (x * 2.0 + y).relu() + (x - 9.0).relu()),
            ("at_most", |x, y| (x - 9.0).at_most(1.0) + y.at_most(-5.0)),
            ("sigmoid", |x, y| (x + y * 3.0).sigmoid()),
            ("log_sigmoid", |x, y| (-(x * x) - y).log_sigmoid()),
            ("ln_1m_exp", |x, y| (-(x + 1.0) - y.square()).ln_1m_exp()),
            ("product", |x, y| x * y * x),
            ("sum", |x, y| x + y - x * 0.25 + 3.0),
        ];
        for (name, f) in functions {
            let (x, y, step) = (0.7, -0.4, 1e-6);
            let at = |x, y| f(Dual::input(x, 0), Dual::input(y, 1));
            let got = at(x, y).grad;
            let want = [
                (at(x + step, y).value - at(x - step, y).value) / (2.0 * step),
                (at(x, y + step).value - at(x, y - step).value) / (2.0 * step),
            ];
            for (got, want) in got.into_iter().zip(want) {
                assert!((got - want).abs() < 1e-8, "{name}: {got}, numerically {want}");
            }
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let at = |x: f64| Dual::<1>::input(x, 0);
        assert_eq!(at(-2000.0).log_sigmoid(), Dual { value: -2000.0, grad: [1.0] });
        assert_eq!(at(2000.0).sigmoid(), Dual { value: 1.0, grad: [0.0] });
        assert!(at(-1e-12).ln_1m_exp().value.is_finite());
    }
}
