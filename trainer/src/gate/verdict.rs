//! From a measurement with its interval to a verdict. Leaves measuring to the checks and intervals to [`super::stats`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stats::Interval;

/// What a check, or the whole gate, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Good enough.
    Pass,
    /// Not shown to be good enough, nor to be bad: more prompts would tell.
    Inconclusive,
    /// Not good enough.
    Fail,
}

impl Verdict {
    /// As tables print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }

    /// The worst of several; no verdict at all is a pass.
    pub fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts.into_iter().max().unwrap_or(Self::Pass)
    }
}

/// What a pass asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// The measured value is on the right side of the threshold.
    #[default]
    Point,
    /// The whole interval is: the lower end of what must be large, the upper end of what must be small.
    #[serde(alias = "bound")]
    LowerBound,
}

/// The values that are good enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// At least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// At most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl Threshold {
    /// At least `min`.
    pub fn at_least(min: f64) -> Self {
        Self { min: Some(min), max: None }
    }

    /// At most `max`.
    pub fn at_most(max: f64) -> Self {
        Self { min: None, max: Some(max) }
    }

    /// From `min` to `max`.
    pub fn within(min: f64, max: f64) -> Self {
        Self { min: Some(min), max: Some(max) }
    }

    /// The verdict on a measurement. It fails if the whole interval lies on the wrong side. It passes if the whole interval
    /// lies on the right side, or, under [`Require::Point`], if the value does. What is left is inconclusive. A value that is
    /// no number fails: a model that cannot be measured is not good.
    pub fn verdict(&self, interval: &Interval, require: Require) -> Verdict {
        let (min, max) = (self.min.unwrap_or(f64::NEG_INFINITY), self.max.unwrap_or(f64::INFINITY));
        if interval.value.is_nan() || interval.low > max || interval.high < min {
            return Verdict::Fail;
        }
        let inside = |value: f64| (min..=max).contains(&value);
        let ok = match require {
            Require::Point => inside(interval.value),
            Require::LowerBound => inside(interval.low) && inside(interval.high),
        };
        if ok { Verdict::Pass } else { Verdict::Inconclusive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(value: f64, low: f64, high: f64) -> Interval {
        Interval { value, low, high }
    }

    #[test]
    fn an_interval_beside_the_threshold_is_certain_and_one_across_it_is_not() {
        let most = Threshold::at_most(0.1);
        let cases = [
            ((0.05, 0.01, 0.09), Verdict::Pass, Verdict::Pass),
            ((0.05, 0.01, 0.2), Verdict::Pass, Verdict::Inconclusive),
            ((0.15, 0.05, 0.3), Verdict::Inconclusive, Verdict::Inconclusive),
            ((0.3, 0.2, 0.4), Verdict::Fail, Verdict::Fail),
            ((f64::NAN, 0.0, 1.0), Verdict::Fail, Verdict::Fail),
        ];
        for ((value, low, high), point, bound) in cases {
            let measured = interval(value, low, high);
            assert_eq!(most.verdict(&measured, Require::Point), point, "{measured:?}");
            assert_eq!(most.verdict(&measured, Require::LowerBound), bound, "{measured:?}");
        }
        let band = Threshold::within(0.5, 2.0);
        assert_eq!(band.verdict(&interval(0.4, 0.3, 0.45), Require::Point), Verdict::Fail);
        assert_eq!(band.verdict(&interval(0.6, 0.4, 0.8), Require::LowerBound), Verdict::Inconclusive);
    }

    #[test]
    fn the_worst_verdict_counts() {
        assert_eq!(Verdict::worst([Verdict::Pass, Verdict::Inconclusive]), Verdict::Inconclusive);
        assert_eq!(Verdict::worst([Verdict::Fail, Verdict::Inconclusive]), Verdict::Fail);
        assert_eq!(Verdict::worst([]), Verdict::Pass);
    }
}
