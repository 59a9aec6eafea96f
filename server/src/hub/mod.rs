//! Models by their hub id: `owner/name[@revision]` becomes the folder in the cache that Python's `huggingface_hub`
//! shares, downloaded if need be. Leaves reading models to the engine.

mod cache;
mod download;
mod failure;
mod id;
mod progress;
mod selection;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hf_hub::Cache;
use rectify_engine::EngineError;

use crate::cli::ProgressMode;
use id::HubId;

/// Which files of a repository are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A model of its own.
    Model,
    /// A PEFT adapter.
    Adapter,
    /// An adapter if the repository is one, else a model.
    Either,
}

/// Where a model lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// A folder, or a GGUF file.
    pub(crate) path: PathBuf,
    /// The id it was asked for by, without its revision; `None` if that was a path.
    pub(crate) id: Option<String>,
}

/// The hub as the environment describes it.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    is_offline: bool,
    progress: ProgressMode,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the token that `hf auth login` stored, and
    /// `HF_HUB_OFFLINE`: what other programs on the machine go by, so none of it is in our configuration.
    pub(crate) fn from_env(progress: ProgressMode) -> Self {
        Self::from_variables(progress, |name| std::env::var_os(name))
    }

    fn from_variables(progress: ProgressMode, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| Some(variable(name)?.to_string_lossy().trim().to_owned());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let user_cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
        let home = path("HF_HOME").unwrap_or_else(|| user_cache.unwrap_or_default().join("huggingface"));
        let stored_token = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
        };
        let token = text("HF_TOKEN").or_else(stored_token).filter(|token| !token.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let is_true = |value: String| matches!(&*value.to_lowercase(), "1" | "on" | "yes" | "true");
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: Cache::new(path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"))),
            token,
            is_offline: text("HF_HUB_OFFLINE").is_some_and(is_true),
            progress,
        }
    }

    /// A path as it is; an id, if nothing lies at that path, as a folder of the cache with all its files.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the id and what would be right.
    pub(crate) fn locate(&self, path: &Path, wanted: Wanted) -> Result<Located, EngineError> {
        let id = path.to_str().filter(|_| !path.exists()).and_then(HubId::parse);
        let Some(id) = id else { return Ok(Located { path: path.to_owned(), id: None }) };
        let folder = if self.is_offline { self.cached(&id, wanted) } else { self.download(&id, wanted) };
        let folder = folder.map_err(|message| EngineError::load(path, message))?;
        let path =
            id.file.as_ref().map_or_else(|| selection::gguf_or_folder(&folder), |file| folder.join(file));
        Ok(Located { path, id: Some(id.repository) })
    }

    /// What is in the cache, without the network.
    fn cached(&self, id: &HubId, wanted: Wanted) -> Result<PathBuf, String> {
        let what = cache::snapshot(&self.cache, id, wanted)?;
        what.ok_or_else(|| {
            let cache = self.cache.path().display();
            format!(
                "is neither a folder here nor whole in the hub's cache at {cache}, and HF_HUB_OFFLINE forbids to download it; unset it once"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        Hub::from_variables(ProgressMode::Never, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let plain = hub(&[("HOME", "/h")]);
        assert_eq!(plain.cache.path(), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(
            (&*plain.endpoint, plain.is_offline, plain.token),
            ("https://huggingface.co", false, None)
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "stored\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let set = hub(&[home, ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "Yes")]);
        assert_eq!(set.cache.path(), &folder.path().join("hub"));
        assert_eq!(
            (&*set.endpoint, set.is_offline, set.token.as_deref()),
            ("http://mirror", true, Some("stored"))
        );
        let over = hub(&[home, ("HF_TOKEN", " mine "), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((over.cache.path().to_str(), over.token.as_deref()), (Some("/c"), Some("mine")));
        assert!(!over.is_offline);
    }

    #[test]
    fn what_lies_at_a_path_is_no_id_and_what_is_no_id_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let hub = hub(&[("HF_HOME", home), ("HF_HUB_OFFLINE", "1")]);
        for path in [folder.path(), Path::new("./no/folder"), Path::new("missing")] {
            let located = hub.locate(path, Wanted::Model).unwrap();
            assert_eq!(located, Located { path: path.to_owned(), id: None });
        }
        let error = hub.locate(Path::new("owner/name"), Wanted::Model).unwrap_err().to_string();
        assert!(
            error.starts_with("owner/name: is neither a folder here nor whole in the hub's cache"),
            "{error}"
        );
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    }
}
