//! What a hub id is: `owner/name`, perhaps one GGUF file of it, perhaps a revision. Leaves finding it to its users.

use hf_hub::{Repo, RepoType};

/// `owner/name[/file.gguf][@revision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubId {
    /// `owner/name`.
    pub(super) repository: String,
    /// A GGUF file among several.
    pub(super) file: Option<String>,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
}

impl HubId {
    /// `None` if `text` is a path and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = name.split('/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next());
        let is_file = |file: &str| is_name(file) && file.to_lowercase().ends_with(".gguf");
        let is_id = parts.next().is_none()
            && is_name(owner)
            && is_name(name)
            && file.is_none_or(is_file)
            && revision.split('/').all(is_name);
        is_id.then(|| Self {
            repository: format!("{owner}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }

    /// The repository at `revision`.
    pub(super) fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repository.clone(), RepoType::Model, revision.to_owned())
    }

    /// Whether the revision is a commit, which never moves.
    pub(super) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// What the hub takes as a name: also nothing that leads out of a folder.
fn is_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('.') && !text.contains("..") && text.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        let id = |text: &str| HubId::parse(text).map(|id| (id.repository, id.file, id.revision));
        let some = |repository: &str, file: Option<&str>, revision: &str| {
            Some((repository.to_owned(), file.map(str::to_owned), revision.to_owned()))
        };
        assert_eq!(id("Qwen/Qwen2.5-0.5B"), some("Qwen/Qwen2.5-0.5B", None, "main"));
        assert_eq!(id("a/b@refs/pr/7"), some("a/b", None, "refs/pr/7"));
        assert_eq!(id("a/b-GGUF/b.Q8_0.gguf@v1"), some("a/b-GGUF", Some("b.Q8_0.gguf"), "v1"));
        for path in [
            "model", "./a/b", "/a/b", "../b", "a/../b", "a/b/c", "a/b/", "a//b", "~/a", "a b/c", "a/b@",
            "a/b@../c", "",
        ] {
            assert_eq!(id(path), None, "{path}");
        }
        assert!(HubId::parse("a/b@0123456789abcdef0123456789abcdef01234567").unwrap().is_commit());
    }
}
