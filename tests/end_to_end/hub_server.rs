//! As much of the hub as downloads need, over a socket: listings, files by revision, large ones behind a redirect to another
//! path, ranges, tokens; connections that break or stall on demand. Leaves what to expect to `hub`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use serde_json::json;

use crate::harness::PATIENCE;

/// The token that may read gated repositories.
pub(crate) const TOKEN: &str = "hf_secret";
/// Connections send this much at a time.
const PIECE: usize = 16 << 10;

/// A repository's files at one commit.
#[derive(Clone, Default)]
struct Repository {
    commit: String,
    files: BTreeMap<String, Bytes>,
    is_gated: bool,
}

/// What becomes of the next connections that carry a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// It is closed after so many bytes.
    BreaksAfter(usize),
    /// It stays open, and nothing comes after so many bytes.
    StallsAfter(usize),
}

#[derive(Default)]
struct Hub {
    repositories: HashMap<String, Repository>,
    /// Blobs by tag, where redirects lead.
    blobs: HashMap<String, Bytes>,
    /// By file name.
    mishaps: HashMap<String, Vec<Mishap>>,
    /// Files whose bodies were asked for, and from which byte.
    fetched: Vec<(String, usize)>,
    stalled: usize,
}

/// A hub of its own for a test.
#[derive(Clone)]
pub(crate) struct HubServer {
    pub(crate) url: String,
    hub: Arc<Mutex<Hub>>,
}

impl HubServer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, hub: Arc::default() };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// A commit of `owner/name` that holds the files of a folder and what repositories hold besides.
    pub(crate) fn publish(&self, name: &str, commit: char, folder: &str, changed: &[(&str, &str)]) {
        let mut files = BTreeMap::from([
            ("README.md".to_owned(), Bytes::from("# A model")),
            ("pytorch_model.bin".to_owned(), Bytes::from("pickles")),
        ]);
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            files.insert(
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap().into(),
            );
        }
        files.extend(changed.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned().into())));
        let commit = commit.to_string().repeat(40);
        let repository = Repository { commit, files, is_gated: name.contains("gated") };
        self.hub.lock().unwrap().repositories.insert(name.to_owned(), repository);
    }

    pub(crate) fn expect(&self, file: &str, mishaps: &[Mishap]) {
        self.hub.lock().unwrap().mishaps.insert(file.to_owned(), mishaps.to_vec());
    }

    /// Files whose bodies were asked for since the last call, and from which byte.
    pub(crate) fn fetched(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.hub.lock().unwrap().fetched)
    }

    pub(crate) async fn wait_for_a_stall(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.hub.lock().unwrap().stalled == 0 {
            assert!(Instant::now() < deadline, "no connection stalls");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn status(status: StatusCode) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

async fn answer(State(server): State<HubServer>, request: Request) -> Response<Body> {
    assert_eq!(request.method(), Method::GET);
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["api", "models", owner, name, "revision", revision] => {
            server.list(&format!("{owner}/{name}"), revision)
        }
        ["cdn", tag, file] => server.blob(tag, file, request.headers()),
        [owner, name, "resolve", revision, file] => {
            server.resolve(&format!("{owner}/{name}"), revision, file, request.headers())
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

impl HubServer {
    fn find(&self, name: &str, revision: &str) -> Option<Repository> {
        let repository = self.hub.lock().unwrap().repositories.get(name).cloned()?;
        (revision == "main" || revision == repository.commit).then_some(repository)
    }

    fn list(&self, name: &str, revision: &str) -> Response<Body> {
        let Some(repository) = self.find(name, revision) else { return status(StatusCode::NOT_FOUND) };
        let files: Vec<_> = repository.files.keys().map(|file| json!({"rfilename": file})).collect();
        let body = json!({"id": name, "sha": repository.commit, "siblings": files});
        Response::builder().header("content-type", "application/json").body(body.to_string().into()).unwrap()
    }

    fn resolve(&self, name: &str, revision: &str, file: &str, headers: &HeaderMap) -> Response<Body> {
        let Some(repository) = self.find(name, revision) else { return status(StatusCode::NOT_FOUND) };
        let token = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
        if repository.is_gated && token != Some(&format!("Bearer {TOKEN}")) {
            return status(StatusCode::UNAUTHORIZED);
        }
        let Some(bytes) = repository.files.get(file) else { return status(StatusCode::NOT_FOUND) };
        let tag = tag(bytes);
        if !file.ends_with(".safetensors") {
            let mut answer = self.part(file, bytes, headers);
            answer.headers_mut().insert(header::ETAG, format!("\"{tag}\"").parse().unwrap());
            answer.headers_mut().insert("x-repo-commit", repository.commit.parse().unwrap());
            return answer;
        }
        self.hub.lock().unwrap().blobs.insert(tag.clone(), bytes.clone());
        Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, format!("{}/cdn/{tag}/{file}", self.url))
            .header(header::ETAG, "\"of the pointer\"")
            .header("x-linked-etag", format!("\"{tag}\""))
            .header("x-repo-commit", repository.commit)
            .body(Body::empty())
            .unwrap()
    }

    fn blob(&self, tag: &str, file: &str, headers: &HeaderMap) -> Response<Body> {
        let bytes = self.hub.lock().unwrap().blobs.get(tag).cloned();
        bytes.map_or_else(|| status(StatusCode::NOT_FOUND), |bytes| self.part(file, &bytes, headers))
    }

    /// The asked range of a file. One byte is how clients ask for its size.
    fn part(&self, file: &str, bytes: &Bytes, headers: &HeaderMap) -> Response<Body> {
        let range = headers.get(header::RANGE).map_or("bytes=0-", |range| range.to_str().unwrap());
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(bytes.len(), |last: usize| last + 1).min(bytes.len());
        if start >= end {
            return status(StatusCode::RANGE_NOT_SATISFIABLE);
        }
        let asks_size = (start, end) == (0, 1);
        let body = if asks_size {
            Body::from(bytes.slice(..1))
        } else {
            self.body(file, start, bytes.slice(start..end))
        };
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, bytes.len()))
            .header(header::CONTENT_LENGTH, end - start)
            .body(body)
            .unwrap()
    }

    fn body(&self, file: &str, start: usize, bytes: Bytes) -> Body {
        let mut hub = self.hub.lock().unwrap();
        hub.fetched.push((file.to_owned(), start));
        let mishaps = hub.mishaps.get_mut(file).filter(|mishaps| !mishaps.is_empty());
        let Some(mishap) = mishaps.map(|mishaps| mishaps.remove(0)) else { return Body::from(bytes) };
        let (Mishap::BreaksAfter(sent) | Mishap::StallsAfter(sent)) = mishap;
        let server = self.clone();
        Body::from_stream(async_pieces(bytes.slice(..sent), move || async move {
            if mishap == Mishap::StallsAfter(sent) {
                server.hub.lock().unwrap().stalled += 1;
                std::future::pending::<()>().await;
            }
        }))
    }
}

/// The bytes in pieces, then what `end` does, then an error that closes the connection.
fn async_pieces<F: Future<Output = ()> + Send + 'static>(
    bytes: Bytes,
    end: impl FnOnce() -> F + Send + 'static,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let pieces: Vec<Bytes> = bytes.chunks(PIECE).map(Bytes::copy_from_slice).collect();
    let pieces = futures::stream::iter(pieces.into_iter().map(Ok));
    futures::StreamExt::chain(
        pieces,
        futures::stream::once(async move {
            // What was sent must have left before the connection is closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            end().await;
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
        }),
    )
}

/// A name for contents, as a hash is.
fn tag(bytes: &Bytes) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish()).repeat(4)
}
