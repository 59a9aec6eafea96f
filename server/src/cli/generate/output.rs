//! What `rectify generate` writes for one prompt: an SFT line, a preference, or every candidate. Leaves files to
//! `pipeline`.

use rectify_engine::request::Candidate;
use rectify_feedback::{Message, PreferenceRecord, PromptRecord, Record, SftData, SftRecord, Text};
use serde_json::{Map, Value, json};

use super::Keep;
use super::Outcome;

/// The column that says which line of the input an output line answers; what `--resume` goes by.
pub(super) const LINE: &str = "line";

/// The line for a prompt and its candidates; `None` if they make no pair. `line` is the prompt's line in the input.
pub(super) fn fields(
    keep: Keep,
    line: u64,
    prompt: &PromptRecord,
    outcome: &Outcome,
) -> Option<Map<String, Value>> {
    let turns = prompt.prompt.to_messages("user");
    let (candidates, winner) = (&outcome.candidates[..], winner(outcome));
    let mut fields = match keep {
        Keep::Best => best(turns, &candidates[winner?])?,
        Keep::Pairs => pair(turns, candidates, winner?)?,
        Keep::All => all(turns, candidates, winner),
    };
    fields.insert(LINE.to_owned(), line.into());
    for (name, value) in &prompt.extra {
        fields.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    Some(fields)
}

/// The candidate that was chosen; the first where nothing was to choose by.
pub(super) fn winner(outcome: &Outcome) -> Option<usize> {
    let first = (!outcome.candidates.is_empty()).then_some(0);
    outcome.selected.first().copied().or(first)
}

/// Candidates that ended and have a reward.
fn rewarded(candidates: &[Candidate]) -> impl Iterator<Item = (usize, f32)> {
    let ended = candidates.iter().enumerate().filter(|(_, candidate)| candidate.finish_reason.is_some());
    ended
        .filter_map(|(index, candidate)| Some((index, candidate.reward?)))
        .filter(|(_, reward)| !reward.is_nan())
}

fn answer(candidate: &Candidate) -> Text {
    Text::Chat(vec![Message::new("assistant", candidate.text.as_str())])
}

fn best(mut turns: Vec<Message>, winner: &Candidate) -> Option<Map<String, Value>> {
    turns.push(Message::new("assistant", winner.text.as_str()));
    let mut record = SftRecord::from(SftData::Messages(turns));
    record.extra.insert("reward".to_owned(), number(winner.reward));
    record.extra.insert("finish_reason".to_owned(), finish_reason(winner));
    Some(record.to_fields())
}

/// The chosen one against the worst; nothing can be learnt from equal rewards or equal texts.
fn pair(turns: Vec<Message>, candidates: &[Candidate], winner: usize) -> Option<Map<String, Value>> {
    let worst = rewarded(candidates).min_by(|(i, a), (j, b)| a.total_cmp(b).then(i.cmp(j)))?.0;
    let (chosen, rejected) = (&candidates[winner], &candidates[worst]);
    if chosen.reward == rejected.reward || chosen.text == rejected.text {
        return None;
    }
    let mut record = PreferenceRecord::new(Text::Chat(turns), answer(chosen), answer(rejected));
    record.reward_chosen = chosen.reward.map(widen);
    record.reward_rejected = rejected.reward.map(widen);
    Some(record.to_fields())
}

fn all(turns: Vec<Message>, candidates: &[Candidate], winner: Option<usize>) -> Map<String, Value> {
    let describe = |(index, candidate): (usize, &Candidate)| {
        json!({
            "index": index,
            "text": candidate.text,
            "reward": number(candidate.reward),
            "logprob": candidate.logprob,
            "tokens": candidate.tokens.len(),
            "finish_reason": finish_reason(candidate),
        })
    };
    let candidates_json: Vec<Value> = candidates.iter().enumerate().map(describe).collect();
    let mut fields = Map::new();
    fields.insert("prompt".to_owned(), Text::Chat(turns).to_value());
    fields.insert("candidates".to_owned(), Value::Array(candidates_json));
    fields.insert("selected".to_owned(), json!(winner));
    fields
}

fn finish_reason(candidate: &Candidate) -> Value {
    json!(candidate.finish_reason.map(rectify_engine::request::FinishReason::as_str))
}

fn number(value: Option<f32>) -> Value {
    value.map_or(Value::Null, |value| json!(widen(value)))
}

/// The `f64` that prints as the `f32` does: files keep the digits the model gave, not the noise of widening.
pub(crate) fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The turns of the prompt a written line answers, to check that a resumed file belongs to the input.
pub(super) fn prompt_of(keep: Keep, fields: &Map<String, Value>) -> Option<Vec<Message>> {
    let name = if keep == Keep::Best { "messages" } else { "prompt" };
    let mut turns: Vec<Message> = serde_json::from_value(fields.get(name)?.clone()).ok()?;
    let fits = match keep {
        Keep::Best => turns.pop().is_some(),
        Keep::Pairs => fields.contains_key("chosen"),
        Keep::All => fields.contains_key("candidates"),
    };
    fits.then_some(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rectify_engine::request::FinishReason;

    fn candidates(rewards: &[Option<f32>]) -> Vec<Candidate> {
        let candidate = |(index, &reward): (usize, &Option<f32>)| Candidate {
            text: format!("answer {index}"),
            tokens: vec![1; index + 1],
            reward,
            rewards: vec![reward],
            logprob: -1.5,
            finish_reason: Some(FinishReason::Stop),
        };
        rewards.iter().enumerate().map(candidate).collect()
    }

    fn write(keep: Keep, rewards: &[Option<f32>]) -> Option<String> {
        let prompt = PromptRecord {
            prompt: Text::Plain("2+2?".into()),
            extra: [("id".to_owned(), json!("q1")), (LINE.to_owned(), json!("theirs"))].into_iter().collect(),
        };
        let value = |index: &usize| rewards[*index].filter(|reward| !reward.is_nan());
        let best = (0..rewards.len())
            .filter(|i| value(i).is_some())
            .max_by(|i, j| value(i).unwrap_or(0.0).total_cmp(&value(j).unwrap_or(0.0)).then(j.cmp(i)));
        let selected = best.into_iter().collect();
        let outcome = Outcome { candidates: candidates(rewards), selected, ..Outcome::default() };
        fields(keep, 3, &prompt, &outcome).map(|fields| Value::Object(fields).to_string())
    }

    #[test]
    fn the_best_is_a_conversation_for_sft() {
        assert_eq!(
            write(Keep::Best, &[Some(-1.0), Some(0.1), Some(0.1)]).as_deref(),
            Some(
                r#"{"messages":[{"role":"user","content":"2+2?"},{"role":"assistant","content":"answer 1"}],"reward":0.1,"finish_reason":"stop","line":3,"id":"q1"}"#
            )
        );
    }

    #[test]
    fn a_pair_is_the_best_and_the_worst_scored() {
        let line =
            write(Keep::Pairs, &[None, Some(0.5), Some(-2.0), Some(f32::NAN), Some(1.0)]).expect("a pair");
        assert_eq!(
            line,
            r#"{"prompt":[{"role":"user","content":"2+2?"}],"chosen":[{"role":"assistant","content":"answer 4"}],"rejected":[{"role":"assistant","content":"answer 2"}],"reward_chosen":1.0,"reward_rejected":-2.0,"line":3,"id":"q1"}"#
        );
        let record: PreferenceRecord = rectify_feedback::jsonl::parse(&line).expect("the format is our own");
        assert_eq!(record.reward_chosen, Some(1.0));
    }

    #[test]
    fn ties_make_no_pair() {
        assert_eq!(write(Keep::Pairs, &[Some(1.0), Some(1.0)]), None);
        assert_eq!(write(Keep::Pairs, &[Some(1.0)]), None);
        assert_eq!(write(Keep::Pairs, &[None, None]), None);
    }

    #[test]
    fn all_keeps_every_candidate() {
        let line = write(Keep::All, &[Some(1.0), None]).expect("a line");
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["candidates"][0]["reward"], json!(1.0));
        assert_eq!(value["candidates"][1]["reward"], Value::Null);
        assert_eq!(value["candidates"][1]["tokens"], json!(2));
        assert_eq!(value["selected"], json!(0));
    }

    #[test]
    fn a_written_line_tells_its_prompt_and_its_kind() {
        for keep in [Keep::Best, Keep::Pairs, Keep::All] {
            let line = write(keep, &[Some(1.0), Some(2.0)]).expect("a line");
            let fields: Map<String, Value> = serde_json::from_str(&line).expect("an object");
            for other in [Keep::Best, Keep::Pairs, Keep::All] {
                let turns = (keep == other).then(|| vec![Message::new("user", "2+2?")]);
                assert_eq!(prompt_of(other, &fields), turns, "{keep:?} read as {other:?}");
            }
        }
    }
}
