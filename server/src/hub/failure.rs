//! Why the hub did not give what was asked, as the end of a sentence that begins with the id, and whether asking again may
//! help. Leaves asking to `download`.

use std::io::ErrorKind;

use hf_hub::api::sync::ApiError;

use super::Hub;
use super::id::HubId;

/// What was being done when it failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doing<'a> {
    /// Asking what the repository holds.
    Listing,
    /// Fetching a file of it.
    Fetching(&'a str),
}

/// The hub's answer that it is not there, or not for us.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// The system's error under a failed read or write.
fn system(error: &ApiError) -> Option<&std::io::Error> {
    match error {
        ApiError::IoError(error) => Some(error),
        ApiError::RequestError(error) => match &**error {
            ureq::Error::Io(error) => Some(error),
            _ => None,
        },
        _ => None,
    }
}

/// Trouble of the disk, which the network has no part in.
fn is_disk(kind: ErrorKind) -> bool {
    use ErrorKind::{
        FileTooLarge, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    matches!(
        kind,
        StorageFull
            | QuotaExceeded
            | PermissionDenied
            | ReadOnlyFilesystem
            | FileTooLarge
            | NotFound
            | NotADirectory
    )
}

/// Whether the connection failed, not the request: what is in the cache may do instead.
pub(super) fn is_unreachable(error: &ApiError) -> bool {
    match (status(error), system(error)) {
        (Some(status), _) => status == 429 || status >= 500,
        (None, Some(error)) => !is_disk(error.kind()),
        (None, None) => matches!(error, ApiError::RequestError(_)),
    }
}

/// The end of a sentence that begins with the id.
pub(super) fn describe(hub: &Hub, id: &HubId, doing: Doing<'_>, error: &ApiError) -> String {
    let (endpoint, repository) = (&hub.endpoint, &id.repository);
    let token = match &hub.token {
        Some(_) => "give HF_TOKEN a token that may read it",
        None => "set HF_TOKEN to a token that may read it",
    };
    match (status(error), doing) {
        (Some(401 | 403 | 404), Doing::Listing) => {
            let revision = &id.revision;
            format!(
                "is neither a folder here nor a repository with a revision `{revision}` that {endpoint} shows us; check the name, or, if it is private, {token}"
            )
        }
        (Some(401 | 403), Doing::Fetching(file)) => format!(
            "is gated: {endpoint} does not give {file} to everybody; accept its terms on {endpoint}/{repository} and {token}"
        ),
        (Some(404), Doing::Fetching(file)) => {
            format!(
                "lists {file}, but {endpoint} does not have it; try again, the repository may have changed"
            )
        }
        (Some(status), _) => {
            format!("cannot be downloaded: {endpoint} answered with status {status}; try again later")
        }
        (None, _) => match system(error) {
            Some(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                format!(
                    "cannot be downloaded: there is no room left under {}; free some, or set HF_HOME to a folder on another disk",
                    hub.cache.path().display()
                )
            }
            Some(error) if is_disk(error.kind()) => format!(
                "cannot be downloaded: the cache {} cannot be written: {error}; set HF_HOME to a folder of yours",
                hub.cache.path().display()
            ),
            _ => format!(
                "cannot be downloaded from {endpoint}: {}; check the connection, HF_ENDPOINT and the proxy",
                cause(error)
            ),
        },
    }
}

fn cause(error: &ApiError) -> String {
    match error {
        ApiError::RequestError(error) => error.to_string(),
        ApiError::IoError(error) => error.to_string(),
        other => format!("its answer is not the hub's ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::ProgressMode;

    fn hub(token: Option<&str>) -> Hub {
        Hub {
            endpoint: "http://hub".into(),
            cache: hf_hub::Cache::new("/cache".into()),
            token: token.map(str::to_owned),
            is_offline: false,
            progress: ProgressMode::Never,
        }
    }

    #[test]
    fn every_refusal_names_what_would_be_right() {
        let id = HubId::parse("a/b@v2").unwrap();
        let answer = |status| ApiError::RequestError(Box::new(ureq::Error::StatusCode(status)));
        let full = ApiError::IoError(io::Error::from(ErrorKind::StorageFull));
        let denied = ApiError::IoError(io::Error::from(ErrorKind::PermissionDenied));
        let lost = ApiError::RequestError(Box::new(ureq::Error::HostNotFound));
        let foreign = ApiError::MissingHeader("etag");
        let fetching = Doing::Fetching("model.safetensors");
        for (doing, error, words, again) in [
            (
                Doing::Listing,
                answer(404),
                &["revision `v2`", "http://hub", "check the name", "HF_TOKEN"][..],
                false,
            ),
            (Doing::Listing, answer(401), &["check the name", "set HF_TOKEN"], false),
            (fetching, answer(403), &["gated", "http://hub/a/b", "HF_TOKEN"], false),
            (fetching, answer(404), &["lists model.safetensors"], false),
            (fetching, answer(503), &["status 503", "later"], true),
            (fetching, full, &["no room left under /cache", "HF_HOME"], false),
            (fetching, denied, &["cannot be written", "HF_HOME"], false),
            (Doing::Listing, lost, &["from http://hub: host not found", "check the connection"], true),
            (Doing::Listing, foreign, &["its answer is not the hub's"], false),
        ] {
            let sentence = describe(&hub(None), &id, doing, &error);
            assert!(words.iter().all(|word| sentence.contains(word)), "{sentence}");
            assert!(!sentence.contains('\n'), "{sentence}");
            assert_eq!(is_unreachable(&error), again, "{sentence}");
        }
        let sentence = describe(&hub(Some("t")), &id, fetching, &answer(401));
        assert!(sentence.contains("give HF_TOKEN a token"), "{sentence}");
    }
}
