//! How a request's events come from the engine's thread to their reader, and how readers are woken: those of a step all at
//! once. Leaves what events say to `request` and asking for them to `handle`.
//!
//! Waking a sleeping thread is a system call, and the thread that wakes may take the caller's core at once. Readers woken for
//! each event would sleep again before the next and interrupt the engine once a token; so the events of a step are put into
//! their queues first, and readers wake when the last one is there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::request::Event;

/// The reader is gone, or has not read for so long that its queue is full: the request is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Readers with news, until they are woken together.
#[derive(Debug, Default)]
pub struct Bell(Mutex<Vec<Waker>>);

impl Bell {
    fn add(&self, reader: Waker) {
        lock(&self.0).push(reader);
    }

    /// Wakes the readers of all events sent so far.
    pub(crate) fn ring(&self) {
        let readers = std::mem::take(&mut *lock(&self.0));
        readers.into_iter().for_each(Waker::wake);
    }
}

/// Events that are not read yet.
#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    capacity: usize,
    /// Of the reader, while it waits.
    reader: Option<Waker>,
    /// One of the two ends is gone.
    is_closed: bool,
}

/// A request's events on the engine's side.
#[derive(Clone, Debug)]
pub struct EventSender(Arc<Sending>);

#[derive(Debug)]
struct Sending {
    queue: Arc<Mutex<Queue>>,
    bell: Arc<Bell>,
}

impl EventSender {
    /// Adds an event; its reader wakes at the next [`EventSender::ring`] of any of the engine's requests.
    ///
    /// # Errors
    /// [`Closed`]: then nothing was added.
    pub fn send(&self, event: Event) -> Result<(), Closed> {
        let Sending { queue, bell } = &*self.0;
        let mut queue = lock(queue);
        if queue.is_closed || queue.events.len() >= queue.capacity {
            return Err(Closed);
        }
        queue.events.push_back(event);
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            bell.add(reader);
        }
        Ok(())
    }

    /// Wakes the readers of all events that the engine has sent so far.
    pub fn ring(&self) {
        self.0.bell.ring();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        let reader = queue.reader.take();
        drop(queue);
        reader.into_iter().for_each(|reader| self.bell.add(reader));
        // The engine may be gone, and nobody else rings then.
        self.bell.ring();
    }
}

/// A request's events on their reader's side.
#[derive(Debug)]
pub(crate) struct EventReceiver(Arc<Mutex<Queue>>);

impl EventReceiver {
    /// The next event, if it is there.
    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Option<Event> {
        lock(&self.0).events.pop_front()
    }

    /// The next event; `None` if the sender is gone and everything is read.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = lock(&self.0);
        match queue.events.pop_front() {
            None if !queue.is_closed => {
                queue.reader = Some(context.waker().clone());
                Poll::Pending
            }
            event => Poll::Ready(event),
        }
    }

    /// Takes no more events.
    pub(crate) fn close(&mut self) {
        let mut queue = lock(&self.0);
        queue.is_closed = true;
        let unread = std::mem::take(&mut queue.events);
        drop(queue);
        drop(unread);
    }

    /// [`EventReceiver::poll_next`] on a thread that may sleep until then.
    pub(crate) fn next_blocking(&mut self) -> Option<Event> {
        let waker = Waker::from(Arc::new(Sleeper(std::thread::current())));
        loop {
            match self.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(event) => return event,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.close();
    }
}

/// A channel of at most `capacity` unread events, whose reader wakes by `bell`.
pub(crate) fn channel(capacity: usize, bell: Arc<Bell>) -> (EventSender, EventReceiver) {
    let queue = Arc::new(Mutex::new(Queue { capacity, ..Queue::default() }));
    (EventSender(Arc::new(Sending { queue: Arc::clone(&queue), bell })), EventReceiver(queue))
}

/// A thread as a reader.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counted() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (Arc::clone(&count), Waker::from(count))
    }

    fn wakes(count: &Count) -> usize {
        count.0.load(Ordering::SeqCst)
    }

    fn event(index: usize) -> Event {
        Event::Dropped { index }
    }

    fn index(event: Poll<Option<Event>>) -> Option<usize> {
        match event {
            Poll::Ready(Some(Event::Dropped { index })) => Some(index),
            _ => None,
        }
    }

    #[test]
    fn readers_wake_when_the_bell_rings_and_not_before() {
        let bell = Arc::<Bell>::default();
        let mut streams: Vec<_> = (0..3).map(|_| channel(8, Arc::clone(&bell))).collect();
        let (count, waker) = counted();
        for (_, receiver) in &mut streams {
            assert!(receiver.poll_next(&mut Context::from_waker(&waker)).is_pending());
        }
        for (index, (sender, _)) in streams.iter().enumerate().take(2) {
            sender.send(event(index)).unwrap();
            sender.send(event(index + 10)).unwrap();
        }
        assert_eq!(wakes(&count), 0);
        bell.ring();
        bell.ring();
        // Once each, and the third has no news.
        assert_eq!(wakes(&count), 2);
        for (expected, (_, receiver)) in streams.iter_mut().enumerate().take(2) {
            let mut context = Context::from_waker(&waker);
            assert_eq!(index(receiver.poll_next(&mut context)), Some(expected));
            assert_eq!(index(receiver.poll_next(&mut context)), Some(expected + 10));
            assert!(receiver.poll_next(&mut context).is_pending());
        }
    }

    #[test]
    fn either_end_learns_that_the_other_is_gone() {
        let (sender, receiver) = channel(8, Arc::default());
        sender.send(event(0)).unwrap();
        drop(receiver);
        assert_eq!(sender.send(event(1)), Err(Closed));

        let (sender, mut receiver) = channel(8, Arc::default());
        let (count, waker) = counted();
        let mut context = Context::from_waker(&waker);
        assert!(receiver.poll_next(&mut context).is_pending());
        let clone = sender.clone();
        drop(sender);
        assert_eq!(wakes(&count), 0);
        drop(clone);
        assert_eq!(wakes(&count), 1);
        assert!(matches!(receiver.poll_next(&mut context), Poll::Ready(None)));
    }

    #[test]
    fn what_was_sent_is_read_after_the_sender_has_gone() {
        let (sender, mut receiver) = channel(8, Arc::default());
        sender.send(event(3)).unwrap();
        drop(sender);
        assert!(matches!(receiver.next_blocking(), Some(Event::Dropped { index: 3 })));
        assert!(receiver.next_blocking().is_none());
    }

    #[test]
    fn a_reader_that_does_not_read_is_given_up() {
        let (sender, _receiver) = channel(2, Arc::default());
        assert_eq!([0, 1, 2].map(|index| sender.send(event(index))), [Ok(()), Ok(()), Err(Closed)]);
    }

    #[test]
    fn a_sleeping_thread_wakes() {
        let (sender, mut receiver) = channel(8, Arc::default());
        let reader = std::thread::spawn(move || std::iter::from_fn(|| receiver.next_blocking()).count());
        for index in 0..5 {
            sender.send(event(index)).unwrap();
            sender.ring();
            std::thread::yield_now();
        }
        drop(sender);
        assert_eq!(reader.join().unwrap(), 5);
    }
}
