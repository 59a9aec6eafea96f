//! Prompts in, lines out: many in flight, written in order, safe against a kill at any moment. Leaves answering to its
//! caller.

use std::future::Future;
use std::path::Path;

use futures::{Stream, StreamExt};
use rectify_feedback::{FeedbackError, JsonlWriter, Line, PromptRecord, Recovered};
use serde_json::{Map, Value};

use super::{Keep, Shard, output};
use crate::cli::CliError;

/// One prompt of the input.
pub(super) type Prompt = Line<PromptRecord>;

/// The part of the prompts that `shard` does: consecutive, so that the outputs of all shards in a row are the output of
/// the whole.
pub(super) fn shard(prompts: &[Prompt], shard: Option<Shard>) -> &[Prompt] {
    let Some(Shard { index, of }) = shard else { return prompts };
    let border = |index: u64| (prompts.len() as u128 * u128::from(index) / u128::from(of)) as usize;
    &prompts[border(index)..border(index + 1)]
}

/// Opens the output of an earlier run and drops the prompts it has answered. Answered are all up to the one of the last
/// whole line: prompts without a line in between gave none then and would give none now.
///
/// # Errors
/// [`CliError::Usage`] if the file cannot be opened or was not made from these prompts.
pub(super) fn resume<'a>(
    path: &Path,
    keep: Keep,
    prompts: &'a [Prompt],
) -> Result<(JsonlWriter, &'a [Prompt]), CliError> {
    let usage = |error: FeedbackError| CliError::Usage(error.to_string());
    let recovered = Recovered::read(path).map_err(usage)?;
    let mut done = 0;
    if let Some(last) = &recovered.last_line {
        done = answered(keep, prompts, last).ok_or_else(|| {
            let (path, line) = (path.display(), recovered.num_lines);
            CliError::Usage(format!(
                "{path}:{line}: the line was not written for these prompts with these options; resume with the same ones, or choose another output"
            ))
        })?;
    }
    Ok((JsonlWriter::resume(path, &recovered).map_err(usage)?, &prompts[done..]))
}

/// How many prompts are done when `last` is the last line.
fn answered(keep: Keep, prompts: &[Prompt], last: &[u8]) -> Option<usize> {
    let fields: Map<String, Value> = serde_json::from_slice(last).ok()?;
    let line = fields.get(output::LINE)?.as_u64()?;
    let index = prompts.binary_search_by_key(&line, |prompt| prompt.number).ok()?;
    let turns = output::prompt_of(keep, &fields)?;
    (prompts[index].record.prompt.to_messages("user") == turns).then_some(index + 1)
}

/// Answers `prompts`, up to `in_flight` at a time, in their order.
pub(super) fn answers<'a, F, Fut, T, E>(
    prompts: &'a [Prompt],
    in_flight: usize,
    answer: F,
) -> impl Stream<Item = (&'a Prompt, Result<T, E>)>
where
    F: Fn(&'a Prompt) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let answer = move |prompt: &'a Prompt| {
        let answer = answer(prompt);
        async move { (prompt, answer.await) }
    };
    futures::stream::iter(prompts).map(answer).buffered(in_flight)
}

/// Prompts in flight so that a batch of `max_num_seqs` candidates stays full: `buffered` holds finished answers back
/// behind a slow one, so there are twice as many as run.
pub(super) fn in_flight(n: usize, max_num_seqs: usize) -> usize {
    (2 * max_num_seqs.div_ceil(n)).clamp(2, 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::candidates::Outcome;
    use crate::cli::random;
    use proptest::prelude::*;
    use rectify_engine::request::{Candidate, FinishReason};
    use rectify_feedback::Text;
    use std::convert::Infallible;

    fn prompts(count: usize) -> Vec<Prompt> {
        let prompt = |index: usize| Line {
            number: 2 * index as u64 + 1,
            record: PromptRecord { prompt: Text::Plain(format!("p{index}")), extra: Map::new() },
        };
        (0..count).map(prompt).collect()
    }

    /// Two candidates that depend on the prompt's seed alone; every third prompt ties and makes no pair.
    fn fake(prompt: &Prompt) -> Outcome {
        let seed = random::mix(7, prompt.number);
        let candidate = |index: u64| Candidate {
            text: format!("{:x}", seed.wrapping_mul(index + 1)),
            tokens: vec![0],
            reward: Some(if prompt.number.is_multiple_of(3) { 1.0 } else { index as f32 }),
            rewards: Vec::new(),
            logprob: 0.0,
            finish_reason: Some(FinishReason::Stop),
        };
        let selected = vec![usize::from(!prompt.number.is_multiple_of(3))];
        Outcome { candidates: (0..2).map(candidate).collect(), selected, ..Outcome::default() }
    }

    /// Runs to the end, with answers that take different times.
    fn run(path: &Path, keep: Keep, prompts: &[Prompt], in_flight: usize, resumed: bool) {
        let (mut writer, prompts) = if resumed {
            resume(path, keep, prompts).expect("resume")
        } else {
            (JsonlWriter::create(path).expect("create"), prompts)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let answer = |prompt| async move {
                let wait = random::mix(1, Prompt::clone(prompt).number) % 50;
                tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
                Ok::<_, Infallible>(fake(prompt))
            };
            let mut answers = std::pin::pin!(answers(prompts, in_flight, answer));
            while let Some((prompt, Ok(outcome))) = answers.next().await {
                if let Some(fields) = output::fields(keep, prompt.number, &prompt.record, &outcome) {
                    writer.write(&fields).expect("write");
                }
            }
        });
    }

    fn keep() -> impl Strategy<Value = Keep> {
        prop_oneof![Just(Keep::Best), Just(Keep::Pairs), Just(Keep::All)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_run_cut_anywhere_and_resumed_equals_an_undisturbed_one(
            count in 1_usize..20, cuts in prop::collection::vec(0.0..1.0, 1..4), in_flight in 1_usize..8, keep in keep(),
        ) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("out.jsonl");
            let prompts = prompts(count);
            run(&path, keep, &prompts, 3, false);
            let whole = std::fs::read(&path).expect("read");
            for cut in cuts {
                std::fs::write(&path, &whole[..(whole.len() as f64 * cut) as usize]).expect("write");
                run(&path, keep, &prompts, in_flight, true);
                prop_assert_eq!(&std::fs::read(&path).expect("read"), &whole);
            }
        }

        #[test]
        fn shards_in_a_row_are_the_whole(count in 0_usize..40, of in 1_u64..9) {
            let prompts = prompts(count);
            let parts: Vec<Prompt> =
                (0..of).flat_map(|index| shard(&prompts, Some(Shard { index, of })).to_vec()).collect();
            prop_assert_eq!(&parts, &prompts);
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("out.jsonl");
            run(&path, Keep::Best, &prompts, 4, false);
            let whole = std::fs::read(&path).expect("read");
            let mut joined = Vec::new();
            for index in 0..of {
                run(&path, Keep::Best, shard(&prompts, Some(Shard { index, of })), 4, false);
                joined.extend(std::fs::read(&path).expect("read"));
            }
            prop_assert_eq!(joined, whole);
        }
    }

    #[test]
    fn another_runs_output_is_not_resumed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("out.jsonl");
        run(&path, Keep::Best, &prompts(4), 2, false);
        let mut before = std::fs::read(&path).expect("read");
        before.extend(b"not torn, but somebody's last line");
        std::fs::write(&path, &before).expect("write");
        let mut others = prompts(4);
        others[3].record.prompt = Text::Plain("another".into());
        for (keep, prompts) in [(Keep::Pairs, &prompts(4)), (Keep::Best, &prompts(3)), (Keep::Best, &others)]
        {
            let error = resume(&path, keep, prompts).expect_err("refused").to_string();
            assert!(error.contains("out.jsonl:4:"), "{error}");
            assert_eq!(std::fs::read(&path).expect("read"), before);
        }
    }
}
