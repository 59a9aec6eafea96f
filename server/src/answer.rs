//! The progress of one request's generation: engine events in, pieces of choices out, the same for streams and whole
//! answers, with and without best-of-N. Leaves their JSON to the routes.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use rectify_engine::handle::EventStream;
use rectify_engine::request::{Candidate, FinishReason, Logprobs, Scoring, Selection, Usage as EngineUsage};
use rectify_engine::{EngineError, Event, GenerateRequest};

use crate::api::Usage;
use crate::api::alignment::AlignmentReport;
use crate::app::{App, Target};
use crate::error::ApiError;
use crate::recorder::{About, Recorder, Recording};
use crate::serving::Arm;

/// What is to be generated for one HTTP request.
#[derive(Debug)]
pub struct Plan {
    /// What `model` meant.
    pub target: Target,
    /// One for each prompt, all with the same number of choices.
    pub requests: Vec<GenerateRequest>,
    /// Report every candidate.
    pub return_candidates: bool,
    /// Return this many of each prompt's choices, those with the highest logprob per token (OpenAI's `best_of`). The
    /// requests must ask for logprobs.
    pub most_likely: Option<usize>,
    /// For the records of the answer.
    pub about: About,
}

/// News of a choice. Choices are numbered through all prompts.
#[derive(Debug)]
pub enum Piece {
    /// A choice begins.
    Start {
        /// Which.
        choice: usize,
        /// Logprobs of its prompt's tokens from the second on, if asked for.
        prompt_logprobs: Option<Arc<[Logprobs]>>,
    },
    /// Text was added.
    Text {
        /// To which choice.
        choice: usize,
        /// The text.
        text: String,
        /// Logprobs of its tokens, if asked for.
        logprobs: Vec<Logprobs>,
    },
    /// A choice is complete.
    End {
        /// Which.
        choice: usize,
        /// Why.
        reason: FinishReason,
        /// With best-of-N: its reward, if it has one.
        reward: Option<Option<f32>>,
        /// With best-of-N, in the last choice's end: what happened.
        alignment: Option<Box<AlignmentReport>>,
    },
    /// Best-of-N is not decided yet.
    Progress {
        /// Candidates finished and scored.
        done: usize,
        /// Of all.
        of: usize,
    },
    /// All choices are complete.
    Done(Usage),
}

/// A running generation. Dropping it cancels what has not ended.
pub struct Answer {
    events: Events,
    prompts: Vec<Prompt>,
    num_choices: usize,
    return_candidates: bool,
    queue: VecDeque<Piece>,
    running: usize,
    usage: EngineUsage,
    /// None where nothing is kept.
    recording: Option<Recording>,
}

enum Events {
    One(EventStream),
    Many(SelectAll<BoxStream<'static, (usize, Event)>>),
}

/// One prompt's state.
struct Prompt {
    policy_version: Arc<str>,
    /// With best-of-N: each candidate's logprobs, kept until it is selected.
    candidates: Option<Vec<Vec<Logprobs>>>,
    ended: Vec<bool>,
    /// Candidates that need no more waiting for.
    num_done: usize,
    /// The answer is sent block by block, and has begun.
    is_streaming: bool,
    prompt_logprobs: Option<Arc<[Logprobs]>>,
    /// Where the most likely are returned: each candidate so far.
    drafts: Option<Vec<Candidate>>,
}

impl Answer {
    /// Starts all requests and waits until the engine has accepted each (its prompt is computed), so that refusals
    /// still become a status.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn start(app: &App, plan: Plan) -> Result<Self, ApiError> {
        let Plan { target, requests, return_candidates, most_likely, about } = plan;
        let arm = target.served.arm.map(Arm::as_str);
        let recording = app.feedback.as_ref().map(|feedback| Recording {
            recorder: Recorder::new(&about, arm, &requests),
            writer: feedback.writer.clone(),
        });
        let sampled = requests.first().map_or(1, |request| request.num_choices);
        let num_choices = most_likely.unwrap_or(sampled);
        let mut streams = Vec::with_capacity(requests.len());
        let mut prompts = Vec::with_capacity(requests.len());
        for request in requests {
            let aligned = request.alignment.as_ref().map(|alignment| alignment.n);
            let kept = aligned.or(most_likely.map(|_| sampled));
            prompts.push(Prompt {
                policy_version: "".into(),
                candidates: kept.map(|n| vec![Vec::new(); n]),
                ended: vec![false; kept.unwrap_or(num_choices)],
                num_done: 0,
                is_streaming: false,
                prompt_logprobs: None,
                drafts: most_likely.map(|_| (0..sampled).map(|_| blank()).collect()),
            });
            let stream = target.policy.engine.generate(request).await;
            streams.push(stream.map_err(|error| app.explain(error, &target))?);
        }
        let mut answer = Self {
            num_choices,
            return_candidates,
            queue: VecDeque::new(),
            running: streams.len(),
            usage: EngineUsage::default(),
            prompts,
            events: Events::Many(SelectAll::new()),
            recording,
        };
        for (index, stream) in streams.iter_mut().enumerate() {
            let first = stream.next().await.unwrap_or(Event::Failed(EngineError::Shutdown));
            match first {
                Event::Failed(error) => return Err(app.explain(error, &target)),
                event => answer.apply(index, event)?,
            }
        }
        answer.events = Events::new(streams);
        Ok(answer)
    }

    /// The version that answers (of the first prompt; all prompts of a request start together).
    pub fn policy_version(&self) -> Arc<str> {
        self.prompts.first().map_or_else(|| "".into(), |prompt| Arc::clone(&prompt.policy_version))
    }

    /// The next piece; `None` after [`Piece::Done`] or an error.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if let Some(piece) = self.queue.pop_front() {
                return Some(Ok(piece));
            }
            if self.running == 0 {
                return None;
            }
            let (prompt, event) =
                self.events.next().await.unwrap_or((0, Event::Failed(EngineError::Shutdown)));
            if let Err(error) = self.apply(prompt, event) {
                self.running = 0;
                self.queue.clear();
                return Some(Err(error));
            }
        }
    }

    fn apply(&mut self, prompt: usize, event: Event) -> Result<(), ApiError> {
        let event = match event {
            Event::Done(usage) => Event::Done(self.rank(prompt, usage)),
            event => event,
        };
        if let Some(recording) = &mut self.recording {
            recording.observe(prompt, &event);
        }
        let Some(state) = self.prompts.get_mut(prompt) else { return Ok(()) };
        let choice = |index: usize| prompt * self.num_choices + index;
        match event {
            Event::Prefilled { prompt_logprobs, policy_version, .. } => {
                state.policy_version = policy_version;
                state.prompt_logprobs = prompt_logprobs.map(Into::into);
                if state.candidates.is_none() {
                    for index in 0..self.num_choices {
                        let prompt_logprobs = state.prompt_logprobs.clone();
                        self.queue.push_back(Piece::Start { choice: choice(index), prompt_logprobs });
                    }
                }
            }
            Event::Token { index, token, text, logprobs } => {
                state.draft(index, |draft| {
                    draft.text.push_str(&text);
                    draft.tokens.push(token);
                    draft.logprob +=
                        logprobs.as_ref().map_or(0.0, |logprobs| f64::from(logprobs.own.logprob));
                });
                if let Some(candidates) = &mut state.candidates {
                    if let (Some(kept), Some(logprobs)) = (candidates.get_mut(index), logprobs) {
                        kept.push(logprobs);
                    }
                } else if !text.is_empty() || logprobs.is_some() {
                    let logprobs = logprobs.into_iter().collect();
                    self.queue.push_back(Piece::Text { choice: choice(index), text, logprobs });
                }
            }
            Event::Finished { index, reason, text } => {
                state.draft(index, |draft| {
                    draft.text.push_str(&text);
                    draft.finish_reason = Some(reason);
                });
                if state.candidates.is_none() {
                    if let Some(ended) = state.ended.get_mut(index) {
                        *ended = true;
                    }
                    if !text.is_empty() {
                        self.queue.push_back(Piece::Text {
                            choice: choice(index),
                            text,
                            logprobs: Vec::new(),
                        });
                    }
                    self.queue.push_back(Piece::End {
                        choice: choice(index),
                        reason,
                        reward: None,
                        alignment: None,
                    });
                }
            }
            Event::Scored { .. } | Event::Dropped { .. } => {
                state.num_done += 1;
                let of = state.ended.len();
                self.queue.push_back(Piece::Progress { done: state.num_done.min(of), of });
            }
            Event::Block { index, text } => self.grow(prompt, index, text),
            Event::Selected(selection) => self.select(prompt, &selection),
            Event::Done(usage) => self.finish(prompt, usage),
            Event::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The answer grows by a block, which all candidates go on from.
    fn grow(&mut self, prompt: usize, index: usize, text: String) {
        let choice = prompt * self.num_choices;
        let state = &mut self.prompts[prompt];
        if !std::mem::replace(&mut state.is_streaming, true) {
            self.queue.push_back(Piece::Start { choice, prompt_logprobs: state.prompt_logprobs.clone() });
        }
        let kept = state.candidates.as_mut().and_then(|candidates| candidates.get_mut(index));
        let logprobs = kept.map(std::mem::take).unwrap_or_default();
        state.candidates.iter_mut().flatten().for_each(Vec::clear);
        self.queue.push_back(Piece::Text { choice, text, logprobs });
    }

    /// Where the most likely are returned: chooses them, now that all are complete.
    fn rank(&mut self, prompt: usize, usage: EngineUsage) -> EngineUsage {
        let drafts = self.prompts.get_mut(prompt).and_then(|state| state.drafts.as_mut());
        let Some(drafts) = drafts.map(std::mem::take) else { return usage };
        let selection = most_likely(drafts, self.num_choices);
        let kept: usize =
            selection.selected.iter().map(|&index| selection.candidates[index].tokens.len()).sum();
        let event = Event::Selected(selection);
        if let Some(recording) = &mut self.recording {
            recording.observe(prompt, &event);
        }
        if let Event::Selected(selection) = &event {
            self.select(prompt, selection);
        }
        EngineUsage { rejected_tokens: usage.completion_tokens.saturating_sub(kept), ..usage }
    }

    /// The winners, best first, each as one piece of text unless it has been said by blocks.
    fn select(&mut self, prompt: usize, selection: &Selection) {
        let state = &mut self.prompts[prompt];
        // What is only ranked by likelihood has no strategy to report, and no rewards.
        let is_ranked = state.drafts.is_some();
        let mut report = (!is_ranked).then(|| {
            Box::new(AlignmentReport::new(selection, &state.policy_version, self.return_candidates))
        });
        let prompt_logprobs = state.prompt_logprobs.clone();
        let mut kept = state.candidates.take().unwrap_or_default();
        for (rank, &index) in selection.selected.iter().enumerate() {
            let Some(candidate) = selection.candidates.get(index) else { continue };
            let choice = prompt * self.num_choices + rank;
            let logprobs = kept.get_mut(index).map(std::mem::take).unwrap_or_default();
            let is_last = rank + 1 == selection.selected.len();
            if !state.is_streaming {
                self.queue.push_back(Piece::Start { choice, prompt_logprobs: prompt_logprobs.clone() });
                self.queue.push_back(Piece::Text { choice, text: candidate.text.clone(), logprobs });
            }
            self.queue.push_back(Piece::End {
                choice,
                reason: candidate.finish_reason.unwrap_or(FinishReason::Length),
                reward: (!is_ranked).then_some(candidate.reward),
                alignment: if is_last { report.take() } else { None },
            });
        }
        state.ended.fill(true);
    }

    fn finish(&mut self, prompt: usize, usage: EngineUsage) {
        // A prompt that was only read (`echo` with no tokens) has candidates that never ran.
        for (index, ended) in self.prompts[prompt].ended.iter().enumerate() {
            if !ended && index < self.num_choices {
                let choice = prompt * self.num_choices + index;
                let reason = FinishReason::Length;
                self.queue.push_back(Piece::End { choice, reason, reward: None, alignment: None });
            }
        }
        self.usage.prompt_tokens += usage.prompt_tokens;
        self.usage.cached_tokens += usage.cached_tokens;
        self.usage.completion_tokens += usage.completion_tokens;
        self.usage.rejected_tokens += usage.rejected_tokens;
        self.usage.scored_tokens += usage.scored_tokens;
        self.running -= 1;
        if self.running == 0 {
            metrics::counter!("rectify_rejected_tokens_total").increment(self.usage.rejected_tokens as u64);
            self.queue.push_back(Piece::Done(self.usage.into()));
        }
    }
}

impl Prompt {
    fn draft(&mut self, index: usize, change: impl FnOnce(&mut Candidate)) {
        if let Some(draft) = self.drafts.as_mut().and_then(|drafts| drafts.get_mut(index)) {
            change(draft);
        }
    }
}

fn blank() -> Candidate {
    let (text, tokens, rewards) = (String::new(), Vec::new(), Vec::new());
    Candidate { text, tokens, reward: None, rewards, logprob: 0.0, finish_reason: None }
}

/// The `n` most likely candidates by logprob per token, the most likely first; ties go to the lower index.
fn most_likely(candidates: Vec<Candidate>, n: usize) -> Selection {
    let likelihood = |index: &usize| {
        let candidate = &candidates[*index];
        candidate.logprob / candidate.tokens.len().max(1) as f64
    };
    let mut selected: Vec<usize> = (0..candidates.len()).collect();
    selected.sort_by(|a, b| likelihood(b).total_cmp(&likelihood(a)));
    selected.truncate(n);
    Selection {
        strategy: "most_likely",
        max_candidates: candidates.len(),
        selected,
        scoring: Scoring::Ok,
        num_tokens: candidates.iter().map(|candidate| candidate.tokens.len()).sum(),
        candidates,
        reward_model: "".into(),
        judges: Vec::new(),
        num_pruned_tokens: 0,
        num_blocks: 0,
    }
}

impl Events {
    fn new(mut streams: Vec<EventStream>) -> Self {
        if streams.len() == 1
            && let Some(stream) = streams.pop()
        {
            return Self::One(stream);
        }
        let numbered = |(index, stream): (usize, EventStream)| {
            futures::stream::unfold(stream, move |mut stream| async move {
                stream.next().await.map(|event| ((index, event), stream))
            })
            .boxed()
        };
        Self::Many(streams.into_iter().enumerate().map(numbered).collect())
    }

    async fn next(&mut self) -> Option<(usize, Event)> {
        match self {
            Self::One(stream) => stream.next().await.map(|event| (0, event)),
            Self::Many(streams) => streams.next().await,
        }
    }
}
