//! A stand-in for engine and tokenizer: events by a script in the prompt's last message, tokens that are bytes. For the
//! tests of this crate alone.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rectify_engine::events::EventSender;
use rectify_engine::grammar::Spelling;
use rectify_engine::handle::{Command, EngineStats};
use rectify_engine::ids::RequestId;
use rectify_engine::model::adapter::{Adapter, AdapterInfo};
use rectify_engine::request::{
    Candidate, FinishReason, Logprobs, ScoreInput, Scoring, Selection, TokenLogprob, Usage,
};
use rectify_engine::text::tools::ToolFormat;
use rectify_engine::{
    AdapterRef, EngineError, EngineHandle, Event, GenerateRequest, Grammar, GrammarSpec, Grammars,
};
use tokio::sync::mpsc;

use crate::app::{App, Shared};
use crate::auth::ApiKeys;
use crate::feedback::Feedback;
use crate::policy::{AdapterOwners, Policy};
use crate::serving::ServingPointer;
use crate::text::{Chat, ChatPrompt, ChatStyle, TextModel};

/// Tokens are bytes.
pub(crate) struct ByteText;

impl TextModel for ByteText {
    fn encode_text(&self, text: &str, _: bool) -> Result<Vec<u32>, EngineError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_chat(&self, chat: &Chat) -> Result<ChatPrompt, EngineError> {
        let mut text = chat.tools.as_ref().map_or_else(String::new, |tools| format!("tools: {tools}\n"));
        for message in &chat.messages {
            let content = message["content"].as_str().unwrap_or_default();
            if content == "refused by the template" {
                return Err(EngineError::invalid("messages", "the chat template refuses the conversation"));
            }
            text.push_str(&format!("{}: {content}\n", message["role"].as_str().unwrap_or_default()));
            if message["tool_calls"].is_array() {
                text.push_str(&format!("calls: {}\n", message["tool_calls"]));
            }
        }
        if chat.add_generation_prompt {
            text.push_str("assistant: ");
        }
        let opens_reasoning = chat.variables.contains_key("think");
        Ok(ChatPrompt { tokens: self.encode_text(&text, true)?, opens_reasoning })
    }

    fn style(&self) -> ChatStyle {
        ChatStyle { tools: ToolFormat::Hermes, marks_reasoning: true }
    }

    fn special_token(&self, _: &str) -> Option<u32> {
        None
    }

    fn decode(&self, tokens: &[u32], _: bool) -> Result<String, EngineError> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.token_bytes(token)).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        u8::try_from(token).into_iter().collect()
    }

    fn grammar(&self, spec: &GrammarSpec) -> Result<Arc<Grammar>, String> {
        let bytes: Vec<u8> = (0..=255).collect();
        let spelling = |token: u32| Spelling { bytes: &bytes[token as usize..][..1], is_special: token == 0 };
        Grammars::new(256, &[0], spelling).map_err(|error| error.to_string())?.compile(spec)
    }

    fn vocab_size(&self) -> usize {
        256
    }
}

/// What the fake engine saw.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Arc<Mutex<Vec<GenerateRequest>>>,
    pub(crate) aborted: Arc<Mutex<Vec<RequestId>>>,
}

/// The longest sequence of the fake policy.
pub(crate) const MAX_MODEL_LEN: usize = 4096;
/// The reward of each candidate: the fourth is best, then the third.
pub(crate) fn reward(index: usize) -> f32 {
    0.5 - (index as f32 - 3.0).abs() - 0.25 * f32::from(u8::from(index > 3))
}

/// An app over a fake engine, which keeps nothing.
pub(crate) fn app() -> (App, Seen) {
    app_with(None)
}

/// An app over a fake engine that keeps answers and votes.
pub(crate) fn app_with(feedback: Option<Feedback>) -> (App, Seen) {
    app_for(ApiKeys::default(), feedback)
}

/// An app over a fake engine for whoever has one of the keys.
pub(crate) fn app_for(keys: ApiKeys, feedback: Option<Feedback>) -> (App, Seen) {
    app_of(keys, feedback, &[])
}

/// An app over a fake engine with a second policy.
pub(crate) fn app_of_two() -> (App, Seen) {
    app_of(ApiKeys::default(), None, &["second"])
}

fn policy(names: &[&str], engine: &EngineHandle, place: usize) -> Arc<Policy> {
    Arc::new(Policy {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        engine: engine.of(place).unwrap(),
        serving: ServingPointer::default(),
        text: Arc::new(ByteText),
        max_model_len: MAX_MODEL_LEN,
        kv_tokens: MAX_MODEL_LEN,
        generation: Default::default(),
    })
}

fn app_of(keys: ApiKeys, feedback: Option<Feedback>, others: &[&str]) -> (App, Seen) {
    let (engine, commands) =
        EngineHandle::new(Arc::new([Arc::new(read_adapter), Arc::new(read_adapter)]), Arc::default());
    let seen = Seen::default();
    tokio::spawn(run(commands, seen.clone()));
    let profile = |json: &str| serde_json::from_str(json).unwrap();
    let others = others.iter().zip(1..).map(|(name, place)| policy(&[name], &engine, place)).collect();
    let shared = Shared {
        policy: policy(&["demo", "org/demo"], &engine, 0),
        others,
        adapters: AdapterOwners::default(),
        learning: None,
        rewards: vec!["helpful".into(), "safe".into()],
        default_reward: Some("helpful".into()),
        combined_reward: None,
        profiles: [(
            "careful".to_owned(),
            profile(r#"{"n": 4, "reward": "safe", "return_candidates": true}"#),
        )]
        .into(),
        max_candidates: 64,
        max_body: 1 << 20,
        keys,
        feedback,
        created: 1_700_000_000,
        metrics: crate::telemetry::metrics(),
        draining: AtomicBool::new(false),
    };
    (App::new(shared), seen)
}

/// Reads every folder but those called `missing`.
fn read_adapter(name: &str, path: &Path) -> Result<Adapter, EngineError> {
    if path.ends_with("missing") {
        return Err(EngineError::load(path.join("adapter_config.json"), "is missing"));
    }
    Ok(adapter(name, "abc123"))
}

/// An adapter without weights.
pub(crate) fn adapter(name: &str, version: &str) -> Adapter {
    let (name, content_hash, version) = (name.into(), version.into(), version.into());
    Adapter::identity(AdapterInfo { name, version, content_hash, rank: 4, has_score_head: false })
}

async fn run(mut commands: mpsc::Receiver<Command>, seen: Seen) {
    // By policy.
    let mut loaded: [Vec<AdapterInfo>; 2] = Default::default();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Generate(_, policy, request, events) => {
                let adapters = &loaded[policy.index()];
                let (name, known) = match &request.adapter {
                    Some(AdapterRef::Named(name)) => {
                        let found = adapters.iter().find(|adapter| *adapter.name == **name);
                        (Some(name.clone()), found.cloned().map(Some))
                    }
                    Some(AdapterRef::Private(adapter)) => (None, Some(Some(adapter.info.clone()))),
                    None => (None, Some(None)),
                };
                seen.requests.lock().unwrap().push((*request).clone());
                match known {
                    Some(adapter) => drop(tokio::spawn(generate(*request, adapter, events))),
                    None => {
                        let name = name.unwrap_or_default();
                        let known = format!("available: {}", crate::names(adapters.iter().map(|a| &*a.name)));
                        let error = EngineError::NotFound { kind: "adapter", name, known };
                        let _ = events.send(Event::Failed(error));
                    }
                }
            }
            Command::Score(_, request, events) => {
                let texts = match request.input {
                    ScoreInput::Candidates { candidates, .. } => candidates,
                    ScoreInput::Texts(texts) => texts,
                };
                if texts.iter().any(|text| text == "boom") {
                    let _ = events.send(Event::Failed(EngineError::Execution("NaN".into())));
                    continue;
                }
                // The last first: the order of events is not the order of texts.
                for (index, text) in texts.iter().enumerate().rev() {
                    let _ = events.send(Event::Scored { index, reward: text.len() as f32 });
                }
                let usage = Usage { scored_tokens: 7 * texts.len(), ..Usage::default() };
                let _ = events.send(Event::Done(usage));
            }
            Command::Abort(id) => seen.aborted.lock().unwrap().push(id),
            Command::InstallAdapter { policy, adapter, replace, reply } => {
                let adapters = &mut loaded[policy.index()];
                let info = adapter.info.clone();
                let name = &info.name;
                let _ = reply.send(if !replace && adapters.iter().any(|adapter| adapter.name == *name) {
                    Err(EngineError::invalid("lora_name", format!("the adapter `{name}` is already loaded")))
                } else {
                    adapters.retain(|adapter| adapter.name != info.name);
                    adapters.push(info.clone());
                    Ok(info)
                });
            }
            Command::UnloadAdapter { policy, name, reply } => {
                let adapters = &mut loaded[policy.index()];
                let before = adapters.len();
                adapters.retain(|adapter| *adapter.name != *name);
                let known = "available: none".into();
                let missing = Err(EngineError::NotFound { kind: "adapter", name, known });
                let _ = reply.send(if adapters.len() < before { Ok(()) } else { missing });
            }
            Command::Adapters(policy, reply) => {
                let _ = reply.send(loaded[policy.index()].clone());
            }
            Command::Stats(_, reply) => {
                let stats =
                    EngineStats { total_blocks: 64, used_blocks: 3, steps: 5, ..EngineStats::default() };
                let _ = reply.send(stats);
            }
            Command::Drain(reply) => {
                let _ = reply.send(());
            }
        }
    }
}

fn logprobs(token: u32, count: Option<usize>) -> Option<Logprobs> {
    let top =
        |rank: usize| TokenLogprob { token: u32::from(b'a') + rank as u32, logprob: -0.1 - rank as f32 };
    count.map(|count| Logprobs {
        own: TokenLogprob { token, logprob: -1.5 },
        top: (0..count).map(top).collect(),
    })
}

/// What candidate `index` says.
pub(crate) fn text_of(index: usize) -> String {
    format!("answer {index}")
}

async fn generate(request: GenerateRequest, adapter: Option<AdapterInfo>, events: EventSender) {
    let script = request.messages.last().map_or("", |message| message.content.as_str()).to_owned();
    let send = |event: Event| {
        let is_heard = events.send(event).is_ok();
        events.ring();
        is_heard
    };
    let refusal = match script.as_str() {
        "overload" => Some(EngineError::Overloaded { waiting: 1024 }),
        "long" => {
            Some(EngineError::ContextLength { prompt_len: 9000, max_tokens: 1, max_model_len: MAX_MODEL_LEN })
        }
        "stopping" => Some(EngineError::Shutdown),
        _ => None,
    };
    if let Some(error) = refusal {
        send(Event::Failed(error));
        return;
    }
    let prompt_logprobs = request
        .sampling
        .prompt_logprobs
        .map(|count| request.prompt[1..].iter().filter_map(|&token| logprobs(token, Some(count))).collect());
    let policy_version =
        adapter.map_or("demo@base".into(), |info| format!("{}@{}", info.name, info.version).into());
    send(Event::Prefilled { cached_tokens: 2, prompt_logprobs, policy_version });
    let n = request.alignment.as_ref().map_or(request.num_choices, |alignment| alignment.n);
    if script == "slow" {
        let text = "tick ".to_owned();
        while send(Event::Token { index: 0, token: 32, text: text.clone(), logprobs: None }) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        return;
    }
    let mut candidates = Vec::new();
    let mut completion_tokens = 0;
    for index in 0..n {
        let text = script.strip_prefix("say: ").map_or_else(|| text_of(index), str::to_owned);
        let most = request.sampling.max_tokens;
        let said: String = text.chars().take(most).collect();
        for byte in said.bytes() {
            let token = u32::from(byte);
            let logprobs = logprobs(token, request.sampling.logprobs);
            send(Event::Token { index, token, text: char::from(byte).into(), logprobs });
            if script == "boom" {
                send(Event::Failed(EngineError::Execution("NaN in layer 3".into())));
                return;
            }
        }
        completion_tokens += said.len();
        let reason = if said.len() < text.len() { FinishReason::Length } else { FinishReason::Stop };
        if most > 0 {
            send(Event::Finished { index, reason, text: String::new() });
        }
        let has_reward = script != "scorer fails" && request.alignment.is_some();
        if has_reward {
            send(Event::Scored { index, reward: reward(index) });
        }
        candidates.push(Candidate {
            tokens: said.bytes().map(u32::from).collect(),
            text: said,
            reward: has_reward.then(|| reward(index)),
            rewards: vec![has_reward.then(|| reward(index))],
            logprob: -1.5,
            finish_reason: Some(reason),
        });
    }
    let mut rejected_tokens = 0;
    if let Some(alignment) = &request.alignment {
        let mut order: Vec<usize> = (0..n).collect();
        let scoring = if script == "scorer fails" {
            Scoring::Failed("the reward model returned NaN".into())
        } else {
            order.sort_by(|&a, &b| reward(b).total_cmp(&reward(a)));
            Scoring::Ok
        };
        order.truncate(request.num_choices);
        let kept: usize = order.iter().map(|&index| candidates[index].tokens.len()).sum();
        rejected_tokens = completion_tokens - kept;
        let reward_model: Arc<str> = alignment.reward.models.join("+").into();
        let selection = Selection {
            strategy: alignment.name(),
            max_candidates: alignment.n,
            selected: order,
            scoring,
            candidates,
            judges: vec![Arc::clone(&reward_model)],
            reward_model,
            num_tokens: completion_tokens,
            num_pruned_tokens: 0,
            num_blocks: 0,
        };
        send(Event::Selected(selection));
    }
    let usage = Usage {
        prompt_tokens: request.prompt.len(),
        cached_tokens: 2,
        completion_tokens,
        rejected_tokens,
        scored_tokens: 0,
    };
    send(Event::Done(usage));
}
