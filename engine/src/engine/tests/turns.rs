//! Whose turn it is: memory that does not suffice for all, priorities, shares of a step, and the end.

use super::*;

#[test]
fn candidates_that_do_not_fit_together_run_in_waves() {
    // Two blocks of prompt leave six for tails of four blocks: one candidate at a time, or two short ones.
    let setup = Setup { num_blocks: 8, ..Setup::roomy() };
    let mut request = generate(&[3, 4, 5, 6, 7, 8, 9], 6, 16);
    request.sampling.ignore_eos = true;
    let expected = Harness::new(Setup::roomy()).run(request.clone());
    let mut harness = Harness::new(setup);
    let answer = harness.run(request);
    assert_eq!(answer.essence(), expected.essence());
    assert!(harness.engine.stats(ModelId::POLICY).peak_used_blocks <= 8);
}

#[test]
fn the_newest_group_makes_room_for_the_oldest() {
    let mut setup = Setup { num_blocks: 10, ..Setup::roomy() };
    setup.config.prefix_caching = true;
    let mut harness = Harness::new(setup);
    let request = |first: u32| {
        let mut request = generate(&[first, 4, 5], 1, 24);
        request.sampling.ignore_eos = true;
        request
    };
    let ids = [harness.send(request(3)), harness.send(request(10))];
    let mut ends = Vec::new();
    while !harness.engine.requests.is_empty() {
        harness.step();
        for id in ids {
            if !harness.engine.requests.contains_key(&id) && !ends.contains(&id) {
                ends.push(id);
            }
        }
    }
    assert_eq!(ends, ids);
    assert!(harness.engine.stats(ModelId::POLICY).preemptions > 0);
    for (id, first) in ids.into_iter().zip([3, 10]) {
        assert_eq!(harness.answer(id).essence(), Harness::new(Setup::roomy()).run(request(first)).essence());
    }
}

#[test]
fn lower_priority_numbers_go_first() {
    let mut setup = Setup::roomy();
    setup.config.max_num_seqs = 1;
    setup.config.max_num_batched_tokens = 16;
    let mut harness = Harness::new(setup);
    let ids: Vec<RequestId> = [1, 0, -1, 0]
        .into_iter()
        .map(|priority| harness.send(GenerateRequest { priority, ..generate(&[3, 4], 1, 3) }))
        .collect();
    let mut order = Vec::new();
    while !harness.engine.requests.is_empty() {
        harness.step();
        order.extend(ids.iter().filter(|id| !harness.engine.requests.contains_key(id)).copied());
        order.dedup();
        let mut seen = std::collections::HashSet::new();
        order.retain(|id| seen.insert(*id));
    }
    assert_eq!(order, [ids[2], ids[1], ids[3], ids[0]]);
}

#[test]
fn long_prompts_and_texts_never_hold_up_decoding() {
    let mut setup = Setup::roomy();
    setup.config.max_num_seqs = 8;
    setup.config.max_num_batched_tokens = 16;
    let mut harness = Harness::new(setup);
    let mut decoding = generate(&[3, 4], 2, 60);
    decoding.sampling.ignore_eos = true;
    let decoding = harness.send(decoding);
    harness.step();
    harness.send(generate(&[7; 200], 1, 2));
    harness.score("adapter", ScoreInput::Texts(vec!["y".repeat(200)]));
    harness.score("own", ScoreInput::Texts(vec!["z".repeat(200)]));
    harness.answer(decoding);
    for _ in 0..59 {
        let before = harness.engine.generated_tokens;
        harness.step();
        assert!(harness.engine.generated_tokens >= before + 2, "both candidates decode in every step");
    }
    harness.finish();
    assert!(harness.policy.most_beside_decode.get() <= 16);
}

#[test]
fn scoring_takes_its_share_beside_a_prompt_and_all_there_is_without_one() {
    let mut setup = Setup::roomy();
    setup.config.max_num_seqs = 4;
    setup.config.max_num_batched_tokens = 40;
    let mut harness = Harness::new(setup);
    harness.score("own", ScoreInput::Texts(vec!["z".repeat(400)]));
    harness.step();
    assert_eq!(harness.reward.num_tokens.get(), 40);
    harness.send(generate(&[7; 200], 1, 2));
    harness.step();
    assert_eq!((harness.reward.num_tokens.get(), harness.policy.num_tokens.get()), (50, 30));
    harness.finish();
}

#[test]
fn draining_finishes_what_runs_and_refuses_what_comes() {
    let mut harness = Harness::new(Setup::roomy());
    let running = harness.send(generate(&[3, 4], 1, 5));
    let (reply, _drained) = oneshot::channel();
    harness.engine.handle(Command::Drain(reply));
    let late = harness.send(generate(&[3, 4], 1, 5));
    harness.finish();
    assert!(harness.answer(running).usage.is_some());
    assert!(harness.answer(late).error.unwrap().contains("shutting down"));
}

#[test]
fn an_engine_on_its_thread_answers_and_ends_with_its_handle() {
    let build = || {
        Ok(EngineParts {
            policies: vec![policy_parts("fake", FakeModel::new(64, 4, false), vec![])],
            pool: Arc::new(Pool::new(1).map_err(|error| EngineError::Execution(error.to_string()))?),
            rewards: vec![],
        })
    };
    let handle = start(EngineConfig::default(), build).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut stream = handle.generate(generate(&[3, 4], 2, 5)).await.unwrap();
        let mut last = None;
        while let Some(event) = stream.next().await {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Done(_))));
        let unscored = handle.generate(best_of(&[3], 2, 5, "own")).await.unwrap().next().await;
        assert!(matches!(unscored, Some(Event::Failed(EngineError::NotFound { .. }))));
        assert!(handle.load_adapter("a".into(), "x".into(), false).await.is_err());
        assert_eq!(handle.install_adapter(adapter("a", "1"), false).await.unwrap().rank, 1);
        assert_eq!(handle.adapters().await.unwrap().len(), 1);
        assert_eq!(handle.stats().await.unwrap().used_blocks, 0);
        handle.drain().await.unwrap();
    });
    let failed = start(EngineConfig::default(), || Err(EngineError::load("here", "is nothing")));
    assert_eq!(failed.unwrap_err().to_string(), "here: is nothing");
}
