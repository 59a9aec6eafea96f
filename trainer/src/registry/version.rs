//! A version as people type it: `demo@3`. Leaves whether there is one to [`super::Registry`].

use std::fmt;
use std::str::FromStr;

/// A version of an adapter, written `NAME@VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The adapter.
    pub name: String,
    /// Its number, from 1.
    pub number: u64,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(name, number)| {
            let number = number.parse().ok().filter(|number| *number > 0)?;
            (!name.is_empty()).then(|| Self { name: name.to_owned(), number })
        });
        parsed.ok_or_else(|| "write NAME@VERSION, such as demo@3".to_owned())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_a_name_and_a_number() {
        assert_eq!("a.b@3".parse(), Ok(Version { name: "a.b".to_owned(), number: 3 }));
        for bad in ["demo", "demo@", "@3", "demo@base", "demo@0", "demo@-1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
