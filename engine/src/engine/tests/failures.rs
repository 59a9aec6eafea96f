//! What fails: its own request alone, with a sentence, and nothing of it stays behind.

use super::*;
use crate::testing::VOCAB;

#[test]
fn a_nan_fails_its_own_request_only() {
    let mut harness = Harness::new(Setup::roomy());
    harness.policy.nan_after.set(Some(33));
    let bad = harness.send(generate(&[5, 33], 2, 8));
    let good = harness.send(GenerateRequest {
        sampling: SamplingParams {
            logit_bias: vec![(33, -100.0)],
            max_tokens: 8,
            seed: Some(1),
            ..SamplingParams::default()
        },
        ..generate(&[5, 6], 2, 8)
    });
    harness.finish();
    assert!(harness.answer(bad).error.unwrap().contains("NaN"));
    let good = harness.answer(good);
    assert_eq!((good.error, good.reasons.len()), (None, 2));
}

#[test]
fn a_refused_batch_or_a_panic_fails_its_sequences_and_the_engine_goes_on() {
    for (is_panic, words) in [(false, "a fuse blew"), (true, "the fuse box blew")] {
        let mut harness = Harness::new(Setup::roomy());
        let running = harness.send(generate(&[5, 6], 2, 8));
        harness.step();
        if is_panic { &harness.policy.panic } else { &harness.policy.fail }.set(true);
        harness.step();
        let next = harness.send(generate(&[5, 6], 2, 8));
        harness.finish();
        assert!(harness.answer(running).error.unwrap().contains(words));
        assert!(harness.answer(next).usage.is_some());
    }
}

#[test]
fn a_client_that_left_is_forgotten_at_its_next_event() {
    let mut harness = Harness::new(Setup::roomy());
    let id = harness.send(generate(&[5, 6], 4, 100));
    (0..3).for_each(|_| harness.step());
    harness.streams[id.0 as usize].1.close();
    harness.step();
    assert!(harness.engine.requests.is_empty());
    harness.finish();
}

#[test]
fn what_is_aborted_between_steps_leaves_the_gauges_too() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let mut harness = Harness::new(Setup::roomy());
        let id = harness.send(generate(&[1, 2], 4, 100));
        harness.step();
        harness.step();
        assert!(metrics.render().contains("rectify_sequences_running{model=\"fake\"} 4\n"));
        harness.engine.handle(Command::Abort(id));
        harness.step();
        let text = metrics.render();
        for gauge in ["rectify_sequences_running", "rectify_kv_blocks_used"] {
            assert!(text.contains(&format!("{gauge}{{model=\"fake\"}} 0\n")), "{text}");
        }
    });
}

#[test]
fn refuses_what_could_never_be_served_with_a_sentence() {
    let mut setup = Setup { num_blocks: 16, ..Setup::roomy() };
    setup.config.max_waiting = 2;
    let mut harness = Harness::new(setup);
    let mut error = |request: GenerateRequest| harness.run(request).error.unwrap();
    let long: Vec<u32> = vec![3; 500];
    assert!(error(generate(&long, 1, 100)).contains("context is 512 tokens, but the prompt has 500"));
    assert!(error(generate(&long[..60], 1, 5)).contains("KV cache holds 64 tokens"));
    assert!(error(generate(&long[..59], 2, 5)).contains("KV cache holds 60 tokens"));
    assert!(error(generate(&[], 1, 5)).contains("prompt has no tokens"));
    assert!(error(generate(&[VOCAB as u32], 1, 5)).contains("holds token 64"));
    assert!(error(generate(&[1], 0, 5)).contains("n is 0"));
    assert!(error(generate(&[1], 1, 0)).contains("max_tokens is 0"));
    assert!(
        error(GenerateRequest { adapter: Some("x".into()), ..generate(&[1], 1, 5) }).contains("adapter `x`")
    );
    assert!(error(best_of(&[1], 2, 5, "nobody")).contains("reward model `nobody` does not exist"));
    let mut few = best_of(&[1], 2, 5, "own");
    few.num_choices = 3;
    assert!(error(few).contains("alignment.n is 2, but n asks for 3"));
    let mut poor = best_of(&[1], 2, 5, "own");
    poor.alignment.as_mut().unwrap().max_total_tokens = Some(1);
    assert!(error(poor).contains("max_total_tokens is 1"));

    let ids: Vec<RequestId> = (0..3).map(|_| harness.send(generate(&[1, 2], 1, 5))).collect();
    harness.finish();
    let errors: Vec<bool> = ids.into_iter().map(|id| harness.answer(id).error.is_some()).collect();
    assert_eq!(errors, [false, false, true]);
}
