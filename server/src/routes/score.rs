//! `POST /v1/score`, `/classify`, `/pooling` and `/get_reward`. Leaves the wire types to `api::score`.

use axum::Json;
use axum::extract::State;
use rectify_engine::request::ScoreInput;
use rectify_engine::{EngineError, Event, ScoreRequest as EngineScore};

use crate::api::score::{
    ClassifyEntry, ClassifyRequest, ClassifyResponse, GetRewardRequest, GetRewardResponse, PoolingEntry,
    PoolingResponse, ScoreEntry, ScoreObject, ScoreRequest, ScoreResponse, check_count,
};
use crate::api::{Usage, new_id, unix_time};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::{ApiJson, Ignored};

type Answer<T> = Result<(Ignored, Json<T>), ApiError>;

/// Rewards in the order of the texts, the reward model's name, tokens read.
struct Rewards {
    rewards: Vec<f32>,
    model: String,
    usage: Usage,
}

async fn run(app: &App, model: Option<&str>, input: ScoreInput) -> Result<Rewards, ApiError> {
    let model = app.reward_model(model)?;
    let count = match &input {
        ScoreInput::Candidates { candidates, .. } => candidates.len(),
        ScoreInput::Texts(texts) => texts.len(),
    };
    let mut rewards = vec![None; count];
    let request = EngineScore { reward: Some(model.clone()), input, priority: 0 };
    let mut events = app.policy.engine.score(request).await?;
    loop {
        match events.next().await.unwrap_or(Event::Failed(EngineError::Shutdown)) {
            Event::Scored { index, reward } => {
                if let Some(slot) = rewards.get_mut(index) {
                    *slot = Some(reward);
                }
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Done(usage) => {
                let missing = || EngineError::Execution(format!("{model} left a text without a reward"));
                let rewards: Option<Vec<f32>> = rewards.into_iter().collect();
                let tokens = usage.scored_tokens;
                let mut usage = Usage::from(usage);
                (usage.prompt_tokens, usage.total_tokens) = (tokens, tokens);
                return Ok(Rewards { rewards: rewards.ok_or_else(missing)?, model, usage });
            }
            _ => {}
        }
    }
}

/// Score answers to a conversation: raw rewards, the reward model's own chat template applied.
#[utoipa::path(
    post,
    path = "/v1/score",
    tag = "rewards",
    request_body = ScoreRequest,
    responses(
        (status = 200, description = "Raw rewards", body = ScoreResponse),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such reward model", body = ErrorBody),
    )
)]
pub(super) async fn score(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<ScoreRequest>,
) -> Answer<ScoreResponse> {
    let model = request.model.clone();
    let Rewards { rewards, model, usage } = run(&app, model.as_deref(), request.input()?).await?;
    let entry = |(index, &score)| ScoreEntry { index, object: ScoreObject::Score, score };
    let data = rewards.iter().enumerate().map(entry).collect();
    let (id, created) = (new_id("score"), unix_time());
    Ok((ignored, Json(ScoreResponse { id, object: "list".into(), created, model, data, rewards, usage })))
}

async fn texts(
    app: &App,
    model: Option<&str>,
    param: &'static str,
    texts: Vec<String>,
) -> Result<Rewards, ApiError> {
    check_count(param, texts.len())?;
    run(app, model, ScoreInput::Texts(texts)).await
}

/// Score texts that are already templated (vLLM's `/classify`): the raw logit stands in `probs`.
#[utoipa::path(
    post,
    path = "/classify",
    tag = "rewards",
    request_body = ClassifyRequest,
    responses(
        (status = 200, description = "Raw rewards", body = ClassifyResponse),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such reward model", body = ErrorBody),
    )
)]
pub(super) async fn classify(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<ClassifyRequest>,
) -> Answer<ClassifyResponse> {
    let input = request.input.into_vec();
    let Rewards { rewards, model, usage } = texts(&app, request.model.as_deref(), "input", input).await?;
    let entry = |(index, reward)| ClassifyEntry {
        index,
        label: "LABEL_0".into(),
        probs: vec![reward],
        num_classes: 1,
    };
    let data = rewards.into_iter().enumerate().map(entry).collect();
    let (id, created) = (new_id("classify"), unix_time());
    Ok((ignored, Json(ClassifyResponse { id, object: "list".into(), created, model, data, usage })))
}

/// Score texts that are already templated (vLLM's `/pooling`).
#[utoipa::path(
    post,
    path = "/pooling",
    tag = "rewards",
    request_body = ClassifyRequest,
    responses(
        (status = 200, description = "Raw rewards", body = PoolingResponse),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such reward model", body = ErrorBody),
    )
)]
pub(super) async fn pooling(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<ClassifyRequest>,
) -> Answer<PoolingResponse> {
    let input = request.input.into_vec();
    let Rewards { rewards, model, usage } = texts(&app, request.model.as_deref(), "input", input).await?;
    let entry = |(index, reward)| PoolingEntry { index, object: "pooling".into(), data: vec![reward] };
    let data = rewards.into_iter().enumerate().map(entry).collect();
    let (id, created) = (new_id("pool"), unix_time());
    Ok((ignored, Json(PoolingResponse { id, object: "list".into(), created, model, data, usage })))
}

/// Score texts that are already templated (OpenRLHF's remote reward model).
#[utoipa::path(
    post,
    path = "/get_reward",
    tag = "rewards",
    request_body = GetRewardRequest,
    responses(
        (status = 200, description = "Raw rewards", body = GetRewardResponse),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such reward model", body = ErrorBody),
    )
)]
pub(super) async fn get_reward(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<GetRewardRequest>,
) -> Answer<GetRewardResponse> {
    let Rewards { rewards, .. } = texts(&app, request.model.as_deref(), "query", request.query).await?;
    Ok((
        ignored,
        Json(GetRewardResponse { scores: rewards.clone(), rewards, extra_logs: Default::default() }),
    ))
}
