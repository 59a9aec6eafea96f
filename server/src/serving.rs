//! What requests for the policy's name run under: the active version, and during a probation the candidate for its share
//! of them. A request asks once, when it is planned, and carries the answer: a swap is one store of a pointer between two
//! requests, and a version leaves memory with its last sequence. Leaves which versions these are to the loop.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rectify_engine::AdapterRef;
use rectify_engine::model::adapter::Adapter;
use sha2::{Digest, Sha256};

/// The version that is the policy without an adapter.
pub const BASE: &str = "base";

/// The versions in memory; `None` is the base.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// What answers.
    pub active: Option<Arc<Adapter>>,
    /// The candidate of a probation.
    pub canary: Option<Canary>,
}

/// A candidate that answers a part of the requests.
#[derive(Clone, Debug)]
pub struct Canary {
    /// The candidate; `None` is the base, on its way back.
    pub adapter: Option<Arc<Adapter>>,
    /// Its part, from 0 to 1.
    pub share: f64,
}

/// Which side of a probation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The version from before.
    Active,
    /// The candidate.
    Canary,
}

impl Arm {
    /// As completion records have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Canary => "canary",
        }
    }
}

/// What one request runs under.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The adapter; `None` is the base.
    pub adapter: Option<AdapterRef>,
    /// The arm, during a probation.
    pub arm: Option<Arm>,
}

impl Served {
    fn under(adapter: Option<&Arc<Adapter>>, arm: Option<Arm>) -> Self {
        Self { adapter: adapter.map(|adapter| AdapterRef::Private(Arc::clone(adapter))), arm }
    }
}

fn version_of(adapter: Option<&Arc<Adapter>>) -> &str {
    adapter.map_or(BASE, |adapter| &adapter.info.version)
}

impl Serving {
    /// What a request of `person` runs under. During a probation a person always meets the same arm.
    pub fn route(&self, person: &str) -> Served {
        let Some(canary) = &self.canary else { return Served::under(self.active.as_ref(), None) };
        // The candidate's version is part of the draw, so that each probation falls to other people.
        let version = version_of(canary.adapter.as_ref());
        let digest = Sha256::new().chain_update(version).chain_update([0]).chain_update(person).finalize();
        let mut drawn = [0; 8];
        drawn.copy_from_slice(&digest[..8]);
        if (u64::from_le_bytes(drawn) as f64) < canary.share * u64::MAX as f64 {
            Served::under(canary.adapter.as_ref(), Some(Arm::Canary))
        } else {
            Served::under(self.active.as_ref(), Some(Arm::Active))
        }
    }

    /// The version of this name, if it is in memory; the base always is.
    pub fn version(&self, version: &str) -> Option<Served> {
        if version == BASE {
            return Some(Served::default());
        }
        self.adapter(version).map(|adapter| Served::under(Some(&adapter), None))
    }

    /// The adapter of this version, if it is in memory.
    pub fn adapter(&self, version: &str) -> Option<Arc<Adapter>> {
        let canary = self.canary.iter().filter_map(|canary| canary.adapter.as_ref());
        self.active.iter().chain(canary).find(|adapter| *adapter.info.version == *version).cloned()
    }

    /// The versions that can be named, the active one first.
    pub fn versions(&self) -> Vec<&str> {
        let canary = self.canary.iter().map(|canary| version_of(canary.adapter.as_ref()));
        let mut versions: Vec<&str> = [version_of(self.active.as_ref())].into_iter().chain(canary).collect();
        if !versions.contains(&BASE) {
            versions.push(BASE);
        }
        versions
    }

    /// The active version's name.
    pub fn active_version(&self) -> &str {
        version_of(self.active.as_ref())
    }
}

/// The pointer that every request reads.
#[derive(Debug, Default)]
pub struct ServingPointer(ArcSwap<Serving>);

impl ServingPointer {
    /// What is served now.
    pub fn get(&self) -> arc_swap::Guard<Arc<Serving>> {
        self.0.load()
    }

    /// Serves `serving` from the next request on.
    pub fn set(&self, serving: Serving) {
        self.0.store(Arc::new(serving));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::adapter;

    fn version(served: &Served) -> String {
        match &served.adapter {
            Some(AdapterRef::Private(adapter)) => adapter.info.version.to_string(),
            Some(AdapterRef::Named(name)) => panic!("{name} is no version of the policy"),
            None => BASE.to_owned(),
        }
    }

    fn loaded(version: &str) -> Option<Arc<Adapter>> {
        Some(Arc::new(adapter("demo", version)))
    }

    #[test]
    fn a_share_of_people_meets_the_candidate_and_stays_with_it() {
        let canary = Some(Canary { adapter: loaded("4"), share: 0.1 });
        let serving = Serving { active: loaded("3"), canary };
        let arms: Vec<Served> = (0..4000).map(|person| serving.route(&format!("u-{person}"))).collect();
        let canaries = arms.iter().filter(|served| served.arm == Some(Arm::Canary));
        let share = canaries.inspect(|served| assert_eq!(version(served), "4")).count() as f64 / 4000.0;
        assert!((share - 0.1).abs() < 0.02, "{share}");
        for (person, first) in arms.iter().enumerate().take(50) {
            assert_eq!(serving.route(&format!("u-{person}")).arm, first.arm);
        }
        let next = Serving { canary: Some(Canary { adapter: loaded("5"), share: 0.1 }), ..serving };
        let moved = |(person, first): &(usize, &Served)| next.route(&format!("u-{person}")).arm != first.arm;
        assert!(arms.iter().enumerate().filter(moved).count() > 400, "the same people are always tried on");
    }

    #[test]
    fn a_swap_leaves_what_runs_alone_and_the_old_version_leaves_with_it() {
        let pointer = ServingPointer::default();
        assert_eq!(pointer.get().versions(), ["base"]);
        let old = Arc::new(adapter("demo", "1"));
        pointer.set(Serving { active: Some(Arc::clone(&old)), canary: None });
        let running = pointer.get().route("u");
        pointer.set(Serving { active: loaded("2"), canary: None });
        assert_eq!((version(&running), version(&pointer.get().route("u"))), ("1".into(), "2".into()));
        assert_eq!(Arc::strong_count(&old), 2);
        drop(running);
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[test]
    fn versions_are_named_while_they_are_in_memory() {
        let serving =
            Serving { active: loaded("3"), canary: Some(Canary { adapter: loaded("4"), share: 0.5 }) };
        assert_eq!(serving.versions(), ["3", "4", "base"]);
        for name in ["3", "4", "base"] {
            assert_eq!(serving.version(name).map(|served| version(&served)).as_deref(), Some(name));
        }
        assert!(serving.version("2").is_none());
    }
}
