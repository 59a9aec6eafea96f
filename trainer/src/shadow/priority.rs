//! The priority of the loop's threads: whatever serves people goes first. Leaves how many threads there are to the settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// What a shadow trainer may take from others on the same cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Nothing: it runs only where a core would be idle (`SCHED_IDLE`), and waits while none is.
    #[default]
    Idle,
    /// A fair share, like any other thread.
    Normal,
}

impl Priority {
    /// Gives this thread, and every thread that it starts from now on, this priority. A system without such a class leaves
    /// it as it is, and says so in the log.
    pub fn take(self) {
        if self == Self::Normal {
            return;
        }
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
            tracing::warn!(?error, "the shadow trainer's thread keeps its priority");
        }
    }
}
