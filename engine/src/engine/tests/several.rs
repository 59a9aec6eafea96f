//! Two policies in one engine: each answers as it does alone, has blocks and adapters of its own, and waits for nobody
//! else's; reward models judge both.

use super::*;

const SECOND: ModelId = ModelId(1);

/// A second policy of `num_blocks`, whose only adapter is `polite`.
fn second(setup: Setup, num_blocks: usize) -> Vec<PolicyParts> {
    let model = FakeModel::new(num_blocks, setup.block_size, false);
    vec![policy_parts("second", model, vec![adapter("polite", "p0")])]
}

fn two(setup: Setup) -> Harness {
    Harness::with(setup, second(setup, setup.num_blocks))
}

/// Sends a request to a policy.
fn send_to(harness: &mut Harness, policy: ModelId, request: GenerateRequest) -> RequestId {
    harness.asked = policy;
    harness.send(request)
}

fn under(name: &str, request: GenerateRequest) -> GenerateRequest {
    GenerateRequest { adapter: Some(name.into()), ..request }
}

#[test]
fn side_by_side_each_answers_as_it_does_alone() {
    // Few blocks, so that both preempt, and steps that hold a part of the prompts.
    let setup = Setup {
        config: EngineConfig { max_num_batched_tokens: 24, max_num_seqs: 16, ..Setup::roomy().config },
        num_blocks: 24,
        block_size: 4,
    };
    let requests: Vec<(ModelId, GenerateRequest)> = vec![
        (ModelId::POLICY, generate(&[3, 4, 5, 6, 7], 3, 14)),
        (SECOND, generate(&[9; 21], 2, 12)),
        (SECOND, best_of(&[5, 4, 3], 4, 9, "own")),
        (ModelId::POLICY, best_of(&[6, 6], 3, 9, "adapter")),
        (SECOND, best_of(&[8, 2, 8, 2], 3, 9, "adapter")),
        (ModelId::POLICY, under("lora", generate(&[7; 30], 1, 20))),
        (SECOND, under("polite", generate(&[3, 4, 5, 6, 7], 3, 14))),
    ];
    for prefix_caching in [false, true] {
        let setup = Setup { config: EngineConfig { prefix_caching, ..setup.config }, ..setup };
        let mut together = two(setup);
        let ids: Vec<_> = requests
            .iter()
            .map(|(policy, request)| send_to(&mut together, *policy, request.clone()))
            .collect();
        together.finish();
        for ((policy, request), id) in requests.iter().zip(ids) {
            let mut alone = two(Setup { num_blocks: 4096, ..setup });
            let lonely = send_to(&mut alone, *policy, request.clone());
            alone.finish();
            assert_eq!(
                together.answer(id).essence(),
                alone.answer(lonely).essence(),
                "{policy:?} {request:?}"
            );
        }
        for policy in [ModelId::POLICY, SECOND] {
            assert!(together.engine.stats(policy).peak_used_blocks > 0);
        }
        assert!(together.engine.stats(SECOND).preemptions > 0);
    }
}

#[test]
fn a_policy_without_blocks_left_does_not_hold_up_the_other() {
    let setup = Setup { num_blocks: 8, block_size: 4, ..Setup::roomy() };
    let mut harness = Harness::with(setup, second(setup, 8));
    // The first policy is full with the first request; a second one has to wait for it.
    let long = send_to(&mut harness, ModelId::POLICY, generate(&[3; 20], 1, 12));
    let waits = send_to(&mut harness, ModelId::POLICY, generate(&[4; 20], 1, 12));
    let other = send_to(&mut harness, SECOND, generate(&[5; 20], 1, 4));
    for _ in 0..6 {
        harness.step();
    }
    assert_eq!(harness.answer(other).reasons.len(), 1, "it has ended");
    assert!(harness.answer(other).error.is_none());
    assert_eq!(harness.answer(waits).order, "", "it has not begun");
    harness.finish();
    assert!(harness.answer(long).error.is_none() && harness.answer(waits).error.is_none());
}

#[test]
fn every_stream_gets_a_token_in_every_step() {
    let mut harness = two(Setup::roomy());
    let ids = [ModelId::POLICY, SECOND, SECOND]
        .map(|policy| send_to(&mut harness, policy, under_none(generate(&[3, 4, 5], 1, 30))));
    harness.step();
    for _ in 0..10 {
        for id in ids {
            harness.answer(id);
        }
        harness.step();
        for id in ids {
            assert_eq!(harness.answer(id).order, "T");
        }
    }
    harness.finish();
}

/// Never ends before `max_tokens`.
fn under_none(mut request: GenerateRequest) -> GenerateRequest {
    request.sampling.ignore_eos = true;
    request
}

#[test]
fn adapters_belong_to_one_policy() {
    let mut harness = two(Setup::roomy());
    for (policy, own, other) in [(ModelId::POLICY, "lora", "polite"), (SECOND, "polite", "lora")] {
        let id = send_to(&mut harness, policy, under(own, generate(&[3], 1, 2)));
        harness.finish();
        assert!(harness.answer(id).policy_version.starts_with(own));
        let id = send_to(&mut harness, policy, under(other, generate(&[3], 1, 2)));
        let error = harness.answer(id).error.unwrap();
        assert_eq!(error, format!("the adapter `{other}` does not exist; available: {own}"));
    }
    let (reply, mut answer) = oneshot::channel();
    harness.engine.handle(Command::UnloadAdapter { policy: SECOND, name: "lora".into(), reply });
    assert!(answer.try_recv().unwrap().is_err());
    let id = send_to(&mut harness, SECOND, generate(&[3], 1, 2));
    harness.finish();
    assert_eq!(harness.answer(id).policy_version, "second@base");
}

#[test]
fn an_engine_without_a_policy_is_refused() {
    let parts = EngineParts { policies: vec![], pool: Arc::new(Pool::new(1).unwrap()), rewards: vec![] };
    let error = Engine::new(EngineConfig::default(), parts).unwrap_err().to_string();
    assert_eq!(error, "there is no policy; give at least one");
}
