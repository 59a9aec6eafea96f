//! What the system says of processor time: that of some of this process's threads, and of the whole machine. Linux's
//! `/proc`; elsewhere everything is 0.

use std::fs;

/// Time since some beginning, in ticks of the system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Processor {
    /// Of the chosen threads.
    own: u64,
    /// Of all cores, idle or not.
    all: u64,
    /// What the host of a virtual machine gave to others.
    stolen: u64,
}

impl Processor {
    /// Until now, with the threads of this process called `threads`.
    pub(super) fn now(threads: &str) -> Self {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let own = tasks
            .filter_map(|task| of_thread(&fs::read_to_string(task.path().join("stat")).ok()?, threads))
            .sum();
        let (all, stolen) =
            fs::read_to_string("/proc/stat").ok().and_then(|text| of_machine(&text)).unwrap_or_default();
        Self { own, all, stolen }
    }

    /// Between then and this.
    pub(super) fn since(self, then: Self) -> Self {
        let [own, all, stolen] = [(self.own, then.own), (self.all, then.all), (self.stolen, then.stolen)]
            .map(|(now, then)| now.saturating_sub(then));
        Self { own, all, stolen }
    }

    /// The chosen threads' share of all cores' time.
    pub(super) fn own_share(self) -> f64 {
        self.own as f64 / self.all.max(1) as f64
    }

    /// Others' share of all cores' time.
    pub(super) fn stolen_share(self) -> f64 {
        self.stolen as f64 / self.all.max(1) as f64
    }
}

/// User and system time of a thread (fields 14 and 15 of `proc_pid_stat(5)`), if it is called `name`.
fn of_thread(stat: &str, name: &str) -> Option<u64> {
    // A name may hold spaces and parentheses.
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, found) = head.split_once('(')?;
    let field = |index| rest.split_whitespace().nth(index)?.parse::<u64>().ok();
    if found == name { Some(field(11)? + field(12)?) } else { None }
}

/// All time and stolen time of the first line of `proc_stat(5)`. A guest's time, the last two numbers, is a user's too.
fn of_machine(stat: &str) -> Option<(u64, u64)> {
    let times: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|time| time.parse().ok()).collect();
    Some((times.iter().take(8).sum(), *times.get(7)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_known_by_name() {
        let stat = "17 (a (b) c) S 1 1 1 0 -1 4194304 99 0 0 0 250 31 0 0 20 0 5 0 1234";
        assert_eq!(of_thread(stat, "a (b) c"), Some(281));
        assert_eq!(of_thread(stat, "a"), None);
        assert_eq!(of_thread("nonsense", "a"), None);
    }

    #[test]
    fn the_machines_time_counts_guests_once() {
        let stat = "cpu  100 1 50 800 9 0 3 40 70 0\ncpu0 1 2 3\n";
        assert_eq!(of_machine(stat), Some((1003, 40)));
        assert_eq!(of_machine("cpu 1 2"), None);
    }

    #[test]
    fn time_passes() {
        let then = Processor { own: 10, all: 100, stolen: 5 };
        let between = Processor { own: 30, all: 300, stolen: 15 }.since(then);
        assert_eq!((between.own_share(), between.stolen_share()), (0.1, 0.05));
        assert_eq!(Processor::default().own_share(), 0.0);
    }
}
