//! API keys: which requests may pass. Leaves where keys come from to the configuration, and which paths ask for one to the
//! router.

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// The keys of a server; with none of them everybody may pass.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl ApiKeys {
    /// Keeps digests alone: the keys themselves are in no later memory, log or dump.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self(keys.into_iter().map(|key| digest(key.as_ref())).collect())
    }

    /// Whether everybody may pass.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes a request with `Authorization: Bearer KEY`, as OpenAI's clients send it.
    ///
    /// # Errors
    /// 401 that says whether the key is missing or wrong.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.is_empty() {
            return Ok(());
        }
        let refuse = |message| Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"));
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, key)) = value.and_then(|value| value.split_once(' ')) else {
            return refuse("an API key is missing: send one as the header `Authorization: Bearer KEY`");
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return refuse("the header `Authorization` must be `Bearer KEY`");
        }
        // All keys and all bytes, always: time says neither which key was near nor how near.
        let given = digest(key.trim());
        let differs = |known: &[u8; 32]| known.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) != 0;
        if self.0.iter().filter(|known| !differs(known)).count() == 0 {
            return refuse("the API key is none of this server's");
        }
        Ok(())
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_server_passes_and_nothing_else() {
        let keys = ApiKeys::new(["sk-one", "sk-two"]);
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (header::AUTHORIZATION, value.parse().unwrap())));
            keys.check(&headers).map_err(|error| (error.status.as_u16(), error.message))
        };
        for good in ["Bearer sk-one", "bearer sk-two", "Bearer  sk-one "] {
            assert_eq!(check(Some(good)), Ok(()), "{good}");
        }
        for (bad, words) in [
            (None, "is missing"),
            (Some("sk-one"), "is missing"),
            (Some("Basic sk-one"), "must be `Bearer KEY`"),
            (Some("Bearer sk-on"), "none of this server's"),
            (Some("Bearer "), "none of this server's"),
            (Some("Bearer sk-onesk-two"), "none of this server's"),
        ] {
            let (status, message) = check(bad).unwrap_err();
            assert!(status == 401 && message.contains(words), "{bad:?}: {message}");
            assert!(!message.contains("sk-"), "{message}");
        }
        assert_eq!(ApiKeys::default().check(&HeaderMap::new()), Ok(()));
        assert_eq!(format!("{keys:?}"), "2 keys");
    }
}
