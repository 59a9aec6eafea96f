//! Threads that share the tasks of one operation. Leaves what a task is to the operations.
//!
//! The caller works too, and tasks are claimed one by one, so that a core taken by another process delays the one task
//! in hand, not a fixed share of the work. Who has nothing to do spins as long as the gaps inside a decode step are, most of
//! it giving way to any other thread that waits for the core, and then parks.
#![expect(unsafe_code, reason = "workers borrow the caller's closure until the last task is done")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::KernelError;
use crate::isa::Isa;

/// How long a worker without work, or a caller without tasks left, spins.
const SPIN: Duration = Duration::from_micros(20);
/// How long it then gives way to others and looks again, before it parks. The last task of an operation, or the part of a step
/// that one thread does alone, may take this long; and to wake the idle core of a virtual machine takes longer than most.
const YIELD: Duration = Duration::from_micros(400);

/// A fixed set of threads that run the tasks of one operation at a time.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
}

/// A task body behind a thin pointer: the closure and how to call it.
struct Job<'a> {
    call: &'a (dyn Fn(usize) + Sync),
}

#[derive(Debug)]
struct State {
    /// Next task (low half) and number of tasks (high half). A claim is one compare-and-swap, so a claim that succeeds
    /// is one of a live job, however long the claimant slept before it.
    tasks: AtomicU64,
    /// The live job; read only between a successful claim and the claim's completion.
    job: AtomicPtr<Job<'static>>,
    /// Tasks of the live job not completed yet.
    pending: AtomicUsize,
    /// One operation at a time; another caller then does its tasks alone.
    busy: AtomicBool,
    shutdown: AtomicBool,
    sleepers: AtomicUsize,
    caller_waits: AtomicBool,
    sleep: Mutex<()>,
    wake_workers: Condvar,
    wake_caller: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Pool {
    /// A pool of `num_threads`, the caller's included.
    ///
    /// # Errors
    /// [`KernelError::Invalid`] for zero threads; [`KernelError::Thread`] if the system gives none.
    pub fn new(num_threads: usize) -> Result<Self, KernelError> {
        Self::with_isa(num_threads, Isa::detect())
    }

    /// A pool whose operations use `isa`: for tests that compare one with another.
    ///
    /// # Errors
    /// As [`Pool::new`]; also if the machine lacks `isa`.
    #[doc(hidden)]
    pub fn with_isa(num_threads: usize, isa: Isa) -> Result<Self, KernelError> {
        if num_threads == 0 {
            return Err(KernelError::Invalid("a pool needs at least one thread".to_owned()));
        }
        if !isa.is_supported() {
            return Err(KernelError::Invalid(format!("this machine has no {isa:?} instructions")));
        }
        let shared = Arc::new(State {
            tasks: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            pending: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            caller_waits: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake_workers: Condvar::new(),
            wake_caller: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::new(), isa };
        for i in 1..num_threads {
            let state = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("kernels-{i}"))
                .spawn(move || state.work())
                .map_err(|error| KernelError::Thread(error.to_string()))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instructions this pool's operations use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `task(0)` to `task(num_tasks - 1)`, in any order on any thread, and returns when all are done.
    ///
    /// While the pool is busy with another caller's tasks (or when called from a task) the caller runs its tasks itself.
    ///
    /// # Panics
    /// With the first panic of a task, after the others are done.
    pub fn run(&self, num_tasks: usize, task: impl Fn(usize) + Sync) {
        let alone = num_tasks <= 1 || self.workers.is_empty() || u32::try_from(num_tasks).is_err();
        if alone || self.shared.busy.swap(true, Ordering::Acquire) {
            (0..num_tasks).for_each(task);
            return;
        }
        let panic = self.shared.run(num_tasks, &Job { call: &task });
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// As [`Pool::run`] when the work is worth more than one thread, else on the caller's thread alone.
    pub(crate) fn run_if(&self, parallel: bool, num_tasks: usize, task: impl Fn(usize) + Sync) {
        if parallel { self.run(num_tasks, task) } else { (0..num_tasks).for_each(task) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        {
            let _guard = lock(&self.shared.sleep);
            self.shared.wake_workers.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so joining it cannot fail.
            let _ = worker.join();
        }
    }
}

impl State {
    fn run(&self, num_tasks: usize, job: &Job<'_>) -> Option<Box<dyn Any + Send>> {
        self.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        self.pending.store(num_tasks, Ordering::Relaxed);
        // Publishes the job and, in one total order with `sleepers`, makes sure that a worker about to park sees it.
        self.tasks.store((num_tasks as u64) << 32, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.sleep);
            if num_tasks == 2 { self.wake_workers.notify_one() } else { self.wake_workers.notify_all() }
        }
        while let Some(index) = self.claim() {
            self.execute(index);
        }
        self.wait();
        lock(&self.panic).take()
    }

    /// Claims a task of the live job.
    fn claim(&self) -> Option<usize> {
        let mut tasks = self.tasks.load(Ordering::Acquire);
        loop {
            let (next, total) = (tasks & 0xffff_ffff, tasks >> 32);
            if next >= total {
                return None;
            }
            match self.tasks.compare_exchange_weak(tasks, tasks + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(next as usize),
                Err(current) => tasks = current,
            }
        }
    }

    /// Runs a claimed task and counts it as done.
    fn execute(&self, index: usize) {
        let job = self.job.load(Ordering::Relaxed);
        // SAFETY: this thread holds a claimed task of the job that is not completed, and `run` does not return (so the
        // job and the closure behind it live) before `pending` has counted it.
        let call = unsafe { (*job).call };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| call(index))) {
            lock(&self.panic).get_or_insert(payload);
        }
        if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 && self.caller_waits.load(Ordering::SeqCst) {
            let _guard = lock(&self.sleep);
            self.wake_caller.notify_all();
        }
    }

    /// Waits until every task is done.
    fn wait(&self) {
        if spin_until(|| self.pending.load(Ordering::Acquire) == 0) {
            return;
        }
        self.caller_waits.store(true, Ordering::SeqCst);
        let mut guard = lock(&self.sleep);
        while self.pending.load(Ordering::SeqCst) != 0 {
            guard = self.wake_caller.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    fn has_work(&self) -> bool {
        let tasks = self.tasks.load(Ordering::SeqCst);
        (tasks & 0xffff_ffff) < tasks >> 32
    }

    fn work(&self) {
        while !self.shutdown.load(Ordering::SeqCst) {
            while let Some(index) = self.claim() {
                self.execute(index);
            }
            let ready = || self.has_work() || self.shutdown.load(Ordering::SeqCst);
            if spin_until(ready) {
                continue;
            }
            let mut guard = lock(&self.sleep);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !ready() {
                guard = self.wake_workers.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Whether `done` came true within [`SPIN`] and [`YIELD`].
fn spin_until(done: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..64 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        match start.get_or_insert_with(Instant::now).elapsed() {
            waited if waited < SPIN => {}
            waited if waited < SPIN + YIELD => std::thread::yield_now(),
            _ => return false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads).unwrap();
            for num_tasks in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<_> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(num_tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn callers_on_several_threads_and_nested_calls_finish() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        pool.run(5, |_| {
                            pool.run(3, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 500 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        let done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(20, |i| {
                if i == 7 {
                    std::panic::panic_any("task 7");
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"task 7"));
        assert_eq!(done.load(Ordering::Relaxed), 19);
        pool.run(20, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 39);
    }

    #[test]
    fn parked_workers_wake() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..5 {
            std::thread::sleep(SPIN * 4);
            let (arrived, met) = (Mutex::new(0), Condvar::new());
            // Each task waits for the other, so that both threads must take one.
            pool.run(2, |_| {
                let mut arrived = lock(&arrived);
                *arrived += 1;
                met.notify_all();
                let patience = Duration::from_secs(60);
                let (_arrived, result) =
                    met.wait_timeout_while(arrived, patience, |arrived| *arrived < 2).unwrap();
                assert!(!result.timed_out(), "the worker sleeps on");
            });
        }
    }

    #[test]
    fn zero_threads_are_refused() {
        assert_eq!(
            Pool::new(0).unwrap_err(),
            KernelError::Invalid("a pool needs at least one thread".to_owned())
        );
    }
}
