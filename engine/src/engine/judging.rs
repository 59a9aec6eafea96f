//! What reward models say, turned into verdicts on candidates and events of strategies, and the texts they are to read
//! next. A reward model's failure is the scorer's alone. Leaves tokens to `outputs` and what rewards are worth to `strategy`.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Engine, Request};
use crate::EngineError;
use crate::comparisons::Comparisons;
use crate::events::Closed;
use crate::group::Part;
use crate::ids::RequestId;
use crate::metrics::Outcome;
use crate::request::Message;
use crate::scheduler::ModelStep;
use crate::scoring::{Scoring, Verdicts};
use crate::strategy::StrategyEvent;

impl Request {
    /// What the reward model `judge` of the request compares.
    fn comparisons(&mut self, judge: usize) -> Option<&mut Comparisons> {
        match self {
            Self::Generating(generating) => {
                generating.aligned.as_mut()?.judging.judges.get_mut(judge)?.comparisons.as_mut()
            }
            Self::Scoring(scoring) => scoring.group.as_mut().map(|group| &mut group.comparisons),
        }
    }

    /// The conversation and two answers to it.
    fn answers(&self, pair: [usize; 2]) -> (&[Message], [&str; 2]) {
        match self {
            Self::Generating(generating) => {
                (&generating.messages, pair.map(|index| generating.candidates[index].text.as_str()))
            }
            Self::Scoring(scoring) => scoring.group.as_ref().map_or((&[], [""; 2]), |group| {
                (&group.messages, pair.map(|index| group.candidates[index].as_str()))
            }),
        }
    }

    /// Answers that there may be.
    fn num_answers(&self) -> usize {
        match self {
            Self::Generating(generating) => generating.candidates.len(),
            Self::Scoring(scoring) => scoring.group.as_ref().map_or(0, |group| group.candidates.len()),
        }
    }
}

impl Engine {
    /// A reward model has read a text.
    pub(super) fn read(&mut self, id: RequestId, part: Part, reward: f32) {
        match part {
            Part::Score { judge, index, rival: None } => self.scored(id, judge, index, reward),
            Part::Score { judge, index, rival: Some(rival) } => {
                let verdict = check(reward).map_err(EngineError::Execution);
                self.compared_and_on(id, judge, [index, rival], verdict);
            }
            _ => {}
        }
    }

    fn scored(&mut self, id: RequestId, judge: usize, index: usize, reward: f32) {
        let Some(metrics) = self.reward_metrics(id, judge) else { return };
        if reward.is_finite() {
            metrics.reward.record(f64::from(reward));
        } else {
            metrics.scorer_failures.increment(1);
        }
        let scorer_seconds = metrics.scorer_seconds.clone();
        match self.requests.get_mut(&id) {
            Some(Request::Generating(generating)) => {
                if let Some(started) = generating.candidates[index].score_started {
                    scorer_seconds.record(started.elapsed());
                }
                if let Some(event) = self.judged(id, judge, index, check(reward)) {
                    self.tell(id, event);
                }
            }
            Some(Request::Scoring(scoring)) if reward.is_finite() => {
                scorer_seconds.record(scoring.arrived.elapsed());
                match scoring.scored(index, reward) {
                    Ok(false) => {}
                    Ok(true) => self.end(id, Outcome::Ok),
                    Err(_) => self.end(id, Outcome::Aborted),
                }
            }
            Some(Request::Scoring(_)) => {
                let message = check(reward).err().unwrap_or_default();
                self.fail(id, EngineError::Execution(message));
            }
            None => {}
        }
    }

    /// A reward model has spoken on a candidate. Returns what its strategy is to hear once all have.
    fn judged(
        &mut self,
        id: RequestId,
        judge: usize,
        index: usize,
        verdict: Result<f32, String>,
    ) -> Option<StrategyEvent> {
        let Some(Request::Generating(generating)) = self.requests.get_mut(&id) else { return None };
        let combine = &generating.aligned.as_ref()?.judging.combine;
        match generating.candidates[index].verdicts.take(judge, verdict, combine)?.and_then(check) {
            Ok(reward) => {
                if generating.scored(index, reward) == Err(Closed) {
                    self.end(id, Outcome::Aborted);
                    return None;
                }
                Some(StrategyEvent::Scored { index, reward })
            }
            Err(reason) => Some(StrategyEvent::ScoreFailed { index, reason }),
        }
    }

    /// Has two candidates compared, by the only reward model of a tournament.
    pub(super) fn compare(&mut self, id: RequestId, pair: [usize; 2], events: &mut VecDeque<StrategyEvent>) {
        if let Some(comparisons) = self.requests.get_mut(&id).and_then(|request| request.comparisons(0)) {
            comparisons.compare(pair);
        }
        self.read_pairs(id, 0, events);
    }

    /// Begins what a request that only scores has to compare.
    pub(super) fn begin_comparing(&mut self, id: RequestId) {
        let Some(Request::Scoring(Scoring { group: Some(group), .. })) = self.requests.get_mut(&id) else {
            return;
        };
        (0..group.candidates.len()).for_each(|index| group.comparisons.join(index));
        self.read_pairs(id, 0, &mut VecDeque::new());
    }

    /// Gives a reward model as many pairs as there is room for.
    fn read_pairs(&mut self, id: RequestId, judge: usize, events: &mut VecDeque<StrategyEvent>) {
        while let Some(request) = self.requests.get_mut(&id) {
            let Some(pair) = request.comparisons(judge).and_then(Comparisons::next) else { return };
            let (Some(model), (messages, answers)) = (request.judge(judge), request.answers(pair)) else {
                return;
            };
            let work = self.rewards[model].pair_work(judge, pair, messages, answers);
            if let Err(error) = work.and_then(|work| self.scheduler.add_score(id, work)) {
                self.compared(id, judge, pair, Err(error), events);
            }
        }
    }

    /// [`Engine::compared`], and what follows.
    fn compared_and_on(
        &mut self,
        id: RequestId,
        judge: usize,
        pair: [usize; 2],
        verdict: Result<f32, EngineError>,
    ) {
        let mut events = VecDeque::new();
        self.compared(id, judge, pair, verdict, &mut events);
        self.read_pairs(id, judge, &mut events);
        events.into_iter().for_each(|event| self.tell(id, event));
    }

    /// A reward model has read a pair. Adds what the strategy is to hear once it has read enough.
    fn compared(
        &mut self,
        id: RequestId,
        judge: usize,
        pair: [usize; 2],
        verdict: Result<f32, EngineError>,
        events: &mut VecDeque<StrategyEvent>,
    ) {
        if verdict.is_err() {
            self.count_failure(id, judge);
        }
        let Some(request) = self.requests.get_mut(&id) else { return };
        if let (Request::Scoring(_), Err(error)) = (&*request, &verdict) {
            return self.fail(id, error.clone());
        }
        let n = request.num_answers();
        let Some(comparisons) = request.comparisons(judge) else { return };
        let preference = comparisons.take(pair, verdict.map_err(|error| error.to_string()));
        if comparisons.num_joined() == 0 {
            let rewards = pair.map(|index| (index, comparisons.reward(index, n)));
            let Request::Generating(generating) = request else { return };
            let Some(aligned) = &generating.aligned else { return };
            for (index, reward) in rewards {
                // Told with the selection: more comparisons may come.
                let candidate = &mut generating.candidates[index];
                let combined = candidate.verdicts.take(judge, reward, &aligned.judging.combine);
                candidate.reward = combined.and_then(Result::ok);
            }
            let pair = [pair[0].min(pair[1]), pair[0].max(pair[1])];
            events.extend(preference.map(|preference| StrategyEvent::Compared { pair, preference }));
        } else if comparisons.num_joined() == n && comparisons.is_complete() {
            let rewards: Vec<_> = (0..n).map(|index| comparisons.reward(index, n)).collect();
            for (index, reward) in rewards.into_iter().enumerate() {
                match (self.requests.get(&id), reward) {
                    (Some(Request::Scoring(_)), Ok(reward)) => self.scored(id, judge, index, reward),
                    (Some(Request::Scoring(_)), Err(reason)) => self.fail(id, EngineError::Execution(reason)),
                    (Some(Request::Generating(_)), reward) => {
                        if let (Ok(reward), Some(metrics)) = (&reward, self.reward_metrics(id, judge)) {
                            metrics.reward.record(f64::from(*reward));
                        }
                        events.extend(self.judged(id, judge, index, reward));
                    }
                    (None, _) => return,
                }
            }
        }
    }

    /// Gives what a candidate has to each of its reward models.
    pub(super) fn score(&mut self, id: RequestId, index: usize, events: &mut VecDeque<StrategyEvent>) {
        let Some(Request::Generating(generating)) = self.requests.get_mut(&id) else { return };
        let Some(aligned) = &mut generating.aligned else { return };
        let candidate = &mut generating.candidates[index];
        candidate.score_started = Some(Instant::now());
        candidate.reward = None;
        candidate.verdicts = Verdicts::new(aligned.judging.judges.len());
        let judges = aligned.judging.judges.iter_mut().enumerate();
        let work: Vec<_> = judges
            .map(|(place, judge)| match &mut judge.comparisons {
                Some(comparisons) => {
                    comparisons.join(index);
                    None
                }
                None => {
                    let model = &self.rewards[judge.model];
                    Some(model.candidate_work(place, index, &generating.messages, &candidate.text))
                }
            })
            .collect();
        for (judge, work) in work.into_iter().enumerate() {
            let Some(work) = work else {
                self.read_pairs(id, judge, events);
                continue;
            };
            if let Err(error) = work.and_then(|work| self.scheduler.add_score(id, work)) {
                self.count_failure(id, judge);
                events.extend(self.judged(id, judge, index, Err(error.to_string())));
            }
        }
    }

    /// The model refused a batch: its requests fail, except that a reward model's failure is only the scorer's.
    pub(super) fn fail_batch(&mut self, work: &ModelStep, error: &EngineError) {
        for item in &work.items {
            let is_generating = matches!(self.requests.get(&item.request), Some(Request::Generating(_)));
            match item.part {
                Part::ScorePrompt(_) => self.scheduler.remove_score(item.request, item.part),
                Part::Score { judge, index, rival: Some(rival) } if is_generating => {
                    self.scheduler.remove_score(item.request, item.part);
                    self.compared_and_on(item.request, judge, [index, rival], Err(error.clone()));
                }
                Part::Score { judge, index, rival: None } if is_generating => {
                    self.count_failure(item.request, judge);
                    self.scheduler.remove_score(item.request, item.part);
                    if let Some(event) = self.judged(item.request, judge, index, Err(error.to_string())) {
                        self.tell(item.request, event);
                    }
                }
                _ if self.requests.contains_key(&item.request) => self.fail(item.request, error.clone()),
                _ => {}
            }
        }
    }
}

/// A reward, if it is a number.
fn check(reward: f32) -> Result<f32, String> {
    match reward.is_finite() {
        true => Ok(reward),
        false => Err(format!("the reward model answered {reward} instead of a number")),
    }
}
