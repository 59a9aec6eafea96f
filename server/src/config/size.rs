//! Sizes and periods as people write them: `512MiB`, `30s`. Leaves their meaning to the sections that use them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written with a unit: `512MiB`, `4GiB`, `2GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As memory is counted.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const BYTE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || "write a number and a unit, such as 4GiB or 512MiB".to_owned();
        let text = text.trim();
        let (number, unit) = BYTE_UNITS
            .iter()
            .find_map(|&(unit, size)| text.strip_suffix(unit).map(|number| (number, size)))
            .unwrap_or((text, 1));
        let number: f64 = number.trim().parse().map_err(|_| refusal())?;
        let bytes = number * unit as f64;
        // 2^53 bytes: beyond it f64 no longer counts single bytes, and no machine has them.
        if bytes.is_finite() && (1.0..9.0e15).contains(&bytes) {
            Ok(Self(bytes as u64))
        } else {
            Err(refusal())
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift);
        match [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")].iter().find(|(shift, _)| whole(*shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A length of time, written with a unit: `500ms`, `30s`, `5m`, `1h`, `90d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || "write a number and a unit, such as 500ms, 30s, 5m, 1h or 90d".to_owned();
        let text = text.trim();
        let (number, unit) = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)]
            .iter()
            .find_map(|&(unit, seconds)| text.strip_suffix(unit).map(|number| (number, seconds)))
            .ok_or_else(refusal)?;
        let number: f64 = number.trim().parse().map_err(|_| refusal())?;
        Duration::try_from_secs_f64(number * unit).map(Self).map_err(|_| refusal())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

macro_rules! written_as_text {
    ($type:ident, $name:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged, expecting = "expected a number with a unit")]
                enum Written {
                    Number(u64),
                    Text(String),
                }
                let text = match Written::deserialize(deserializer)? {
                    Written::Number(number) => number.to_string(),
                    Written::Text(text) => text,
                };
                text.parse().map_err(|hint| D::Error::custom(format!("cannot read `{text}`: {hint}")))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": ["string", "integer"], "pattern": $pattern})
            }
        }
    };
}

written_as_text!(ByteSize, "ByteSize", "^[0-9.]+ *(B|KiB|MiB|GiB|TiB|KB|MB|GB)?$");
written_as_text!(Period, "Period", "^[0-9.]+ *(ms|s|m|h|d)$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!("4GiB".parse(), Ok(ByteSize(4 << 30)));
        assert_eq!("1.5 MiB".parse(), Ok(ByteSize(3 << 19)));
        assert_eq!("2GB".parse(), Ok(ByteSize(2_000_000_000)));
        assert_eq!("1024".parse(), Ok(ByteSize(1024)));
        for bad in ["", "GiB", "-1GiB", "0", "1e400B", "NaN", "lots"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_periods_print_as_they_are_written() {
        for text in ["4GiB", "512MiB", "1000B", "1KiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["500ms", "30s", "0s"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        assert_eq!("5m".parse::<Period>().unwrap().0, Duration::from_secs(300));
        for bad in ["", "5", "s", "-1s", "soon"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
