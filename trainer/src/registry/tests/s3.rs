//! As much of S3 as the registry speaks, over a socket: reading, writing where nothing is, listing. Leaves signatures alone.
//! For the registry's tests, and for those from end to end, which compile this file, too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The only bucket.
pub(super) const BUCKET: &str = "models";
const ABOUT: &str = "ETag: \"1\"\r\nLast-Modified: Fri, 20 Nov 2026 12:00:00 GMT\r\n";

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The address of a server that lives as long as the test's runtime.
pub(super) async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let objects = Objects::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, Arc::clone(&objects)));
        }
    });
    endpoint
}

/// Answers the requests of one connection.
async fn connection(stream: TcpStream, objects: Objects) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (mut length, mut only_new) = (0, false);
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await?;
            let header = header.trim().to_lowercase();
            if header.is_empty() {
                break;
            }
            length = header.strip_prefix("content-length: ").map_or(length, |value| value.parse().unwrap());
            only_new |= header == "if-none-match: *";
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let (status, answer) = answer(&method, &target, only_new, body, &objects);
        let head = format!("HTTP/1.1 {status}\r\n{ABOUT}Content-Length: {}\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&answer).await?;
    }
}

fn answer(
    method: &str,
    target: &str,
    only_new: bool,
    body: Vec<u8>,
    objects: &Objects,
) -> (&'static str, Vec<u8>) {
    let mut objects = objects.lock().unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.trim_start_matches('/').strip_prefix(BUCKET).unwrap().trim_start_matches('/').to_owned();
    match method {
        "PUT" if only_new && objects.contains_key(&key) => ("412 Precondition Failed", Vec::new()),
        "PUT" => {
            objects.insert(key, body);
            ("200 OK", Vec::new())
        }
        "GET" if key.is_empty() => ("200 OK", list(query, &objects).into_bytes()),
        "GET" => match objects.get(&key) {
            Some(bytes) => ("200 OK", bytes.clone()),
            None => ("404 Not Found", Vec::new()),
        },
        other => panic!("{other} {target} is not spoken here"),
    }
}

fn list(query: &str, objects: &BTreeMap<String, Vec<u8>>) -> String {
    let find = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().replace("%2F", "/")
    };
    let (prefix, is_flat) = (find("prefix"), find("delimiter").is_empty());
    let (mut keys, mut folders) = (String::new(), std::collections::BTreeSet::new());
    for (key, bytes) in objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        match key[prefix.len()..].split_once('/') {
            Some((folder, _)) if !is_flat => _ = folders.insert(format!("{prefix}{folder}/")),
            _ => {
                keys += &format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-20T12:00:00.000Z</LastModified><ETag>1</ETag><Size>{}</Size></Contents>",
                    bytes.len()
                );
            }
        }
    }
    let folders: String = folders
        .iter()
        .map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"))
        .collect();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{keys}{folders}</ListBucketResult>")
}
