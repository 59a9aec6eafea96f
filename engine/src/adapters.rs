//! The loaded adapters by name. Versions are immutable and shared: a name moves to a new version between two steps, and
//! sequences that run keep the one they began with. Leaves reading files to the loader, which runs elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::EngineError;
use crate::model::adapter::{Adapter, AdapterInfo};
use crate::request::AdapterRef;

/// Adapters that requests can name.
pub struct AdapterStore {
    policy_name: Arc<str>,
    base_version: Arc<str>,
    adapters: BTreeMap<Arc<str>, Arc<Adapter>>,
}

impl std::fmt::Debug for AdapterStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterStore").field("adapters", &self.adapters.keys()).finish_non_exhaustive()
    }
}

impl AdapterStore {
    /// A store for the policy `policy_name`, with `adapters` loaded.
    pub fn new(policy_name: Arc<str>, adapters: Vec<Arc<Adapter>>) -> Self {
        let base_version = format!("{policy_name}@base").into();
        let adapters =
            adapters.into_iter().map(|adapter| (Arc::clone(&adapter.info.name), adapter)).collect();
        Self { policy_name, base_version, adapters }
    }

    /// The policy's name.
    pub fn policy_name(&self) -> &Arc<str> {
        &self.policy_name
    }

    /// Lets requests find `adapter` by its name. A name in use is an error unless `replace` is set; it then leads to the
    /// new version from now on.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`]; nothing changes then.
    pub fn install(&mut self, adapter: Arc<Adapter>, replace: bool) -> Result<AdapterInfo, EngineError> {
        let name = &adapter.info.name;
        if name.is_empty() {
            return Err(EngineError::invalid("lora_name", "lora_name is empty, but must have a character"));
        }
        if *name == self.policy_name {
            let message = format!("lora_name `{name}` is the policy's own name; choose another");
            return Err(EngineError::invalid("lora_name", message));
        }
        if self.adapters.contains_key(name) && !replace {
            let message = format!("the adapter `{name}` is already loaded; set load_inplace to replace it");
            return Err(EngineError::invalid("lora_name", message));
        }
        let info = adapter.info.clone();
        self.adapters.insert(Arc::clone(name), adapter);
        Ok(info)
    }

    /// Forgets a name. The version leaves memory with its last sequence.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn unload(&mut self, name: &str) -> Result<(), EngineError> {
        self.adapters.remove(name).map(drop).ok_or_else(|| self.not_found(name))
    }

    /// The version that a new request runs under; `None` is the bare policy.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn resolve(&self, adapter: Option<&AdapterRef>) -> Result<Option<Arc<Adapter>>, EngineError> {
        let found = match adapter {
            None => return Ok(None),
            Some(AdapterRef::Named(name)) => {
                self.adapters.get(name.as_str()).ok_or_else(|| self.not_found(name))?
            }
            Some(AdapterRef::Private(adapter)) => adapter,
        };
        Ok(Some(Arc::clone(found)))
    }

    /// What answers say about the weights that made them: `<model>@base` or `<adapter>@<hash>`.
    pub fn policy_version(&self, adapter: Option<&Adapter>) -> Arc<str> {
        match adapter {
            None => Arc::clone(&self.base_version),
            Some(adapter) => format!("{}@{}", adapter.info.name, adapter.info.version).into(),
        }
    }

    /// Every loaded adapter, by name.
    pub fn infos(&self) -> Vec<AdapterInfo> {
        self.adapters.values().map(|adapter| adapter.info.clone()).collect()
    }

    fn not_found(&self, name: &str) -> EngineError {
        let names: Vec<&str> = self.adapters.keys().map(|name| &**name).collect();
        let known = if names.is_empty() {
            "none is loaded".into()
        } else {
            format!("available: {}", names.join(", "))
        };
        EngineError::NotFound { kind: "adapter", name: name.to_owned(), known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::adapter;

    fn store() -> AdapterStore {
        AdapterStore::new("demo".into(), vec![adapter("first", "1")])
    }

    fn version(store: &AdapterStore, name: &str) -> String {
        let adapter = store.resolve(Some(&name.into())).unwrap();
        store.policy_version(adapter.as_deref()).to_string()
    }

    #[test]
    fn a_name_moves_to_a_new_version_while_the_old_one_lives_on() {
        let mut store = store();
        let running = store.resolve(Some(&"first".into())).unwrap().unwrap();
        store.install(adapter("first", "2"), true).unwrap();
        assert_eq!(version(&store, "first"), "first@2");
        assert_eq!(&*running.info.version, "1");
        store.unload("first").unwrap();
        assert!(matches!(store.resolve(Some(&"first".into())), Err(EngineError::NotFound { .. })));
        assert_eq!(&*store.policy_version(None), "demo@base");
    }

    #[test]
    fn a_private_adapter_needs_no_name_and_leaves_with_its_last_user() {
        let store = store();
        let own = adapter("rollout", "7");
        let reference = AdapterRef::Private(Arc::clone(&own));
        let resolved = store.resolve(Some(&reference)).unwrap();
        assert_eq!(&*store.policy_version(resolved.as_deref()), "rollout@7");
        assert!(store.resolve(Some(&"rollout".into())).is_err());
        assert_eq!(store.infos().len(), 1);
        drop((resolved, reference));
        assert_eq!(Arc::strong_count(&own), 1);
    }

    #[test]
    fn a_refused_name_changes_nothing() {
        let mut store = store();
        for name in ["first", "demo", ""] {
            assert!(store.install(adapter(name, "2"), false).is_err(), "{name}");
        }
        assert_eq!(version(&store, "first"), "first@1");
        assert_eq!(store.infos().len(), 1);
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_there_are() {
        let message = store().unload("nobody").unwrap_err().to_string();
        assert_eq!(message, "the adapter `nobody` does not exist; available: first");
    }
}
