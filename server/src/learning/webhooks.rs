//! Webhooks: the loop's events, posted to whoever asked for them. Events are read from the audit log, so a receiver that is
//! slow or away holds nobody up; what it misses is tried again and then left out. Leaves what is an event to the loop.

use std::time::Duration;

use rectify_feedback::store::{Event, Store};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::config::Webhook;

/// How often the audit log is read.
const POLL: Duration = Duration::from_secs(1);
/// Events of one read.
const PAGE: u32 = 100;
/// Events that wait for one receiver.
const QUEUE: usize = 256;
/// How often an event is posted, and the first pause between; it doubles.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Kinds of events that are nobody's news.
const INTERNAL: [&str; 1] = ["person_deleted"];

/// The header of a body's signature.
const SIGNATURE: &str = "x-rectify-signature";
/// The header of an event's kind.
const KIND: &str = "x-rectify-event";

/// Tells `hooks` of everything that happens from now on, until the process ends.
pub(super) async fn run(store: Store, hooks: Vec<Webhook>, client: reqwest::Client) {
    let mut queues = Vec::with_capacity(hooks.len());
    for hook in hooks {
        let (queue, events) = mpsc::channel(QUEUE);
        tokio::spawn(deliver(hook.clone(), events, client.clone()));
        queues.push((hook, queue));
    }
    let mut last = None;
    loop {
        match news(&store, last).await {
            Ok((events, seq)) => {
                last = Some(seq);
                for event in events.iter().filter(|event| !INTERNAL.contains(&event.kind.as_str())) {
                    for (_, queue) in queues.iter().filter(|(hook, _)| wants(hook, event)) {
                        if queue.try_send(event.clone()).is_err() {
                            dropped("queue_full");
                        }
                    }
                }
                if events.len() == PAGE as usize {
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, "the audit log cannot be read for the webhooks"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Events behind `last`; at first, none but the number of the newest.
async fn news(
    store: &Store,
    last: Option<i64>,
) -> Result<(Vec<Event>, i64), rectify_feedback::store::StoreError> {
    match last {
        Some(last) => {
            let events = store.events(last, PAGE).await?;
            let seq = events.last().map_or(last, |event| event.seq);
            Ok((events, seq))
        }
        None => Ok((Vec::new(), store.verify_events().await?)),
    }
}

fn wants(hook: &Webhook, event: &Event) -> bool {
    hook.events.is_empty() || hook.events.contains(&event.kind)
}

fn dropped(why: &'static str) {
    metrics::counter!("rectify_webhooks_dropped_total", "reason" => why).increment(1);
}

/// Posts one receiver's events in order.
async fn deliver(hook: Webhook, mut events: mpsc::Receiver<Event>, client: reqwest::Client) {
    while let Some(event) = events.recv().await {
        let Ok(body) = serde_json::to_vec(&event) else { continue };
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            let mut request = client
                .post(&hook.url)
                .timeout(PATIENCE)
                .header("content-type", "application/json")
                .header(KIND, event.kind.as_str())
                .body(body.clone());
            if let Some(signature) = hook.secret.as_ref().map(|secret| sign(secret, &body)) {
                request = request.header(SIGNATURE, signature);
            }
            let error = match request.send().await.and_then(reqwest::Response::error_for_status) {
                Ok(_) => {
                    metrics::counter!("rectify_webhooks_sent_total", "event" => event.kind.clone())
                        .increment(1);
                    break;
                }
                Err(error) => error,
            };
            if attempt == ATTEMPTS {
                tracing::warn!(url = hook.url, event = event.seq, %error, "a webhook was not delivered");
                dropped("no_answer");
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// `sha256=` and the HMAC-SHA256 of a body (RFC 2104, §2), in hex digits.
fn sign(secret: &str, body: &[u8]) -> String {
    let mut key = [0; BLOCK];
    match secret.as_bytes() {
        long if long.len() > BLOCK => key[..32].copy_from_slice(&Sha256::digest(long)),
        short => key[..short.len()].copy_from_slice(short),
    }
    let inner = Sha256::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(body).finalize();
    let outer = Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize();
    let digits: String = outer.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_signed_as_others_do() {
        // RFC 4231, test cases 2 and 6.
        let signature = sign("Jefe", b"what do ya want for nothing?");
        assert_eq!(signature, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = String::from_utf8(vec![b'k'; 100]).unwrap();
        let hashed = Sha256::digest(&long);
        assert_eq!(sign(&long, b"x").len(), "sha256=".len() + 2 * hashed.len());
    }
}
