//! The states of a run. Leaves what moves a run from one to the next to `machine`.

use std::fmt;
use std::str::FromStr;

use super::ShadowError;

macro_rules! states {
    ($($(#[$doc:meta])* $state:ident = $name:literal,)*) => {
        /// Where a run is. No run at all is `idle`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum State { $($(#[$doc])* $state,)* }

        impl State {
            /// Every state.
            pub const ALL: &[Self] = &[$(Self::$state,)*];

            /// As the store has it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$state => $name,)* }
            }
        }
    };
}

states! {
    /// Votes are being chosen and written down.
    Snapshot = "snapshot",
    /// An adapter is being trained on the snapshot.
    Training = "training",
    /// The adapter is on its way into the registry.
    Candidate = "candidate",
    /// The gate is judging the version.
    Validating = "validating",
    /// The gate has passed it; a person decides.
    AwaitingApproval = "awaiting_approval",
    /// A share of new requests runs under it.
    Published = "published",
    /// That share is compared with the rest.
    Probation = "probation",
    /// It is the active version.
    Kept = "kept",
    /// The data or the gate spoke against it; nothing changed.
    Rejected = "rejected",
    /// It was taken back.
    RolledBack = "rolled_back",
    /// Something went wrong; nothing changed.
    Failed = "failed",
    /// Somebody stopped it; nothing changed.
    Cancelled = "cancelled",
}

impl State {
    /// Whether nothing is left to do.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Kept | Self::Rejected | Self::RolledBack | Self::Failed | Self::Cancelled)
    }

    /// Whether requests meet its version.
    pub fn is_public(self) -> bool {
        matches!(self, Self::Published | Self::Probation)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = ShadowError;

    fn from_str(text: &str) -> Result<Self, ShadowError> {
        let found = Self::ALL.iter().find(|state| state.as_str() == text);
        found.copied().ok_or_else(|| ShadowError::State(text.to_owned()))
    }
}
