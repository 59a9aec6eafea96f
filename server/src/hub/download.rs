//! From the hub into the cache: what a repository holds, each needed file whole or not at all, and the revision's commit
//! once all of them are there. Leaves which files those are to `selection`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use indicatif::HumanBytes;

use super::failure::{Doing, describe, is_unreachable};
use super::id::HubId;
use super::progress::{FileProgress, say};
use super::selection::{SHARD_INDEX, select, shards};
use super::{Hub, Wanted, cache};

/// A hub that does not answer must not keep a server from starting on what it has.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts at a file; between them the wait doubles.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Between looks at a file that another process is downloading.
const LOCK_WAIT: Duration = Duration::from_secs(1);

impl Hub {
    /// The folder with every needed file of the revision's present commit; of the commit in the cache, if the hub cannot
    /// be reached and that one is whole.
    pub(super) fn download(&self, id: &HubId, wanted: Wanted) -> Result<PathBuf, String> {
        let describe = |error: &ApiError| describe(self, id, Doing::Listing, error);
        let api = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("rectify", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| describe(&error))?;
        let info = match list(&api, id) {
            Ok(info) => info,
            Err(error) if is_unreachable(&error) => {
                let Some(folder) = cache::snapshot(&self.cache, id, wanted)? else {
                    return Err(describe(&error));
                };
                say(&format!(
                    "{}: {} cannot be reached, so what is in the cache is taken",
                    id.repository, self.endpoint
                ));
                return Ok(folder);
            }
            Err(error) => return Err(describe(&error)),
        };
        let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let selection = select(&names, wanted, id.file.as_deref())?;
        if !info.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) || info.sha.is_empty() {
            // It becomes the name of a folder.
            return Err(describe(&ApiError::InvalidHeader("sha")));
        }
        // By its commit, so that all files are of one, and the branch's entry in the cache moves when they are there.
        let pinned = id.at(&info.sha);
        let fetch = Fetch {
            hub: self,
            id,
            cache: &self.cache,
            api: &api,
            repo: api.repo(pinned.clone()),
            commit: &info.sha,
        };
        let mut files = selection.files;
        let mut fetched = fetch.files(&files)?;
        let folder = fetch.folder();
        if selection.is_sharded {
            files = shards(&folder.join(SHARD_INDEX))?;
            fetched += fetch.files(&files)?;
        }
        let note = |error: std::io::Error| describe(&ApiError::IoError(error));
        // The download noted the commit under its own name, which says nothing.
        let own = self.cache.path().join(pinned.folder_name()).join("refs").join(&info.sha);
        let _ = std::fs::remove_file(own);
        if !id.is_commit() {
            self.cache.repo(id.at(&id.revision)).create_ref(&info.sha).map_err(note)?;
        }
        if fetched > 0 {
            say(&format!("{}: downloaded {} to {}", id.repository, HumanBytes(fetched), folder.display()));
        }
        Ok(folder)
    }
}

fn list(api: &Api, id: &HubId) -> Result<RepoInfo, ApiError> {
    let request = api.repo(id.at(&id.revision)).info_request();
    let request = request.config().timeout_connect(Some(CONNECT_TIMEOUT)).build();
    let mut answer = request.call().map_err(Box::new)?;
    Ok(answer.body_mut().read_json().map_err(Box::new)?)
}

/// One commit on its way into the cache.
struct Fetch<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    cache: &'a Cache,
    api: &'a Api,
    repo: ApiRepo,
    commit: &'a str,
}

impl Fetch<'_> {
    fn folder(&self) -> PathBuf {
        self.cache.repo(self.id.at(self.commit)).pointer_path(self.commit)
    }

    /// Fetches what is not there yet; says how many bytes that were.
    fn files(&self, names: &[String]) -> Result<u64, String> {
        let mut bytes = 0;
        for name in names {
            bytes += self.file(name).map_err(|error| match error {
                Trouble::Api(error) => describe(self.hub, self.id, Doing::Fetching(name), &error),
                Trouble::Other(sentence) => sentence,
            })?;
        }
        Ok(bytes)
    }

    fn file(&self, name: &str) -> Result<u64, Trouble> {
        let pointer = self.folder().join(name);
        let (mut attempt, mut wait, mut waits) = (1, FIRST_WAIT, false);
        loop {
            // Also after another process had it in hand.
            if pointer.exists() {
                return Ok(0);
            }
            match self.attempt(name, &pointer) {
                Ok(bytes) => return Ok(bytes),
                Err(Trouble::Api(ApiError::LockAcquisition(_))) => {
                    if !std::mem::replace(&mut waits, true) {
                        say(&format!(
                            "{}: another process is downloading {name}; waiting for it",
                            self.id.repository
                        ));
                    }
                    std::thread::sleep(LOCK_WAIT);
                }
                Err(Trouble::Api(error)) if attempt < ATTEMPTS && is_unreachable(&error) => {
                    say(&format!("{}: {name} broke off ({error}); going on from there", self.id.repository));
                    std::thread::sleep(wait);
                    (attempt, wait) = (attempt + 1, wait * 2);
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn attempt(&self, name: &str, pointer: &Path) -> Result<u64, Trouble> {
        let metadata = self.api.metadata(&self.repo.url(name))?;
        if metadata.commit_hash() != self.commit {
            return Err(Trouble::Other(format!("changed while {name} was being downloaded; start again")));
        }
        let (blob, size) = (self.blob(&metadata)?, metadata.size() as u64);
        let part = blob.with_extension("part");
        // What an earlier run left: the whole file but for its name, or more than there should be.
        match size_of(&part) {
            Some(left) if left == size => std::fs::rename(&part, &blob)?,
            Some(left) if left > size => std::fs::remove_file(&part)?,
            _ => {}
        }
        if size_of(&blob) == Some(size) {
            // The same contents under another commit or name.
            link(&blob, pointer)?;
            return Ok(0);
        }
        let mut progress = FileProgress::new(self.hub.progress, name, size);
        self.repo.download_with_progress(name, &mut progress)?;
        match size_of(pointer) {
            Some(found) if found == size => Ok(size),
            found => {
                std::fs::remove_file(pointer)?;
                std::fs::remove_file(&blob)?;
                let found = found.unwrap_or_default();
                Err(Trouble::Other(format!(
                    "cannot be downloaded: {name} came with {found} bytes where {} says {size}; try again",
                    self.hub.endpoint
                )))
            }
        }
    }

    /// Where the contents lie, by their tag.
    fn blob(&self, metadata: &Metadata) -> Result<PathBuf, Trouble> {
        let tag = metadata.etag();
        if Path::new(tag).file_name() != Some(tag.as_ref()) {
            // A tag with a path in it could reach outside of the cache.
            return Err(ApiError::InvalidHeader("etag").into());
        }
        Ok(self.cache.repo(self.id.at(self.commit)).blob_path(tag))
    }
}

/// Why a file did not come.
enum Trouble {
    Api(ApiError),
    /// The end of a sentence that begins with the id.
    Other(String),
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Api(ApiError::IoError(error))
    }
}

fn size_of(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|metadata| metadata.len())
}

/// Gives a blob a name in a snapshot, as a link relative to it, so that the cache can be moved.
fn link(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    if let Some(folder) = pointer.parent() {
        std::fs::create_dir_all(folder)?;
    }
    #[cfg(unix)]
    if let Some(tag) = blob.file_name() {
        return std::os::unix::fs::symlink(Path::new("../../blobs").join(tag), pointer);
    }
    std::fs::copy(blob, pointer).map(|_| ())
}
