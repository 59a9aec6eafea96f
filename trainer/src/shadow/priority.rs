//! The priority of the loop's threads: whatever serves people goes first. Leaves how many threads there are to the settings.

use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Lets this thread, and every thread that it starts from now on, run only where a core would be idle (`SCHED_IDLE`).
/// A system without such a class leaves it as it is, and says so in the log.
pub fn step_back() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        tracing::warn!(?error, "the shadow trainer's thread keeps its priority");
    }
}
